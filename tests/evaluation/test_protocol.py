"""The test pictures open once, after the last epoch, and no other way."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path

import pytest
import torch

from featherweight.datasets import PictureSet, load_test, load_train
from featherweight.evaluation import HeldOutTest, ProtocolError, disjoint


def pictures(*values: int) -> PictureSet:
    images = torch.stack([torch.full((8, 8, 3), value, dtype=torch.uint8) for value in values])
    return PictureSet(images, torch.zeros(len(values), dtype=torch.int64), ("one",))


class Loader:
    def __init__(self, fails: int = 0) -> None:
        self.calls, self.fails = 0, fails

    def __call__(self) -> PictureSet:
        self.calls += 1
        if self.calls <= self.fails:
            raise OSError("no such disk")
        return pictures(1, 2)


def test_reading_before_the_last_epoch_is_impossible() -> None:
    loader = Loader()
    test = HeldOutTest(loader)
    with pytest.raises(ProtocolError, match="before the last epoch"):
        test.read()
    test.training_finished(last_epoch=False)  # an interrupted run
    with pytest.raises(ProtocolError, match="before the last epoch"):
        test.read()
    assert loader.calls == 0
    assert issubclass(ProtocolError, RuntimeError)


def test_reading_once_and_only_once() -> None:
    loader = Loader()
    test = HeldOutTest(loader)
    test.training_finished(last_epoch=True)
    assert len(test.read()) == 2
    with pytest.raises(ProtocolError, match="second time"):
        test.read()
    test.training_finished(last_epoch=True)
    with pytest.raises(ProtocolError, match="second time"):
        test.read()
    assert loader.calls == 1


def test_training_cannot_be_taken_up_again_after_it_was_finished() -> None:
    test = HeldOutTest(Loader())
    test.training_finished(last_epoch=True)
    with pytest.raises(ProtocolError, match="declared finished"):
        test.training_finished(last_epoch=False)


def test_a_loader_that_fails_has_shown_nothing() -> None:
    test = HeldOutTest(Loader(fails=1))
    test.training_finished(last_epoch=True)
    with pytest.raises(OSError, match="no such disk"):
        test.read()
    assert len(test.read()) == 2


def test_no_copy_and_no_attribute_gives_a_way_round() -> None:
    test = HeldOutTest(Loader())
    for way in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ProtocolError, match="copied"):
            way(test)
    assert {name for name in dir(test) if not name.startswith("_")} == {"read", "training_finished"}


def test_two_threads_get_it_once() -> None:
    test = HeldOutTest(Loader())
    test.training_finished(last_epoch=True)
    got, refused = [], []
    start = threading.Barrier(8)

    def reader() -> None:
        start.wait()
        try:
            got.append(test.read())
        except ProtocolError:
            refused.append(1)

    threads = [threading.Thread(target=reader) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)


def test_disjoint_counts_test_pictures_seen_in_training() -> None:
    assert disjoint(pictures(1, 2, 3), pictures(4, 5)) == 0
    assert disjoint(pictures(1, 2, 3), pictures(4, 3, 3, 1)) == 3  # a picture held twice counts twice
    almost = pictures(4)
    almost.images[0, 7, 7, 2] = 5  # one value of one pixel
    assert disjoint(pictures(4), almost) == 0


@pytest.mark.cifar10
def test_cifar10_is_disjoint(cifar10_dir: Path) -> None:
    train, test = load_train("cifar10", cifar10_dir), load_test("cifar10", cifar10_dir)
    assert (len(train), len(test)) == (50_000, 10_000)
    assert disjoint(train, test) == 0
    assert disjoint(train, train.subset(range(100))) == 100

"""The digits: enlarged exactly, split once and for all, and a clear line where scikit-learn is missing."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from featherweight import datasets
from featherweight.datasets import digits, pictures
from featherweight.utils import UserError

load_digits = pytest.importorskip("sklearn.datasets").load_digits


def test_enlarging_is_bilinear_interpolation() -> None:
    grey = load_digits().images[:20].astype(np.int64)
    stretched = torch.nn.functional.interpolate(
        torch.from_numpy(grey[:, None].astype(np.float64)), scale_factor=4, mode="bilinear", align_corners=False
    )[:, 0].numpy()
    got = digits.enlarge(grey)
    assert got.shape == (20, 32, 32, 3)
    assert got.dtype == np.uint8
    assert np.abs(got[..., 0] - stretched * 255 / 16).max() <= 0.5 + 1e-9  # rounded, nothing else
    assert np.array_equal(got[..., 0], got[..., 1])
    assert np.array_equal(got[..., 0], got[..., 2])
    assert digits.enlarge(np.full((1, 8, 8), 16)).min() == 255


def test_the_split_is_fixed_and_stratified() -> None:
    train, test = datasets.load_train("digits"), datasets.load_test("digits")
    everything = load_digits().target
    assert len(train) + len(test) == len(everything) == 1797
    for digit in range(10):
        assert int((test.labels == digit).sum()) == np.sum(everything == digit) // 5
    assert pictures.shared_contents(train, test) == 0
    assert train.classes == datasets.CLASSES["digits"] == tuple("0123456789")
    kept, validation = datasets.split_train(train)
    pinned = datasets.DIGESTS["digits"]
    assert {
        "train_all": train.digest(),
        "train": kept.digest(),
        "validation": validation.digest(),
        "test": test.digest(),
    } == pinned


def test_statistics_are_pinned() -> None:
    pixels = datasets.load_train("digits").images.numpy().reshape(-1, 3).astype(np.float64) / 255
    pinned = datasets.STATISTICS["digits"]
    assert pixels.mean(axis=0) == pytest.approx(pinned.mean, abs=1e-12)
    assert pixels.std(axis=0) == pytest.approx(pinned.std, abs=1e-12)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    digits.load.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"pip install scikit-learn"):
        datasets.load_train("digits")

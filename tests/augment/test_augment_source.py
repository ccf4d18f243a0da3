"""`BatchSource`: the same promises from every engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from augment_pictures import MEAN, STD, random_pictures, spec_with

from featherweight.augment import AlbumentationsLoader, BatchAugmenter, BatchSource, build_pipeline, normalize
from featherweight.augment.specification import batch_seed
from featherweight.config import AugmentConfig
from featherweight.utils import UserError

ENGINES = ["albumentations", "batched", "none"]
COUNT = 70
IMAGES = torch.from_numpy(random_pictures(COUNT))
LABELS = torch.arange(COUNT) * 10
SPEC = AugmentConfig(workers=0)


def run(engine: str, order: torch.Tensor, *, seed: int = 5, epoch: int = 2, **more: Any) -> list[tuple]:
    spec = replace(SPEC, engine=engine)
    with BatchSource(spec, IMAGES, LABELS, 16, seed=seed, mean=MEAN, std=STD) as source:
        return list(source.epoch(order, epoch=epoch, **more))


@pytest.mark.parametrize("engine", ENGINES)
def test_shapes_labels_and_last_batch(engine: str) -> None:
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    out = run(engine, order)
    assert [len(labels) for _, labels in out] == [16, 16, 16, 16, 6]
    assert torch.equal(torch.cat([labels for _, labels in out]), LABELS[order])
    for batch, labels in out:
        assert batch.shape == (len(labels), 3, 32, 32)
        assert batch.dtype == torch.float32
        assert batch.is_contiguous(memory_format=torch.channels_last)
    assert [len(labels) for _, labels in run(engine, order, drop_last=True)] == [16] * 4
    assert run(engine, order[:5], drop_last=True) == []
    assert run(engine, order[:0]) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_pictures_belong_to_their_labels(engine: str) -> None:
    """Without any chance in the specification, every engine's batch is just the normalised pictures it names."""
    order = torch.randperm(COUNT)
    spec = spec_with(engine=engine, workers=0)
    with BatchSource(spec, IMAGES, LABELS, 32, seed=0, mean=MEAN, std=STD) as source:
        for batch, labels in source.epoch(order, epoch=0):
            assert torch.equal(batch, normalize(IMAGES[labels // 10], MEAN, STD))


def test_none_only_normalises_whatever_the_rest_says() -> None:
    batch, _ = run("none", torch.arange(16))[0]
    assert torch.equal(batch, normalize(IMAGES[:16], MEAN, STD))


@pytest.mark.parametrize("engine", ["albumentations", "batched"])
def test_a_batch_depends_on_seed_epoch_and_step_alone(engine: str) -> None:
    order = torch.arange(16).repeat(4)  # the same pictures in every batch: only chance tells batches apart
    whole = run(engine, order)
    for first in range(5):
        resumed = run(engine, order, first_step=first)
        assert len(resumed) == 4 - first
        assert all(torch.equal(a[0], b[0]) for a, b in zip(resumed, whole[first:], strict=True))
    everything = [whole, run(engine, order, seed=6), run(engine, order, epoch=3)]
    pictures = [batch for out in everything for batch, _ in out]
    assert not any(torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])
    with BatchSource(replace(SPEC, engine=engine), IMAGES, LABELS, 16, seed=5, mean=MEAN, std=STD) as source:
        list(source.epoch(order, epoch=0))  # what went before does not matter
        again = list(source.epoch(order, epoch=2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(again, whole, strict=True))


def test_batched_is_the_batch_augmenter_with_the_batchs_seed() -> None:
    out = run("batched", torch.arange(COUNT))
    generator = torch.Generator().manual_seed(batch_seed(5, 2, 1))
    assert torch.equal(out[1][0], BatchAugmenter(SPEC, MEAN, STD)(IMAGES[16:32], generator))


def test_albumentations_is_the_pipeline_with_the_batchs_seed() -> None:
    """The loader normalises whole batches; the published pipeline normalises each picture: the same numbers."""
    import random

    import numpy as np

    pipeline = build_pipeline(SPEC, MEAN, STD)
    seed = batch_seed(5, 2, 1)
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
    expected = np.stack([pipeline(image=picture)["image"] for picture in IMAGES[16:32].numpy()])
    out = run("albumentations", torch.arange(COUNT))
    assert torch.allclose(out[1][0], torch.from_numpy(expected).permute(0, 3, 1, 2), atol=2e-6)


def test_the_pictures_are_left_alone() -> None:
    before = IMAGES.clone()
    for engine in ENGINES:
        run(engine, torch.arange(COUNT))
    assert torch.equal(IMAGES, before)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_does_not_fit_is_refused(engine: str) -> None:
    for order in (torch.tensor([0, COUNT]), torch.tensor([-1, 0]), torch.tensor([0.0, 1.0]), torch.zeros(2, 2).long()):
        with pytest.raises(UserError, match="order of"):
            run(engine, order)
    for first in (-1, 6):
        with pytest.raises(UserError, match=f"step {first} of an epoch of 5 steps"):
            run(engine, torch.arange(COUNT), first_step=first)
    spec = replace(SPEC, engine=engine)
    with pytest.raises(UserError, match="labels do not fit"):
        BatchSource(spec, IMAGES, LABELS[:-1], 16, seed=0, mean=MEAN, std=STD)
    with pytest.raises(UserError, match="batch_size is 0"):
        BatchSource(spec, IMAGES, LABELS, 0, seed=0, mean=MEAN, std=STD)


def test_the_loader_refuses_batches_that_do_not_fit() -> None:
    with AlbumentationsLoader(SPEC, IMAGES, MEAN, STD, batch_size=4, seed=0) as loader:
        for indices in (torch.arange(5), torch.arange(0), torch.tensor([COUNT]), torch.tensor([-1])):
            with pytest.raises(UserError, match="batch 0 does not hold 1 to 4 places among 70 pictures"):
                next(loader.epoch([indices], epoch=0))


def test_alternating_flips_show_each_picture_both_ways_in_two_epochs() -> None:
    """Whatever the order; over the pictures, half of them at a time, and another half from another seed."""
    spec = spec_with(engine="batched", flip_p=0.5, alternate_flip=True)
    plain = normalize(IMAGES, MEAN, STD)

    def flipped(epoch: int, seed: int = 0) -> torch.Tensor:
        found = torch.zeros(COUNT, dtype=torch.bool)
        with BatchSource(spec, IMAGES, LABELS, 32, seed=seed, mean=MEAN, std=STD) as source:
            for batch, labels in source.epoch(torch.randperm(COUNT), epoch=epoch):
                for picture, place in zip(batch, (labels // 10).tolist(), strict=True):
                    found[place] = torch.equal(picture, plain[place].flip(2))
                    assert found[place] or torch.equal(picture, plain[place])
        return found

    first = flipped(0)
    assert torch.equal(flipped(1), ~first)
    assert torch.equal(flipped(2), first)
    assert 20 <= int(first.sum()) <= 50
    assert not torch.equal(flipped(0, seed=1), first)


@pytest.mark.parametrize("other", [{"engine": "albumentations"}, {"flip_p": 0.3}, {"engine": "none"}])
def test_alternating_flips_where_they_are_not_meant_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="alternate_flip"):
        BatchSource(replace(SPEC, alternate_flip=True, **other), IMAGES, LABELS, 16, seed=0, mean=MEAN, std=STD)

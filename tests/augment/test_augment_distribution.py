"""Over many draws both engines follow the specification's laws, measured on what comes out of them.

The bounds are at about one in 10,000 for an honest engine, and the seeds are fixed: what passes once passes always.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from augment_pictures import MEAN, STD, measure_ramps, normalised, ramp_picture

from featherweight.augment import BatchSource
from featherweight.augment.draws import draw
from featherweight.config import AugmentConfig

SIDE, COUNT = 48, 2000  # 48 pixels: no hole of 16 covers the middle, where the ramps are read
SPEC = AugmentConfig(workers=0, flip_p=0.5, affine_p=0.6, hole_p=0.4)


def augmented(engine: str) -> np.ndarray:
    from dataclasses import replace

    images = torch.from_numpy(np.broadcast_to(ramp_picture(SIDE), (COUNT, SIDE, SIDE, 3)).copy())
    spec = replace(SPEC, engine=engine)
    # batches of 4: each starts its random numbers anew, and what is wrong with a start must show
    with BatchSource(spec, images, torch.zeros(COUNT), 4, seed=3, mean=MEAN, std=STD) as source:
        return torch.cat([batch for batch, _ in source.epoch(torch.arange(COUNT), epoch=0)]).numpy()


@pytest.fixture(scope="module", params=["albumentations", "batched"])
def measured(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    return measure_ramps(augmented(request.param), SPEC.hole_size)


def distance_from_uniform(values: np.ndarray, low: float, high: float) -> float:
    """The Kolmogorov-Smirnov statistic times sqrt(n): above 2.2 once in 8,000 if the values are uniform."""
    share = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(values) + 1) / len(values)
    return max(np.abs(share - steps[1:]).max(), np.abs(share - steps[:-1]).max()) * len(values) ** 0.5


def test_the_ramps_are_read_well(measured: dict[str, np.ndarray]) -> None:
    assert measured["residual"].max() < 0.25  # pixels; half a grey level is 0.1 of them, and no border reaches here
    assert np.median(measured["residual"]) < 0.12


def test_probabilities(measured: dict[str, np.ndarray]) -> None:
    for name, expected in (("flip", SPEC.flip_p), ("affine", SPEC.affine_p), ("hole", SPEC.hole_p)):
        assert abs(measured[name].mean() - expected) < 4 * (expected * (1 - expected) / COUNT) ** 0.5, name


def test_angles_shifts_and_scales_are_uniform_within_their_limits(measured: dict[str, np.ndarray]) -> None:
    pixels = (-SPEC.shift_limit * SIDE, SPEC.shift_limit * SIDE)
    limits = {
        "angle": (-SPEC.rotate_limit, SPEC.rotate_limit),
        "shift_x": pixels,
        "shift_y": pixels,
        "scale": (1 - SPEC.scale_limit, 1 + SPEC.scale_limit),
    }
    for name, (low, high) in limits.items():
        values = measured[name][measured["affine"]]
        slack = 0.01 * (high - low)  # what reading the ramps may be off by
        assert low - slack <= values.min(), name
        assert values.max() <= high + slack, name
        assert distance_from_uniform(values, low, high) < 2.2, name


def test_places_of_the_hole_are_uniform(measured: dict[str, np.ndarray]) -> None:
    places = SIDE - SPEC.hole_size + 1
    for name in ("hole_top", "hole_left"):
        values = measured[name][measured["hole"]].astype(int)
        seen = np.bincount(values, minlength=places)
        assert len(seen) == places, name
        assert seen.min() > 0, name
        expected = len(values) / places
        assert ((seen - expected) ** 2 / expected).sum() < 75, name  # chi-square, 32 degrees: 1 in 30,000


def test_nothing_depends_on_anything_else(measured: dict[str, np.ndarray]) -> None:
    """One seed for all transforms of a Compose would make flips, turns and holes come together."""
    chosen = np.stack([measured[name].astype(float) for name in ("flip", "affine", "hole")])
    assert np.abs(np.corrcoef(chosen) - np.eye(3)).max() < 4 / COUNT**0.5
    both = measured["affine"] & measured["hole"]
    names = ("flip", "angle", "shift_x", "shift_y", "scale", "hole_top", "hole_left")
    values = np.stack([measured[name][both].astype(float) for name in names])
    assert np.abs(np.corrcoef(values) - np.eye(len(names))).max() < 4.5 / both.sum() ** 0.5


def test_the_drawn_numbers_are_what_comes_out() -> None:
    """The batched engine's own draws, against the same draws read off its pictures."""
    from featherweight.augment import BatchAugmenter

    images = torch.from_numpy(np.broadcast_to(ramp_picture(SIDE), (200, SIDE, SIDE, 3)).copy())
    draws = draw(SPEC, 200, SIDE, SIDE, torch.Generator().manual_seed(1))
    seen = measure_ramps(BatchAugmenter(SPEC, MEAN, STD).apply(images, draws).numpy(), SPEC.hole_size)
    for name in ("flip", "affine", "hole"):
        assert np.array_equal(seen[name], getattr(draws, name).numpy()), name
    turned, cut = seen["affine"], seen["hole"]
    for name, unit, slack in (("angle", 1, 1e-3), ("shift_x", SIDE, 1e-3), ("shift_y", SIDE, 1e-3), ("scale", 1, 1e-4)):
        assert np.abs(seen[name] - getattr(draws, name).numpy() * unit)[turned].max() < slack, name
    for name in ("hole_top", "hole_left"):
        assert np.array_equal(seen[name][cut], getattr(draws, name).numpy()[cut]), name


def test_this_measurement_catches_the_stock_transform() -> None:
    """What albumentations 2 does when simply asked is to shift by whole pixels: the uniform law must reject it."""
    import albumentations
    import cv2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "a special case of Affine"
        stock = albumentations.ShiftScaleRotate(shift_limit=0.0625, p=1.0, border_mode=cv2.BORDER_REFLECT_101)
    stock.set_random_seed(0)
    out = np.stack([stock(image=ramp_picture(SIDE))["image"] for _ in range(400)])
    seen = measure_ramps(normalised(out).transpose(0, 3, 1, 2), SPEC.hole_size)
    assert distance_from_uniform(seen["shift_x"], -3, 3) > 2.2

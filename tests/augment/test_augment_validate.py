"""Specifications that cannot be carried out are refused in one line that names the field."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from augment_pictures import MEAN, STD, one_draw

from featherweight.augment import AlbumentationsLoader, BatchAugmenter, BatchSource, validate
from featherweight.config import AugmentConfig
from featherweight.utils import UserError

BAD = [
    ("flip_p", -0.1),
    ("affine_p", 1.1),
    ("hole_p", math.nan),
    ("shift_limit", -0.1),
    ("shift_limit", 1.5),
    ("scale_limit", -0.1),
    ("scale_limit", 1.0),
    ("rotate_limit", -1.0),
    ("rotate_limit", 200.0),
    ("rotate_limit", math.inf),
    ("hole_size", 0),
    ("hole_size", -1),
    ("hole_size", 1.5),
    ("workers", -1),
    ("workers", 1.5),
    ("engine", "magic"),
    ("border", "wrap"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_are_refused(name: str, value: object) -> None:
    spec = replace(AugmentConfig(), **{name: value})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"augment\.{name} = {value!r}( |;)"):
        validate(spec, 32, 32)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"flip_p": 0.0, "affine_p": 1.0},
        {"hole_size": 32},
        {"hole_size": 99, "hole_p": 0.0},
        {"hole_size": 99, "engine": "none"},
        {"scale_limit": 0.0, "rotate_limit": 0.0},
    ],
)
def test_sound_values_pass(values: dict) -> None:
    validate(AugmentConfig(**values), 32, 32)


def test_the_smaller_side_decides_about_the_hole() -> None:
    validate(AugmentConfig(hole_size=20), 20, 40)
    for height, width in ((19, 40), (40, 19)):
        with pytest.raises(UserError, match=rf"augment\.hole_size is 20.*{height}x{width}"):
            validate(AugmentConfig(hole_size=20), height, width)


def test_a_picture_of_one_pixel_cannot_be_turned() -> None:
    with pytest.raises(UserError, match="cannot be turned"):
        validate(AugmentConfig(hole_size=1), 1, 8)


def test_every_door_checks() -> None:
    spec = AugmentConfig(hole_size=17, workers=0)
    images = torch.zeros(4, 16, 16, 3, dtype=torch.uint8)
    for use in (
        lambda: BatchAugmenter(spec, MEAN, STD).apply(images, one_draw(4)),
        lambda: AlbumentationsLoader(spec, images, MEAN, STD, batch_size=2, seed=0),
        lambda: BatchSource(spec, images, torch.zeros(4), 2, seed=0, mean=MEAN, std=STD),
    ):
        with pytest.raises(UserError, match=r"augment\.hole_size is 17"):
            use()

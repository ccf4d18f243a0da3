"""Both engines make the same picture from the same parameters, up to what 8 bits can hold.

Albumentations works on bytes: after a transform each value is rounded, at most half a grey level away from the exact
one that the batched engine keeps, which is 0.5 / 255 / std (0.0081 at most here) once normalised. A constant border
adds the rounding of its colour, again at most half a level. OpenCV before version 5 also rounds the place it reads from
to 1/32 pixel, so is up to 1/64 pixel off each way, times the steepest step between neighbours; version 5 does not.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from augment_pictures import (
    MEAN,
    STD,
    by_albumentations,
    draws_from,
    normalised,
    one_draw,
    random_pictures,
    smooth_pictures,
    spec_with,
)

from featherweight.augment import BatchAugmenter, Draws, build_pipeline
from featherweight.config import AugmentConfig

SIDE = 32
CASES = {
    "nothing": {},
    "flip": {"flip_p": 1.0},
    "rotate": {"affine_p": 1.0, "shift_limit": 0.0, "scale_limit": 0.0, "rotate_limit": 30.0},
    "shift": {"affine_p": 1.0, "shift_limit": 0.2, "scale_limit": 0.0, "rotate_limit": 0.0},
    "scale": {"affine_p": 1.0, "shift_limit": 0.0, "scale_limit": 0.4, "rotate_limit": 0.0},
    "hole": {"hole_p": 1.0},
    "all": {"flip_p": 0.5, "affine_p": 1.0, "hole_p": 0.5},
    "as trained": {"flip_p": 0.5, "affine_p": 0.5, "hole_p": 0.5},
    "far": {"flip_p": 0.5, "affine_p": 1.0, "shift_limit": 0.9, "scale_limit": 0.5, "rotate_limit": 180.0},
}


def tolerance(pictures: np.ndarray, border: str) -> float:
    """The largest difference after normalisation that this module's first lines account for, and 1 % of a level."""
    import cv2

    levels = 0.51 + (0.5 if border == "constant" else 0.0)
    if int(cv2.__version__.split(".")[0]) < 5:
        values = pictures.astype(float)
        levels += (np.abs(np.diff(values, axis=1)).max() + np.abs(np.diff(values, axis=2)).max()) / 64
    return levels / 255 / min(STD)


@pytest.mark.parametrize("kind", ["random", "smooth"])
@pytest.mark.parametrize("border", ["reflect_101", "constant"])
@pytest.mark.parametrize("case", CASES)
def test_same_parameters_same_picture(case: str, border: str, kind: str) -> None:
    spec = spec_with(border=border, **CASES[case])
    pictures = {"random": random_pictures, "smooth": smooth_pictures}[kind](24, SIDE, seed=5)
    theirs, applied = by_albumentations(build_pipeline(spec, MEAN, STD), pictures, seed=11)
    draws = draws_from(applied, SIDE)

    def apply(draws: Draws) -> np.ndarray:
        return BatchAugmenter(spec, MEAN, STD).apply(torch.from_numpy(pictures), draws).permute(0, 2, 3, 1).numpy()

    ours, bound = apply(draws), tolerance(pictures, border)
    assert np.abs(ours - theirs).max() <= bound
    if kind == "smooth":  # what the bound is worth: a quarter of a degree and an eighth of a pixel break it
        nudged = apply(replace(draws, angle=draws.angle + 0.25, shift_x=draws.shift_x + 0.125 / SIDE))
        assert (np.abs(nudged - theirs).max() > bound) == (spec.affine_p > 0)
    if spec.affine_p > 0:
        assert np.abs(ours - normalised(pictures)).max() > 10 * bound, "the pictures were not changed at all"


@pytest.mark.parametrize(
    ("angle", "across", "down", "scale"),
    [
        (20.0, 0, 0, 1.0),
        (-20.0, 0, 0, 1.0),
        (0.0, 3, 0, 1.0),
        (0.0, 0, -3, 1.0),
        (0.0, 0, 0, 1.25),
        (0.0, 0, 0, 0.8),
        (12.0, 2, -1, 1.1),
        (-7.0, -2, 3, 0.9),
    ],
)
def test_conventions_are_those_of_the_texts_own_transform(angle: float, across: int, down: int, scale: float) -> None:
    """Against albumentations' ShiftScaleRotate itself, its ranges narrowed to one value (whole pixels: all it does)."""
    import albumentations
    import cv2

    nudge = 1e-6  # the fraction is cut off to whole pixels: keep it on the right side
    shift = [value / SIDE + (nudge if value > 0 else -nudge) for value in (across, down)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "a special case of Affine"
        transform = albumentations.ShiftScaleRotate(
            shift_limit_x=(shift[0], shift[0]),
            shift_limit_y=(shift[1], shift[1]),
            scale_limit=(scale - 1, scale - 1),
            rotate_limit=(angle, angle),
            border_mode=cv2.BORDER_REFLECT_101,
            interpolation=cv2.INTER_LINEAR,
            p=1.0,
        )
    pictures = smooth_pictures(4, SIDE, seed=8)
    theirs = normalised(np.stack([transform(image=picture)["image"] for picture in pictures]))
    draws = one_draw(4, affine=True, angle=angle, shift_x=across / SIDE, shift_y=down / SIDE, scale=scale)
    batch = BatchAugmenter(AugmentConfig(), MEAN, STD).apply(torch.from_numpy(pictures), draws)
    ours = batch.permute(0, 2, 3, 1).numpy()
    assert np.abs(ours - theirs).max() <= tolerance(pictures, "reflect_101")


def test_directions_as_documented() -> None:
    """A bright dot shows what the signs mean, without any library's help."""
    picture = np.zeros((1, 33, 33, 3), dtype=np.uint8)
    picture[0, 16, 26] = 255  # on the right of the centre (16, 16)

    def brightest(**values) -> tuple[int, int]:
        augmenter = BatchAugmenter(AugmentConfig(border="constant"), MEAN, STD)
        batch = augmenter.apply(torch.from_numpy(picture), one_draw(**({"affine": True} | values)))
        return divmod(int(batch[0, 0].argmax()), 33)

    assert brightest() == (16, 26)
    assert brightest(angle=90.0) == (6, 16)  # counter-clockwise: from the right to the top
    assert brightest(shift_x=4 / 33) == (16, 30)
    assert brightest(shift_y=4 / 33) == (20, 26)
    assert brightest(scale=1.5) == (16, 31)
    assert brightest(flip=True) == (16, 6)
    assert brightest(flip=True, shift_x=4 / 33) == (16, 10)  # the flip comes first: the shift is not mirrored
    assert brightest(scale=0.5, shift_x=4 / 33) == (16, 25)  # the shift comes last: it is not scaled

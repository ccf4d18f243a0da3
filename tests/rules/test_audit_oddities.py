"""Pipelines with something odd in them that is no slip, and odd slips: judged under the right rule, nothing else."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from featherweight.rules.audit_colour import measure_colour
from featherweight.rules.audit_geometry import place
from featherweight.rules.audit_probe import Pipeline, adapt, ramps

sys.path.insert(0, str(Path(__file__).parent))
from test_audit_borders import FILL, MEAN, STD, failed, hole, moved


def bent(amount: float, kind: int) -> np.ndarray:
    """The ramp picture with its upper corners moved inwards by `amount` pixels, as a camera would see it."""
    before = np.array([[0, 0], [31, 0], [31, 31], [0, 31]], np.float32)
    after = np.array([[amount, 0], [31 - amount, 0], [31, 31], [0, 31]], np.float32)
    return cv2.warpPerspective(
        ramps(), cv2.getPerspectiveTransform(before, after), (32, 32), flags=kind, borderMode=cv2.BORDER_REFLECT_101
    )


@pytest.mark.parametrize("kind", [cv2.INTER_LINEAR, cv2.INTER_NEAREST])
def test_a_perspective_is_no_movement_that_is_judged(kind: int) -> None:
    assert place(bent(0.0, kind).astype(float)) is not None
    for amount in (3.0, 4.0, 6.0):
        assert place(bent(amount, kind).astype(float)) is None


def test_perspectives_are_left_out_and_the_rest_is_judged() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        perspective = A.Perspective(p=0.5)
    assert failed([perspective, *moved("mirrored"), *hole()], 240) == set()
    assert "hole_fill" in failed([perspective, *moved("mirrored"), *hole(fill=0)], 240)


SIZES = [(32, 16), (16, 32), (24, 24)]


@pytest.mark.parametrize("sides", SIZES)
def test_holes_of_half_the_picture_are_seen(sides: tuple[int, int]) -> None:
    height, width = sides
    large = A.CoarseDropout((1, 1), (height, height), (width, width), fill=FILL, p=0.5)
    assert failed([*moved("mirrored"), large]) == {"hole_size"}


def test_the_colour_of_a_large_hole_is_not_taken_for_the_picture() -> None:
    generator = np.random.default_rng(1)

    def call(picture: np.ndarray) -> np.ndarray:
        picture = picture / 255
        if generator.random() < 0.6:
            picture[:24, :24] = 0.5
        return (picture - MEAN) / STD

    colour = measure_colour(Pipeline(name="it", convention="array", target=call, call=call), 24)
    assert colour.linear
    assert np.abs(colour.mean - MEAN).max() < 1e-3
    assert np.abs(colour.std - STD).max() < 1e-3


def test_a_pipeline_for_tensors_of_0_to_1() -> None:
    def pipeline(picture: Any) -> torch.Tensor:
        if not (isinstance(picture, torch.Tensor) and picture.is_floating_point()):
            raise TypeError("a float tensor is wanted")
        return (picture - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]

    adapted = adapt(pipeline, "it")
    assert adapted.convention == "float tensor"
    white = adapted.call(np.full((32, 32, 3), 255, np.uint8))
    assert np.abs(white[0, 0] - (1 - np.array(MEAN)) / STD).max() < 1e-5

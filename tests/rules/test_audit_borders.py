"""Sound pipelines that move the picture twice (pad and crop, then shift, scale and turn, or the other way round): what
either leaves empty or repeats at the sides is no hole. And slips are found among all that."""

from __future__ import annotations

import json
import warnings
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest

from featherweight.rules.audit_judge import judge
from featherweight.rules.audit_measure import measure_training
from featherweight.rules.audit_probe import adapt
from featherweight.rules.audit_rules import AuditRules

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
FILL = (125, 123, 114)
BORDERS: dict[str, dict[str, Any]] = {
    "black": {"border_mode": cv2.BORDER_CONSTANT, "fill": 0},
    "mean": {"border_mode": cv2.BORDER_CONSTANT, "fill": FILL},
    "mirrored": {"border_mode": cv2.BORDER_REFLECT_101},
    "wrapped": {"border_mode": cv2.BORDER_WRAP},
}


def padded(border: str) -> list[Any]:
    return [A.PadIfNeeded(40, 40, **BORDERS[border]), A.RandomCrop(32, 32)]


def moved(border: str) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends Affine
        return [A.ShiftScaleRotate(0.0625, 0.1, 15, **BORDERS[border], p=0.5)]


def hole(size: int = 16, fill: Any = FILL) -> list[Any]:
    return [A.CoarseDropout((1, 1), (size, size), (size, size), fill=fill, p=0.5)]


def failed(parts: list[Any], draws: int = 160, seed: int = 3) -> set[str]:
    """The rules that a pipeline of these parts fails."""
    pipeline = A.Compose([A.HorizontalFlip(p=0.5), *parts, A.Normalize(MEAN, STD)])
    pipeline.set_random_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the generator that strangers' transforms draw from
    figures = {"train": measure_training(adapt(pipeline, "it"), draws), "evaluation": None, "workers": None}
    json.dumps(figures)  # as it leaves the process that measures
    return {item["rule"] for item in judge(figures, AuditRules())["rules"] if not item["passed"]}


TWICE = [
    ("black", "black"),
    ("black", "mean"),
    ("black", "mirrored"),
    ("mean", "mean"),
    ("mean", "wrapped"),
    ("mirrored", "black"),
    ("mirrored", "mean"),
    ("wrapped", "black"),
]


@pytest.mark.parametrize(("pad", "move"), TWICE)
@pytest.mark.parametrize("after", [False, True])
def test_moved_twice_and_not_accused(pad: str, move: str, after: bool) -> None:
    parts = [*moved(move), *padded(pad)] if after else [*padded(pad), *moved(move)]
    assert failed([*parts, *hole()]) == set()


def test_a_seam_of_two_borders_that_touches_a_hole_is_no_part_of_it() -> None:
    assert failed([*padded("mirrored"), *moved("black"), *hole()], seed=4) == set()


@pytest.mark.parametrize(("pad", "move"), [("black", "mean"), ("mean", "mean"), ("mirrored", "black")])
def test_slips_are_found_there_too(pad: str, move: str) -> None:
    parts = [*padded(pad), *moved(move)]
    assert "hole_fill" in failed([*parts, *hole(fill=0)])
    assert "hole_size" in failed([*parts, *hole(size=8)])
    assert "hole_place" in failed([*hole(), *parts]) or "hole_size" in failed([*hole(), *parts])


def test_a_slight_turn_mixes_a_border_in_that_is_no_hole() -> None:
    assert failed([A.Rotate(2, p=0.9), *hole()]) == {"shift", "scale", "rotate"} - {"rotate"}


def test_strong_changes_of_brightness_are_measured() -> None:
    assert failed([*moved("mirrored"), A.RandomBrightnessContrast(p=0.5), *hole()], 300) == set()

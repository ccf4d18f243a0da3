"""The estimators against pictures whose truth is known because the test made them, warped by OpenCV."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest

from featherweight.rules import audit_holes
from featherweight.rules.audit_colour import measure_colour, name_statistics
from featherweight.rules.audit_geometry import Placement, decode, place
from featherweight.rules.audit_holes import FREE, HOLE, HoleTally, find_holes
from featherweight.rules.audit_measure import measure_training
from featherweight.rules.audit_probe import Pipeline, adapt, ramps, texture
from featherweight.rules.audit_texture import TextureFinder

BORDERS = {"reflect": cv2.BORDER_REFLECT_101, "black": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE}
KINDS = {"nearest": cv2.INTER_NEAREST, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}


def warp(
    picture: np.ndarray,
    *,
    flip: bool,
    angle: float,
    scale: float,
    shift: tuple[float, float],
    kind: int,
    border: int,
    size: int = 32,
) -> np.ndarray:
    """Mirror, then turn (clockwise as seen) and scale about the centre, then shift by fractions of the side."""
    picture = picture[:, ::-1] if flip else picture
    turn, middle = math.radians(angle), 15.5
    matrix = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    offset = np.array([middle, middle]) + 32 * np.array(shift) - matrix @ np.array([middle, middle])
    forward = np.hstack([matrix, offset[:, None]])
    forward = (size / 32) * forward + np.array([[0, 0, 0.5 * size / 32 - 0.5]] * 2)
    return cv2.warpAffine(np.ascontiguousarray(picture), forward, (size, size), flags=kind, borderMode=border)


def draws(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(11)
    return [
        {
            "flip": bool(rng.random() < 0.5),
            "angle": rng.uniform(-25, 25),
            "scale": rng.uniform(0.8, 1.25),
            "shift": tuple(rng.uniform(-0.12, 0.12, 2)),
        }
        for _ in range(count)
    ]


def cut(picture: np.ndarray, rng: np.random.Generator, fill: Any) -> tuple[int, int]:
    top, left = (int(value) for value in rng.integers(0, 17, 2))
    picture[top : top + 16, left : left + 16] = fill
    return top, left


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_placement_is_the_truth_under_every_border_and_interpolation(kind: str, border: str) -> None:
    rng = np.random.default_rng(3)
    near = kind == "nearest"
    for truth in draws(40):
        output = warp(ramps(), **truth, kind=KINDS[kind], border=BORDERS[border])
        cut(output, rng, (125, 123, 114))  # a hole must not pull at it
        found = place(output.astype(float))
        assert found is not None
        assert (found.flipped, found.upturned) == (truth["flip"], False)
        assert found.angle == pytest.approx(truth["angle"], abs=0.6 if near else 0.2)
        assert found.scale == pytest.approx(truth["scale"], abs=0.015 if near else 0.005)
        assert found.shift == pytest.approx(truth["shift"], abs=0.008 if near else 0.003)
        assert found.stretch == pytest.approx(1, abs=0.03 if near else 0.01)


def test_placement_does_not_depend_on_the_output_size() -> None:
    for size in (24, 48, 64):
        for truth in draws(10):
            output = warp(ramps(), **truth, kind=cv2.INTER_LINEAR, border=cv2.BORDER_CONSTANT, size=size)
            found = place(output.astype(float))
            assert found is not None
            assert found.scale == pytest.approx(truth["scale"], abs=0.01)
            assert found.shift == pytest.approx(truth["shift"], abs=0.005)


def test_upside_down_and_half_turns_are_told_apart() -> None:
    flat = place(ramps().astype(float))
    upturned = place(ramps()[::-1].astype(float))
    both = place(ramps()[::-1, ::-1].astype(float))
    assert flat is not None
    assert upturned is not None
    assert both is not None
    assert (flat.flipped, flat.upturned) == (False, False)
    assert (upturned.flipped, upturned.upturned) == (False, True)
    assert (both.flipped, both.upturned) == (True, True)
    assert abs(both.angle) < 0.1


def test_a_bent_or_scrambled_picture_has_no_placement() -> None:
    rng = np.random.default_rng(0)
    scrambled = ramps().reshape(-1, 3)[rng.permutation(1024)].reshape(32, 32, 3)
    assert place(scrambled.astype(float)) is None
    rows, columns = np.mgrid[:32, :32].astype(np.float32)
    waved = cv2.remap(ramps(), columns + 5 * np.sin(rows / 3), rows + 5 * np.sin(columns / 3), cv2.INTER_LINEAR)
    assert place(waved.astype(float)) is None


def classified(outputs: list[np.ndarray]) -> list[np.ndarray]:
    levels = [output.astype(float) for output in outputs]
    places: list[Placement | None] = [place(level) for level in levels]
    border = audit_holes.find_wedges(levels, places, audit_holes.measure_border(levels, places))
    return [
        audit_holes.classify(level, found, border)
        for level, found in zip(levels, places, strict=True)
        if found is not None
    ]


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("kind", ["nearest", "linear"])
@pytest.mark.parametrize("fill", [(125, 123, 114), (0, 0, 0), (255, 255, 255), "noise"])
def test_holes_are_found_where_they_were_cut(fill: Any, kind: str, border: str) -> None:
    rng = np.random.default_rng(4)
    outputs, places = [], []
    for truth in draws(40):
        output = warp(ramps(), **truth, kind=KINDS[kind], border=BORDERS[border])
        places.append(cut(output, rng, rng.integers(0, 256, (16, 16, 3)) if fill == "noise" else fill))
        outputs.append(output)
    kinds = classified(outputs)
    assert len(kinds) == 40
    for found, (top, left) in zip(map(find_holes, kinds), places, strict=True):
        assert len(found) == 1
        hole = found[0]
        if fill == "noise":  # a pixel of noise may pass for content, or content lie beside it
            assert (
                max(
                    left - hole.left,
                    hole.left + hole.width - left - 16,
                    top - hole.top,
                    hole.top + hole.height - top - 16,
                )
                <= 1
            )
            assert border == "black" or min(hole.width, hole.height) >= 14
            continue
        assert hole.width <= 16 <= hole.most_width
        assert hole.height <= 16 <= hole.most_height
        assert left <= hole.left
        assert hole.left + hole.width <= left + 16
        assert top <= hole.top
        assert hole.top + hole.height <= top + 16
        if border == "reflect":
            assert (hole.top, hole.left, hole.width, hole.height) == (top, left, 16, 16)


def test_without_holes_none_is_found_also_where_a_crop_is_turned() -> None:
    rng = np.random.default_rng(6)
    outputs = []
    for truth in draws(60):
        padded = np.pad(ramps(), ((4, 4), (4, 4), (0, 0)), constant_values=114)
        top, left = rng.integers(0, 9, 2)
        outputs.append(
            warp(padded[top : top + 32, left : left + 32], **truth, kind=cv2.INTER_LINEAR, border=cv2.BORDER_CONSTANT)
        )
    kinds = classified(outputs)
    assert len(kinds) == 60
    assert sum(len(find_holes(found)) for found in kinds) <= 1


@pytest.mark.parametrize(("width", "height"), [(1, 16), (16, 1), (3, 5), (16, 16), (20, 7)])
def test_sizes_and_counts_of_holes(width: int, height: int) -> None:
    tally, rng = HoleTally(), np.random.default_rng(1)
    for number in range(60):
        output = ramps().astype(float)
        if number % 3:
            left, top = rng.integers(0, 33 - width), rng.integers(0, 33 - height)
            output[top : top + height, left : left + width] = 0
        tally.add(classified([output])[0], output)
    summary = tally.summary()
    assert summary["rate"] == pytest.approx(2 / 3)
    assert summary["counts"] == {"1": 40}
    assert list(summary["sizes"]) == [f"{width}x{height}"]
    assert (summary["sticking_out"], summary["irregular"], summary["fill"]) == (0.0, 0.0, [0.0, 0.0, 0.0])


def test_overlapping_holes_count_as_two() -> None:
    kinds = np.full((32, 32), FREE)
    kinds[2:18, 3:19] = HOLE
    kinds[9:25, 12:28] = HOLE
    assert [hole.pieces for hole in find_holes(kinds)] == [2]
    kinds[:] = FREE
    kinds[1:5, 1:5] = kinds[20:24, 20:24] = HOLE
    assert [hole.pieces for hole in find_holes(kinds)] == [1, 1]


def test_holes_cut_by_the_edge_are_seen() -> None:
    tally, rng = HoleTally(), np.random.default_rng(2)
    truth = 0
    for _ in range(200):
        output = ramps().astype(float)
        row, column = rng.integers(0, 32, 2)
        top, bottom, left, right = max(0, row - 8), min(32, row + 8), max(0, column - 8), min(32, column + 8)
        truth += (bottom - top, right - left) != (16, 16)
        output[top:bottom, left:right] = 0
        tally.add(classified([output])[0], output)
    assert tally.summary()["sticking_out"] == pytest.approx(truth / 200)


def test_texture_finds_the_same_placement_under_changed_colours() -> None:
    finder, rng = TextureFinder(), np.random.default_rng(8)
    wrong = missed = 0
    for truth in draws(30):
        output = warp(texture(), **truth, kind=cv2.INTER_LINEAR, border=cv2.BORDER_REFLECT_101).astype(float)
        output = output * rng.uniform(0.4, 1.8) + rng.uniform(-60, 60)
        cut(output, rng, (125, 123, 114))
        found = finder.place(output)
        if found is None:
            missed += 1
            continue
        placement, _ = found
        good = (
            placement.flipped == truth["flip"]
            and abs(placement.angle - truth["angle"]) < 1
            and abs(placement.scale - truth["scale"]) < 0.02
            and np.abs(np.subtract(placement.shift, truth["shift"])).max() < 0.02
        )
        wrong += not good
    assert missed <= 10  # turns of 25 degrees and scales of 0.8 are far from its starts: it may give up, not err
    assert wrong <= 1  # a hole over the only tell-tale part of the picture may mislead it once


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_colours_are_recovered(order: tuple[int, int, int]) -> None:
    mean, std = np.array([0.49, 0.31, 0.6]), np.array([0.2, 0.3, 0.25])
    rng = np.random.default_rng(0)

    def call(picture: np.ndarray) -> np.ndarray:
        output = (picture[..., list(order)] / 255 - mean) / std
        cut(output, rng, 0.0)
        return output

    colour = measure_colour(Pipeline(name="x", convention="array", target=None, call=call), 5)
    assert colour.order == order
    assert colour.linear
    assert colour.mean == pytest.approx(mean, abs=1e-9)
    assert colour.std == pytest.approx(std, abs=1e-9)
    shown = np.random.default_rng(1).integers(0, 256, (4, 4, 3))
    assert colour.undo(colour.apply(shown)) == pytest.approx(shown)


def test_statistics_are_named_only_when_they_fit() -> None:
    assert name_statistics((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)) == "the training set's"
    assert (
        name_statistics((0.4919, 0.4827, 0.4472), (0.2470, 0.2434, 0.2616)) == "those of training and test set together"
    )
    assert name_statistics((0.4, 0.4, 0.4), (0.2, 0.2, 0.2)) is None


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_rates_follow_the_pipeline(p: float) -> None:
    rng = np.random.default_rng(5)

    def pipeline(image: np.ndarray) -> np.ndarray:
        image = image[:, ::-1] if rng.random() < p else image
        output = image / 255.0 * 4 - 2
        if rng.random() < p:
            cut(output, rng, 0.5)
        return output

    figures = measure_training(adapt(pipeline, "x"), 300)
    assert figures["geometry"]["flipped"] == pytest.approx(p, abs=0.1)
    assert figures["holes"]["rate"] == pytest.approx(p, abs=0.1)
    assert figures["geometry"]["angle"]["moved"] == 0
    if p:
        assert figures["holes"]["fill"] == pytest.approx([0.5] * 3)
        assert figures["holes"]["one"] == 1.0


def test_decode_tells_content_from_fill() -> None:
    picture = ramps().astype(float)
    picture[5, 7] = (125, 123, 114)
    x, y, marked = decode(picture)
    assert not marked[5, 7]
    assert marked.sum() == 1023
    assert (x[10, 31], y[31, 10]) == (15.5, 15.5)

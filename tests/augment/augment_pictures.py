"""Pictures and measurements shared by the tests of augmentation."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from featherweight.augment import Draws
from featherweight.config import AugmentConfig

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
NOTHING: dict[str, Any] = {"flip_p": 0.0, "affine_p": 0.0, "hole_p": 0.0}  # tests switch on what they are about


def random_pictures(count: int, side: int = 32, seed: int = 0) -> np.ndarray:
    """Noise: nothing is more sensitive to where a pixel is read from."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def smooth_pictures(count: int, side: int = 32, seed: int = 0) -> np.ndarray:
    """Sums of slow waves over the whole range of values, as in photographs: a few grey levels from pixel to pixel."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    pictures = np.zeros((count, side, side, 3))
    for _ in range(4):
        along, across, phase = generator.uniform(-6, 6, (3, count, 1, 1, 3))
        pictures += np.sin(along * x[None, :, :, None] + across * y[None, :, :, None] + phase)
    low, high = pictures.min((1, 2, 3), keepdims=True), pictures.max((1, 2, 3), keepdims=True)
    return np.rint(255 * (pictures - low) / (high - low)).astype(np.uint8)


def normalised(pictures: np.ndarray) -> np.ndarray:
    """[N,H,W,3] in 0..255 -> the same normalised, in double precision."""
    return (pictures / 255.0 - np.array(MEAN)) / np.array(STD)


def by_albumentations(pipeline: Any, pictures: np.ndarray, seed: int) -> tuple[np.ndarray, list[dict[str, dict]]]:
    """What the pipeline makes of pictures, and for each the parameters that it says it used, by transform."""
    pipeline.save_applied_params = True
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
    results = [pipeline(image=picture) for picture in pictures]
    return np.stack([result["image"] for result in results]), [dict(result["applied_transforms"]) for result in results]


def draws_from(applied: list[dict[str, dict]], side: int) -> Draws:
    """The parameters albumentations used, in this project's terms."""
    rows = []
    for used in applied:
        affine, hole = used.get("SubPixelAffine"), used.get("CoarseDropout")
        row = dict.fromkeys(("angle", "shift_x", "shift_y", "hole_top", "hole_left"), 0.0) | {"scale": 1.0}
        row |= {"flip": "HorizontalFlip" in used, "affine": affine is not None, "hole": hole is not None}
        if affine is not None:
            centre = np.array([(side - 1) / 2, (side - 1) / 2, 1.0])
            shift = (affine["matrix"] @ centre - centre) / side  # turning and scaling leave the centre where it is
            assert affine["scale"]["x"] == affine["scale"]["y"]
            row |= {"angle": affine["rotate"], "scale": affine["scale"]["x"], "shift_x": shift[0], "shift_y": shift[1]}
        if hole is not None:
            assert hole["holes"].shape == (1, 4)
            row |= {"hole_left": hole["holes"][0, 0], "hole_top": hole["holes"][0, 1]}
        rows.append(row)
    kinds = {
        "flip": torch.bool,
        "affine": torch.bool,
        "hole": torch.bool,
        "hole_top": torch.int64,
        "hole_left": torch.int64,
    }
    return Draws(
        **{name: torch.tensor([row[name] for row in rows], dtype=kinds.get(name, torch.float32)) for name in rows[0]}
    )


def one_draw(count: int = 1, **values: Any) -> Draws:
    """Draws that do nothing but what `values` say, the same for each of `count` pictures."""
    fields = {
        "flip": False,
        "affine": False,
        "angle": 0.0,
        "shift_x": 0.0,
        "shift_y": 0.0,
        "scale": 1.0,
        "hole": False,
        "hole_top": 0,
        "hole_left": 0,
    } | values
    return Draws(**{name: torch.full((count,), value) for name, value in fields.items()})


def ramp_picture(side: int) -> np.ndarray:
    """A picture that says where each pixel came from: red is 5 x its column, green 5 x its row, blue is full."""
    row, column = np.mgrid[:side, :side]
    return np.stack([5 * column, 5 * row, np.full_like(row, 255)], axis=2).astype(np.uint8)


def measure_ramps(batch: np.ndarray, hole_size: int) -> dict[str, np.ndarray]:
    """Read flips, angles, shifts (pixels), scales and holes off augmented, normalised `ramp_picture`s [N,3,S,S].

    The place each pixel came from is an affine function of where it is: fitted by least squares to the middle of the
    picture (which no border reaches) outside the hole, then taken apart. Knows nothing of either engine.
    """
    count, _, side, _ = batch.shape
    pixels = (batch.transpose(0, 2, 3, 1) * np.array(STD) + np.array(MEAN)) * 255
    dropped = pixels[..., 2] < 200
    centre = (side - 1) / 2
    offset = np.arange(side) - centre
    y, x = np.meshgrid(offset, offset, indexing="ij")
    middle = (np.abs(x) < side / 4) & (np.abs(y) < side / 4)
    names = ("angle", "shift_x", "shift_y", "scale", "hole_top", "hole_left", "residual")
    out = {name: np.zeros(count) for name in names}
    out |= {name: np.zeros(count, dtype=bool) for name in ("flip", "affine", "hole")}
    for i in range(count):
        keep = middle & ~dropped[i]
        places = np.stack([x[keep], y[keep], np.ones(keep.sum())], axis=1)
        source = pixels[i][keep][:, :2] / 5 - centre
        fit = np.linalg.lstsq(places, source, rcond=None)[0].T  # source = linear @ place + constant
        out["residual"][i] = np.abs(places @ fit.T - source).max()
        linear, constant = fit[:, :2], fit[:, 2]
        out["flip"][i] = np.linalg.det(linear) < 0
        out["shift_x"][i], out["shift_y"][i] = -np.linalg.solve(linear, constant)  # the place that shows the old centre
        if out["flip"][i]:
            linear = linear * np.array([[-1.0], [1.0]])
        out["scale"][i] = np.linalg.det(linear) ** -0.5
        out["angle"][i] = np.degrees(np.arctan2(linear[1, 0], linear[0, 0]))
        untouched = np.array([[-1.0 if out["flip"][i] else 1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        out["affine"][i] = np.abs(fit - untouched).max() > 1e-4
        if dropped[i].any():
            rows, columns = np.nonzero(dropped[i].any(1))[0], np.nonzero(dropped[i].any(0))[0]
            assert dropped[i].sum() == hole_size**2, "not one square hole, fully inside"
            assert rows[-1] - rows[0] == columns[-1] - columns[0] == hole_size - 1
            out["hole"][i], out["hole_top"][i], out["hole_left"][i] = True, rows[0], columns[0]
    return out


def spec_with(**values: Any) -> AugmentConfig:
    """A specification with every step off but those named in `values`."""
    return AugmentConfig(**(NOTHING | values))

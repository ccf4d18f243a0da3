"""What a pipeline does to colours: out = A · in + b, recovered from pictures of one colour each.

`in` is the RGB colour in 0 … 1, `out` what the network would get. A pipeline that only normalises has a diagonal A with
1/deviation on it and b = -mean/deviation; BGR order shows as an A with its rows swapped, greying as three like rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight.rules.audit_probe import Pipeline, constant

GREYS = (0, 64, 128, 192, 255)
COLOURS: tuple[tuple[int, int, int], ...] = (
    *((grey, grey, grey) for grey in GREYS),
    (40, 128, 128),
    (216, 128, 128),
    (128, 40, 128),
    (128, 216, 128),
    (128, 128, 40),
    (128, 128, 216),
)


@dataclass(frozen=True, kw_only=True)
class Colour:
    """The colour map of a pipeline. matrix (3, 3) and offset (3,): out = matrix · in + offset, `in` in 0 … 1."""

    matrix: np.ndarray
    offset: np.ndarray
    linear: bool  # the map above explains what came out
    changing: (
        float  # share of the draws in which a colour came out otherwise than usual (colour jitter, greying, noise)
    )
    error: float  # standard error of mean and deviation, in units of 0 … 1, from that change
    low: np.ndarray  # (3,) what black becomes
    high: np.ndarray  # (3,) what white becomes

    @property
    def order(self) -> tuple[int, int, int]:
        """For each channel that comes out, the channel that went in: (0, 1, 2) is RGB kept, (2, 1, 0) swapped."""
        first, second, third = (int(np.argmax(np.abs(row))) for row in self.matrix)
        return first, second, third

    @property
    def grey(self) -> bool:
        """Whether the three channels come out as the same mixture of the three that went in."""
        slopes = self.matrix.sum(axis=1)
        if not np.all(np.abs(slopes) > 1e-9):
            return False
        rows = self.matrix / slopes[:, None]
        return bool(np.abs(rows - rows[0]).max() < 0.05)

    @property
    def mean(self) -> np.ndarray:
        """(3,) the grey that becomes 0, per channel that comes out, in units of 0 … 1; NaN where there is none."""
        slopes = self.matrix.sum(axis=1)
        return np.where(np.abs(slopes) > 1e-9, -self.offset / np.where(slopes == 0, 1, slopes), np.nan)

    @property
    def std(self) -> np.ndarray:
        """(3,) the change of grey that becomes a change of 1, per channel that comes out; NaN where there is none."""
        slopes = self.matrix.sum(axis=1)
        return np.where(np.abs(slopes) > 1e-9, 1 / np.where(slopes == 0, 1, slopes), np.nan)

    @property
    def invertible(self) -> bool:
        """Whether the colour that went in can be told from the one that came out."""
        return bool(self.linear and np.all(np.isfinite(self.matrix)) and np.linalg.cond(self.matrix) < 30)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """uint8 picture (…, 3) -> what plain normalisation makes of it (…, 3)."""
        return picture / 255 @ self.matrix.T + self.offset

    def undo(self, output: np.ndarray) -> np.ndarray:
        """What came out (…, 3) -> the levels 0 … 255 that went in (…, 3)."""
        return (output - self.offset) @ np.linalg.inv(self.matrix).T * 255


def measure_colour(pipeline: Pipeline, draws: int) -> Colour:
    """Feed `draws` times each of eleven one-colour pictures. Holes and borders do not matter while the
    picture's colour is the most frequent one."""
    seen = np.empty((len(COLOURS), draws, 3))
    for k, colour in enumerate(COLOURS):
        picture = constant(colour)
        for d in range(draws):
            seen[k, d] = _main_colour(pipeline.call(picture))  # one channel is spread over three
    if not np.isfinite(seen).all():
        none = np.full(3, np.nan)
        return Colour(
            matrix=np.full((3, 3), np.nan), offset=none, linear=False, changing=0.0, error=0.0, low=none, high=none
        )
    centre = np.stack([_usual(values[own]) for values, own in zip(seen, _own_colours(seen), strict=True)])
    span = float(np.abs(centre[len(GREYS) - 1] - centre[0]).max()) or 1.0
    off = np.abs(seen - centre[:, None]).max(axis=2) > 0.004 * span  # one level of 255
    changing = float(off[1:].mean())  # black stays black under most changes
    inputs = np.array(COLOURS) / 255
    design = np.hstack([inputs, np.ones((len(inputs), 1))])
    solution, *_ = np.linalg.lstsq(design, centre, rcond=None)
    residual = float(np.abs(design @ solution - centre).max())
    noise = 0.0
    if changing > 0.3:
        noise = float(np.sqrt(((seen - centre[:, None]) ** 2).mean()) / span * 1.25 / np.sqrt(draws))
    return Colour(
        matrix=solution[:3].T,
        offset=solution[3],
        linear=residual < (0.02 + 4 * noise) * span,
        changing=changing,
        error=noise,
        low=centre[0],
        high=centre[len(GREYS) - 1],
    )


def _main_colour(output: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (C,): the colour of a quarter of the pixels or more, else (noise) the median."""
    pixels = output.reshape(-1, output.shape[2])
    pixels = pixels[np.isfinite(pixels).all(axis=1)]
    if len(pixels) < output[..., 0].size:
        return np.full(output.shape[2], np.nan)
    code = np.round(pixels @ np.array([1.0, 1.9, 3.7])[: output.shape[2]], 4)
    _, first, counts = np.unique(code, return_index=True, return_counts=True)
    top = int(np.argmax(counts))
    return pixels[first[top]] if counts[top] >= 0.25 * len(code) else np.median(pixels, axis=0)


def _own_colours(seen: np.ndarray) -> np.ndarray:
    """(K, D, 3) -> (K, D) bool: the draws whose main colour is not one that most pictures come out in, as when a hole
    or border covers half of them; all draws of a picture where none is left."""
    keys = np.unique(np.round(seen / (np.ptp(seen) * 1e-4 + 1e-6)).reshape(-1, 3), axis=0, return_inverse=True)[1]
    keys = keys.reshape(seen.shape[:2])
    pictures = np.array([(keys == key).any(axis=1).sum() for key in range(keys.max() + 1)])
    own = (pictures <= len(seen) / 2)[keys]
    return own | ~own.any(axis=1, keepdims=True)


def _usual(values: np.ndarray) -> np.ndarray:
    """(D, 3) -> (3,): the value seen in three draws of ten or more (jitter may spare some), else the median."""
    rounded = np.round(values / (np.ptp(values) * 1e-4 + 1e-6))
    _, first, counts = np.unique(rounded, axis=0, return_index=True, return_counts=True)
    top = int(np.argmax(counts))
    return values[first[top]] if counts[top] >= 0.3 * len(values) else np.median(values, axis=0)


def known_statistics() -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Means and deviations met in public code, by what they are: the first that fits within rounding is named."""
    return {
        "the training set's": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "those of training and test set together": ((0.49187, 0.48265, 0.44718), (0.24697, 0.24339, 0.26159)),
        "those of the test set": ((0.49421, 0.48513, 0.45041), (0.24665, 0.24289, 0.26159)),
        "the average of per-image deviations, not the pixels' own": (
            (0.4914, 0.4822, 0.4465),
            (0.2023, 0.1994, 0.2010),
        ),
        "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "one half for all, not the data's": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        "none at all: 0–255 are only brought to 0–1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        "none at all: pixels are left at 0–255": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
    }


def name_statistics(mean: Any, std: Any, within: float = 0.0011) -> str | None:
    """The known pair nearest to (mean, std), when every one of its six figures is within `within` of it."""
    best, distance = None, np.inf
    for name, pair in known_statistics().items():
        away = max(np.abs(np.array(pair[0]) - mean).max(), np.abs(np.array(pair[1]) - std).max())
        if away < distance:
            best, distance = name, away
    return best if distance <= within else None

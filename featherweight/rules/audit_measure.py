"""Everything measured on one pipeline, as plain figures for the verdict in audit_judge.py. Nothing here judges.

A draw is one call of the pipeline on one probe picture. Draws are independent: no seed is shared between pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from featherweight.rules import audit_holes
from featherweight.rules.audit_colour import Colour, measure_colour
from featherweight.rules.audit_geometry import Placement, place
from featherweight.rules.audit_holes import HoleTally
from featherweight.rules.audit_probe import Pipeline, ramps, texture

FEW = 0.25  # share of draws that must be readable from the ramp picture; below it the texture picture is used

BORDERED = 150  # draws that are enough to know the border's colours
TEXTURED = 120  # draws of the texture picture, whose fit takes some 20 ms each


def measure_training(pipeline: Pipeline, draws: int, step: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Measure an augmenting pipeline over `draws` draws (and about as many again for its colours).

    step: called some 2 * draws times on the way.
    """
    colour = measure_colour(pipeline, max(24, draws // 10))
    picture = ramps()
    outputs = []
    for _ in range(draws):
        outputs.append(pipeline.call(picture))
        step()
    placements: list[Placement | None] = [None] * draws
    levels: list[np.ndarray] = []
    same_shape = len({output.shape for output in outputs}) == 1
    if same_shape and outputs[0].shape[2] == 3 and colour.invertible:
        levels = [colour.undo(output) for output in outputs]
        for number, level in enumerate(levels):
            placements[number] = place(level)
            step()
        if colour.changing > 0.01:
            placements = without_outliers(placements)
    by = "ramp"
    if sum(item is not None for item in placements) >= FEW * draws:
        holes = _ramp_holes(outputs, levels, placements)
    else:
        by = "texture"
        placements, holes = _by_texture(pipeline, min(draws, TEXTURED), step)
    return {
        "pipeline": pipeline.name,
        "convention": pipeline.convention,
        "draws": draws,
        "by": by,
        "output": _output(outputs),
        "colour": colour_figures(colour),
        "variety": _variety(outputs, colour),
        "geometry": _geometry(placements),
        "holes": holes,
    }


def measure_evaluation(pipeline: Pipeline, draws: int = 24) -> dict[str, Any]:
    """Measure a pipeline that should only normalise: its colours, whether it always does the same and moves nothing."""
    colour = measure_colour(pipeline, 8)
    outputs = [pipeline.call(picture) for picture in [ramps()] * draws + [texture()]]
    variety = _variety(outputs[:draws], colour)
    placed = place(colour.undo(outputs[0])) if colour.invertible and outputs[0].shape[2] == 3 else None
    return {
        "pipeline": pipeline.name,
        "convention": pipeline.convention,
        "draws": draws,
        "output": _output(outputs),
        "colour": colour_figures(colour),
        "variety": variety,
        "geometry": _geometry([placed]),
    }


def colour_figures(colour: Colour) -> dict[str, Any]:
    """The colour map in plain figures."""
    return {
        "matrix": colour.matrix.tolist(),
        "offset": colour.offset.tolist(),
        "linear": colour.linear,
        "changing": colour.changing,
        "error": colour.error,
        "low": colour.low.tolist(),
        "high": colour.high.tolist(),
        "order": list(colour.order) if np.isfinite(colour.matrix).all() else None,
        "grey": colour.grey,
        "mean": colour.mean.tolist(),
        "std": colour.std.tolist(),
    }


def _output(outputs: Sequence[np.ndarray]) -> dict[str, Any]:
    shapes = sorted({output.shape for output in outputs})
    return {
        "shapes": [list(shape) for shape in shapes[:5]],
        "finite": all(bool(np.isfinite(output).all()) for output in outputs),
    }


def _variety(outputs: Sequence[np.ndarray], colour: Colour) -> dict[str, Any]:
    """How many outputs differ from each other, and how many are exactly what plain normalisation gives."""
    span = float(np.abs(colour.high - colour.low).max())
    level = span / 255 if np.isfinite(span) and span > 0 else 1.0
    keys = {hashlib.sha256(np.round(output / (0.25 * level)).tobytes()).hexdigest() for output in outputs}
    plain = None
    if colour.linear:
        expected = colour.apply(ramps())
        plain = sum(
            output.shape == expected.shape and bool(np.abs(output - expected).max() < 2 * level) for output in outputs
        )
    return {"draws": len(outputs), "distinct": len(keys), "plain": plain}


def without_outliers(placements: Sequence[Placement | None]) -> list[Placement | None]:
    """Where colours change, a change that happens to keep the ramp picture's blue looks like a movement: leave out
    draws far outside what nine of ten draws do."""
    known = [item for item in placements if item is not None]
    if not known:
        return list(placements)
    figures = np.array([_five(item) for item in known])
    low, high = np.percentile(figures, (5, 95), axis=0)
    margin = 0.3 * (high - low) + (0.6, 0.008, 0.03, 0.008, 0.008)
    return [
        item
        if item is not None and np.all(np.abs(np.array(_five(item)) - (low + high) / 2) <= (high - low) / 2 + margin)
        else None
        for item in placements
    ]


def _five(item: Placement) -> tuple[float, ...]:
    return item.angle, item.scale, item.stretch, *item.shift


def _geometry(placements: Sequence[Placement | None]) -> dict[str, Any]:
    known = [item for item in placements if item is not None]
    figures: dict[str, Any] = {"draws": len(placements), "placed": len(known)}
    if known:
        shifts = np.array([item.shift for item in known])
        figures |= {
            "flipped": float(np.mean([item.flipped for item in known])),
            "upturned": float(np.mean([item.upturned for item in known])),
            "angle": _spread(np.array([item.angle for item in known]), 0.6),
            "scale": _spread(np.array([item.scale for item in known]), 0.008, 1.0),
            "shift_x": _spread(shifts[:, 0], 0.008),
            "shift_y": _spread(shifts[:, 1], 0.008),
            "stretch": _spread(np.array([item.stretch for item in known]), 0.03, 1.0),
        }
    return figures


def _spread(values: np.ndarray, least: float, rest: float = 0.0) -> dict[str, float]:
    """Lowest, highest, and the share of draws further than `least` (the estimate's own error) from `rest`."""
    return {
        "low": float(values.min()),
        "high": float(values.max()),
        "moved": float((np.abs(values - rest) > least).mean()),
    }


def _ramp_holes(
    outputs: Sequence[np.ndarray], levels: Sequence[np.ndarray], placements: Sequence[Placement | None]
) -> dict[str, Any]:
    border = audit_holes.measure_border(levels, placements)
    border = audit_holes.find_wedges(levels[:BORDERED], placements[:BORDERED], border)
    tally = HoleTally()
    for output, level, placement in zip(outputs, levels, placements, strict=True):
        if placement is not None:
            tally.add(audit_holes.classify(level, placement, border), output)
    return tally.summary() | {
        "border_constant": border.constant,
        "border": None if border.levels is None else border.levels.tolist(),
    }


def _by_texture(
    pipeline: Pipeline, draws: int, step: Callable[[], None]
) -> tuple[list[Placement | None], dict[str, Any]]:
    """Placements and holes from the texture picture: less sharp than the ramps, but no change of colour disturbs it.
    What lies outside the picture after a shift or turn counts as unknown: it cannot be told from a hole."""
    from featherweight.rules.audit_texture import TextureFinder

    finder, picture, tally = TextureFinder(), texture(), HoleTally()
    outputs = [pipeline.call(picture) for _ in range(draws)]
    found = []
    for output in outputs:
        found.append(finder.place(output))
        step()
    misfits = [item[1] for item in found if item is not None]
    worst = 4 * float(np.median(misfits)) + 0.02 if misfits else 0.0  # far worse than the other draws: a wrong fit
    placements = [item[0] if item is not None and item[1] <= worst else None for item in found]
    for output, placement in zip(outputs, placements, strict=True):
        if placement is not None:
            tally.add(finder.kinds(output, placement, True), output)
    return placements, tally.summary() | {"border_constant": None, "border": None}

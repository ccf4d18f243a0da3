"""Figures that lay attributions over pictures: Grad-CAM and integrated gradients side by side.

Pictures are uint8 [N, H, W, 3]; maps are [N, H, W]: Grad-CAM's from 0 up, integrated gradients' of both signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from featherweight.explain.pictures import Said
from featherweight.explain.style import (
    HEAT,
    SPLIT,
    WIDTH,
    Exhibit,
    new_figure,
    percent,
    plain,
    rounded,
    show_picture,
    to_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

CAM, PIXELS = "Grad-CAM", "integrated gradients"
STRONGEST = 99.5  # percentile of |value| at which the two-way scale ends: single pixels would flatten all others


@dataclass(frozen=True, kw_only=True)
class MapRow:
    """One row of overlays. about: "said" or "true", the class asked about; maps: [N, H, W]."""

    method: str  # CAM or PIXELS
    about: str
    maps: torch.Tensor


def overlays(
    name: str, title: str, images: np.ndarray, said: Sequence[Said], classes: Sequence[str], rows: Sequence[MapRow],
    *, layer: str, completeness_error: float,
) -> Exhibit:  # fmt: skip
    """The pictures on top and a row of overlays for each of `rows`.

    layer: Grad-CAM's; completeness_error: the largest gap, as a fraction of the score, between what the integrated
    gradients of a picture add up to and what they should.
    """
    above = 0.85 + (5.8 / max(len(said), 4) + 0.05) * (1 + len(rows))
    figure = new_figure(WIDTH, above + 0.6, grid_of_pictures=True)
    parts: Any = figure.subfigures(2, 1, height_ratios=[above, 0.6])
    upper, lower = parts
    upper.suptitle(title, x=0.01, ha="left", fontsize=11)
    grid = upper.subplots(1 + len(rows), len(said), squeeze=False)
    for axes, picture, verdict in zip(grid[0], images, said, strict=True):
        show_picture(axes, picture)
        text = f"true: {plain(classes[verdict.true])}\n"
        if verdict.right:
            text = ""
        axes.set_title(
            f"{text}said: {plain(classes[verdict.said])}\n{100 * verdict.confidence:.1f} %", fontsize=9, pad=3
        )
    grid[0, 0].set_ylabel("picture", fontsize=9)
    for line, row in zip(grid[1:], rows, strict=True):
        for axes, picture, values in zip(line, images, row.maps.cpu().numpy(), strict=True):
            (heat if row.method == CAM else split)(axes, picture, values)
        wrong = not all(verdict.right for verdict in said)
        about = f"\nfor the\n{row.about} class" if wrong else ""
        method = "Grad-CAM" if row.method == CAM else "integrated\ngradients"
        line[0].set_ylabel(method + about, fontsize=9)
    scales(lower)
    return Exhibit(
        name=name,
        title=title,
        caption=_caption(rows, layer, completeness_error),
        alt=_alt(said, classes, rows),
        png=to_png(figure, crop=True),
        data={
            "layer": layer,
            "completeness_error": completeness_error,
            "pictures": [verdict.named(classes) for verdict in said],
            "maps": [{"method": row.method, "class": row.about, "values": rounded(row.maps.cpu(), 3)} for row in rows],
        },
        columns=["picture no.", "true", "said", "confidence", *(f"{row.method}, {row.about} class" for row in rows)],
        rows=[
            [
                verdict.index,
                classes[verdict.true],
                classes[verdict.said],
                percent(verdict.confidence),
                *(where_strongest(row.maps[number]) for row in rows),
            ]
            for number, verdict in enumerate(said)
        ],
    )


def where_strongest(values: torch.Tensor) -> str:
    """In words, the ninth of a map [H, W] that holds most of what speaks for the class, and how much of it."""
    height, width = values.shape
    names = (("upper left", "top", "upper right"), ("left", "middle", "right"), ("lower left", "bottom", "lower right"))
    positive = values.double().clamp(min=0)
    total = float(positive.sum())
    if total == 0:
        return "nowhere"
    best = (0.0, "")
    for i, row in enumerate(names):
        for j, name in enumerate(row):
            rows = slice(i * height // 3, (i + 1) * height // 3)
            columns = slice(j * width // 3, (j + 1) * width // 3)
            best = max(best, (float(positive[rows, columns].sum()) / total, name))
    return f"{best[1]} ({100 * best[0]:.0f} %)"


def gathered(values: np.ndarray) -> np.ndarray:
    """A map [H, W] with each value spread over its 5x5 neighbours by binomial weights; the sum stays what it was.

    Single pixels of opposite sign lie side by side in integrated gradients; this shows what is left of them locally.
    """
    weights = np.array([1, 4, 6, 4, 1]) / 16
    for axis in (0, 1):
        padded = np.pad(values, [(2, 2) if number == axis else (0, 0) for number in (0, 1)], mode="symmetric")
        length = values.shape[axis]
        parts = [w * np.take(padded, range(k, k + length), axis) for k, w in enumerate(weights)]
        values = np.sum(parts, axis=0)
    return values


def heat(axes: Axes, picture: np.ndarray, values: np.ndarray) -> None:
    """A one-way map over the picture in grey, scaled to its own largest value."""
    show_picture(axes, picture, grey=True)
    top = float(values.max())
    axes.imshow(values / top if top > 0 else values, cmap=HEAT, vmin=0, vmax=1, alpha=0.55, interpolation="bilinear")


def split(axes: Axes, picture: np.ndarray, values: np.ndarray) -> None:
    """A two-way map over the faded picture; the weaker, the more transparent."""
    from matplotlib import colormaps

    show_picture(axes, picture, grey=True, fade=0.6)
    values = gathered(values)
    top = float(np.percentile(np.abs(values), STRONGEST))
    scaled = (values / top if top > 0 else values).clip(-1, 1)
    colours = colormaps[SPLIT]((scaled + 1) / 2)
    colours[..., 3] = np.abs(scaled) ** 0.7  # a little more than in proportion, so that weak ones can be seen
    axes.imshow(colours, interpolation="nearest")


def scales(figure: SubFigure) -> None:
    """The two colour scales side by side."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    left, between, right = figure.subplots(1, 3, width_ratios=[1, 0.15, 1])
    between.axis("off")
    for axes, colours, low, ticks, label in zip(
        (left, right),
        (HEAT, SPLIT),
        (0, -1),
        ({0: "nothing", 1: "most"}, {-1: "against", 0: "nothing", 1: "for"}),
        ("Grad-CAM: speaks for the class", "integrated gradients: speaks for or against it"),
        strict=True,
    ):
        mappable = ScalarMappable(Normalize(low, 1), colours)
        bar = figure.colorbar(mappable, cax=axes, orientation="horizontal", ticks=list(ticks))
        bar.ax.set_xticklabels(list(ticks.values()), fontsize=8.5)
        for text, side in zip(bar.ax.get_xticklabels()[:: len(ticks) - 1], ("left", "right"), strict=True):
            text.set_horizontalalignment(side)
        bar.ax.set_title(label, fontsize=8.5, pad=3)


def _caption(rows: Sequence[MapRow], layer: str, error: float) -> str:
    both = len({row.about for row in rows}) > 1
    return (
        f"Grad-CAM (Selvaraju et al. 2017) at the layer {layer}: the brighter, the more this part of the layer's map "
        "speaks for the class; as coarse as that map. Integrated gradients (Sundararajan et al. 2017), pixel by "
        "pixel against a field of the mean colour: orange speaks for the class, purple against it, each pixel "
        "gathered with its neighbours (5x5); the values add up to the class's score less that of the plain field "
        f"(largest gap here: {percent(error, 2)} of it). "
        + (
            "Asked twice of each picture: about the class that was said, and about the true one. Where the two light "
            "up different parts, different things in the picture speak for either; where they agree, the same thing is "
            "taken for both. "
            if both
            else "These are the first rightly named pictures of their classes, not a choice of the best. "
        )
        + "Each map is scaled by itself: colours compare within a map, not between maps."
    )


def _alt(said: Sequence[Said], classes: Sequence[str], rows: Sequence[MapRow]) -> str:
    first = rows[0]
    told = "; ".join(
        f"{classes[verdict.said]}: {where_strongest(first.maps[number])}" for number, verdict in enumerate(said)
    )
    return (
        f"{len(said)} pictures above their {first.method} and {PIXELS} overlays. Strongest {first.method} part: {told}."
    )

"""Bars side by side: speeds of several loops, the times of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featherweight.explain.style import BLUE, GREY, LIGHT, WIDTH, new_figure, plain, to_png
from featherweight.utils import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR_HEIGHT, PANEL_MARGIN = 0.34, 0.95  # inches


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar from 0 to `value`; low and high: the spread, drawn as a line; note: written behind it."""

    label: str
    value: float
    low: float
    high: float
    note: str
    reference: bool = False  # what the others are compared with: drawn in grey


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Bars on one scale, which begins at 0. target: drawn as a line across."""

    title: str
    unit: str
    bars: Sequence[Bar]
    target: float | None = None


def draw_bars(panels: Sequence[Panel], path: Path) -> None:
    """The panels one below the other, as a PNG at `path`. Raises UserError when it cannot be written."""
    heights = [PANEL_MARGIN + BAR_HEIGHT * len(panel.bars) for panel in panels]
    figure = new_figure(WIDTH + 0.8, sum(heights))
    grid = figure.add_gridspec(len(panels), 1, height_ratios=heights)
    for row, panel in enumerate(panels):
        _draw(figure.add_subplot(grid[row]), panel)
    write_atomic(path, to_png(figure))


def _draw(axes: Axes, panel: Panel) -> None:
    places = range(len(panel.bars))
    colours = [GREY if bar.reference else BLUE for bar in panel.bars]
    axes.barh(places, [bar.value for bar in panel.bars], height=0.66, color=colours)
    right = max(max(bar.high, bar.value) for bar in panel.bars)
    for place, bar in zip(places, panel.bars, strict=True):
        if bar.low < bar.high:
            axes.plot([bar.low, bar.high], [place, place], color="black", linewidth=1, marker="|", markersize=6)
        axes.annotate(
            plain(bar.note),
            (max(bar.high, bar.value), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    if panel.target is not None:
        axes.axvline(panel.target, color=LIGHT, linestyle="--", zorder=0)
    axes.set_yticks(places, [plain(bar.label) for bar in panel.bars], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, right * 1.42)  # room for the notes
    axes.set_title(plain(panel.title), fontsize=10, loc="left")
    axes.set_xlabel(plain(panel.unit), fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)

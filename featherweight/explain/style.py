"""What the figures have in common: colours, sizes, how pictures are shown, and what a figure is to its report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette: told apart by all kinds of colour vision
BLUE, VERMILION, GREEN, AMBER, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9"
GREY, LIGHT = "#555555", "#D0D0D0"
HEAT = "viridis"  # one-way scales: even in lightness, so it also reads in grey
SPLIT = "PuOr_r"  # two-way scales: purple through white to orange

WIDTH = 6.4  # inches; a page is about 700 points wide, so 10-point text stays 10 points or more
DPI = 140


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One figure with all that belongs to it. columns and rows: its numbers as a table, for those who do not see it."""

    name: str  # also the names of its files
    title: str
    caption: str  # what one sees and how to read it
    alt: str  # what the picture shows, in a sentence or two
    png: bytes
    data: dict[str, Any]  # what it was drawn from, ready for JSON
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()


def new_figure(width: float = WIDTH, height: float = 4.4, *, grid_of_pictures: bool = False) -> Figure:
    """An empty figure of width x height inches that needs no screen.

    grid_of_pictures: its axes keep the pictures' own shape and are moved together.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="compressed" if grid_of_pictures else "constrained")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure, *, crop: bool = False) -> bytes:
    """The figure as a PNG; the same figure gives the same bytes. crop: cut off what is empty around it."""
    image = io.BytesIO()
    cut: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.05} if crop else {}
    figure.savefig(image, format="png", dpi=DPI, metadata={"Software": None}, **cut)
    return image.getvalue()


def plain(text: str) -> str:
    """`text` that is drawn as it is: a pair of dollars would be read as mathematics."""
    return text.replace("$", r"\$")


def show_picture(axes: Axes, picture: np.ndarray, *, grey: bool = False, fade: float = 0.0) -> None:
    """A picture, uint8 [H, W, 3], without ticks. grey: in grey levels; fade: how far towards white, 0 … 1."""
    shown = picture.astype(np.float64) / 255
    if grey:
        shown = np.repeat((shown @ [0.299, 0.587, 0.114])[..., None], 3, axis=2)  # luma of ITU-R BT.601
    axes.imshow(shown + (1 - shown) * fade, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def to_pictures(batch: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """A normalised batch [N, 3, H, W] back as pictures, uint8 [N, H, W, 3]; rounded, and cut off at black and white."""
    values = batch.detach().cpu().double().permute(0, 2, 3, 1).numpy() * np.asarray(std) + np.asarray(mean)
    return (values * 255).round().clip(0, 255).astype(np.uint8)


def rounded(values: torch.Tensor | np.ndarray, digits: int = 4) -> Any:
    """Numbers as nested lists with so many significant digits: what is drawn needs no more."""
    array = np.asarray(values, dtype=np.float64)
    with np.errstate(divide="ignore"):
        power = np.where(array == 0, 0, np.floor(np.log10(np.abs(array))))
    scale = 10.0 ** (digits - 1 - power)
    return (np.round(array * scale) / scale).tolist()


def percent(fraction: float | None, digits: int = 1) -> str:
    return "–" if fraction is None else f"{100 * fraction:.{digits}f} %"

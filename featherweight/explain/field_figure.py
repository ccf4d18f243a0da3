"""The receptive field drawn on a real picture: the theoretical square beside what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from featherweight.explain.field import enclosing_square, luo_size
from featherweight.explain.layers import UnitField
from featherweight.explain.style import (
    BLUE,
    GREY,
    HEAT,
    VERMILION,
    WIDTH,
    Exhibit,
    new_figure,
    percent,
    rounded,
    show_picture,
    to_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARE = 0.95


def receptive_field_figure(
    picture: np.ndarray, margin: int, energy: torch.Tensor, field: UnitField | None, layer: str, pictures: int
) -> Exhibit:
    """Both fields on `picture`, uint8 [H, W, 3], which is continued by `margin` pixels on each side.

    energy: float64 [H, W], as `effective_field` gives it, averaged over so many `pictures`; field: the theoretical one
    in this picture's coordinates, None where the unit sees the whole map.
    """
    side = picture.shape[0] - 2 * margin
    centre = field.centre if field else ((energy.shape[0] - 1) / 2, (energy.shape[1] - 1) / 2)
    measured, luo = enclosing_square(energy, centre, SHARE), luo_size(energy)
    size = _size(field)
    data, inside = _data(energy, field, layer, measured, luo, pictures, margin), None
    if field:
        inside = measured**2 / (field.size[0] * field.size[1])
    strided = field is not None and max(field.jump) > 1
    grid = " The fine grid in it is real: strided layers read some pixels more often." if strided else ""
    beyond = (
        f" The dotted square is the picture itself, {side}x{side}; beyond it the picture is continued by its mirror "
        "image, so that the whole field has something to see (in use the network sees zeros there)."
        if margin
        else ""
    )
    return Exhibit(
        name="receptive_field",
        title="Receptive field, theoretical and measured",
        caption=f"What one unit of the layer {layer}, in the middle of its map, can see and does see. Left, "
        f"orange-red: every pixel with any path to the unit ({size}). Right: how strongly each pixel really moves it, "
        f"the gradient of the trained network over {pictures} pictures (Luo et al. 2016); the blue dashed square "
        f"holds {100 * SHARE:.0f} % of it (squared). Below: the same along both axes. The measured field is usually "
        f"much smaller than the theoretical one and fades towards its edge.{grid}{beyond}",
        alt=f"Two copies of a picture: the theoretical field, {size}, as a square, and the measured one as a bright "
        f"spot with {100 * SHARE:.0f} % within {measured} pixels; below, the profile along rows and columns.",
        png=to_png(_drawn(picture, margin, energy, field, centre, measured)),
        data=data,
        columns=["figure", "value"],
        rows=[
            ["layer", layer],
            ["theoretical field (pixels)", size],
            [f"side of the square that holds {100 * SHARE:.0f} % of the squared gradient (pixels)", measured],
            ["its area as a share of the theoretical square's", percent(inside)],
            ["size after Luo et al.: root of the number of pixels above 4.55 % of the strongest", f"{luo:.1f}"],
            ["pictures averaged over", pictures],
        ],
    )


def _drawn(
    picture: np.ndarray,
    margin: int,
    energy: torch.Tensor,
    field: UnitField | None,
    centre: tuple[float, float],
    measured: int,
) -> Figure:
    side = picture.shape[0] - 2 * margin
    figure = new_figure(WIDTH, 6.3)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.35, 1])
    top, bottom = parts
    left, right = top.subplots(1, 2)
    show_picture(left, _faded_around(picture, margin))
    left.set_title(f"theoretical: {_size(field)}", fontsize=10.5)
    show_picture(right, _faded_around(picture, margin), grey=True)
    right.set_title(f"measured: {100 * SHARE:.0f} % within {measured} pixels", fontsize=10.5)
    strength = energy.sqrt().numpy()
    heat = strength / max(float(strength.max()), 1e-300)
    image = right.imshow(heat, cmap=HEAT, vmin=0, vmax=1, alpha=np.clip(heat * 4, 0, 0.85), interpolation="nearest")
    bar = top.colorbar(image, ax=[left, right], location="bottom", fraction=0.05, aspect=40, shrink=0.7, pad=0.02)
    bar.set_label("how strongly a pixel moves the unit (of the strongest)", fontsize=9)
    bar.ax.tick_params(labelsize=9)
    for axes in (left, right):
        if margin:
            _square(axes, (margin - 0.5, margin + side - 0.5) * 2, "black", ":")
        if field:
            _square(axes, field.edges(), VERMILION, "-")
    (y, x), half = centre, measured / 2
    _square(right, (y - half, y + half, x - half, x + half), BLUE, "--")
    _profile(bottom.subplots(), energy, field, centre, measured)
    return figure


def _size(field: UnitField | None) -> str:
    return "the whole picture" if field is None else f"{field.size[0]}x{field.size[1]} pixels"


def _faded_around(picture: np.ndarray, margin: int) -> np.ndarray:
    """The picture with what was added around it half faded to white."""
    shown = (128 + picture // 2).astype(np.uint8)
    inner = slice(margin, len(picture) - margin)
    shown[inner, inner] = picture[inner, inner]
    return shown


def _square(axes: Axes, edges: tuple[float, ...], colour: str, style: str) -> None:
    """An outline (top, bottom, left, right), kept inside the axes so that none of its sides is lost."""
    from matplotlib.patches import Rectangle

    top, bottom, left, right = edges
    outline = Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, linestyle=style, linewidth=2)
    axes.add_patch(outline)


def _profile(
    axes: Axes, energy: torch.Tensor, field: UnitField | None, centre: tuple[float, float], measured: int
) -> None:
    """Strength along rows and columns, through sums over the other axis, over the distance from the centre."""
    for dim, label, colour, style in ((1, "vertically", BLUE, "-"), (0, "horizontally", GREY, "--")):
        line = energy.sum(dim=dim).sqrt()
        place = torch.arange(len(line)) - centre[0 if dim == 1 else 1]
        axes.plot(place, line / line.max().clamp(min=1e-300), color=colour, linestyle=style, label=f"measured, {label}")
    if field:
        for number, edge in enumerate((-field.size[1] / 2, field.size[1] / 2)):
            axes.axvline(edge, color=VERMILION, linewidth=2, label="theoretical edge" if number == 0 else None)
    axes.axvspan(
        -measured / 2, measured / 2, color=BLUE, alpha=0.12, label=f"{100 * SHARE:.0f} % of the squared gradient"
    )
    axes.set(ylim=(0, 1.05), xlabel="distance from the unit's centre (pixels)", ylabel="of the strongest")
    axes.grid(alpha=0.3)
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def _data(
    energy: torch.Tensor, field: UnitField | None, layer: str, measured: int, luo: float, pictures: int, margin: int
) -> dict[str, Any]:
    return {
        "layer": layer,
        "theoretical": None
        if field is None
        else {
            "size": list(field.size),
            "centre": list(field.centre),
            "jump": list(field.jump),
            "unit": list(field.unit),
            "same_for_every_unit": field.exact,
        },
        "measured_square": measured,
        "measured_share": SHARE,
        "luo_size": luo,
        "pictures": pictures,
        "margin": margin,
        "squared_gradient": rounded(energy),
    }

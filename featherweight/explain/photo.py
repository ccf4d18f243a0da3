"""What speaks for the likeliest classes of one photograph: as a person sees it, as the network does, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from featherweight.explain.saliency import CAM, PIXELS, heat, scales, split, where_strongest
from featherweight.explain.style import WIDTH, Exhibit, new_figure, percent, plain, rounded, show_picture, to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def photo_attribution(
    photo: np.ndarray,
    picture: np.ndarray,
    top: Sequence[tuple[str, float]],
    cams: torch.Tensor,
    pixels: torch.Tensor,
    *,
    layer: str,
    completeness_error: float,
) -> Exhibit:
    """The photograph and Grad-CAM and integrated gradients for its K likeliest classes.

    photo: uint8 [H, W, 3], at a scale for people; picture: uint8 [S, S, 3], as the network gets it; top: (class,
    confidence), the likeliest first; cams, pixels: [K, S, S]; layer: Grad-CAM's; completeness_error: as for
    `saliency.overlays`.
    """
    cams, pixels = cams.cpu(), pixels.cpu()  # Apple's GPUs have no float64, which places are found in
    strongest = [(name, where_strongest(cam)) for (name, _), cam in zip(top, cams, strict=True)]
    first, confidence = top[0]
    return Exhibit(
        name="photo_attribution",
        title="What speaks for a photograph's likeliest classes",
        caption=f"Left, the photograph and the {picture.shape[1]}x{picture.shape[0]} pixels that the network gets of "
        f"it. Beside them, for each of its {len(top)} likeliest classes, above {CAM} (Selvaraju et al. 2017) at the "
        f"layer {layer}, as coarse as that layer's map; below {PIXELS} (Sundararajan et al. 2017), pixel by pixel, "
        "each gathered with its neighbours (5x5): orange speaks for the class, purple against it (largest gap in "
        f"their sum: {percent(completeness_error, 2)} of the score). Each map is scaled by itself.",
        alt=f"A photograph named {first} with {percent(confidence)}, and for its likeliest classes, "
        f"{', '.join(f'{name} ({percent(share)})' for name, share in top)}, overlays of {CAM} and {PIXELS}. Strongest "
        f"{CAM} part: {'; '.join(f'{name}: {where}' for name, where in strongest)}.",
        png=to_png(_drawn(photo, picture, top, cams, pixels), crop=True),
        data={
            "layer": layer,
            "completeness_error": completeness_error,
            "top": [{"class": name, "confidence": share} for name, share in top],
            "maps": [
                {"method": CAM, "values": rounded(cams, 3)},
                {"method": PIXELS, "values": rounded(pixels, 3)},
            ],
        },
        columns=["class", "confidence", f"{CAM}, strongest part", f"{PIXELS}, strongest part"],
        rows=[
            [name, percent(share), where_strongest(cam), where_strongest(values)]
            for (name, share), cam, values in zip(top, cams, pixels, strict=True)
        ],
    )


def _drawn(
    photo: np.ndarray,
    picture: np.ndarray,
    top: Sequence[tuple[str, float]],
    cams: torch.Tensor,
    pixels: torch.Tensor,
) -> Figure:
    columns = 1 + len(top)
    above = 0.75 + 2 * (WIDTH / columns + 0.05)
    figure = new_figure(WIDTH, above + 0.6, grid_of_pictures=True)
    parts: Any = figure.subfigures(2, 1, height_ratios=[above, 0.6])
    upper, lower = parts
    upper.suptitle("What speaks for a photograph's likeliest classes", x=0.01, ha="left", fontsize=11)
    grid = upper.subplots(2, columns, squeeze=False)
    for axes, shown, text in ((grid[0, 0], photo, "the photograph"), (grid[1, 0], picture, "what the network sees")):
        show_picture(axes, shown)
        axes.set_title(text, fontsize=9, pad=3)
    for number, (name, confidence) in enumerate(top, 1):
        heat(grid[0, number], picture, cams[number - 1].numpy())
        split(grid[1, number], picture, pixels[number - 1].numpy())
        grid[0, number].set_title(f"{plain(name)}: {100 * confidence:.1f} %", fontsize=9, pad=3)
    grid[0, 1].set_ylabel(CAM, fontsize=9)
    grid[1, 1].set_ylabel(PIXELS, fontsize=9)
    scales(lower)
    return figure

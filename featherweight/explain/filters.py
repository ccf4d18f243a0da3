"""The first convolution's kernels as small pictures. Shapes: O kernels, I input channels, h rows, w columns."""

from __future__ import annotations

import numpy as np
import torch

from featherweight.explain.style import WIDTH, Exhibit, new_figure, rounded, to_png

MOST = 64  # kernels drawn; the rest is in the data


def as_colours(weight: torch.Tensor) -> np.ndarray:
    """Kernels [O, I, h, w] → [O, h, w, 3] in 0 … 1: no weight is middle grey, each kernel's largest is black or white.

    Three input channels are shown as red, green and blue; of any other number the mean over them in grey.
    """
    kernels = weight.detach().double().cpu()
    if kernels.shape[1] != 3:
        kernels = kernels.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    largest = kernels.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
    return (0.5 + 0.5 * kernels / largest).permute(0, 2, 3, 1).numpy()


def colourfulness(weight: torch.Tensor) -> torch.Tensor:
    """For each kernel [O, 3, h, w], how much of its energy differs between colours: 0 (brightness only) … 1."""
    kernels = weight.detach().double()
    common = kernels.mean(dim=1, keepdim=True)
    total = kernels.square().sum(dim=(1, 2, 3))
    return (kernels - common).square().sum(dim=(1, 2, 3)) / total.clamp(min=1e-30)


def flatness(weight: torch.Tensor) -> torch.Tensor:
    """For each kernel [O, I, h, w], how much of its energy is even over it: 1 is a plain colour, 0 an edge."""
    kernels = weight.detach().double()
    even = kernels.mean(dim=(2, 3), keepdim=True).expand_as(kernels)
    total = kernels.square().sum(dim=(1, 2, 3))
    return even.square().sum(dim=(1, 2, 3)) / total.clamp(min=1e-30)


def first_layer(weight: torch.Tensor, name: str) -> Exhibit:
    """The kernels of the layer `name`, those that look at brightness first, the most colourful last."""
    count, inputs, height, width = weight.shape
    colour = colourfulness(weight) if inputs == 3 else torch.zeros(count, dtype=torch.float64)
    flat = flatness(weight)
    order = torch.argsort(colour, stable=True).tolist()
    shown = order[:MOST]
    columns = min(8, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(WIDTH, 0.35 + (WIDTH / 8 + 0.09) * rows, grid_of_pictures=True)
    figure.suptitle(f"First layer: {count} kernels of {height}x{width} ({name})", x=0.01, ha="left", fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    colours = as_colours(weight)
    for axes, index in zip(grid.flat, shown, strict=False):
        axes.axis("on")
        axes.imshow(colours[index], interpolation="nearest", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(f"{index}", fontsize=8, labelpad=1)
    grey, chromatic = int((colour < 0.1).sum()), int((colour > 0.5).sum())
    told = (
        f"{grey} of {count} look at brightness alone, {chromatic} mainly at differences of colour."
        if inputs == 3
        else ""
    )
    more = f" Drawn are {len(shown)}; all are in the data." if len(shown) < count else ""
    return Exhibit(
        name="first_filters",
        title="First-layer filters",
        caption="Each square is one kernel of the first convolution, its weights for red, green and blue as a colour: "
        "middle grey is no weight, brighter adds, darker subtracts. Each is scaled by itself. Black beside white in "
        "grey is an edge detector, a plain colour a colour detector, coloured noise a kernel that learned nothing. "
        f"Ordered from those that look at brightness to those that look at colour; numbers are channels. {told}{more}",
        alt=f"{len(shown)} small squares, one for each kernel of the first layer. {told}",
        png=to_png(figure, crop=True),
        data={"layer": name, "weight": rounded(weight), "colourfulness": rounded(colour), "flatness": rounded(flat)},
        columns=["channel", "largest weight", "energy in colour differences", "energy that is even over the kernel"],
        rows=[
            [
                index,
                f"{float(weight[index].abs().max()):.3f}",
                f"{100 * float(colour[index]):.0f} %",
                f"{100 * float(flat[index]):.0f} %",
            ]
            for index in order
        ],
    )

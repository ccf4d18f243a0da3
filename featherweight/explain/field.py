"""The receptive field measured: how strongly each pixel moves one unit (Luo et al. 2016, arXiv:1701.04128).

Letters of the shapes: N pictures, C colours, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from featherweight.explain.attribution import Stop, evaluating, tapped

CHUNK = 16  # pictures at a time: those of a large field are large


def effective_field(
    network: nn.Module, layer: str, pictures: torch.Tensor, unit: tuple[int, int], *, seed: int = 0
) -> torch.Tensor:
    """The mean squared gradient of one unit of `layer` with respect to each pixel: float64 [H, W] on the CPU.

    pictures: normalised, [N, C, H, W]; unit: row and column in the layer's map. The squares are summed over the unit's
    channels and the pixel's colours, so that nothing cancels, and averaged over the pictures. The sum over channels is
    estimated: each picture's channels are added up with random signs, and the expected square of such a sum is the sum
    of the squares (Hutchinson 1990). Only the part of the network up to the layer runs, in evaluation mode.
    Raises UserError for a layer that is not there or gives no map, ValueError for a unit outside it.
    """
    generator = torch.Generator().manual_seed(seed)
    energy = torch.zeros(pictures.shape[2:], dtype=torch.float64)
    with evaluating(network):
        for part in pictures.detach().clone().split(CHUNK):
            part.requires_grad_()
            with tapped(network, layer, stop=True) as tap, contextlib.suppress(Stop):
                network(part.clone())
            maps = tap.output
            if not (0 <= unit[0] < maps.shape[2] and 0 <= unit[1] < maps.shape[3]):
                raise ValueError(f"the unit {unit} is outside the map of {maps.shape[2]}x{maps.shape[3]}")
            signs = 2.0 * torch.randint(0, 2, maps.shape[:2], generator=generator) - 1.0
            answer = (maps[:, :, unit[0], unit[1]] * signs.to(maps)).sum()
            (gradient,) = torch.autograd.grad(answer, part)
            energy += gradient.detach().cpu().double().square().sum(dim=(0, 1))
    return energy / len(pictures)


def enclosing_square(energy: torch.Tensor, centre: Sequence[float], share: float = 0.95) -> int:
    """The side, in pixels, of the smallest square about `centre` (row, column) that holds `share` of `energy` [H, W].

    Sides are the odd numbers where the centre is a pixel's middle, the even ones where it lies between two.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, not {share}")
    rows = (torch.arange(energy.shape[0], dtype=torch.float64) - centre[0]).abs()
    columns = (torch.arange(energy.shape[1], dtype=torch.float64) - centre[1]).abs()
    distance = torch.maximum(rows[:, None], columns[None, :])  # of each pixel's middle: its square has 2·distance + 1
    total = float(energy.sum())
    if total <= 0:
        return 0
    for reach in torch.unique(distance):
        if float(energy[distance <= reach].sum()) >= share * total * (1 - 1e-12):
            return round(2 * float(reach) + 1)
    raise AssertionError("the largest square holds everything")


def luo_size(energy: torch.Tensor) -> float:
    """The size of Luo et al.: the root of how many pixels are above 4.55 % of the strongest, in gradient, not energy.

    (Two standard deviations of a normal curve hold 95.45 %; the paper counts pixels above 1 − 95.45 %.)
    """
    strength = energy.sqrt()
    return math.sqrt(int((strength > (1 - 0.9545) * strength.max()).sum()))


def extended(images: torch.Tensor, margin: int) -> torch.Tensor:
    """Pictures uint8 [N, H, W, C] continued by `margin` pixels on each side with their own mirror images."""
    pixels = np.pad(images.cpu().numpy(), ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    return torch.from_numpy(np.ascontiguousarray(pixels))


def margin_for(size: Sequence[int], jump: Sequence[float], side: int) -> int:
    """By how much pictures of `side` pixels must grow on each side to hold a middle unit's whole field.

    A multiple of the jump, so that the map's units stay where they were on the picture.
    """
    step = max(1, math.ceil(max(jump)))
    missing = max(size) + step + 2 - side  # a middle unit's centre may be off by half a jump each way
    return step * math.ceil(max(missing, 0) / 2 / step)

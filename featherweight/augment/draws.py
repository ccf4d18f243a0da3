"""What chance decides about each picture of a batch, as tensors: drawn once, carried out by an engine.

Conventions (those of albumentations' shift-scale-rotate): the picture is first flipped; then it is scaled and turned
about its centre ((W-1)/2, (H-1)/2) and shifted. A positive angle turns it counter-clockwise as seen, a positive shift_x
moves it to the right, a positive shift_y moves it down, a scale over 1 enlarges it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from featherweight.config import AugmentConfig
from featherweight.utils import UserError

if TYPE_CHECKING:
    import torch

NUMBERS = 9  # random numbers a picture takes, one for each field of Draws


@dataclass(frozen=True)
class Draws:
    """One entry for each of N pictures in every tensor [N]; what a picture will not use is drawn all the same."""

    flip: torch.Tensor  # bool: mirror left and right
    affine: torch.Tensor  # bool: shift, scale and turn by the next five
    angle: torch.Tensor  # float32, degrees
    shift_x: torch.Tensor  # float32, fraction of the width
    shift_y: torch.Tensor  # float32, fraction of the height
    scale: torch.Tensor  # float32, 1 leaves the size
    hole: torch.Tensor  # bool: fill one square with the mean
    hole_top: torch.Tensor  # int64, the hole's first row
    hole_left: torch.Tensor  # int64, the hole's first column

    def to(self, device: torch.device | str) -> Draws:
        """The same draws on another device."""
        return Draws(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def draw(spec: AugmentConfig, count: int, height: int, width: int, generator: torch.Generator) -> Draws:
    """Draw for `count` pictures of height x width pixels, on the generator's device, from the generator alone.

    Flips, affines and holes come with their probability, independent of each other; angles, shifts and scales are
    uniform within their limits; the hole's place is uniform over all places fully inside the picture.
    """
    return interpret(spec, uniforms(count, generator), height, width)


def uniforms(count: int, generator: torch.Generator) -> torch.Tensor:
    """The raw material of a draw: float32 [9, count], uniform in [0, 1), on the generator's device."""
    import torch

    return torch.rand(NUMBERS, count, generator=generator, device=generator.device)


def interpret(spec: AugmentConfig, numbers: torch.Tensor, height: int, width: int) -> Draws:
    """Turn uniform numbers [9, N] into draws on the numbers' device, without waiting for it."""
    import torch

    if numbers.ndim != 2 or numbers.shape[0] != NUMBERS:
        raise UserError(f"draws are made of numbers [{NUMBERS}, N], got {list(numbers.shape)}")
    places = (max(height - spec.hole_size, 0) + 1, max(width - spec.hole_size, 0) + 1)
    # float32 rounding could lift u * n up to n itself: clamp keeps the hole inside whatever the number
    top, left = ((numbers[row] * n).to(torch.int64).clamp_(max=n - 1) for row, n in zip((7, 8), places, strict=True))
    signed = 2 * numbers[2:6] - 1
    return Draws(
        flip=numbers[0] < spec.flip_p,
        affine=numbers[1] < spec.affine_p,
        angle=signed[0] * spec.rotate_limit,
        shift_x=signed[1] * spec.shift_limit,
        shift_y=signed[2] * spec.shift_limit,
        scale=1 + signed[3] * spec.scale_limit,
        hole=numbers[6] < spec.hole_p,
        hole_top=top,
        hole_left=left,
    )

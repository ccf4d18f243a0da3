"""The one normalisation, of training and of evaluation alike: (x / 255 - mean) / std.

Shapes: N pictures, H rows, W columns, 3 colours.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from featherweight.utils import UserError

if TYPE_CHECKING:
    import torch


def normalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 [N,H,W,3] on any device -> float32 [N,3,H,W] in channels_last memory, (x / 255 - mean) / std per colour.

    mean, std: three numbers each, of pixels in 0..1. The input is left as it is. Raises UserError for other pictures.
    """
    import torch

    check_pictures(images)
    count, height, width, colours = images.shape
    scale, bias = _line(tuple(map(float, mean)), tuple(map(float, std)), width, images.device)
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format)
    # Whole rows of W*3 numbers at a time: with three colours alone as the inner loop it takes a CPU 7 times as long.
    rows = pixels.view(count * height, width * colours)
    torch.addcmul(bias, rows, scale, out=rows)
    return pixels.permute(0, 3, 1, 2)


def check_pictures(images: torch.Tensor) -> None:
    """Refuse, with UserError, what is not pictures as uint8 [N,H,W,3]."""
    import torch

    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UserError(f"expected pictures as uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}")


@functools.lru_cache(maxsize=32)
def _line(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """scale and bias [W*3] of the line scale * x + bias. Kept, so that a GPU is sent them once and never waited for."""
    import torch

    if len(mean) != 3 or len(std) != 3 or not all(deviation > 0 for deviation in std):
        raise UserError(f"mean {mean} and std {std} must be three numbers each, the deviations above 0")
    with torch.inference_mode(False):  # kept past this call, so they must be ordinary tensors
        scale = torch.tensor([1 / (255 * deviation) for deviation in std], dtype=torch.float32)
        bias = torch.tensor([-m / deviation for m, deviation in zip(mean, std, strict=True)], dtype=torch.float32)
        return scale.repeat(width).to(device), bias.repeat(width).to(device)

"""3x3 convolutions of stride 1 by Winograd's minimal filtering, as one step of automatic differentiation.

Source: Lavin & Gray 2015, "Fast algorithms for convolutional neural networks" (arXiv:1509.09308), F(4x4, 3x3): 36
multiplications for 16 outputs instead of 144. The arithmetic is in winograd.c. Letters: N pictures, C input channels, O
output channels, H rows, W columns; maps are float32 in channels-last memory, C and O multiples of 16.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from featherweight.fused.build import at, done, functions

LANES = 16  # floats in a vector of winograd.c
_NAMES = ("pictures", "height", "width", "channels", "out_height", "out_width", "out_channels", "padding", "dilation")


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in _NAMES]


def fits(layer: nn.Conv2d) -> bool:
    """Whether `layer` is what winograd.c does: 3x3, stride 1, one group, no bias, channels that fill vectors."""
    padding = layer.padding
    return (
        layer.kernel_size == (3, 3)
        and layer.stride == (1, 1)
        and layer.groups == 1
        and layer.bias is None
        and layer.padding_mode == "zeros"
        and not isinstance(padding, str)
        and padding[0] == padding[1] <= 2 * layer.dilation[0]
        and layer.dilation[0] == layer.dilation[1]
        and layer.in_channels % LANES == 0
        and layer.out_channels % LANES == 0
    )


class WinogradConv(nn.Module):
    """`conv` by minimal filtering; it keeps its weight. [N, C, H, W] → [N, O, H', W']."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32 or x.device.type != "cpu":
            raise TypeError(f"fused operations take float32 on the CPU, not {x.dtype} on {x.device}")
        padding, dilation = self.conv.padding[0], self.conv.dilation[0]
        return _Conv.apply(x, self.conv.weight, padding, dilation)  # type: ignore[no-any-return]


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, padding: int, dilation: int) -> torch.Tensor:  # type: ignore[override]
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.dilation = padding, dilation
        ctx.tiled = _fills_its_tiles(x, padding, dilation)
        if not ctx.tiled:
            return torch.conv2d(x, weight, None, 1, padding, dilation)
        return _convolve(x, weight.permute(2, 3, 1, 0), padding, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        g = g.contiguous(memory_format=torch.channels_last)
        dx = dw = None
        if ctx.needs_input_grad[0] and not ctx.tiled:
            sides = [[ctx.padding] * 2, [ctx.dilation] * 2]
            wanted = [True, False, False]
            dx = torch.ops.aten.convolution_backward(g, x, weight, None, [1, 1], *sides, False, [0, 0], 1, wanted)[0]
        elif ctx.needs_input_grad[0]:  # the convolution of g with the kernel turned half round
            turned = weight.permute(2, 3, 0, 1).flip(0, 1)
            dx = _convolve(g, turned, 2 * ctx.dilation - ctx.padding, ctx.dilation)
        if ctx.needs_input_grad[1]:
            shape = _shape(x, g, ctx.padding, ctx.dilation)
            sums = torch.empty(36, x.shape[1] * g.shape[1])
            done(functions().winograd_kernel_gradient(at(x), at(g), ctypes.byref(shape), at(sums)))
            slopes = (_to_places().T @ sums).view(3, 3, x.shape[1], g.shape[1])
            dw = slopes.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        return dx, dw, None, None


def _fills_its_tiles(x: torch.Tensor, padding: int, dilation: int) -> bool:
    """Whether the tiles of a map this small and this dilated save enough multiplications to pay for their transforms.

    The kernel's gradient is summed by tiles all the same: torch's library takes ten times as long for a dilated one.
    """
    height, width = (side + 2 * (padding - dilation) for side in x.shape[2:])
    tiles = dilation**2 * -(-height // (4 * dilation)) * -(-width // (4 * dilation))
    return height * width * 9 >= 1.5 * tiles * 36


def _convolve(x: torch.Tensor, taps: torch.Tensor, padding: int, dilation: int) -> torch.Tensor:
    """x [N, C, H, W] and a kernel [3, 3, C, O] → [N, O, H', W']."""
    grown = 2 * (padding - dilation)
    o = taps.shape[3]
    y = torch.empty(x.shape[0], o, x.shape[2] + grown, x.shape[3] + grown, memory_format=torch.channels_last)
    kernel = _to_places() @ taps.reshape(9, -1)
    shape = _shape(x, y, padding, dilation)
    done(functions().winograd_forward(at(x), at(kernel), ctypes.byref(shape), at(y)))
    return y


def _shape(x: torch.Tensor, y: torch.Tensor, padding: int, dilation: int) -> _Shape:
    (n, c, h, w), (_, o, out_h, out_w) = x.shape, y.shape
    return _Shape(n, h, w, c, out_h, out_w, o, padding, dilation)


@functools.cache
def _to_places() -> torch.Tensor:
    """[36, 9]: the kernel's transform, G kernel Gᵀ, as one matrix over its nine taps."""
    g = torch.tensor(
        [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64
    ) / torch.tensor([24.0, 24, 24, 24, 24, 24], dtype=torch.float64).unsqueeze(1)
    return torch.kron(g, g).float()

"""Depthwise convolutions as one step of automatic differentiation, where torch's library is slow at them.

That is: in bfloat16 (where its backward pass of a strided layer takes a hundred times as long); in float32 with two
kernels a channel, dilated, or 5x5 (docs/LOG.md). There the plain 3x3 is bound by memory in either.

Letters: N pictures, C channels, m kernels for each (the channel multiplier), H rows, W columns. Maps are float32 or
bfloat16 in channels-last memory, C a multiple of 16. The arithmetic is in depthwise.c.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from featherweight.fused.build import at, done, function, require

LANES = 16  # floats in a vector of depthwise.c
_NAMES = ("pictures", "height", "width", "channels", "out_height", "out_width")
_NAMES += ("kernel", "stride", "padding", "dilation", "multiplier")


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in _NAMES]


def fits(layer: nn.Conv2d, kind: torch.dtype = torch.float32) -> bool:
    """Whether `layer` is what depthwise.c does faster for maps of that kind; alike in both directions, without bias."""
    padding = layer.padding
    multiplied = layer.out_channels == 2 * layer.in_channels
    return (
        (kind == torch.bfloat16 or multiplied or layer.dilation[0] > 1 or layer.kernel_size[0] == 5)
        and layer.groups == layer.in_channels
        and layer.in_channels % LANES == 0
        and (multiplied or layer.out_channels == layer.in_channels)
        and layer.kernel_size in ((3, 3), (5, 5))
        and layer.bias is None
        and layer.padding_mode == "zeros"
        and not isinstance(padding, str)
        and all(pair[0] == pair[1] for pair in (padding, layer.stride, layer.dilation))
        and padding[0] <= layer.dilation[0] * (layer.kernel_size[0] - 1)
    )


class DepthwiseConv(nn.Module):
    """`conv`, a depthwise convolution; it keeps its weight. [N, C, H, W] → [N, C·m, H', W']."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        require(x, self.conv.weight)
        conv = self.conv
        return _Conv.apply(x, conv.weight, conv.stride[0], conv.padding[0], conv.dilation[0])  # type: ignore[no-any-return]


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int, dilation: int
    ) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        ctx.shape = _shape(x, weight, stride, padding, dilation)
        return _convolve(x, _taps(weight, x.shape[1]), ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        shape = ctx.shape
        g = g.to(x.dtype).contiguous(memory_format=torch.channels_last)
        taps = _taps(weight, x.shape[1])
        dx = dw = None
        if ctx.needs_input_grad[0] and shape.stride == shape.multiplier == 1:
            # the convolution of g with the kernel turned half round: reads are cheaper than writes
            padding = shape.dilation * (shape.kernel - 1) - shape.padding
            turned = taps.flip(0, 1).contiguous()
            dx = _convolve(g, turned, _shape(g, weight, 1, padding, shape.dilation))
        elif ctx.needs_input_grad[0]:
            dx = torch.empty_like(x)
            done(function("depthwise_input_gradient", x.dtype)(at(g), at(taps), ctypes.byref(shape), at(dx)))
        if ctx.needs_input_grad[1]:
            slopes = torch.empty_like(taps)
            done(function("depthwise_kernel_gradient", x.dtype)(at(x), at(g), ctypes.byref(shape), at(slopes)))
            dw = slopes.permute(3, 2, 0, 1).reshape(weight.shape)
        return dx, dw, None, None, None


def _taps(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """[C·m, 1, K, K] → [K, K, m, C], as depthwise.c reads it."""
    kernel = weight.shape[2]
    return weight.reshape(channels, -1, kernel, kernel).permute(2, 3, 1, 0).contiguous()


def _convolve(x: torch.Tensor, taps: torch.Tensor, shape: _Shape) -> torch.Tensor:
    y = torch.empty(
        shape.pictures,
        shape.channels * shape.multiplier,
        shape.out_height,
        shape.out_width,
        dtype=x.dtype,
        memory_format=torch.channels_last,
    )
    done(function("depthwise_forward", x.dtype)(at(x), at(taps), ctypes.byref(shape), at(y)))
    return y


def _shape(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int, dilation: int) -> _Shape:
    n, c, h, w = x.shape
    kernel = weight.shape[2]
    out = [(side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for side in (h, w)]
    return _Shape(n, h, w, c, *out, kernel, stride, padding, dilation, weight.shape[0] // c)

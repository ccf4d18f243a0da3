"""Convolutions of bf16 maps by a processor's matrix tiles (Intel AMX), alone or with the norm behind them, as one step
of automatic differentiation.

The arithmetic is in tiles.c, what it does to which numbers in tile_plans.py. Letters: N pictures, C input channels, O
output channels, H rows, W columns; maps are bfloat16 in channels-last memory, C and O multiples of 16.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from featherweight.fused.build import at, done, functions, library, require
from featherweight.fused.norm import FusedNorm
from featherweight.fused.tile_plans import SIDE, Plan, forward_plan, gradient_plan, input_plan, lines, out_side

Sizes = tuple[int, int, int]  # stride, dilation, padding


@functools.cache
def available() -> bool:
    """Whether this processor has such tiles, its system lends them, and the library was made for them."""
    found = library()
    return found is not None and bool(found.tiles_available())


def fits(layer: nn.Conv2d) -> bool:
    """Whether `layer` is what tiles.c does: one group, square, stride 1 or 2, padded by its reach at most, channels
    that fill tiles."""
    padding, kernel = layer.padding, layer.kernel_size[0]
    return (
        available()
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(padding, str)
        and all(pair[0] == pair[1] for pair in (padding, layer.kernel_size, layer.stride, layer.dilation))
        and layer.stride[0] in (1, 2)
        and padding[0] <= layer.dilation[0] * (kernel - 1)
        and layer.weight.dtype == torch.float32
        and layer.in_channels % SIDE == 0
        and layer.out_channels % SIDE == 0
    )


class TileConv(nn.Module):
    """`conv` by matrix tiles; it keeps its weight and bias, in float32. [N, C, H, W] → [N, O, H', W'], bfloat16."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv = self.conv
        _checked_shape(conv, x)
        return _Conv.apply(x.bfloat16(), conv.weight, conv.bias, _sizes(conv))  # type: ignore[no-any-return]


class TileConvNorm(nn.Module):
    """`norm` of `conv`, which has no bias: its statistics are summed while the convolution writes its map, and on
    the way back the gradient passes the norm a few pictures at a time, to be used for both of the convolution's
    gradients before it leaves the cache. [N, C, H, W] → [N, O, H', W'], bfloat16, like the residual."""

    def __init__(self, conv: nn.Conv2d, norm: FusedNorm) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        conv, norm = self.conv, self.norm.norm
        shape = _checked_shape(conv, x)
        require(x, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        if residual is not None and (residual.dtype != torch.bfloat16 or residual.shape != shape):
            return self(x) + residual  # one that is broadcast
        return _ConvNorm.apply(x.bfloat16(), conv.weight, norm.weight, norm.bias, residual, self)  # type: ignore[no-any-return]


def _sizes(conv: nn.Conv2d) -> Sizes:
    padding = conv.padding
    assert not isinstance(padding, str)
    return conv.stride[0], conv.dilation[0], padding[0]


def _checked_shape(conv: nn.Conv2d, x: torch.Tensor) -> tuple[int, ...]:
    """[N, O, H', W']. Raises TypeError or ValueError for a map that `conv` cannot read."""
    require(x, conv.weight, conv.bias)
    if x.shape[1] != conv.in_channels:
        raise ValueError(f"a map of {x.shape[1]} channels does not fit a layer of {conv.in_channels}")
    k = conv.kernel_size[0]
    height, width = (out_side(side, k, *_sizes(conv)) for side in x.shape[2:])
    if min(height, width) < 1:
        raise ValueError(f"a map of {x.shape[2]}x{x.shape[3]} pixels is too small for a kernel of {k}x{k}")
    return x.shape[0], conv.out_channels, height, width


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, sizes: Sizes
    ) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        ctx.sizes = sizes
        return _convolve(x, weight, bias, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        g = g.bfloat16().contiguous(memory_format=torch.channels_last)
        dx, dw = _gradients(x, weight, g, ctx.sizes, ctx.needs_input_grad[:2])
        db = g.sum((0, 2, 3), dtype=torch.float32) if ctx.needs_input_grad[2] else None
        return dx, dw, db, None


class _ConvNorm(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        scale: torch.Tensor,  # the norm's parameters, which `of` holds: named for their gradients
        shift: torch.Tensor,
        residual: torch.Tensor | None,
        of: TileConvNorm,
    ) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.sizes = _sizes(of.conv)
        sums = torch.zeros(functions().tiles_pieces(), 2, weight.shape[0], dtype=torch.float64)
        y = _convolve(x, weight, None, ctx.sizes, sums, relu=of.norm.relu_first)
        ctx.passed = of.norm.passed(y, sums)
        ctx.save_for_backward(x, weight, y)
        return ctx.passed.write(y, residual)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        x, weight, y = ctx.saved_tensors
        gradient = gradient.bfloat16()
        g = gradient.contiguous(memory_format=torch.channels_last)
        slopes, dscale, dshift = ctx.passed.slopes(y, g)
        behind = _NormBehind(at(y), at(ctx.passed.line), at(slopes), ctypes.addressof(ctx.passed.layer))
        dx, dw = _gradients(x, weight, g, ctx.sizes, ctx.needs_input_grad[:2], behind)
        return dx, dw, dscale, dshift, gradient if ctx.needs_input_grad[4] else None, None


class _NormBehind(ctypes.Structure):
    """tiles.c's `norm_behind`."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("y", "line", "slopes", "layer")]


def _lines(x: torch.Tensor, k: int, sizes: Sizes) -> tuple[int, int, int]:
    """Pictures, height and width as the plans are to see them: to a 1x1 kernel, all pixels are lines."""
    n, _, h, w = x.shape
    return lines(n, h * w) if k == 1 and sizes[0] == 1 else (n, h, w)


def _cut(weight: torch.Tensor, plan: Plan) -> torch.Tensor:
    kernel = torch.empty(plan.places.shape, dtype=torch.bfloat16)
    weight = weight.detach().contiguous(memory_format=torch.channels_last)
    functions().tiles_cut(at(weight), at(plan.places), ctypes.c_int64(kernel.numel()), at(kernel))
    return kernel


def _convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    sizes: Sizes,
    sums: torch.Tensor | None = None,
    *,
    relu: bool = False,
) -> torch.Tensor:
    """The convolution's map; its sums and those of its squares, of what ReLU lets through where `relu`, go into `sums`
    [threads, 2, O]."""
    (_, _, h, w), (o, c, k, _) = x.shape, weight.shape
    n, height, width = _lines(x, k, sizes)
    plan = forward_plan(c, o, k, *sizes, height, width)
    kernel = _cut(weight, plan)
    out = out_side(h, k, *sizes), out_side(w, k, *sizes)
    y = torch.empty(x.shape[0], o, *out, dtype=torch.bfloat16, memory_format=torch.channels_last)
    bias = None if bias is None else bias.detach().contiguous()
    way = plan.of(n, kernel)
    done(functions().tiles_convolve(at(x), ctypes.byref(way), at(bias), relu, at(sums), at(y)))
    return y


def _gradients(
    x: torch.Tensor,
    weight: torch.Tensor,
    g: torch.Tensor,
    sizes: Sizes,
    wanted: tuple[bool, ...],
    behind: _NormBehind | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The gradients of x and weight, as far as wanted, from that of the convolution's map or, with a norm behind it,
    from that of the norm's."""
    o, c, k, _ = weight.shape
    n, height, width = _lines(x, k, sizes)
    dx = dw = to_input = to_kernel = None
    if wanted[0]:
        plan = input_plan(c, o, k, *sizes, height, width)
        kernel = _cut(weight, plan)
        dx, to_input = torch.empty_like(x), plan.of(n, kernel)
    if wanted[1]:
        dw = torch.empty(o, c, k, k, dtype=torch.float32, memory_format=torch.channels_last)
        to_kernel = gradient_plan(c, o, k, *sizes, height, width).of(n)
    if any(wanted):
        plans = [None if way is None else ctypes.byref(way) for way in (to_kernel, to_input)]
        norm = None if behind is None else ctypes.byref(behind)
        done(functions().tiles_backward(at(x), at(g), norm, *plans, at(dw), at(dx)))
    return dx, dw

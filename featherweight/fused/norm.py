"""Batch norm, with the ReLU before or after it, dropout and a residual addition, as one differentiable step.

Shapes: maps are float32 or bfloat16 [N, C, H, W] in channels-last memory, C a multiple of 16. The arithmetic is in
norm.c.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from featherweight.fused.build import at, done, function, require

LANES = 16  # floats in a vector of norm.c: the channels must fill whole ones


class _Layer(ctypes.Structure):
    _fields_ = [
        ("pixels", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("relu_first", ctypes.c_int32),
        ("relu_after", ctypes.c_int32),
        ("drop_below", ctypes.c_uint32),
        ("key", ctypes.c_uint32 * 2),
        ("keep_scale", ctypes.c_float),
    ]


class FusedNorm(nn.Module):
    """keep(relu_after(norm(relu_first(x)))) + residual, in training mode; `norm` keeps its parameters and statistics.

    Dropout's random bits are a hash of an element's place and a key drawn from torch's generator: independent from
    element to element and from step to step, and the same again from the same seed.
    """

    def __init__(self, norm: nn.BatchNorm2d, *, relu_first: bool, relu_after: bool, dropout: float) -> None:
        super().__init__()
        self.norm, self.relu_first, self.relu_after, self.dropout = norm, relu_first, relu_after, dropout

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        norm = self.norm
        require(x, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
            return self(x) + residual  # one that is broadcast: not for norm.c
        return _Norm.apply(x, self.norm.weight, self.norm.bias, residual, self)  # type: ignore[no-any-return]

    def passed(self, x: torch.Tensor, sums: torch.Tensor | None = None) -> Passed:
        """What the norm comes to for this x; the running statistics move on as torch moves them. sums [pieces, 2, C],
        float64: of x (after the ReLU that is before the norm) and of its squares, where somebody has them already."""
        norm, layer = self.norm, self._layer(x)
        if x.shape[1] != norm.num_features or layer.pixels < 2:
            raise ValueError(f"a norm of {norm.num_features} channels has no statistics of a map {list(x.shape)}")
        share, kept = 0.0, (None, None)
        if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            kept = (norm.running_mean, norm.running_var)
        line = torch.empty(4, x.shape[1], dtype=torch.float32)
        values = (
            at(norm.weight),
            at(norm.bias),
            ctypes.c_double(norm.eps),
            ctypes.c_double(share),
            ctypes.byref(layer),
        )
        values += (*map(at, kept), at(line))
        if sums is None:
            done(function("norm_statistics", x.dtype)(at(x), *values))
        else:
            function("norm_line", x.dtype)(at(sums), len(sums), None, *values)
        return Passed(line, layer)

    def _layer(self, x: torch.Tensor) -> _Layer:
        layer = _Layer(pixels=x.numel() // x.shape[1], channels=x.shape[1])
        layer.relu_first, layer.relu_after = self.relu_first, self.relu_after
        if self.dropout > 0:
            key = int(torch.randint(2**62, ()))
            layer.key[0], layer.key[1] = key & 0xFFFFFFFF, key >> 32
            layer.drop_below = min(round(self.dropout * 2**32), 2**32 - 1)
            layer.keep_scale = 1 / (1 - self.dropout)
        return layer


@dataclass(frozen=True)
class Passed:
    """A norm's pass over one map x. line [4, C]: mean, inverse deviation, scale and shift."""

    line: torch.Tensor
    layer: _Layer

    def write(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """What the norm and its neighbours make of x."""
        if residual is not None:
            residual = residual.contiguous(memory_format=torch.channels_last)
        y = torch.empty_like(x)
        function("norm_forward", x.dtype)(at(x), at(self.line), at(residual), ctypes.byref(self.layer), at(y))
        return y

    def slopes(self, x: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the gradient of x takes, [2, C], and the gradients of weight and bias."""
        found = torch.empty(4, x.shape[1], dtype=torch.float32)
        slopes, dweight, dbias = found[:2], found[2], found[3]
        values = (at(x), at(gradient), at(self.line), ctypes.byref(self.layer))
        done(function("norm_slopes", x.dtype)(*values, at(slopes), at(dweight), at(dbias)))
        return slopes, dweight, dbias


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,  # the norm's parameters, which `of` holds: named for their gradients
        bias: torch.Tensor,
        residual: torch.Tensor | None,
        of: FusedNorm,
    ) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.passed = of.passed(x)
        ctx.save_for_backward(x)
        return ctx.passed.write(x, residual)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        (x,), passed = ctx.saved_tensors, ctx.passed
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
        slopes, dweight, dbias = passed.slopes(x, gradient)
        dx = torch.empty_like(x)
        values = (at(x), at(gradient), at(passed.line), at(slopes), ctypes.byref(passed.layer))
        function("norm_backward", x.dtype)(*values, at(dx))
        return dx, dweight, dbias, gradient if ctx.needs_input_grad[3] else None, None

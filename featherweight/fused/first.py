"""A frozen first layer, ReLU(norm(3x3 convolution of pictures)), in one pass: nothing of it learns, nothing is kept.

Shapes: pictures are float32 [N, 3, H, W], the layer's map float32 or bfloat16 [N, C, H, W], in channels-last memory, C
a multiple of 16. The norm keeps to its running statistics, so that it is one product and one sum a channel, and goes
into the kernel. The arithmetic is in first.c.
"""

from __future__ import annotations

import ctypes

import torch
from torch import nn

from featherweight.fused.build import at, done, function

LANES = 16  # floats in a vector of first.c
INPUTS = 3


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("pictures", "height", "width", "channels", "step")]


def frozen(layer: nn.Module) -> bool:
    """Whether none of the layer's parameters learns (and it has some)."""
    return not any(p.requires_grad for p in layer.parameters()) and any(True for _ in layer.parameters())


def fits(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Whether both are frozen, and `conv` is what first.c does: 3x3 over 3 channels, stride 1, padding 1, no bias."""
    return (
        frozen(conv)
        and frozen(norm)
        and norm.track_running_stats
        and conv.in_channels == INPUTS
        and conv.kernel_size == (3, 3)
        and conv.stride == conv.padding == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and conv.out_channels % LANES == 0
    )


class FrozenFirst(nn.Module):
    """relu(norm(conv(x))), the norm by its running statistics; the layers keep their parameters. No gradient."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, kind: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.conv, self.norm, self.kind = conv, norm, kind

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32 or x.device.type != "cpu":
            raise TypeError(f"fused operations take float32 on the CPU, not {x.dtype} on {x.device}")
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = (norm.bias - norm.running_mean * scale).contiguous()
        taps = (self.conv.weight * scale[:, None, None, None]).permute(2, 3, 1, 0).contiguous()
        x = x.contiguous(memory_format=torch.channels_last)
        n, _, h, w = x.shape
        y = torch.empty(n, len(bias), h, w, dtype=self.kind, memory_format=torch.channels_last)
        shape = _Shape(n, h, w, len(bias), INPUTS)
        done(function("first_forward", self.kind)(at(x), at(taps), at(bias), ctypes.byref(shape), at(y)))
        return y

"""C1 C2 C3 C4 O made for accuracy under 100,000 parameters; every rule is met.

Source: depthwise-separable convolutions (Chollet 2016, arXiv:1610.02357) in residual pairs (He et al. 2015,
arXiv:1512.03385): an eighth of a full convolution's parameters leaves room for four times the layers.

    block    layers                                                               output (of 32x32)
    c1       conv(3→32), twice pair(32)                                           32×32×32
    c2       separable(32→64, stride 2), twice pair(64)                           64×16×16
    c3       separable(64→96, stride 2), twice pair(96, second of dilation 2)     96×8×8
    c4       separable(96→96, stride 2), residual(separable(96→96))               96×4×4
    output   global average, linear(96→classes)                                   classes

`pair(n)` is residual(separable(n→n), separable(n→n)).
"""

from __future__ import annotations

import torch
from torch import nn

from featherweight.models.layers import GlobalAveragePool, Residual, conv_norm_relu, separable


class Feather100k(nn.Module):
    """[N, 3, H, W] → logits [N, classes]; H and W from 16 pixels."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.c1 = nn.Sequential(conv_norm_relu(3, 32), _pair(32), _pair(32))
        self.c2 = nn.Sequential(separable(32, 64, stride=2), _pair(64), _pair(64))
        self.c3 = nn.Sequential(separable(64, 96, stride=2), _pair(96, dilation=2), _pair(96, dilation=2))
        self.c4 = nn.Sequential(separable(96, 96, stride=2), Residual(separable(96, 96)))
        self.output = nn.Sequential(GlobalAveragePool(), nn.Linear(96, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.c4(self.c3(self.c2(self.c1(x)))))


def _pair(channels: int, *, dilation: int = 1) -> Residual:
    return Residual(separable(channels, channels), separable(channels, channels, dilation=dilation))

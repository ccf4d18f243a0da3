"""C1 C2 C3 C4 O made to reach 85 % on CIFAR-10 in the least time on two processor cores; every rule is met.

Source: this project's own measurements (docs/LOG.md). One layer at full size, residual pairs (He et al. 2015,
arXiv:1512.03385) of full 3x3 convolutions where minimal filtering makes them cheap, separable ones (Chollet 2016,
arXiv:1610.02357) where the map is smallest. It is `feather_200k` without the pair at full size.

    block    layers                                                            output (of 32x32)
    c1       conv(3→32)                                                        32×32×32
    c2       conv(32→48, stride 2), residual(48→48→48)                         48×16×16
    c3       conv(48→64, stride 2), residual(64→64→64, second of dilation 2)   64×8×8
    c4       separable(64→96, stride 2), residual(separable(96→96))            96×4×4
    output   global average, linear(96→classes)                                classes
"""

from __future__ import annotations

import torch
from torch import nn

from featherweight.models.layers import GlobalAveragePool, Residual, conv_norm_relu, residual_pair, separable


class FeatherQuick(nn.Module):
    """[N, 3, H, W] → logits [N, classes]; H and W from 16 pixels."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.c1 = conv_norm_relu(3, 32)
        self.c2 = nn.Sequential(conv_norm_relu(32, 48, stride=2), residual_pair(48))
        self.c3 = nn.Sequential(conv_norm_relu(48, 64, stride=2), residual_pair(64, dilation=2))
        self.c4 = nn.Sequential(separable(64, 96, stride=2), Residual(separable(96, 96)))
        self.output = nn.Sequential(GlobalAveragePool(), nn.Linear(96, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.c4(self.c3(self.c2(self.c1(x)))))

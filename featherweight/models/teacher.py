"""A large residual network for others to learn from (`--teacher`); it is no answer to the assignment.

Source: wide residual networks (Zagoruyko & Komodakis 2016, arXiv:1605.07146), without their pre-activation.

    block    layers                                        output (of 32x32)
    c1       conv(3→64), twice pair(64)                    64×32×32
    c2       conv(64→128, stride 2), twice pair(128)       128×16×16
    c3       conv(128→256, stride 2), twice pair(256)      256×8×8
    output   global average, linear(256→classes)           classes

`pair(n)` is residual(conv(n→n), conv(n→n)), all 3x3.
"""

from __future__ import annotations

import torch
from torch import nn

from featherweight.models.layers import GlobalAveragePool, conv_norm_relu, residual_pair


class Teacher(nn.Module):
    """[N, 3, H, W] → logits [N, classes]; H and W from 16 pixels."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.c1 = nn.Sequential(conv_norm_relu(3, 64), residual_pair(64), residual_pair(64))
        self.c2 = nn.Sequential(conv_norm_relu(64, 128, stride=2), residual_pair(128), residual_pair(128))
        self.c3 = nn.Sequential(conv_norm_relu(128, 256, stride=2), residual_pair(256), residual_pair(256))
        self.output = nn.Sequential(GlobalAveragePool(), nn.Linear(256, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.c3(self.c2(self.c1(x))))

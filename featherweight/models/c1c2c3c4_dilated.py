"""C1 C2 C3 C4 O with no stride and no pooling before the global one: dilation alone reaches the field (the bonus).

Source: the assignment's point 3, bonus; dilated context after Yu & Koltun 2015 (arXiv:1511.07122), residual pairs
after He et al. 2015 (arXiv:1512.03385). The map stays at full size throughout, so the widths are small.

    block    layers                                                        field after it (pixels)
    c1       conv(3→32), residual(32→32)                                   5
    c2       separable(32→32, dilation 2), residual(32→32, dilation 2)     13
    c3       separable(32→48, dilation 4), residual(48→48, dilation 4)     29
    c4       separable(48→64, dilation 8), residual(64→64, dilation 8)     61
    output   1x1(64→128), global average, linear(128→classes)              61

Widths are multiples of 16, with which processors do well.
"""

from __future__ import annotations

import torch
from torch import nn

from featherweight.models.layers import GlobalAveragePool, Residual, conv_norm_relu, initialise, separable


class C1C2C3C4Dilated(nn.Module):
    """[N, 3, H, W] → logits [N, classes]; H and W from 16 pixels."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.c1 = nn.Sequential(conv_norm_relu(3, 32), Residual(conv_norm_relu(32, 32)))
        self.c2 = nn.Sequential(separable(32, 32, dilation=2), Residual(conv_norm_relu(32, 32, dilation=2)))
        self.c3 = nn.Sequential(separable(32, 48, dilation=4), Residual(conv_norm_relu(48, 48, dilation=4)))
        self.c4 = nn.Sequential(separable(48, 64, dilation=8), Residual(conv_norm_relu(64, 64, dilation=8)))
        self.output = nn.Sequential(conv_norm_relu(64, 128, kernel=1), GlobalAveragePool(), nn.Linear(128, classes))
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.c4(self.c3(self.c2(self.c1(x)))))

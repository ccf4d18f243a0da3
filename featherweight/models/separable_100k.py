"""The first text's network: depthwise-separable blocks, 99,968 parameters, for 32x32 pictures.

Source: the assignment's first worked solution, whose printed layer table (51 rows) this file reproduces row by row.
It is kept as published, with what it lacks: a receptive field of 31 before its pooling, one stride-2 convolution,
a pooling fixed at 3x3, and an output of log-probabilities (`log_probabilities`), not logits.

    stage    layers                                                        output
    conv1    block(3→32, pad 1), block(32→64, pad 1)                       64×32×32
    trans1   conv(64→32, 1)                                                32×32×32
    conv2    sep(32→32) ×3                                                 32×26×26
    trans2   conv(32→16, 3, dilation 2, with bias), ReLU                   16×22×22
    conv3    sep(16→32), sep(32→64), sep(64→64)                            64×16×16
    trans3   conv(64→64, 3, stride 2, with bias), ReLU, conv(64→16, 1)     16×7×7
    conv4    block(16→32), conv(32→64, 3)                                  64×3×3
    pool     average over 3x3                                              64×1×1
    conv5    conv(64→10, 1), log-softmax                                   10
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

DROPOUT = 0.1


def _block(inputs: int, outputs: int, kernel: int = 3, padding: int = 0) -> list[nn.Module]:
    """Convolution → ReLU → batch norm → dropout, in the text's order (norm after the activation)."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False)
    return [conv, nn.ReLU(), nn.BatchNorm2d(outputs), nn.Dropout(DROPOUT)]


def _separable(inputs: int, outputs: int) -> list[nn.Module]:
    """Depthwise 3x3 without padding, then the block of the 1x1: nothing between the two convolutions."""
    return [nn.Conv2d(inputs, inputs, 3, groups=inputs, bias=False), *_block(inputs, outputs, kernel=1)]


class Separable100k(nn.Module):
    """[N, 3, 32, 32] → log-probabilities [N, classes]."""

    log_probabilities = True

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*_block(3, 32, padding=1), *_block(32, 64, padding=1))
        self.trans1 = nn.Sequential(nn.Conv2d(64, 32, 1, bias=False))
        self.conv2 = nn.Sequential(*_separable(32, 32), *_separable(32, 32), *_separable(32, 32))
        self.trans2 = nn.Sequential(nn.Conv2d(32, 16, 3, dilation=2), nn.ReLU())
        self.conv3 = nn.Sequential(*_separable(16, 32), *_separable(32, 64), *_separable(64, 64))
        self.trans3 = nn.Sequential(nn.Conv2d(64, 64, 3, stride=2), nn.ReLU(), nn.Conv2d(64, 16, 1, bias=False))
        self.conv4 = nn.Sequential(*_block(16, 32), nn.Conv2d(32, 64, 3, bias=False))
        self.pool = nn.AvgPool2d(3)
        self.conv5 = nn.Sequential(nn.Conv2d(64, classes, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv2(self.trans1(self.conv1(x)))
        x = self.conv3(self.trans2(x))
        x = self.conv4(self.trans3(x))
        x = self.conv5(self.pool(x)).flatten(1)
        return F.log_softmax(x, dim=-1)

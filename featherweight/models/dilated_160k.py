"""The second text's network: strided dilated convolutions, 159,552 parameters, for 32x32 pictures.

Source: the assignment's second worked solution, which describes it in prose; these layers give its stated count.
It is kept as published, with what it lacks: the last pooling covers 3x3 of a 4x4 map, so 7 of its 16 positions are
never looked at; the output is log-probabilities (`log_probabilities`), not logits.

    block    layers                                                                      output
    conv1    block(3→128, 5), block(128→64), block(64→32)                                32×32×32
    conv2    block(32→32, stride 2, dilation 2), twice depthwise(32→64) + block(64→32, 1) 32×16×16
    conv3    block(32→32, stride 2, dilation 2), block(32→32, dilation 2), block(32→32)  32×8×8
    conv4    block(32→32, stride 2, dilation 2), depthwise(32→64) + block(64→32, 1), conv(32→10)  10×4×4
    gap      average over 3x3, log-softmax                                               10
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

DROPOUT = 0.05


def _block(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    """Convolution, padded to keep the map's size but for the stride → ReLU → batch norm → dropout."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    return [conv, nn.ReLU(), nn.BatchNorm2d(outputs), nn.Dropout(DROPOUT)]


def _separable(channels: int) -> list[nn.Module]:
    """Depthwise 3x3 with two filters a channel, then the block of the 1x1 that brings the width back."""
    depthwise = nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=channels, bias=False)
    return [depthwise, *_block(2 * channels, channels, kernel=1)]


class Dilated160k(nn.Module):
    """[N, 3, 32, 32] → log-probabilities [N, classes]."""

    log_probabilities = True

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*_block(3, 128, kernel=5), *_block(128, 64), *_block(64, 32))
        self.conv2 = nn.Sequential(*_block(32, 32, stride=2, dilation=2), *_separable(32), *_separable(32))
        self.conv3 = nn.Sequential(*_block(32, 32, stride=2, dilation=2), *_block(32, 32, dilation=2), *_block(32, 32))
        self.conv4 = nn.Sequential(
            *_block(32, 32, stride=2, dilation=2), *_separable(32), nn.Conv2d(32, classes, 3, padding=1, bias=False)
        )
        self.gap = nn.Sequential(nn.AvgPool2d(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv4(self.conv3(self.conv2(self.conv1(x))))
        return F.log_softmax(self.gap(x).flatten(1), dim=-1)

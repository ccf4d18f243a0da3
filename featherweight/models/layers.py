"""Pieces that several architectures share. Shapes: N pictures, C channels, H rows, W columns."""

from __future__ import annotations

import torch
from torch import nn


class GlobalAveragePool(nn.Module):
    """The mean over the whole map, whatever its size: [N, C, H, W] → [N, C] (Lin et al. 2013, arXiv:1312.4400)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


class Residual(nn.Sequential):
    """x + layers(x): the identity shortcut of He et al. 2015 (arXiv:1512.03385); input and output shapes are alike."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


def conv_norm_relu(
    inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias → batch norm → ReLU, padded so that only the stride changes the map's size."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def separable(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3x3 then 1x1, each with its batch norm; one ReLU, at the end (Chollet 2016, arXiv:1610.02357)."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, dilation, dilation, inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def residual_pair(channels: int, *, dilation: int = 1) -> Residual:
    """x + two 3x3 convolutions, the second of `dilation`; each with batch norm and ReLU."""
    return Residual(conv_norm_relu(channels, channels), conv_norm_relu(channels, channels, dilation=dilation))


def initialise(network: nn.Module) -> None:
    """Kaiming-normal convolutions (He et al. 2015, arXiv:1502.01852, fan-out, ReLU); norms start at 1 and 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

"""Well-known networks, written compactly: true kernels, strides, depths and joins, few channels (fields do not depend
on them).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

W = 8  # channels everywhere


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Sum(nn.Module):
    """The sum of a long and a short branch."""

    def __init__(self, long: nn.Module, short: nn.Module | None = None) -> None:
        super().__init__()
        self.long, self.short = long, short or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.long(x) + self.short(x))


class Branches(nn.Module):
    """Branches side by side, their channels joined; with `keep` the input's too (dense connections)."""

    def __init__(self, *branches: nn.Module, keep: bool = False) -> None:
        super().__init__()
        self.branches, self.keep = nn.ModuleList(branches), keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(([x] if self.keep else []) + [branch(x) for branch in self.branches], 1)


class Excite(nn.Module):
    """Squeeze-excite (Hu et al. 2017, arXiv:1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))


class Shuffle(nn.Module):
    """Channel shuffle (Zhang et al. 2017, arXiv:1707.01083)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def head() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(W, 10)]


def resnet(depths: tuple[int, ...], bottleneck: bool) -> nn.Module:
    """He et al. 2015, arXiv:1512.03385; the bottleneck's stride lies on its first 1x1, as published."""
    layers: list[nn.Module] = [conv(3, W, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for stage, depth in enumerate(depths):
        for number in range(depth):
            stride = 2 if stage and not number else 1
            long = (
                [conv(W, W, 1, stride), conv(W, W), conv(W, W, 1)]
                if bottleneck
                else [conv(W, W, 3, stride), conv(W, W)]
            )
            layers.append(Sum(nn.Sequential(*long), nn.Conv2d(W, W, 1, stride) if stride > 1 else None))
    return nn.Sequential(*layers, *head())


def vgg16() -> nn.Module:
    """Simonyan & Zisserman 2014, arXiv:1409.1556."""
    layers: list[nn.Module] = []
    for number, depth in enumerate((2, 2, 3, 3, 3)):
        layers += [conv(3 if not number and not step else W, W) for step in range(depth)]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *head())


def mobilenet_v1() -> nn.Module:
    """Howard et al. 2017, arXiv:1704.04861."""
    layers: list[nn.Module] = [conv(3, W, 3, 2)]
    for stride in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1):
        layers += [conv(W, W, 3, stride, W), conv(W, W, 1)]
    return nn.Sequential(*layers, *head())


def inverted(kernel: int, stride: int, excite: bool) -> nn.Module:
    long = nn.Sequential(
        conv(W, 2 * W, 1),
        conv(2 * W, 2 * W, kernel, stride, 2 * W),
        Excite(2 * W) if excite else nn.Identity(),
        nn.Conv2d(2 * W, W, 1),
    )
    return long if stride > 1 else Sum(long)


def mobilenet_v2() -> nn.Module:
    """Sandler et al. 2018, arXiv:1801.04381: (blocks, stride of the first)."""
    stages = ((1, 1), (2, 2), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1))
    blocks = [inverted(3, stride if not n else 1, False) for depth, stride in stages for n in range(depth)]
    return nn.Sequential(conv(3, W, 3, 2), *blocks, conv(W, W, 1), *head())


def efficientnet_b0() -> nn.Module:
    """Tan & Le 2019, arXiv:1905.11946: (blocks, stride, kernel), with squeeze-excite."""
    stages = ((1, 1, 3), (2, 2, 3), (2, 2, 5), (3, 2, 3), (3, 1, 5), (4, 2, 5), (1, 1, 3))
    blocks = [inverted(k, stride if not n else 1, True) for depth, stride, k in stages for n in range(depth)]
    return nn.Sequential(conv(3, W, 3, 2), *blocks, conv(W, W, 1), *head())


def densenet121() -> nn.Module:
    """Huang et al. 2016, arXiv:1608.06993; growth 2 instead of 32."""
    layers: list[nn.Module] = [conv(3, W, 7, 2), nn.MaxPool2d(3, 2, 1)]
    width = W
    for number, depth in enumerate((6, 12, 24, 16)):
        for _ in range(depth):
            layers.append(Branches(nn.Sequential(conv(width, 4, 1), conv(4, 2)), keep=True))
            width += 2
        layers.append(conv(width, W, 1))
        width = W
        if number < 3:
            layers.append(nn.AvgPool2d(2))
    return nn.Sequential(*layers, *head())


def googlenet() -> nn.Module:
    """Szegedy et al. 2014, arXiv:1409.4842: inception blocks of 1, 3, 5 and pooling."""

    def inception() -> nn.Module:
        return Branches(
            conv(W, 2, 1),
            nn.Sequential(conv(W, 2, 1), conv(2, 2)),
            nn.Sequential(conv(W, 2, 1), conv(2, 2, 5)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(W, 2, 1)),
        )

    layers = [
        conv(3, W, 7, 2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        conv(W, W, 1),
        conv(W, W),
        nn.MaxPool2d(3, 2, ceil_mode=True),
    ]
    for depth, pooled in ((2, True), (5, True), (2, False)):
        layers += [inception() for _ in range(depth)]
        if pooled:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
    return nn.Sequential(*layers, *head())


def regnet() -> nn.Module:
    """RegNetX-400MF's depths (Radosavovic et al. 2020, arXiv:2003.13678): grouped bottlenecks, stride on the 3x3."""
    layers: list[nn.Module] = [conv(3, W, 3, 2)]
    for depth in (1, 2, 7, 12):
        for number in range(depth):
            stride = 1 if number else 2
            long = nn.Sequential(conv(W, W, 1), conv(W, W, 3, stride, 2), nn.Conv2d(W, W, 1))
            layers.append(Sum(long, nn.Conv2d(W, W, 1, stride) if stride > 1 else None))
    return nn.Sequential(*layers, *head())


def squeezenet() -> nn.Module:
    """Iandola et al. 2016, arXiv:1602.07360 (version 1.1)."""

    def fire() -> nn.Module:
        return nn.Sequential(conv(W, 4, 1), Branches(conv(4, 4, 1), conv(4, 4)))

    layers = [
        nn.Conv2d(3, W, 3, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        fire(),
        fire(),
        nn.MaxPool2d(3, 2),
        fire(),
        fire(),
        nn.MaxPool2d(3, 2),
        fire(),
        fire(),
        fire(),
        fire(),
    ]
    return nn.Sequential(*layers, *head())


def shufflenet() -> nn.Module:
    """ShuffleNet v2's units in stages of 4, 8, 4 (Ma et al. 2018, arXiv:1807.11164), both branches kept whole."""
    layers: list[nn.Module] = [conv(3, W, 3, 2), nn.MaxPool2d(3, 2, 1)]
    for depth in (4, 8, 4):
        for number in range(depth):
            stride = 1 if number else 2
            one = nn.Sequential(nn.Conv2d(W, W, 3, stride, 1, groups=W), conv(W, 4, 1))
            other = nn.Sequential(conv(W, 4, 1), nn.Conv2d(4, 4, 3, stride, 1, groups=4), conv(4, 4, 1))
            layers += [Branches(one, other), Shuffle()]
    return nn.Sequential(*layers, *head())


# name → (builder, the field as published, where there is a figure: Araujo, Norris & Sim 2019 and the usual tables)
KNOWN: dict[str, tuple[Callable[[], nn.Module], int | None]] = {
    "resnet18": (lambda: resnet((2, 2, 2, 2), False), 435),
    "resnet50_v1": (lambda: resnet((3, 4, 6, 3), True), 483),
    "vgg16": (vgg16, 212),
    "mobilenet_v1": (mobilenet_v1, 315),
    "mobilenet_v2": (mobilenet_v2, 491),
    "efficientnet_b0": (efficientnet_b0, 851),
    "densenet121": (densenet121, 2071),
    "googlenet": (googlenet, None),
    "regnet": (regnet, None),
    "squeezenet": (squeezenet, None),
    "shufflenet": (shufflenet, None),
}

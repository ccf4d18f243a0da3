"""Random networks of every operation whose receptive field is followed, for the property tests. Small, so that they
are quick.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

Step = tuple[Any, ...]  # name of the step, then its numbers
_KERNEL = st.integers(1, 5)
_PAIR = st.tuples(_KERNEL, _KERNEL)


def _conv() -> st.SearchStrategy[Step]:
    stride, dilation = st.tuples(st.integers(1, 3), st.integers(1, 3)), st.tuples(st.integers(1, 3), st.integers(1, 3))
    padding = st.tuples(st.integers(0, 4), st.integers(0, 4))
    return st.tuples(st.just("conv"), _PAIR, stride, padding, dilation, st.sampled_from([1, 2, 4]))


def _steps() -> st.SearchStrategy[Step]:
    odd = st.sampled_from([1, 3, 5])
    return st.one_of(
        _conv(),
        st.tuples(st.just("transposed"), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2)),
        st.tuples(st.sampled_from(["avg", "max"]), st.integers(2, 3), st.integers(1, 3), st.integers(0, 1)),
        st.tuples(st.just("lp"), st.integers(2, 3), st.integers(1, 3)),
        st.tuples(st.just("residual"), odd, st.integers(1, 3)),
        st.tuples(st.just("branches"), odd, odd, st.integers(1, 2), st.integers(1, 2)),
        st.tuples(st.just("cropped"), st.integers(1, 4)),
        st.tuples(st.just("nearest"), st.integers(2, 3)),
        st.tuples(st.just("bilinear"), st.integers(2, 3)),
        st.tuples(st.just("crop"), st.integers(0, 3), st.integers(0, 3), st.integers(1, 2)),
        st.tuples(st.just("pad"), st.sampled_from(["constant", "reflect", "replicate", "circular"]), st.integers(1, 3)),
        st.tuples(st.sampled_from(["unfold", "im2col", "windows", "shifted"]), st.integers(2, 3)),
        st.tuples(st.sampled_from(["shuffle", "unshuffle"]), st.just(2)),
        st.tuples(st.just("reused"), odd, st.integers(1, 2)),
        st.tuples(st.just("depth_to_space")),
        st.tuples(st.sampled_from(["relu_", "norm", "gelu", "excite", "channels_shuffled", "zero_insert"])),
    )


def _growth(steps: list[Step]) -> int:
    """How many times the side of the map may become longer."""
    growth = 1
    for name, *numbers in steps:
        times = {"transposed": 1, "nearest": 0, "bilinear": 0}.get(name)
        growth *= (
            numbers[times] if times is not None else 2 if name in ("shuffle", "depth_to_space", "zero_insert") else 1
        )
    return growth


def specifications() -> st.SearchStrategy[list[Step]]:
    """Lists of one to five steps; the picture has four channels. Maps that would grow large are left out."""
    return st.lists(_steps(), min_size=1, max_size=5).filter(lambda steps: _growth(steps) <= 4)


CHANNELS = 4


class RandomNetwork(nn.Module):
    """The steps one after another on four channels, then the global mean: [N, 4, H, W] → [N, 4]."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleList(self._layer(*step) for step in steps)

    def _layer(self, name: str, *numbers: Any) -> nn.Module:
        c = CHANNELS
        if name == "conv":
            kernel, stride, padding, dilation, groups = numbers
            return nn.Conv2d(c, c, kernel, stride, padding, dilation, groups, bias=False)
        if name == "transposed":
            kernel, stride, padding, dilation = numbers
            return nn.ConvTranspose2d(c, c, kernel, stride, min(padding, kernel - 1), dilation=dilation)
        if name in ("residual", "reused"):
            kernel, dilation = numbers
            return nn.Conv2d(c, c, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        if name == "branches":
            one, other, first, second = numbers
            return nn.ModuleList(
                [
                    nn.Conv2d(c, 2, one, padding=first * (one // 2), dilation=first),
                    nn.Conv2d(c, 2, other, padding=second * (other // 2), dilation=second),
                ]
            )
        if name == "cropped":
            return nn.Conv2d(c, c, numbers[0] + 1)
        if name == "norm":
            return nn.BatchNorm2d(c)
        if name in ("excite", "shuffle"):
            return nn.Conv2d(c, c, 1)
        if name in ("unshuffle", "depth_to_space"):
            return nn.Conv2d(4 * c if name == "unshuffle" else c, c, 1)
        return nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step, layer in zip(self.steps, self.layers, strict=True):
            x = self._run(layer, x, *step)
        return x.mean((2, 3))

    def _run(self, layer: Any, x: torch.Tensor, name: str, *numbers: Any) -> torch.Tensor:
        n, c, h, w = x.shape
        if name == "residual":
            return x + F.relu(layer(x))
        if name == "reused":
            return layer(layer(x))
        if name == "branches":
            return torch.cat([layer[0](x), layer[1](x)], dim=1)
        if name == "cropped":  # a convolution without padding beside its cropped input
            cut = numbers[0]
            return layer(x) + x[:, :, cut // 2 : h - cut + cut // 2, cut // 2 : w - cut + cut // 2]
        if name in ("avg", "max"):
            kernel, stride, padding = numbers
            return (F.avg_pool2d if name == "avg" else F.max_pool2d)(x, kernel, stride, padding)
        if name == "lp":
            return F.lp_pool2d(x, 1, numbers[0], numbers[1])
        if name in ("nearest", "bilinear"):
            return F.interpolate(x, scale_factor=numbers[0], mode=name)
        if name == "crop":
            return x[:, :, numbers[0] :, numbers[1] :: numbers[2]][:, :, :: numbers[2]]
        if name == "pad":
            return F.pad(x, (numbers[1],) * 4, mode=numbers[0])
        if name in ("unfold", "im2col", "windows", "shifted"):
            return _pool_by_hand(x, name, numbers[0])
        if name == "shuffle":
            return F.pixel_shuffle(
                layer(x).repeat(1, 4, 1, 1), 2
            )  # mixed first: fields are those of all channels together
        if name == "unshuffle":
            return layer(F.pixel_unshuffle(x[:, :, : h // 2 * 2, : w // 2 * 2], 2))
        if name == "depth_to_space":
            spread = layer(x).repeat(1, 4, 1, 1).view(n, c, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
            return spread.reshape(n, c, 2 * h, 2 * w)
        if name == "relu_":
            return (x * 1.0).relu_()
        if name == "gelu":
            return F.gelu(x)
        if name == "excite":
            return x * torch.sigmoid(layer(F.adaptive_avg_pool2d(x, 1)))
        if name == "channels_shuffled":
            return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        if name == "zero_insert":
            out = x.new_zeros(n, c, 2 * h, 2 * w)
            out[:, :, ::2, ::2] = x
            return F.avg_pool2d(out, 2, 1)
        return layer(x)


def _pool_by_hand(x: torch.Tensor, name: str, size: int) -> torch.Tensor:
    n, c, h, w = x.shape
    x = x[:, :, : h // size * size, : w // size * size]
    h, w = x.shape[-2:]
    if name == "unfold":
        return x.unfold(2, size, 1).unfold(3, size, 2).amax((-1, -2))
    if name == "im2col":
        out = F.unfold(x, size, stride=size).view(n, c, size * size, -1)
        return out.mean(2).view(n, c, h // size, w // size)
    if name == "windows":
        return x.view(n, c, h // size, size, w // size, size).amax((3, 5))
    return torch.maximum(x[:, :, :, 1:], x[:, :, :, :-1])

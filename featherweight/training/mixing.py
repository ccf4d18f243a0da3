"""Batches whose pictures are mixed in pairs, and the loss of a mixture. Letters: N pictures, H rows, W columns.

Sources: mixup, Zhang et al. 2017 (arXiv:1710.09412); CutMix, Yun et al. 2019 (arXiv:1905.04899). A picture's partner is
the one as far from the batch's other end; one share holds for the batch. The draws depend on (seed, step) alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from featherweight.config import MixConfig
from featherweight.utils import mix_seed


@dataclass(frozen=True)
class Mixture:
    """What a batch became."""

    pictures: torch.Tensor  # [N, 3, H, W]
    share: float  # of each picture's own label; the rest is its partner's


def mixed_loss(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    outputs: torch.Tensor,
    labels: torch.Tensor,
    share: float | torch.Tensor,
) -> torch.Tensor:
    """`loss` of outputs [N, classes] against both labels [N], by their shares. A share that is a tensor is not looked
    at: both losses are taken."""
    if not isinstance(share, torch.Tensor) and share == 1:
        return loss(outputs, labels)
    return share * loss(outputs, labels) + (1 - share) * loss(outputs, labels.flip(0))


def mixed(pictures: torch.Tensor, config: MixConfig, *, seed: int, step: int, total_steps: int) -> Mixture:
    """`pictures`, perhaps mixed: with probability `config.p`, which rises from 0 over the first `config.ramp` of all
    steps; by mixup or CutMix, as likely as their numbers' being above 0 allows."""
    kinds = [(kind, alpha) for kind, alpha in ((_blend, config.mixup), (_paste, config.cutmix)) if alpha > 0]
    if not kinds:
        return Mixture(pictures, 1.0)
    generator = torch.Generator().manual_seed(mix_seed(seed, step, 7))
    chance, choice = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    done = step / total_steps
    if chance >= config.p * (min(1.0, done / config.ramp) if config.ramp > 0 else 1.0):
        return Mixture(pictures, 1.0)
    mix, alpha = kinds[int(choice * len(kinds))]
    return mix(pictures, _beta(alpha, generator), generator)


def _blend(pictures: torch.Tensor, share: float, generator: torch.Generator) -> Mixture:
    return Mixture(pictures.lerp(pictures.flip(0), 1 - share), share)


def _paste(pictures: torch.Tensor, share: float, generator: torch.Generator) -> Mixture:
    """A rectangle of 1 - share of the area, its centre anywhere, from the partner; what lies outside is cut off."""
    height, width = pictures.shape[2:]
    side = (1 - share) ** 0.5
    y, x = (torch.rand(2, generator=generator) * torch.tensor([height, width])).tolist()
    top, bottom = (round(min(max(y + half * side * height / 2, 0), height)) for half in (-1, 1))
    left, right = (round(min(max(x + half * side * width / 2, 0), width)) for half in (-1, 1))
    pasted = pictures.clone(memory_format=torch.preserve_format)
    pasted[:, :, top:bottom, left:right] = pictures.flip(0)[:, :, top:bottom, left:right]
    return Mixture(pasted, 1 - (bottom - top) * (right - left) / (height * width))


def _beta(alpha: float, generator: torch.Generator) -> float:
    """A draw from Beta(alpha, alpha), as a ratio of two gamma draws; torch._standard_gamma takes the generator."""
    first, second = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=generator).tolist()
    return first / (first + second) if first + second > 0 else 0.5

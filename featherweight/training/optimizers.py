"""Optimisers and their parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from featherweight.config import OptimizerConfig


def build_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser of `config`, its learning rates at their peaks; the engine scales them at every step.

    Each group remembers its own peak rate as `peak`.
    """
    nesterov = config.nesterov and config.momentum > 0  # torch refuses Nesterov's form without momentum
    groups = parameter_groups(network, config.weight_decay)
    if config.name == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov
        )
    elif config.name == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    else:
        optimizer = Muon(muon_groups(network, config))
    for group in optimizer.param_groups:
        group["peak"] = group["lr"]
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, fraction: float) -> None:
    """Every group's learning rate at `fraction` of its peak."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(group["peak"] * fraction)
        else:
            group["lr"] = group["peak"] * fraction


def keep_rates_on(optimizer: Muon, device: torch.device) -> None:
    """Learning rates as tensors on `device` from now on: a recorded step finds them changed there."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"], device=device)


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: kernels and matrices, decayed; norms' scales and all biases (one axis or none), never decayed."""
    trained = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def muon_groups(network: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Three groups: kernels that mix channels, for Muon; other kernels and matrices; norms and biases.

    Depthwise kernels (one input channel each) and the first layer's (as many as the picture has) are vectors rather
    than matrices to be made orthogonal, and the last one gives the class scores, whose scale must be free to grow:
    they go with the rest.
    """
    weights = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    mixing = [p for p in weights[:-1] if p.ndim == 4 and p.shape[1] > 3]
    chosen = {id(p) for p in mixing}
    rest = [
        {**group, "params": [p for p in group["params"] if id(p) not in chosen]}
        for group in parameter_groups(network, config.weight_decay)
    ]
    first = {"params": mixing, "lr": config.lr, "momentum": config.momentum, "orthogonal": True, "weight_decay": 0.0}
    others = {"lr": config.lr * config.rest, "momentum": config.rest_momentum, "orthogonal": False}
    return [first, *({**group, **others} for group in rest)]


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz for convolution kernels, SGD with Nesterov momentum for the rest.

    Source: Keller Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; as there for small
    convolutional networks, each kernel [O, I, h, w] is one O x (I·h·w) matrix, held at Frobenius norm sqrt(O), so that
    its scale (which a batch norm or a freely scaled layer further on makes up for) cannot grow and needs no decay.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__([group for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("Muon takes its gradients as they are; it calls no closure")
        for group in self.param_groups:
            with_gradient = [p for p in group["params"] if p.grad is not None]
            if not with_gradient:
                continue
            for p in with_gradient:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum_buffer"] for p in with_gradient]
            update = self._orthogonal if group["orthogonal"] else self._plain
            update(group, with_gradient, [p.grad for p in with_gradient], buffers)

    @staticmethod
    def _plain(group: dict[str, Any], weights: list, gradients: list, buffers: list) -> None:
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        ahead = torch._foreach_add(gradients, buffers, alpha=group["momentum"])  # Nesterov's look-ahead
        _descend(weights, ahead, group["lr"])

    @staticmethod
    def _orthogonal(group: dict[str, Any], weights: list, gradients: list, buffers: list) -> None:
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        ahead = torch._foreach_add(gradients, buffers, alpha=group["momentum"])
        matrices = orthogonalised([direction.flatten(1) for direction in ahead])
        for weight in weights:
            weight.mul_(weight.shape[0] ** 0.5 / weight.norm())
        directions = [matrix.view_as(weight) for weight, matrix in zip(weights, matrices, strict=True)]
        _descend(weights, directions, group["lr"])


def _descend(weights: list, directions: Sequence[torch.Tensor], rate: float | torch.Tensor) -> None:
    """weights ← weights - rate · directions; a rate that is a tensor is not looked at."""
    if isinstance(rate, torch.Tensor):
        torch._foreach_sub_(weights, torch._foreach_mul(list(directions), rate))
    else:
        torch._foreach_add_(weights, list(directions), alpha=-rate)


def orthogonalised(matrices: Sequence[torch.Tensor], steps: int = 3) -> list[torch.Tensor]:
    """Each [R, C] → [R, C] with its singular vectors, their values brought near 1, by Newton-Schulz iteration.

    The quintic's coefficients are Keller Jordan's (the source above), chosen for a steep slope at zero: after a few
    steps the values lie roughly in 0.7 … 1.2, which serves the descent as well as exactly 1. Zeros stay zeros.

    x ← p(x xᵀ) x needs x xᵀ alone until the end, since every p(x xᵀ) commutes with it: so the steps are taken on these
    small squares, those of one size together, and each matrix is multiplied once.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    scaled = [matrix / (matrix.norm() + 1e-7) for matrix in matrices]
    scaled = [x.T if x.shape[0] > x.shape[1] else x for x in scaled]
    found = list(scaled)
    for size in sorted({x.shape[0] for x in scaled}):
        places = [place for place, x in enumerate(scaled) if x.shape[0] == size]
        square = torch.stack([scaled[place] @ scaled[place].T for place in places])
        one = torch.eye(size, dtype=square.dtype, device=square.device)
        whole = one
        for step in range(steps):
            factor = torch.baddbmm(square, square, square, beta=b, alpha=c) + a * one
            whole = factor @ whole
            if step < steps - 1:
                square = factor @ square @ factor
        for place, product in zip(places, whole, strict=True):
            found[place] = product @ scaled[place]
    return [x.T if x.shape != matrix.shape else x for x, matrix in zip(found, matrices, strict=True)]

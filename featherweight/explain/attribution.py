"""Which part of a picture speaks for a class: Grad-CAM and integrated gradients. Tensors in, tensors out.

Letters of the shapes: N pictures, C colours, H rows, W columns, K classes. Every function takes any network that maps
normalised pictures [N, C, H, W] to outputs [N, K], on whatever device it is on; it runs in evaluation mode and is left
in the mode it was in, its parameters without gradients from here. The score of a class is the output before the
softmax: where a network ends in softmax or log-softmax, what went into that is taken, as Grad-CAM's authors ask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from featherweight.utils import UserError

CHUNK = 256  # pictures at a time through the network

_SOFTMAX = {
    F.log_softmax,
    torch.log_softmax,
    torch.Tensor.log_softmax,
    torch.special.log_softmax,
    F.softmax,
    torch.softmax,
    torch.Tensor.softmax,
    torch.special.softmax,
}


def class_scores(network: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """The scores [N, K] of normalised pictures [N, C, H, W], before any softmax at the end, without a history."""
    with evaluating(network):
        parts = [_scores(network, part).detach() for part in _fresh(pictures).split(CHUNK)]
    return torch.cat(parts)


def grad_cam(network: nn.Module, layer: str, pictures: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Grad-CAM of Selvaraju et al. 2017 (arXiv:1610.02391): where the maps of `layer` speak for a class. → [N, H, W].

    pictures: normalised, [N, C, H, W]; classes: int64 [N], the one asked about for each. With A_k the layer's maps and
    y the class's score, ReLU(Σ_k mean(∂y/∂A_k) · A_k), brought to H x W by bilinear interpolation and not scaled: 0 is
    "nothing speaks for it", larger is more. Raises UserError for a layer that is not there, gives no map, or does not
    reach the output; ValueError for other shapes.
    """
    classes = _checked(pictures, classes)
    found = []
    with evaluating(network):
        for part, wanted in zip(_fresh(pictures).split(CHUNK), classes.split(CHUNK), strict=True):
            with tapped(network, layer) as tap:
                scores = _scores(network, part.requires_grad_())
            maps = tap.output
            chosen = scores.gather(1, _in_range(wanted, scores)[:, None]).sum()  # pictures do not mix: one pass for all
            gradient = torch.autograd.grad(chosen, maps, allow_unused=True)[0] if maps.requires_grad else None
            if gradient is None:
                raise UserError(f"the output does not depend on the layer {layer}; choose another one with --layer")
            weights = gradient.mean(dim=(2, 3), keepdim=True)
            cam = (weights * maps).sum(dim=1, keepdim=True).relu().detach()
            found.append(F.interpolate(cam, size=part.shape[2:], mode="bilinear", align_corners=False)[:, 0])
    return torch.cat(found)


def integrated_gradients(
    network: nn.Module,
    pictures: torch.Tensor,
    classes: torch.Tensor,
    *,
    baseline: torch.Tensor | None = None,
    steps: int = 64,
) -> torch.Tensor:
    """Integrated gradients of Sundararajan et al. 2017 (arXiv:1703.01365): what each pixel adds to a score.

    → [N, C, H, W]. pictures, classes: as for `grad_cam`. baseline: [C, H, W] or what broadcasts to it, 0 by default,
    which for normalised pictures is a plain field of the data set's mean colour. The integral of the gradient along the
    straight line from the baseline to the picture is taken at the middles of `steps` equal parts. The numbers are in
    units of the score and (axiom of completeness) add up, for each picture, to its score less the baseline's, up to the
    error of the sum, which `completeness` measures. Raises ValueError for other shapes or fewer than one step.
    """
    classes = _checked(pictures, classes)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    start = _baseline(pictures, baseline)
    at_once = max(1, CHUNK // steps)
    found = []
    with evaluating(network):
        middles = (torch.arange(steps, device=pictures.device, dtype=pictures.dtype) + 0.5) / steps
        for part, wanted in zip(_fresh(pictures).split(at_once), classes.split(at_once), strict=True):
            way = part - start  # [n, C, H, W]
            line = start + middles[:, None, None, None, None] * way  # [steps, n, C, H, W]
            line = line.flatten(0, 1).requires_grad_()
            scores = _scores(network, line)
            chosen = scores.gather(1, _in_range(wanted, scores).repeat(steps)[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, line)
            found.append(way * gradient.unflatten(0, (steps, len(part))).mean(dim=0))
    return torch.cat(found)


def completeness(
    network: nn.Module,
    pictures: torch.Tensor,
    classes: torch.Tensor,
    attributions: torch.Tensor,
    *,
    baseline: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(what the attributions add up to, what they should: the picture's score less the baseline's), each [N]."""
    classes = _checked(pictures, classes)
    start = _baseline(pictures, baseline).expand_as(pictures[:1])
    wanted = class_scores(network, pictures).gather(1, classes[:, None])[:, 0]
    return attributions.sum(dim=(1, 2, 3)), wanted - class_scores(network, start)[0, classes]


class Tap:
    """What the tapped layer gave last, with its gradient history."""

    def __init__(self) -> None:
        self.kept: torch.Tensor | None = None
        self.stop = False

    @property
    def output(self) -> torch.Tensor:
        if self.kept is None:
            raise UserError("the layer chosen was not reached; choose another one with --layer")
        return self.kept


class Stop(Exception):
    """Ends a forward pass once the tapped layer has spoken."""


@contextmanager
def tapped(network: nn.Module, layer: str, *, stop: bool = False) -> Iterator[Tap]:
    """Keep the output of `layer` in the passes inside; with `stop` they end there by raising Stop.

    The rest of the network gets a copy, so that a later operation in place does not write over what is kept.
    """
    tap = Tap()

    def keep(module: nn.Module, inputs: Any, output: Any) -> torch.Tensor:
        if not isinstance(output, torch.Tensor) or output.ndim != 4:
            raise UserError(f"the layer {layer} gives no map [N, C, H, W]; choose another one with --layer")
        tap.kept = output
        if stop:
            raise Stop
        return output.clone()

    try:
        module = network.get_submodule(layer)
    except AttributeError as error:
        raise UserError(f"{type(network).__name__} has no layer {layer!r}") from error
    handle = module.register_forward_hook(keep)
    try:
        yield tap
    finally:
        handle.remove()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Inside, the network is in evaluation mode and gradients are on; afterwards each module has its own mode again."""
    before = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in before.items():
            module.training = training


class _Logits(TorchFunctionMode):
    """Notes each softmax over classes: its result and what went in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _SOFTMAX and isinstance(result, torch.Tensor) and result.ndim == 2:
            self.seen.append((result, args[0] if args else kwargs["input"]))
        return result


def _scores(network: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """The network's output [N, K]; what went into the softmax where that is the last thing it does."""
    with _Logits() as softmax:
        output = network(pictures.clone())  # a copy: a first layer in place must not meet a leaf
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != len(pictures):
        shape = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise UserError(f"the network gives {shape} for {len(pictures)} pictures; [pictures, classes] is needed")
    return next((before for result, before in reversed(softmax.seen) if result is output), output)


def _fresh(pictures: torch.Tensor) -> torch.Tensor:
    """A copy without a history, free of inference mode."""
    return pictures.detach().clone()


def _checked(pictures: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    if pictures.ndim != 4 or not pictures.is_floating_point() or not len(pictures):
        raise ValueError(f"pictures must be floating-point [N, C, H, W], not {pictures.dtype} {list(pictures.shape)}")
    if classes.dtype != torch.int64 or classes.shape != pictures.shape[:1]:
        raise ValueError(f"classes must be int64 [{len(pictures)}], not {classes.dtype} {list(classes.shape)}")
    return classes.to(pictures.device)


def _in_range(classes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    if int(classes.min()) < 0 or int(classes.max()) >= scores.shape[1]:
        raise ValueError(f"classes must lie in 0 … {scores.shape[1] - 1}, got {classes.tolist()}")
    return classes


def _baseline(pictures: torch.Tensor, baseline: torch.Tensor | None) -> torch.Tensor:
    """The baseline as [1, C, H, W] or what broadcasts to it, beside the pictures."""
    if baseline is None:
        return torch.zeros_like(pictures[:1])
    return baseline.detach().to(pictures.device, pictures.dtype).reshape((1,) * (4 - baseline.ndim) + baseline.shape)

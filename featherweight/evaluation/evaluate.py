"""One pass of a network over all pictures of a set. Letters of the shapes: N pictures, C classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from featherweight.augment import normalize
from featherweight.datasets import PictureSet
from featherweight.evaluation import metrics
from featherweight.utils import UserError


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a network does on all pictures of a set. Fractions, not percentages."""

    accuracy: float
    loss: float  # mean negative log likelihood in nats, without label smoothing
    images: int  # how many pictures were measured: all of the set
    per_class: dict[str, float | None]  # name → accuracy on that class's pictures; None where it has none
    confusion: list[list[int]]  # row: the label; column: the class given
    calibration_error: float  # expected calibration error, 15 bins
    logits: torch.Tensor = field(repr=False, compare=False)  # the outputs as they came, float32 [N, C], on the CPU

    def to_dict(self) -> dict[str, Any]:
        """All but the logits, ready for JSON."""
        return {
            "accuracy": self.accuracy,
            "loss": self.loss,
            "images": self.images,
            "per_class": dict(self.per_class),
            "confusion": [list(row) for row in self.confusion],
            "calibration_error": self.calibration_error,
        }


def evaluate(
    network: nn.Module,
    pictures: PictureSet,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
    batch_size: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    done: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Measure `network` on every picture of `pictures`, the last short batch included.

    mean, std: per colour, as fractions of 1, as in training. The network is moved to `device` and is left in the mode
    (training or evaluation, module by module) it was in. "fp32" is meant: autocast, TF32 and bf16 shortcuts are off
    meanwhile, so a record can be reproduced whatever precision the network was trained in. The host waits for the
    device once, at the end. batch_size: pictures at a time; None: what suits the device. done: called with the number
    of pictures after each batch. Raises ValueError for an empty set or a wrong argument, UserError when the network's
    outputs do not fit the pictures' classes or are not finite.
    """
    if not len(pictures):
        raise ValueError("there are no pictures to evaluate on")
    device = torch.device(device)
    if batch_size is None:
        # On a processor the maps of few pictures stay in its caches: separable_100k 2.0 times as fast by 100 as by 500.
        batch_size = 100 if device.type == "cpu" else 1000
    if batch_size < 1 or precision not in ("fp32", "bf16"):
        raise ValueError(f"batch_size must be at least 1 and precision fp32 or bf16, not {batch_size}, {precision!r}")
    network.to(device)
    with _evaluation_mode(network), torch.inference_mode(), arithmetic(device, precision):
        outputs = []
        for images in pictures.images.split(batch_size):
            outputs.append(network(normalize(images.to(device, non_blocking=True), mean, std)).float())
            done(len(images))
        logits = torch.cat(outputs).cpu()  # the one wait
    logits = logits.clone()  # an ordinary tensor, free of inference mode
    return _summarise(logits, pictures)


def _summarise(logits: torch.Tensor, pictures: PictureSet) -> Evaluation:
    classes = pictures.classes
    if logits.shape != (len(pictures), len(classes)):
        raise UserError(
            f"the network gives outputs of shape {list(logits.shape)} for {len(pictures)} pictures of "
            f"{len(classes)} classes; evaluate it on the data set it was made for"
        )
    broken = int((~logits.isfinite()).any(1).sum())
    if broken:
        raise UserError(
            f"the network's outputs are not finite for {broken} of {len(pictures)} pictures: its weights "
            "are broken; train it again, with a lower learning rate if it was diverging"
        )
    labels = pictures.labels.cpu()
    confusion = metrics.confusion_matrix(logits, labels)
    recalls = metrics.per_class_accuracy(confusion).tolist()
    return Evaluation(
        accuracy=float(metrics.accuracy(logits, labels)),
        loss=float(metrics.negative_log_likelihood(logits, labels)),
        images=len(logits),
        per_class={name: None if math.isnan(value) else value for name, value in zip(classes, recalls, strict=True)},
        confusion=confusion.tolist(),
        calibration_error=float(metrics.expected_calibration_error(logits, labels)),
        logits=logits,
    )


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    before = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in before.items():  # one by one: a frozen batch norm may differ from its parent
            module.training = training


@contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Autocast to bf16, or true float32: by default cuDNN's convolutions would round their inputs to TF32 (10 bits)."""
    backends: Any = torch.backends
    places = (
        []
        if precision == "bf16"
        else [backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul]
    )
    before = [place.fp32_precision for place in places]
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"))
        for place, value in zip(places, before, strict=True):
            stack.callback(setattr, place, "fp32_precision", value)
            place.fp32_precision = "ieee"
        yield

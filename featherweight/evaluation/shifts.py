"""Accuracy on shifted inputs: the test pictures blurred, noisy, compressed or pale, each at five strengths.

The idea, a network measured on common corruptions it was not trained on, is that of Hendrycks & Dietterich 2019
(arXiv:1903.12261). Their CIFAR-10-C is not downloaded: four of its kinds are computed here from the test pictures, with
strengths of this project's own, in even steps from hardly visible to strong:

    blur      Gaussian, standard deviation 0.5, 0.75, 1, 1.25, 1.5 pixels of the 32
    noise     Gaussian, independent per value, standard deviation 0.02, 0.04, 0.06, 0.08, 0.1 of the full scale
    jpeg      saved and read again at quality 75, 60, 45, 30, 15, colours at half the resolution (4:2:0)
    contrast  reduced to 0.8, 0.65, 0.5, 0.35, 0.2 of what it was, about each picture's own mean

So figures here do not compare with figures on CIFAR-10-C. Letters of the shapes: N pictures, H rows, W columns.
Pictures come and go as `PictureSet` holds them: uint8 [N, H, W, 3], rounded to whole levels and cut off at 0 and 255.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from featherweight.datasets import PictureSet
from featherweight.evaluation.evaluate import Evaluation, evaluate

NOISE_SEED = 0
CHUNK = 500  # pictures at a time in double precision: 12 MB of 32x32


def gaussian_blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blurred by a Gaussian of standard deviation `sigma`, in pixels, cut off at 4 sigma.

    Beyond its edge a picture goes on as its own mirror image (the edge's pixels twice). Raises ValueError for a sigma
    that is not above 0.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0, not {sigma}")
    rows, columns = (_blur_matrix(length, sigma) for length in images.shape[1:3])

    def blurred(part: torch.Tensor) -> torch.Tensor:
        return (rows @ part.permute(0, 3, 1, 2) @ columns.T).permute(0, 2, 3, 1)

    return _in_parts(images, blurred)


def gaussian_noise(images: torch.Tensor, deviation: float, seed: int = NOISE_SEED) -> torch.Tensor:
    """Independent Gaussian noise of standard deviation `deviation`, as a fraction of the full scale (255), added.

    The same seed draws the same noise at every strength, only scaled, and a picture's noise depends on its place in the
    set alone: strengths and networks are compared on the same draws.
    """
    if not deviation >= 0:
        raise ValueError(f"deviation must not be below 0, not {deviation}")
    generator = np.random.default_rng(seed)

    def noisy(part: torch.Tensor) -> torch.Tensor:
        noise = generator.standard_normal(tuple(part.shape), dtype=np.float32)
        return part + 255 * deviation * torch.from_numpy(noise)

    return _in_parts(images, noisy)


def jpeg(images: torch.Tensor, quality: float) -> torch.Tensor:
    """Saved as JPEG of `quality` 1 … 95 with halved colour resolution (4:2:0) in memory, and read again, by Pillow."""
    from PIL import Image

    _check(images)
    if not 1 <= quality <= 95:
        raise ValueError(f"quality must lie in 1 … 95, not {quality}")
    found = np.empty(images.shape, np.uint8)
    for place, picture in enumerate(images.cpu().numpy()):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=int(quality), subsampling="4:2:0")
        with Image.open(file) as image:
            found[place] = np.asarray(image.convert("RGB"))
    return torch.from_numpy(found)


def contrast(images: torch.Tensor, factor: float) -> torch.Tensor:
    """Each value's distance from its picture's mean of that colour multiplied by `factor` (1: unchanged, 0: plain)."""
    if not factor >= 0:
        raise ValueError(f"factor must not be below 0, not {factor}")

    def paler(part: torch.Tensor) -> torch.Tensor:
        mean = part.mean(dim=(1, 2), keepdim=True)
        return mean + factor * (part - mean)

    return _in_parts(images, paler)


def _in_parts(images: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`change`, from and to double precision, over a few pictures at a time."""
    _check(images)
    parts = [change(part.double()).round().clamp(0, 255).to(torch.uint8) for part in images.cpu().split(CHUNK)]
    return torch.cat(parts).contiguous()


def _check(images: torch.Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}")


@functools.cache
def _blur_matrix(length: int, sigma: float) -> torch.Tensor:
    """What a blur does to a line of `length` pixels: float64 [length, length]; each row sums to 1."""
    reach = int(4 * sigma + 0.5)
    steps = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (steps.double() / sigma) ** 2)
    places = torch.arange(length)[:, None] + steps
    places = places % (2 * length)  # a line and its mirror image, over and over
    places = torch.minimum(places, 2 * length - 1 - places)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.scatter_add_(1, places, (weights / weights.sum()).expand(length, -1))


@dataclass(frozen=True)
class Shift:
    """One kind of shift. strengths: from the weakest to the strongest, in the unit that `what` names."""

    name: str
    what: str
    strengths: tuple[float, ...]
    apply: Callable[[torch.Tensor, float], torch.Tensor]  # (images, one of the strengths) → images


SHIFTS = (
    Shift("blur", "Gaussian blur, standard deviation in pixels", (0.5, 0.75, 1, 1.25, 1.5), gaussian_blur),
    Shift(
        "noise", "Gaussian noise, standard deviation of the full scale", (0.02, 0.04, 0.06, 0.08, 0.1), gaussian_noise
    ),
    Shift("jpeg", "JPEG, quality", (75, 60, 45, 30, 15), jpeg),
    Shift("contrast", "contrast, of what it was", (0.8, 0.65, 0.5, 0.35, 0.2), contrast),
)


@dataclass(frozen=True, kw_only=True)
class ShiftFound:
    """What a network does under one kind of shift, strength by strength."""

    shift: Shift
    found: tuple[Evaluation, ...]
    digests: tuple[str, ...]  # of the shifted pictures and their labels, as `PictureSet.digest` gives them

    @property
    def mean_accuracy(self) -> float:
        return sum(one.accuracy for one in self.found) / len(self.found)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; fractions, not percentages."""
        return {
            "shift": self.shift.name,
            "what": self.shift.what,
            "strengths": list(self.shift.strengths),
            "accuracy": [one.accuracy for one in self.found],
            "mean_accuracy": self.mean_accuracy,
            "loss": [one.loss for one in self.found],
            "calibration_error": [one.calibration_error for one in self.found],
            "pictures_sha256": list(self.digests),
        }


def evaluate_shifted(
    network: nn.Module,
    pictures: PictureSet,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
    batch_size: int | None = None,
    shifts: Sequence[Shift] = SHIFTS,
    done: Callable[[int], None] = lambda count: None,
) -> list[ShiftFound]:
    """Measure `network` on all of `pictures` under every shift at every strength; the arguments are `evaluate`'s.

    Pictures are shifted as bytes, before they are normalised. One shifted copy of the set is held at a time. Raises as
    `evaluate` does.
    """
    results = []
    for shift in shifts:
        found, digests = [], []
        for strength in shift.strengths:
            shifted = PictureSet(shift.apply(pictures.images, strength), pictures.labels, pictures.classes)
            found.append(
                evaluate(network, shifted, mean=mean, std=std, device=device, batch_size=batch_size, done=done)
            )
            digests.append(shifted.digest())
        results.append(ShiftFound(shift=shift, found=tuple(found), digests=tuple(digests)))
    return results

"""What both engines read in the specification (`config.AugmentConfig`): its checks, the fill, and each batch's seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from featherweight.config import AugmentConfig
from featherweight.utils import UserError, mix_seed

_STREAM = 0xA06  # sets these seeds apart from others made of the same run, epoch and step (shuffling, dropout …)


def validate(spec: AugmentConfig, height: int, width: int) -> None:
    """Refuse a specification that cannot be carried out on pictures of height x width pixels.

    Raises UserError, naming the field, for a probability outside 0..1, a limit that is negative or not finite, a scale
    that could reach 0, a hole that does not fit, and an unknown engine or border.
    """
    if spec.engine not in ("albumentations", "batched", "none"):
        raise UserError(f"augment.engine is {spec.engine!r}; choose albumentations, batched or none")
    if spec.border not in ("reflect_101", "constant"):
        raise UserError(f"augment.border is {spec.border!r}; choose reflect_101 or constant")
    for name in ("flip_p", "affine_p", "hole_p"):
        value = getattr(spec, name)
        if not 0.0 <= value <= 1.0:  # also false for nan
            raise UserError(f"augment.{name} is {value}; a probability lies between 0 and 1")
    for name, largest in (("shift_limit", 1.0), ("scale_limit", math.nextafter(1.0, 0.0)), ("rotate_limit", 180.0)):
        value = getattr(spec, name)
        if not 0.0 <= value <= largest:
            bound = "below 1" if name == "scale_limit" else f"at most {largest:g}"
            raise UserError(f"augment.{name} is {value}; it is a size, so at least 0, and {bound}")
    if spec.workers != int(spec.workers) or spec.workers < 0:
        raise UserError(f"augment.workers is {spec.workers}; give a whole number, 0 for none")
    if spec.hole_size != int(spec.hole_size) or spec.hole_size < 0:
        raise UserError(f"augment.hole_size is {spec.hole_size}; give a whole number of pixels")
    if spec.engine != "none" and spec.hole_p > 0 and not 1 <= spec.hole_size <= min(height, width):
        raise UserError(
            f"augment.hole_size is {spec.hole_size}, but the hole must fit inside pictures of "
            f"{height}x{width} pixels; choose another hole_size, or hole_p = 0 for no hole"
        )
    if spec.engine != "none" and spec.affine_p > 0 and min(height, width) < 2:
        raise UserError(f"pictures of {height}x{width} pixels cannot be turned; set augment.affine_p = 0")


def hole_fill(mean: Sequence[float]) -> tuple[float, ...]:
    """The mean as a colour of 8-bit pixels: rounded here, because a fraction put into uint8 would be cut off."""
    return tuple(float(round(255 * value)) for value in mean)


def batch_seed(seed: int, epoch: int, step: int) -> int:
    """The seed of the augmentations of batch `step` of epoch `epoch`: of those three alone, whoever computes it."""
    return mix_seed(seed, epoch, step, _STREAM)

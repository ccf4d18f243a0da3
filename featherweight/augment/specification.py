"""What both engines read in the specification (`config.AugmentConfig`): its checks, the fill, and each batch's seed."""

from __future__ import annotations

from collections.abc import Sequence

from featherweight.config import AugmentConfig, check
from featherweight.utils import UserError, mix_seed

_STREAM = 0xA06  # sets these seeds apart from others made of the same run, epoch and step (shuffling, dropout …)


def validate(spec: AugmentConfig, height: int, width: int) -> None:
    """Refuse a specification that cannot be carried out on pictures of height x width pixels.

    Raises UserError, naming the field, for a value that no recipe could set (`config.RANGES`), a hole that does not
    fit, alternating flips where they are not meant, and a turn of pictures one pixel high or wide.
    """
    check(spec, "augment", source="the augmentation")
    if spec.alternate_flip and (spec.engine != "batched" or spec.flip_p != 0.5):
        raise UserError(
            "augment.alternate_flip is for the batched engine and flip_p = 0.5, which it keeps over two epochs; "
            f"this is {spec.engine} with flip_p = {spec.flip_p}"
        )
    if spec.engine != "none" and spec.hole_p > 0 and spec.hole_size > min(height, width):
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

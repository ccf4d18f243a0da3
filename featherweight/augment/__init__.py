"""Augmentation: the specification (`config.AugmentConfig`) once, and two engines that obey it and are proven equal.

The order is flip, shift-scale-rotate, one square hole, normalise. `BatchSource` gives the training loop its batches
from whichever engine the specification names; `normalize` is the one normalisation, also for evaluation. Neither torch
nor albumentations is imported before a function here needs it.
"""

from featherweight.augment.albumentations_engine import build_pipeline
from featherweight.augment.batched import BatchAugmenter
from featherweight.augment.draws import Draws, draw
from featherweight.augment.normalize import normalize
from featherweight.augment.source import BatchSource
from featherweight.augment.specification import validate
from featherweight.augment.workers import AlbumentationsLoader

__all__ = [
    "AlbumentationsLoader",
    "BatchAugmenter",
    "BatchSource",
    "Draws",
    "build_pipeline",
    "draw",
    "normalize",
    "validate",
]

"""Featherweight: train, check, explain and ship small image classifiers under explicit design rules.

import featherweight
featherweight.load("feather_quick").predict("cat.png").label
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from featherweight.ship.classifier import Classifier

__all__ = ["load"]


def load(weights_or_run: Path | str, *, device: str = "cpu") -> Classifier:
    """A trained network that takes pictures: `load("feather_quick").predict("cat.png")`.

    weights_or_run: a published name, a .safetensors file or a run's folder; device: cpu, cuda, mps or auto. Raises
    featherweight.utils.UserError, one line, for whatever is not sound weights. torch is imported only here.
    """
    from featherweight.ship import classifier

    return classifier.load(weights_or_run, device=device)

"""Trained weights as something that takes pictures. Shapes: N pictures, S the side of the input, C classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from featherweight import weights
from featherweight.augment import normalize
from featherweight.evaluation import arithmetic
from featherweight.ship.predictor import BATCH, PictureClassifier, PictureError
from featherweight.utils import UserError, pick_device
from featherweight.weights import Card

MAX_SIDE = 1024  # pixels: a batch of 256 such pictures takes 3 GB as float32


class Classifier(PictureClassifier):
    """A network with its card, in evaluation mode on its device, giving classes for pictures.

    `network` takes normalised pictures, [N, 3, S, S]; `card` says their mean and deviation, the classes and the rest.
    """

    def __init__(self, network: nn.Module, card: Card, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.card = card
        self.classes = card.classes
        self.side = card.input_size
        if self.side > MAX_SIDE:
            raise UserError(
                f"the card of {card.name} says input_size {self.side}; no network here takes over {MAX_SIDE}"
            )

    @torch.inference_mode()
    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S, 3] → float32 [N, C]; each row sums to 1. Raises UserError where they are not finite.

        In true float32 also on a GPU, as in `featherweight eval`, so that both give a picture the same class.
        """
        parts = [np.empty((0, len(self.classes)), np.float32)]
        with arithmetic(self.device, "fp32"):
            for start in range(0, len(images), BATCH):
                pixels = torch.from_numpy(images[start : start + BATCH]).to(self.device)
                outputs = self.network(normalize(pixels, self.card.mean, self.card.std))
                parts.append(outputs.float().softmax(1).cpu().numpy())  # of log-probabilities: the same again
        rows = np.concatenate(parts)
        if not np.isfinite(rows).all():
            raise UserError(f"the outputs of {self.card.name} are not finite: its weights are broken; train it again")
        return rows

    def _read(self, picture: Any) -> np.ndarray:
        try:
            return super()._read(picture)
        except PictureError as error:
            raise UserError(str(error)) from error


def load(weights_or_run: Path | str, *, device: str = "cpu") -> Classifier:
    """The classifier of a published name, a .safetensors file or a run folder.

    device: cpu, cuda, mps or auto. Raises UserError, one line, for whatever is not sound weights.
    """
    place = pick_device(device)  # a wrong one is told before anything is read
    network, card = weights.load(weights_or_run)
    return Classifier(network, card, place)

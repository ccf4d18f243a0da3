"""A teacher's answers as the student's targets. Letters: N pictures, K classes.

Source: Hinton et al. 2015, "Distilling the knowledge in a neural network" (arXiv:1503.02531); both networks see the
same augmented view, as Beyer et al. 2021 advise ("A good teacher is patient and consistent", arXiv:2106.05237).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F

from featherweight import weights
from featherweight.config import TeacherConfig
from featherweight.datasets import Statistics
from featherweight.utils import UserError


class Teacher:
    """A trained network that answers in evaluation mode, without gradients."""

    def __init__(
        self, config: TeacherConfig, classes: Sequence[str], statistics: Statistics, device: torch.device
    ) -> None:
        """Loads `config.weights` (a published name, a file or a run). Raises UserError when there is no such network,
        or when it was made for other classes or for pictures normalised otherwise."""
        network, card = weights.load(config.weights)
        if tuple(card.classes) != tuple(classes):
            raise UserError(f"teacher {config.weights}: it knows other classes than the pictures have; choose another")
        if (tuple(card.mean), tuple(card.std)) != (tuple(statistics.mean), tuple(statistics.std)):
            raise UserError(f"teacher {config.weights}: its pictures had another mean or deviation; choose another")
        self.config, self.card, self.name = config, card, card.name
        self.network = network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]

    def require_at_most(self, pictures: int) -> None:
        """Raises UserError where the teacher was trained on more: then it knows the pictures that are held out now."""
        if (self.card.train_images or 0) > pictures:
            raise UserError(
                f"teacher {self.config.weights}: it was trained on {self.card.train_images:,} pictures, those held out "
                "here among them; train one with --set data.train_on=train"
            )

    @torch.no_grad()
    def answers(self, pictures: torch.Tensor, precision: AbstractContextManager[object]) -> torch.Tensor:
        """Outputs [N, K] for pictures [N, 3, H, W], float32."""
        with precision:
            return self.network(pictures).float()

    def loss(self, outputs: torch.Tensor, answers: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
        """`share` of the divergence from the teacher's softened answers, the rest of the loss from the labels.

        Log-probabilities serve as outputs like logits: the two differ by a constant, which the softmax takes out. The
        divergence is multiplied by the temperature's square, so that its gradient keeps its size (section 2.1).
        """
        t = self.config.temperature
        divergence = F.kl_div(
            F.log_softmax(outputs / t, 1), F.log_softmax(answers / t, 1), reduction="batchmean", log_target=True
        )
        return self.config.share * t * t * divergence + (1 - self.config.share) * labelled

"""torch.hub entry points, one for each registered network.

    network = torch.hub.load(".", "feather_quick", source="local", pretrained=True)

A network takes NORMALISED pictures, float32 [N, 3, 32, 32]: `(pixels / 255 - mean) / std` per colour, and gives logits
[N, classes] (log-probabilities where it has a true `log_probabilities` attribute). With pretrained=True it carries its
card as `network.card`: card.mean, card.std, card.classes, card.test_accuracy. What takes raw pictures instead is
`featherweight.load`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featherweight import models as _models

if TYPE_CHECKING:  # torch.hub takes every callable it finds here for an entry point
    from collections.abc import Callable

    from torch import nn

dependencies = ["torch", "safetensors"]


def _entry_point(name: str) -> Callable[..., nn.Module]:
    def build(pretrained: bool = False, classes: int | None = None) -> nn.Module:
        if not pretrained:
            return _models.build(name, classes=10 if classes is None else classes)
        from featherweight import weights
        from featherweight.utils import UserError

        published = weights.published_of(name)
        if published is None:
            raise UserError(f"no weights of {name} are published; there are {', '.join(weights.published())}")
        network, card = weights.load(published)
        if classes not in (None, len(card.classes)):
            raise UserError(f"the published {name} has {len(card.classes)} classes, not {classes}; leave classes out")
        network.card = card  # type: ignore[assignment] - a note beside the layers, not one of them
        return network

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"""The network `{name}`, for normalised pictures: float32 [N, 3, 32, 32] → [N, classes].

    pretrained: with its published weights (of several recipes', its own or the most accurate), in evaluation mode and
    with its card as `network.card` (mean, std, classes, accuracy); otherwise new, in training mode, with random
    weights. classes: how many, for a new network (default: 10).
    Raises featherweight.utils.UserError where no weights are published or `classes` does not fit them.
    """
    return build


globals().update({_name: _entry_point(_name) for _name in _models.names()})

"""The exponential moving average of a network's state."""

from __future__ import annotations

import copy

import torch
from torch import nn

_WARM = 10  # after t steps the decay is at most (1 + t) / (_WARM + t), so that the random start is soon forgotten


class AveragedWeights:
    """Follows a network: after each step, average ← decay · average + (1 - decay) · state (Polyak & Juditsky 1992).

    Floating-point buffers (the norms' statistics) are averaged like the parameters, so `network` can be evaluated as
    it is; whole-number buffers are copied.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.network = copy.deepcopy(source).eval().requires_grad_(False)
        theirs, ours = source.state_dict(), self.network.state_dict()
        self._pairs = [(ours[key], theirs[key]) for key in ours if theirs[key].is_floating_point()]
        counts = [(ours[key], theirs[key]) for key in ours if not theirs[key].is_floating_point()]
        self._our_counts, self._their_counts = [ours for ours, _ in counts], [theirs for _, theirs in counts]

    @torch.no_grad()
    def update(self) -> None:
        """Follow one step of the source."""
        decay = min(self.decay, (1 + self.steps) / (_WARM + self.steps))
        torch._foreach_lerp_([ours for ours, _ in self._pairs], [theirs for _, theirs in self._pairs], 1 - decay)
        if self._our_counts:
            torch._foreach_copy_(self._our_counts, self._their_counts)
        self.steps += 1

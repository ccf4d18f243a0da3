"""A stopwatch for the parts of a training step, used in a pass of its own that is not timed otherwise."""

from __future__ import annotations

import time

import torch

NAMES = ("waiting", "augmentation", "forward", "backward", "optimiser", "other")


class Phases:
    """Books the time since the last mark under a name. On a GPU each mark waits for the device, which makes the whole
    slower than a timed turn: shares are what this gives, not speeds."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {name: 0.0 for name in NAMES}  # noqa: C420 - plain text as keys
        self._last = 0.0
        self.start()

    def start(self) -> None:
        """Begin anew from here; what was booked is kept."""
        self._last = self._now()

    def mark(self, name: str) -> None:
        """All since the last mark was `name`."""
        now = self._now()
        self._seconds[name] += now - self._last
        self._last = now

    def _now(self) -> float:
        synchronise(self._device)
        return time.perf_counter()

    def shares(self) -> dict[str, float]:
        """name → share of the whole, adding up to 1."""
        whole = sum(self._seconds.values())
        return {name: seconds / whole if whole else 0.0 for name, seconds in self._seconds.items()}


def synchronise(device: torch.device) -> None:
    """Wait until `device` has done all it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def device_memory(device: torch.device) -> int | None:
    """The most bytes of a CUDA device's memory this process has taken; None elsewhere."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None

"""What a person sees of a run: a bar on a terminal, one plain line an epoch elsewhere. All of it on standard error."""

from __future__ import annotations

import time

from featherweight.terminal import Progress

REFRESH_SECONDS = 1.0  # reading the running loss makes a GPU wait, so it is read this seldom


class EpochProgress(Progress):
    """One epoch's bar: its share done, loss, accuracy, pictures a second, time left. Elsewhere `epoch_line` tells."""

    def __init__(self, epoch: int, epochs: int, steps: int, first_step: int, batch_size: int) -> None:
        self._batch_size = batch_size
        self._shown = time.monotonic()
        title, done = f"epoch {epoch + 1}/{epochs}", first_step * batch_size
        super().__init__(title, steps * batch_size, done=done, patience=0.0, lines=False)

    def amount(self) -> str:
        return f"{100 * self.done // max(self.total or 0, 1)} %"

    def due(self) -> bool:
        """Whether it is time to read the running figures and show them."""
        return time.monotonic() - self._shown >= REFRESH_SECONDS

    def show(self, step: int, loss: float, accuracy: float) -> None:
        """Bring the bar to `step` with the running figures."""
        self._shown = time.monotonic()
        self.remark = f"loss {loss:.3f}, accuracy {100 * accuracy:.1f} %"
        self.to(step * self._batch_size)


def epoch_line(metrics: dict, epochs: int) -> str:
    """The plain line of a finished epoch."""
    parts = [
        f"epoch {metrics['epoch'] + 1:>3}/{epochs}",
        f"loss {metrics['train_loss']:.4f}",
        f"accuracy {metrics['train_accuracy']:6.2%}",
    ]
    if "val_accuracy" in metrics:
        parts.append(f"validation {metrics['val_accuracy']:6.2%}")
    parts += [
        f"rate {metrics['lr']:.4f}",
        f"{metrics['images_per_second']:,.0f} pictures/s",
        f"{metrics['seconds']:.0f} s",
    ]
    return "  ".join(parts)

"""What a person sees of a run: a bar on a terminal, one plain line an epoch elsewhere. All of it on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType

REFRESH_SECONDS = 1.0  # reading the running loss makes a GPU wait, so it is read this seldom


class EpochProgress:
    """One epoch's bar: steps, loss, accuracy, pictures a second, time left."""

    def __init__(self, epoch: int, epochs: int, steps: int, first_step: int, batch_size: int) -> None:
        self.title = f"epoch {epoch + 1}/{epochs}"
        self._batch_size = batch_size
        self._first = first_step
        self._begun = self._shown = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[figures]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self.title, total=steps, completed=first_step, figures="")

    def __enter__(self) -> EpochProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def due(self) -> bool:
        """Whether it is time to read the running figures and show them."""
        return time.monotonic() - self._shown >= REFRESH_SECONDS

    def show(self, step: int, loss: float, accuracy: float) -> None:
        """Bring the bar to `step` with the running figures."""
        self._shown = time.monotonic()
        if self._bar is not None:
            rate = (step - self._first) * self._batch_size / max(self._shown - self._begun, 1e-9)
            figures = f"loss {loss:.3f}  accuracy {accuracy:6.2%}  {rate:,.0f}/s"
            self._bar.update(self._task, completed=step, figures=figures)


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

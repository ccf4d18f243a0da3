"""How far a long piece of work is: a bar with rate and time left on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from featherweight.terminal import note

PATIENCE_SECONDS = 2.0  # work that is done sooner says nothing
LINE_SECONDS = 5.0  # between plain lines


class Progress:
    """`with Progress("reading", 1000) as progress: … progress.step()`, all of it on standard error."""

    def __init__(self, title: str, total: int, what: str = "pictures") -> None:
        self.title, self.total, self.what = title, total, what
        self.done = 0
        self._begun = time.monotonic()
        self._said = self._begun + PATIENCE_SECONDS - LINE_SECONDS
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
            figures = (TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
            self._bar = Bar(*columns, *figures, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(title, total=total, rate="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, count: int = 1) -> None:
        """`count` more are done."""
        self.done += count
        now = time.monotonic()
        rate = self.done / max(now - self._begun, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=f"{rate:,.0f}/s")
        elif now - self._said >= LINE_SECONDS and self.done < self.total:
            self._said = now
            left = (self.total - self.done) / rate
            note(f"{self.title}: {self.done:,} of {self.total:,} {self.what}, {rate:,.0f}/s, {left:.0f} s left")

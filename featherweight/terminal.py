"""What the commands share in speaking: JSON or tables on standard output, progress and notices on standard error."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

PATIENCE_SECONDS = 2.0  # work that is done sooner says nothing
LINE_SECONDS = 5.0  # between plain lines


def print_json(value: Any) -> None:
    """One JSON object (or list) on standard output; figures that are not finite become null, as JSON asks."""
    print(json.dumps(_plain(value), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    item = getattr(value, "item", None)  # numpy's and torch's scalars
    return value if item is None else _plain(item())


def note(text: str) -> None:
    """A notice for people, on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None, right: Sequence[str] = ()
) -> None:
    """A table on standard output, fitted to the terminal (80 columns and plain text where there is none).

    columns: the headings; rows: their cells, shown with str(); right: the headings of columns set flush right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*[], title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*["" if cell is None else str(cell) for cell in row])
    Console(highlight=False, markup=False, emoji=False).print(table)


def whole_from(least: int) -> Callable[[str], int]:
    """For argparse: a whole number that is at least `least`."""

    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
        return int(text)

    return convert


class Progress:
    """How far a long piece of work is: a bar with rate and time left on a terminal, now and then a plain line
    elsewhere; all of it on standard error, and nothing at all of work that is done within PATIENCE_SECONDS.

        with Progress("reading", 1000) as progress:
            …
            progress.step()

    Inside another one it keeps silent: one bar at a time.
    """

    _one_at_a_time = threading.Lock()

    def __init__(
        self,
        title: str,
        total: int | None,
        what: str = "pictures",
        *,
        done: int = 0,
        patience: float | None = None,
        lines: bool = True,
    ) -> None:
        """total: how many there are of `what` (None: nobody knows); "bytes" are told in megabytes (10^6 bytes), of ""
        only the time is told. done: those that were there before. patience: seconds of silence at the start (None:
        PATIENCE_SECONDS). lines: False where other lines tell how far the work is, and only a bar is wanted."""
        self.title, self.total, self.what, self.done, self.remark = title, total, what, done, ""
        self.patience = PATIENCE_SECONDS if patience is None else patience
        self._lines, self._first = lines, done
        self._bar: Any = None
        self._task: Any = None
        self._timer: threading.Timer | None = None
        self._guard = threading.Lock()  # the bar is shown by a timer, while the work goes on
        self._open = False
        self._begun = self._stepped = self._said = 0.0

    def __enter__(self) -> Progress:
        self._begun = self._stepped = time.monotonic()
        self._said = self._begun + self.patience - LINE_SECONDS
        self._open = self._one_at_a_time.acquire(blocking=False)
        if self._open and _animated():
            self._lines = False
            if self.patience > 0:
                self._timer = threading.Timer(self.patience, self._show)
                self._timer.daemon = True
                self._timer.start()
            else:
                self._show()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._open:
            return
        with self._guard:
            self._open = False
            if self._timer is not None:
                self._timer.cancel()
            if self._bar is not None:
                self._bar.stop()
        self._one_at_a_time.release()

    def step(self, count: int = 1) -> None:
        """`count` more are done."""
        self.to(self.done + count)

    def to(self, done: int) -> None:
        """`done` of all are done, those before the start among them."""
        now = time.monotonic()
        if done != self.done:
            self.done, self._stepped = done, now
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        elif self._open and self._lines and now - self._said >= LINE_SECONDS and done != self.total:
            self._said = now
            note(str(self))

    def amount(self) -> str:
        """How many are done, and of how many, as people are told."""
        done, total = self.done, self.total
        if self.what == "bytes":
            of = f" of {total / 1e6:.1f} MB ({100 * done // total} %)" if total else " MB"
            return f"{done / 1e6:.1f}{of}"
        of = "" if total is None else f" of {total:,}"
        return f"{done:,}{of} {self.what}" if self.what else ""

    def __str__(self) -> str:
        """`reading: 20 of 100 pictures, 10/s, 8 s left`, as it is now."""
        now = time.monotonic()
        seconds, new = self._stepped - self._begun, self.done - self._first
        parts = [self.amount(), self.remark]
        if new > 0 and seconds > 0:
            rate = new / seconds
            parts.append(_rate(rate, self.what))
            if self.total is not None and self.done < self.total:
                parts.append(f"{_clock((self.total - self.done) / rate - (now - self._stepped))} left")
        else:
            parts.append(f"{_clock(now - self._begun)} so far")
        return f"{self.title}: {', '.join(filter(None, parts))}"

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        with self._guard:
            if not self._open:
                return
            bar = Bar(
                BarColumn(12),
                TextColumn("{task.fields[told]}", markup=False),
                console=Console(stderr=True),
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # what is printed meanwhile goes above the bar where both are seen
            )
            self._task = bar.add_task("", total=self.total, completed=self.done, told=self)
            bar.start()
            self._bar = bar


def _animated() -> bool:
    """Whether standard error is a terminal on which a line can be written anew."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def _rate(rate: float, what: str) -> str:
    if what == "bytes":
        return f"{rate / 1e6:.2f} MB/s"
    return f"{1 / rate:.1f} s each" if rate < 1 else f"{rate:.1f}/s" if rate < 10 else f"{rate:,.0f}/s"


def _clock(seconds: float) -> str:
    """`8 s`, `1:45` or `2:03:00`."""
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

"""What the commands share in speaking: JSON or tables on standard output, progress and notices on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def print_json(value: Any) -> None:
    """One JSON object on standard output; figures that are not finite become null, as JSON asks."""
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

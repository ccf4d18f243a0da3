"""The README's tables from the records and recipes: text between `<!-- report:NAME -->` and `<!-- /report:NAME -->`.

A marker stands alone on its line; inside a fenced block of code it is only text. Whatever stands outside the markers is
left byte for byte as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from featherweight.config import Recipe, read_recipe, recipe_names
from featherweight.records import LAST_EPOCH, Group, Record, group_by_recipe
from featherweight.utils import UserError

_MARKER = re.compile(r"\s*<!--\s*(/?)report:(.*?)\s*-->\s*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def tables(records: dict[str, Record]) -> dict[str, str]:
    """Every table by name, as Markdown, from `records` (as `records.load_all` gives them) and the package's recipes."""
    groups = sort_groups(group_by_recipe(records))
    return {
        "results": results_table(groups),
        "runs": runs_table(groups, records),
        "recipes": recipes_table([read_recipe(name) for name in recipe_names()]),
    }


def sort_groups(groups: Sequence[Group]) -> list[Group]:
    """CIFAR-10 first, then other data sets by name; in each the most accurate first, of equals the smallest."""
    return sorted(
        groups,
        key=lambda group: (
            dataset_of(group.shown) != "cifar10",
            dataset_of(group.shown),
            -group.mean,
            group.shown.parameters,
            group.recipe,
        ),
    )


def results_table(groups: Sequence[Group]) -> str:
    """One row for each recipe: what the network is, what it reaches over its seeds, what that takes."""
    if not groups:
        return "No runs are published yet."
    rows = []
    for group in groups:
        shown = group.shown
        rows.append(
            [
                network_name(group),
                f"{shown.parameters:,}",
                format_count(shown.multiply_adds),
                format_field(shown.receptive_field),
                "all" if shown.rules_passed else "no",
                format_accuracy(group),
                f"{shown.epochs:,}",
                format_seconds(shown.train_seconds),
                text_cell(format_hardware(shown)),
                code_cell(command_of(shown)),
            ]
        )
    columns = [
        "network",
        "parameters",
        "multiply-adds",
        "receptive field",
        "rules met",
        "test accuracy",
        "epochs",
        "training time",
        "hardware",
        "command",
    ]
    return markdown(columns, rows, right=columns[1:4] + columns[5:8]) + "\n\n" + _caption(groups)


def _caption(groups: Sequence[Group]) -> str:
    images = {dataset_of(group.shown): f"{group.shown.test_images:,}" for group in groups}
    counts = ", ".join(f"{name}: {count}" for name, count in images.items())
    text = (
        f"Test accuracy: mean ± standard deviation (n − 1) over the seeds, on all test images ({counts}), one "
        "view. Rules met: those of the network's structure. Training time and hardware: of the run whose weights are "
        "published, else of the first seed."
    )
    selected = {group.recipe: group.shown.selection for group in groups if group.shown.selection != LAST_EPOCH}
    if selected:
        listed = "; ".join(f"{text_cell(recipe)}: {text_cell(how)}" for recipe, how in selected.items())
        return f"{text} The last epoch was measured, except for these: {listed}."
    return f"{text} The last epoch was measured, nothing was selected."


def runs_table(groups: Sequence[Group], records: dict[str, Record]) -> str:
    """One row for each run, so that a mean can be taken apart."""
    if not groups:
        return "No runs are published yet."
    names = {id(record): name for name, record in records.items()}
    rows = [
        [
            code_cell(f"results/{names[id(run)]}.json"),
            run.seed,
            format_percent(run.test_accuracy),
            f"{run.test_loss:.4f}",
            format_seconds(run.train_seconds),
            text_cell(format_hardware(run)),
            text_cell(run.torch),
            text_cell(run.commit[:10]),
        ]
        for group in groups
        for run in group.records
    ]
    columns = ["record", "seed", "test accuracy", "test loss", "training time", "hardware", "torch", "commit"]
    return markdown(columns, rows, right=columns[1:5])


def recipes_table(recipes: Sequence[Recipe]) -> str:
    """One row for each recipe: what it is, what it should give, and its command."""
    if not recipes:
        return "There are no recipes."
    rows = [
        [
            text_cell(recipe.name),
            text_cell(str(recipe.settings.get("model", ""))),
            text_cell(recipe.about),
            "" if recipe.expected_accuracy is None else format_percent(recipe.expected_accuracy),
            "" if recipe.expected_seconds is None else format_seconds(recipe.expected_seconds),
            text_cell(recipe.hardware),
            code_cell(recipe.command or f"featherweight train --recipe {recipe.name}"),
        ]
        for recipe in recipes
    ]
    columns = ["recipe", "network", "what it is", "expected accuracy", "expected time", "on", "command"]
    return markdown(columns, rows, right=columns[3:5])


def fill(text: str, contents: dict[str, str], where: str = "README") -> str:
    """`text` with each marked part replaced by that of `contents`, in the marker's own line ending.

    Raises UserError, beginning with `where` and the line, for a marker that is unknown, unclosed, closed twice or
    nested, and when there is none at all.
    """
    lines = text.split("\n")
    kept: list[str] = []
    opened: tuple[str, int] | None = None
    fence: str | None = None
    found = False
    for number, line in enumerate(lines, 1):
        if opened is None:
            fence = _fence_after(line, fence)
        marker = _MARKER.fullmatch(line) if fence is None else None
        if marker is None:
            if opened is None:
                kept.append(line)
            continue
        closing, name = marker[1] == "/", marker[2]
        if name not in contents:
            raise UserError(
                f"{where}, line {number}: there is no table {name[:60]!r}; choose one of {', '.join(contents)}"
            )
        if closing != (opened is not None and opened[0] == name):
            state = f"{opened[0]} is still open from line {opened[1]}" if opened else f"no {name} is open"
            raise UserError(f"{where}, line {number}: {line.strip()} is out of place, {state}; mend the markers")
        if closing:
            opened = None
        else:
            opened, found = (name, number), True
        kept.append(line)
        if not closing:
            ending = "\r" if line.endswith("\r") else ""
            kept += [row + ending for row in ["", *contents[name].split("\n"), ""]]
    if opened:
        raise UserError(
            f"{where}, line {opened[1]}: <!-- report:{opened[0]} --> is never closed; add "
            f"<!-- /report:{opened[0]} --> on a line of its own"
        )
    if not found:
        raise UserError(
            f"{where}: holds no place for a table; put <!-- report:results --> and "
            "<!-- /report:results --> on lines of their own"
        )
    return "\n".join(kept)


def _fence_after(line: str, fence: str | None) -> str | None:
    """The fence that is open after `line`, where `fence` was open before it."""
    match = _FENCE.match(line)
    if match is None:
        return fence
    if fence is None:
        return match[1]
    closes = match[1][0] == fence[0] and len(match[1]) >= len(fence) and not line.strip(" \r`~")
    return None if closes else fence


def read_readme(path: Path) -> str:
    """The file's text with its own line endings. Raises UserError when it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}; give the right file with --readme") from error


def format_accuracy(group: Group) -> str:
    """`85.31 ± 0.12 % (3 seeds)`: two decimals, which is one picture in 10,000; one seed alone shows no deviation."""
    if group.deviation is None:
        return f"{format_percent(group.mean)} (1 seed)"
    return f"{100 * group.mean:.2f} ± {100 * group.deviation:.2f} % ({group.count} seeds)"


def format_seconds(seconds: float) -> str:
    """`87 s`, `4 min 12 s` from two minutes, `1 h 52 min` from one hour; rounded to the last unit shown."""
    whole = round(seconds)
    if whole < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def format_count(count: int) -> str:
    """`11.4 M`, three figures; below a million in full."""
    if count < 1_000_000:
        return f"{count:,}"
    millions = count / 1e6
    return f"{millions:,.{2 if millions < 10 else 1 if millions < 100 else 0}f} M"


def format_field(field: int | list[int]) -> str:
    """`61`, or `61 × 45` (height × width) where they differ."""
    return str(field) if isinstance(field, int) else " × ".join(map(str, field))


def format_hardware(record: Record) -> str:
    """The device as recorded, with the number of threads where those did the work, and who else used it."""
    threads = f", {record.threads} thread{'s' * (record.threads != 1)}"
    beside = (record.extras or {}).get("runs_beside")
    shared = f", shared with up to {beside} other trainings" if beside else ""
    return record.device + (threads if record.device.startswith("cpu") else "") + shared


def command_of(record: Record) -> str:
    """The command that gives the record: its own, else its recipe's."""
    if record.command:
        return record.command
    if record.recipe in recipe_names() and (command := read_recipe(record.recipe).command):
        return command
    return f"featherweight train --recipe {record.recipe}"


def summary(group: Group) -> dict[str, Any]:
    """A group's figures for a program, unrounded."""
    shown = group.shown
    return {
        "recipe": group.recipe,
        "model": shown.model,
        "dataset": dataset_of(shown),
        "parameters": shown.parameters,
        "multiply_adds": shown.multiply_adds,
        "receptive_field": shown.receptive_field,
        "rules_passed": shown.rules_passed,
        "epochs": shown.epochs,
        "test_images": shown.test_images,
        "seeds": [record.seed for record in group.records],
        "count": group.count,
        "accuracy_mean": group.mean,
        "accuracy_deviation": group.deviation,
        "accuracy_minimum": group.minimum,
        "train_seconds": shown.train_seconds,
        "device": shown.device,
        "threads": shown.threads,
        "command": command_of(shown),
    }


def dataset_of(record: Record) -> str:
    """The data set's name; records from before there was a choice are of CIFAR-10."""
    return record.dataset or "cifar10"


def network_name(group: Group) -> str:
    """The network, with its recipe and data set where they do not go without saying, as a cell."""
    shown = group.shown
    recipe = f", recipe {group.recipe}" if group.recipe not in (shown.model, dataset_of(shown)) else ""
    dataset = f", on {dataset_of(shown)}" if dataset_of(shown) != "cifar10" else ""
    return text_cell(shown.model + recipe + dataset)


def format_percent(fraction: float | None) -> str:
    """`85.02 %`; nothing for None."""
    return "" if fraction is None else f"{100 * fraction:.2f} %"


def text_cell(text: str) -> str:
    """`text` that Markdown shows as it is inside a table's cell."""
    return re.sub(r"([\\|`*<>\[\]])", r"\\\1", text)


def code_cell(text: str) -> str:
    """`text` as code inside a table's cell."""
    fence = "``" if "`" in text else "`"
    padding = " " if "`" in text else ""
    return f"{fence}{padding}{text.replace('|', chr(92) + '|')}{padding}{fence}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = ()) -> str:
    """A table in Markdown. rows: their cells, made fit for one; right: the columns set flush right."""
    line: Callable[[Sequence[Any]], str] = lambda cells: "| " + " | ".join(map(str, cells)) + " |"
    rule = "|" + "|".join("---:" if column in right else "---" for column in columns) + "|"
    return "\n".join([line(columns), rule, *map(line, rows)])

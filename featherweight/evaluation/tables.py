"""What was measured of the published networks, as Markdown for the README: by class, and on shifted inputs.

A measurement on shifted inputs is one JSON object in `results/shifted/NAME.json`, written by `featherweight eval NAME
--shifted --out` that file. It is shown only beside the very weights it was made with, by their SHA-256.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight.evaluation.metrics import CALIBRATION_BINS
from featherweight.evaluation.shifts import NOISE_SEED, SHIFTS, ShiftFound
from featherweight.records import Group, read_json_object
from featherweight.report import dataset_of, format_percent, markdown, network_name, text_cell
from featherweight.utils import UserError

if TYPE_CHECKING:
    from featherweight.evaluation import Evaluation
    from featherweight.weights import Card

MAX_BYTES = 1 << 20  # a measurement is about 7 kB
HEADINGS = {"blur": "blur", "noise": "noise", "jpeg": "JPEG", "contrast": "contrast"}


def shifted_record(
    card: Card, clean: Evaluation, shifted: Sequence[ShiftFound], *, dataset: str, split: str, about: Mapping[str, Any]
) -> dict[str, Any]:
    """One shifted measurement, ready for JSON. about: the command, and where it ran."""
    import numpy
    import PIL
    import torch

    return {
        "kind": "shifted",
        "name": card.name,
        "model": card.model,
        "recipe": card.recipe,
        "weights_sha256": card.weights_sha256,
        "dataset": dataset,
        "split": split,
        "images": clean.images,
        "clean": {
            "accuracy": clean.accuracy,
            "loss": clean.loss,
            "calibration_error": clean.calibration_error,
        },
        "shifts": [one.to_dict() for one in shifted],
        "mean_accuracy": sum(one.mean_accuracy for one in shifted) / len(shifted),
        "noise_seed": NOISE_SEED,
        **about,
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
    }


def read_shifted(folder: Path) -> dict[str, dict[str, Any]]:
    """The shifted measurements in `folder`, by the files' stems; none where there is no such folder.

    Raises UserError, naming the file, for one that is no such measurement, or of other shifts than today's.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        values = read_json_object(path, limit=MAX_BYTES, what="measurement on shifted inputs")
        problem = _problem(values)
        if problem:
            raise UserError(
                f"{path}: {problem}; write it anew with `featherweight eval {path.stem} --shifted --out {path}`"
            )
        found[path.stem] = values
    return found


def _problem(values: Mapping[str, Any]) -> str | None:
    """The first thing wrong with a shifted measurement, in words."""
    if values.get("kind") != "shifted":
        return "this is no measurement on shifted inputs"
    digest, images, command = (values.get(key) for key in ("weights_sha256", "images", "command"))
    if not isinstance(digest, str) or len(digest) != 64:
        return "weights_sha256 is not 64 hexadecimal digits"
    if not isinstance(images, int) or isinstance(images, bool) or images < 1:
        return "images is not a whole number from 1"
    if not isinstance(command, str) or not command.isprintable():
        return "command is not printable text"
    if values.get("split") != "test":
        return "it was not measured on the test pictures"
    clean, shifts = values.get("clean"), values.get("shifts")
    if not isinstance(clean, dict) or not _fractions([clean.get("accuracy")]):
        return "clean holds no accuracy"
    if not isinstance(shifts, list) or not all(isinstance(one, dict) for one in shifts):
        return "shifts is not a list of objects"
    known = [(shift.name, list(shift.strengths)) for shift in SHIFTS]
    if [(one.get("shift"), one.get("strengths")) for one in shifts] != known or values.get("noise_seed") != NOISE_SEED:
        return "its shifts or strengths are not those of this version"
    for one in shifts:
        accuracy = one.get("accuracy")
        if not isinstance(accuracy, list) or len(accuracy) != len(one["strengths"]) or not _fractions(accuracy):
            return f"{one['shift']} does not hold one accuracy for each strength"
    return None


def _fractions(values: Sequence[Any]) -> bool:
    return all(isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one <= 1 for one in values)


def shifted_table(groups: Sequence[Group], shifted: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each published network: accuracy clean, under each shift (mean over its strengths), and in the mean.

    groups: in the order of the rows; shifted: as `read_shifted` gives them.
    """
    published = {group.recipe: group for group in groups if group.published is not None and group.published.weights}
    rows, images, missing = [], set(), []
    for name, group in published.items():
        values = shifted.get(name)
        if values is None or values["weights_sha256"] != group.shown.weights_sha256:
            missing.append(name)
            continue
        means = [sum(one["accuracy"]) / len(one["accuracy"]) for one in values["shifts"]]
        figures = [values["clean"]["accuracy"], *means, sum(means) / len(means)]
        rows.append([network_name(group), *map(format_percent, figures)])
        images.add(f"{values['images']:,}")
    absent = ", ".join(map(text_cell, missing))
    if not rows:
        of = f" (no measurement of these weights in `results/shifted/`: {absent})" if missing else ""
        return f"Not measured yet{of}."
    columns = ["network", "clean", *(HEADINGS[shift.name] for shift in SHIFTS), "mean of the four"]
    strengths = "; ".join(f"{shift.what}: {', '.join(f'{one:g}' for one in shift.strengths)}" for shift in SHIFTS)
    sentences = [
        f"Accuracy on all {' or '.join(sorted(images))} test pictures, shifted by this project before they are "
        f"normalised, after training; each figure is the mean over five strengths ({strengths}). One run each: the one "
        "whose weights are published. Measured by `featherweight eval NAME --shifted --out results/shifted/NAME.json`; "
        "those files hold each strength. The idea is that of Hendrycks & Dietterich 2019; the strengths are not those "
        "of their CIFAR-10-C, so the figures do not compare with figures on it."
    ]
    if missing:
        sentences.append(f"Not measured yet with the weights published here: {absent}.")
    return markdown(columns, rows, right=columns[1:]) + "\n\n" + " ".join(sentences)


def classes_table(groups: Sequence[Group]) -> str:
    """For each data set a table with a row for each recipe: accuracy by class and calibration error, from the records.

    groups: in the order of the rows.
    """
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    silent = []
    for group in groups:
        shown = group.shown
        if not shown.per_class or shown.calibration_error is None:
            silent.append(network_name(group))
            continue
        cells = ["–" if value is None else f"{100 * value:.1f}" for value in shown.per_class.values()]
        row = [network_name(group), *cells, format_percent(shown.calibration_error)]
        tables.setdefault((dataset_of(shown), *shown.per_class), []).append(row)
    if not tables:
        return "No published record holds figures by class."
    shown_tables = []
    for (_, *classes), rows in tables.items():
        columns = ["network", *map(text_cell, classes), "calibration error"]
        shown_tables.append(markdown(columns, rows, right=columns[1:]))
    text = (
        "By class: % of its test pictures given their own class. Calibration error: the mean gap between confidence "
        f"and accuracy over all test pictures (expected calibration error, {CALIBRATION_BINS} bins). Both of the run "
        "whose weights are published, else of the first seed."
    )
    if silent:
        text += f" No such figures are recorded for {', '.join(silent)}."
    return "\n\n".join([*shown_tables, text])

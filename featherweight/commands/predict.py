"""`featherweight predict`: classes for pictures, folders of pictures, or a picture on standard input."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from typing import TYPE_CHECKING, Any

from featherweight.terminal import Progress, note, print_json, print_table, whole_from
from featherweight.utils import UserError, require_place, write_atomic

if TYPE_CHECKING:
    from featherweight.ship.classifier import Classifier
    from featherweight.ship.predictor import Found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from featherweight.ship.predictor import HOW_READ

    add = parser.add_argument
    add("weights", metavar="WEIGHTS", help="a published name, a .safetensors file or a run's folder")
    add(
        "pictures",
        nargs="+",
        metavar="PICTURE|FOLDER|-",
        help="a picture; a folder, walked with all below it in sorted order (files with a picture's suffix); "
        "-: a picture on standard input",
    )
    add("--top", type=whole_from(1), default=3, metavar="K", help="how many classes to tell, best first (default: 3)")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--csv", metavar="FILE", help="write a table of comma-separated values; -: to standard output")
    add(
        "--json",
        action="store_true",
        help="print the predictions as a JSON list: path, label, confidence, top and error of each",
    )
    parser.epilog = (
        f"{HOW_READ} A picture that cannot be read gets one line on standard error and in its `error` field; the "
        "others are predicted all the same, and the exit code is 2."
    )


def run(args: argparse.Namespace) -> int:
    from featherweight.ship import classifier
    from featherweight.ship.predictor import find_pictures

    if args.json and args.csv == "-":
        raise UserError("--json and --csv - both want standard output; give --csv a file's name")
    require_place(args.csv if args.csv != "-" else None)
    network = classifier.load(args.weights, device=args.device)
    found, passed_over = find_pictures(args.pictures)
    rows = _predict(network, found, args.top)
    failed = sum(row["error"] is not None for row in rows)
    if args.csv:
        _write_csv(args.csv, rows, min(args.top, len(network.classes)))
    if args.json:
        print_json(rows)
    elif not args.csv:
        _tell([row for row in rows if row["error"] is None])
    if passed_over:
        note(f"{passed_over:,} files in the folders were passed over: no picture's suffix, hidden, or links to folders")
    if failed and len(rows) > 1:
        note(f"{failed:,} of {len(rows):,} pictures could not be read")
    return 2 if failed else 0


def _predict(network: Classifier, found: list[Found], top: int) -> list[dict[str, Any]]:
    """A row for each picture, in order; what is wrong with one goes to standard error at once."""
    from featherweight.ship.predictor import as_row

    rows = []
    with Progress("predicting", len(found)) as progress:
        for one, outcome in network.predict_each(found, top):
            row = as_row(one, outcome)
            if row["error"] is not None:
                note(f"featherweight predict: {one.name} {row['error']}")
            rows.append(row)
            progress.step()
    return rows


def _tell(rows: list[dict[str, Any]]) -> None:
    if rows:
        cells = [
            [
                row["path"],
                row["label"],
                f"{100 * row['confidence']:.1f}",
                ", ".join(f"{entry['label']} {100 * entry['confidence']:.1f}" for entry in row["top"][1:]),
            ]
            for row in rows
        ]
        print_table(["picture", "class", "%", "then"], cells, right=["%"])


def _write_csv(place: str, rows: list[dict[str, Any]], top: int) -> None:
    """path, label, confidence, error, then label_2, confidence_2, … for the classes after the first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    more = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("label", "confidence")]
    writer.writerow(["path", "label", "confidence", "error", *more])
    for row in rows:
        others = [entry[name] for entry in row["top"][1:] for name in ("label", "confidence")]
        writer.writerow([row["path"], row["label"], row["confidence"], row["error"], *others])
    if place == "-":
        sys.stdout.write(text.getvalue())
    else:
        write_atomic(place, text.getvalue())
        note(f"{len(rows):,} rows written to {place}")

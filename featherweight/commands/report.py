"""`featherweight report`: the records of the published runs → the tables of the README; with --figures its figures too.

Everything the README shows between markers comes from committed files: `results/*.json` (runs), `results/shifted/`
(accuracy on shifted inputs), `results/bench/` (speed), `docs/figures/` beside the README (figures and their list).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight.terminal import Progress, note, print_json
from featherweight.utils import UserError, require_place

if TYPE_CHECKING:
    import numpy as np

    from featherweight.records import Group, Record

FIGURES = Path("docs/figures")  # beside the README
NETWORK = "feather_quick"
PHOTO = Path("tests/ship/pictures/chelsea.jpg")
BENCH_BYTES = 4 << 20  # an output of `featherweight bench` is about 10 kB
KINDS = ("speed", "equal_epochs", "time_to", "predict")  # the order in which outputs of `featherweight bench` are shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--readme", type=Path, default=Path("README.md"), help="the file whose marked parts are written (README.md)")
    add("--results", type=Path, default=Path("results"), help="the folder of records (results)")
    add("--check", action="store_true", help="write nothing; exit with 1 when the file differs from the records")
    add(
        "--figures",
        action="store_true",
        help=f"first draw the README's figures anew into {FIGURES}/ beside it; needs the data set",
    )
    add("--network", metavar="WEIGHTS", help=f"with --figures: whose figures (default: {NETWORK})")
    add("--photo", type=Path, metavar="FILE", help=f"with --figures: the photograph drawn on (default: {PHOTO})")
    add("--data-dir", type=Path, help="with --figures: where the data set is looked for first")
    add("--device", help="with --figures: auto, cpu, cuda or mps (default: auto)")
    add("--json", action="store_true", help="print the recipes' figures and what was done as JSON")


def run(args: argparse.Namespace) -> int:
    from featherweight import report
    from featherweight.records import group_by_recipe, load_all
    from featherweight.utils import write_atomic

    _check_options(args)
    records = load_all(args.results)
    groups = report.sort_groups(group_by_recipe(records))
    before = report.read_readme(args.readme)
    if args.figures:
        draw_figures(args, groups, records)
    after = report.fill(before, blocks(records, args.results, args.readme), str(args.readme))
    differs = after != before
    if differs and not args.check:
        write_atomic(args.readme, after)
    if args.json:
        print_json(
            {
                "readme": str(args.readme),
                "differs": differs,
                "written": differs and not args.check,
                "records": len(records),
                "recipes": [report.summary(group) for group in groups],
            }
        )
    elif args.check:
        word = "differs from" if differs else "agrees with"
        print(f"{args.readme} {word} the {len(records)} records in {args.results}")
    else:
        print(f"{args.readme}: {'written' if differs else 'nothing to change'} ({len(records)} records)")
    if differs and args.check:
        note(f"run `featherweight report --readme {args.readme} --results {args.results}` to bring it up to date")
    return int(differs and args.check)


def _check_options(args: argparse.Namespace) -> None:
    if args.figures and args.check:
        raise UserError("--check writes nothing and --figures writes the figures; ask for one of them")
    given = [name for name in ("network", "photo", "data_dir", "device") if getattr(args, name) is not None]
    if given and not args.figures:
        raise UserError(f"--{given[0].replace('_', '-')} belongs to --figures; give both, or leave it out")


def blocks(records: Mapping[str, Record], results: Path, readme: Path) -> dict[str, str]:
    """Everything that can stand between the README's markers, by the marker's name, as Markdown.

    Raises UserError, naming the file, for a record that cannot be read or could break out of its markers.
    """
    from featherweight import report
    from featherweight.evaluation import tables
    from featherweight.explain import figure_list
    from featherweight.records import group_by_recipe
    from featherweight.ship.onnx_table import onnx_table

    groups = report.sort_groups(group_by_recipe(records))
    return {
        **report.tables(dict(records)),
        "shifted": tables.shifted_table(groups, tables.read_shifted(results / "shifted")),
        "classes": tables.classes_table(groups),
        "speed": speed_block(results / "bench"),
        "onnx": onnx_table(results / "onnx"),
        "figures": figure_list.markdown(readme.parent / FIGURES, FIGURES.as_posix(), records),
    }


def speed_block(folder: Path) -> str:
    """A table for each output of `featherweight bench` in `folder`, each with its command below it.

    Raises UserError, naming the file, for one that is none.
    """
    from featherweight.records import read_json_object

    outputs = []
    for path in sorted(folder.glob("*.json")):
        bench = read_json_object(path, limit=BENCH_BYTES, what="output of `featherweight bench`")
        kind = bench.get("kind")
        outputs.append((KINDS.index(kind) if kind in KINDS else len(KINDS), path, bench))
    if not outputs:
        return "Not measured yet."
    return "\n\n".join(_speed_of(path, bench) for _, path, bench in sorted(outputs, key=lambda one: one[:2]))


def _speed_of(path: Path, bench: dict[str, Any]) -> str:
    from featherweight.bench.table import speed_table

    try:
        text = speed_table(bench)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if "<!--" in text or not text.replace("\n", "").isprintable():
        raise UserError(f"{path}: holds a comment or unprintable characters; write it anew with --out")
    return text


def draw_figures(args: argparse.Namespace, groups: Sequence[Group], records: Mapping[str, Record]) -> None:
    """Draw the README's figures into docs/figures/ beside it, with their list."""
    import shlex

    from featherweight.explain import figure_list, showcase
    from featherweight.utils import pick_device

    network, photo = args.network or NETWORK, args.photo or PHOTO
    require_place(args.readme.parent / FIGURES / figure_list.LIST)
    words = figure_list.COMMAND.split()
    words += ["--network", _named(network)] if args.network else []
    words += ["--photo", _named(photo)] if args.photo else []
    begun = itertools.count()
    with Progress("drawing", 1 + len(showcase.CAPTIONS), "steps", lines=False) as progress:

        def say(text: str) -> None:
            note(text)
            progress.to(next(begun))
            progress.title = text

        drawn = showcase.draw(
            network,
            lambda side, keep_shape: _read(photo, side, keep_shape),
            groups,
            data_dir=args.data_dir,
            device=pick_device(args.device or "auto"),
            say=say,
        )
    about = {"command": shlex.join(words), "photo": _named(photo), "runs": figure_list.runs_of(records)}
    figure_list.write(args.readme.parent / FIGURES, drawn, about)


def _read(photo: Path, side: int, keep_shape: bool) -> np.ndarray:
    from featherweight.ship.predictor import PictureError, read_picture

    try:
        return read_picture(photo, side, keep_shape=keep_shape)
    except PictureError as error:
        raise UserError(f"{photo} {error}") from error


def _named(path: Path | str) -> str:
    """A path as it may be published: of an absolute one, the last part."""
    return Path(path).name if Path(path).is_absolute() else Path(path).as_posix()

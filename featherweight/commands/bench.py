"""`featherweight bench`: our engine beside a plain loop, the time to an accuracy, inference; no torch in here."""

from __future__ import annotations

import argparse
import json
import shlex
import textwrap
from pathlib import Path
from typing import Any

from featherweight.terminal import note, print_json, print_table, whole_from
from featherweight.utils import UserError, require_place, write_atomic

EPILOG = (
    "Training speed (default): a plain loop (DataLoader with a worker process for each core, albumentations picture "
    "by picture, float32, default memory layout, SGD, .item() every step) and our engine's forms of the same network, "
    "at the same batch size on the same data set, each in its own process, take turns of SECONDS, REPEATS times over. "
    "The forms: recipe (as published), full size (without the recipe's small pictures and frozen layer), "
    "albumentations, batched, none (no augmentation: the others then tell what theirs costs). FLOP/s are "
    "multiply-adds x 2 x 3 (forward + backward) x images/s, less what a frozen layer spares. "
    "--time-to: what counts is the training time of the whole frozen recipe, first step to last, provided that the "
    "mean accuracy on all test pictures, read once after the last epoch, one view, is at least the target; the exit "
    "code is 1 when it is not. There is no stopping at the first epoch that reaches it: that would need the test "
    "pictures read after every epoch (train --stop-at-accuracy stops by validation pictures, and trains on fewer). "
    "--equal-epochs: the plain loop and our forms (albumentations, batched) train the same network from the same "
    "weights by the same plain SGD for as many epochs, and are compared by validation accuracy; the exit code is 1 "
    "when a difference is more than the seeds' noise explains. "
    "predict: the same weights in torch (fp32, bf16) and ONNX (fp32, int8), one picture and 256 at a time."
)
# What each of the four measurements takes besides what all take; anything else given with it is an error.
TAKES = {
    "training": ("model", "batch_size", "dataset", "workers", "forms", "repeats", "seconds"),
    "--time-to": ("time_to", "recipe", "seeds", "runs"),
    "--equal-epochs": ("equal_epochs", "model", "batch_size", "dataset", "workers", "forms", "seeds"),
    "predict": ("weights", "repeats", "seconds"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("what", nargs="?", choices=("predict",), help="measure inference instead of training")
    add(
        "--model",
        nargs="+",
        metavar="NAME",
        help="networks (default: the texts' two, and feather_quick but for --equal-epochs)",
    )
    add("--batch-size", type=whole_from(2), help="pictures a step (default: the recipe's)")
    add("--forms", nargs="+", metavar="FORM", help="our engine's forms (default: what suits each recipe; see below)")
    add("--dataset", help="cifar10 or digits (default: the recipe's)")
    add("--workers", type=whole_from(1), help="worker processes of either loop (default: one for each core)")
    add("--repeats", type=whole_from(1), help="turns each (default: 5)")
    add("--seconds", type=_seconds, help="of a turn (default: 6; of inference: 1)")
    add("--time-to", type=_fraction, metavar="ACCURACY", help="train a recipe to its end; is this accuracy reached?")
    add("--equal-epochs", type=whole_from(1), metavar="EPOCHS", help="is our engine less accurate than the plain loop?")
    add("--recipe", help="of --time-to (default: feather_quick)")
    add("--runs", type=Path, metavar="FOLDER", help="of --time-to: keep each seed's run there (weights, record)")
    add("--seeds", type=whole_from(0), nargs="+", metavar="SEED", help="a run each (default: 0 1 2)")
    add(
        "--weights", help="of predict: a published name, a .safetensors file or a run's folder (default: feather_quick)"
    )
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--threads", type=whole_from(0), default=0, help="processor threads (0: torch's own choice)")
    add("--data-dir", type=Path, help="where the data set is looked for first, and put if fetched")
    add("--png", type=Path, metavar="FILE", help="draw the figures as bars")
    add("--out", type=Path, metavar="FILE", help="write the JSON here too")
    add("--json", action="store_true", help="print the figures as JSON")
    parser.epilog = EPILOG


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _seconds(text: str) -> float:
    if not 0.05 <= _number(text) <= 3600:  # also false for nan
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.05 to 3600")
    return float(text)


def _fraction(text: str) -> float:
    if not 0 < _number(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an accuracy above 0 and up to 1, such as 0.85")
    return float(text)


def run(args: argparse.Namespace) -> int:
    kind = _kind(args)
    for path in (args.png, args.out):
        require_place(path)
    bench = {"command": _command(args, kind), **_measure(args, kind)}
    if args.out is not None:
        write_atomic(args.out, json.dumps(bench, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    if args.png is not None:
        _draw(bench, args.png)
    if args.json:
        print_json(bench)
    else:
        _tell(bench)
    return int(not bench.get("met", True))


def _kind(args: argparse.Namespace) -> str:
    """Which of the four measurements is meant. Raises UserError for an option of another one."""
    asked = [args.what, "--time-to" * (args.time_to is not None), "--equal-epochs" * (args.equal_epochs is not None)]
    kinds = [one for one in asked if one] or ["training"]
    if len(kinds) > 1:
        raise UserError(f"{' and '.join(kinds)} are {len(kinds)} measurements; ask for one at a time")
    kind = kinds[0]
    others = {name for names in TAKES.values() for name in names} - set(TAKES[kind])
    wrong = next((name for name in sorted(others) if getattr(args, name) is not None), None)
    if wrong is not None:
        owners = " or ".join(owner for owner, names in TAKES.items() if wrong in names)
        raise UserError(
            f"--{wrong.replace('_', '-')} belongs to the measurement of {owners}, not of {kind}; leave it out"
        )
    return kind


def _measure(args: argparse.Namespace, kind: str) -> dict[str, Any]:
    shared = {
        "data_dir": None if args.data_dir is None else str(args.data_dir),
        "device": args.device,
        "threads": args.threads,
    }
    given = {
        name: value for name in ("repeats", "seconds") if (value := getattr(args, name)) is not None
    }  # what is not given keeps the measurement's own default
    if kind == "predict":
        from featherweight.bench import predict

        return predict.measure(args.weights or "feather_quick", **shared, **given, say=note)
    if kind == "--time-to":
        from featherweight.bench import time_to

        recipe = args.recipe or "feather_quick"
        _obtain_data(_dataset_of(recipe), args.data_dir)
        return time_to.measure(args.time_to, recipe, args.seeds or (0, 1, 2), **shared, runs_folder=args.runs, say=note)
    from featherweight.bench import equal, speed

    compared = kind == "--equal-epochs"
    models = equal.MODELS if compared else speed.MODELS
    options = speed.Options(
        models=tuple(dict.fromkeys(args.model or models)),
        forms=tuple(args.forms or ()),
        batch_size=args.batch_size,
        dataset=args.dataset,
        workers=args.workers or 0,
        **shared,
        **given,
    )
    seeds = args.seeds or (0, 1, 2)
    if compared:
        equal.check(options, seeds)  # before any data are fetched
    for name in options.models:
        _obtain_data(speed.base_job(name, options).config().data.name, args.data_dir)
    if compared:
        return equal.measure(args.equal_epochs, options, seeds, say=note)
    return speed.measure(options, say=note)


def _dataset_of(recipe: str) -> str:
    from featherweight import config

    return config.resolve(recipe, {}).data.name


def _obtain_data(name: str, data_dir: Path | None) -> None:
    """Have CIFAR-10 fetched here, where its progress is seen, and not by a child."""
    from featherweight import datasets

    if name == "cifar10":
        datasets.obtain(data_dir)


def _command(args: argparse.Namespace, kind: str) -> str:
    """The command that repeats the measurement, wherever its data and files lie."""
    words = ["featherweight", "bench", *([args.what] if args.what else [])]
    for name in TAKES[kind]:
        value = getattr(args, name)
        if value is not None and not isinstance(value, Path):
            values = value if isinstance(value, list) else [value]
            words += [
                f"--{name.replace('_', '-')}",
                *(f"{one:g}" if isinstance(one, float) else str(one) for one in values),
            ]
    if args.device != "auto":
        words += ["--device", args.device]
    if args.threads:
        words += ["--threads", str(args.threads)]
    return shlex.join(words)


def _draw(bench: dict[str, Any], path: Path) -> None:
    from featherweight.bench.table import panels
    from featherweight.explain.speed import draw_bars

    draw_bars(panels(bench), path)
    note(f"drawn in {path}")


def _tell(bench: dict[str, Any]) -> None:
    from featherweight.bench import table

    for one in table.terminal_tables(bench):
        print_table(one.columns, one.rows, title=one.title or None, right=one.right)
    for line in [*table.remarks(bench), f"On {table.machine_line(bench['machine'])}."]:
        print(textwrap.fill(line, 80))
    if any(network["dataset"] == "digits" for network in bench.get("networks", ())) or bench.get("dataset") == "digits":
        print("This was the small data set 'digits', not CIFAR-10.")

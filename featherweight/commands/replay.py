"""`featherweight replay`: repeat the first ten steps of a recorded run and compare the losses, bit for bit."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from featherweight.terminal import Progress, note, print_json, print_table
from featherweight.utils import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("record", type=Path, metavar="RECORD", help="results/NAME.json or a run's result.json")
    add("--data-dir", type=Path, help="where the data set is looked for first")
    add("--json", action="store_true", help="print the losses as JSON")
    parser.epilog = (
        "The seed and settings are the record's. The same bits can be expected at the record's commit, on its kind of "
        "processor and with as many threads; which of these differ is said. Exits with 1 when a loss differs."
    )


def run(args: argparse.Namespace) -> int:
    import torch

    from featherweight.config import TrainConfig, apply
    from featherweight.fused.build import library
    from featherweight.records import Record
    from featherweight.training.run import RulesNotMet, first_losses
    from featherweight.training.run_folder import commit
    from featherweight.utils import describe_device, pick_device

    record = Record.read(args.record)
    recorded = (record.extras or {}).get("first_losses")
    if not isinstance(recorded, list) or not recorded or record.config is None:
        raise UserError(f"{args.record} tells no losses of first steps; give a record that does, or train the run anew")
    config = apply(TrainConfig(), record.config, source=str(args.record))
    kind = record.device.partition(" ")[0]  # "auto" would take a faster one that is here, with other bits
    config = dataclasses.replace(config, threads=record.threads, device=kind)
    try:
        with Progress("repeating the run's first steps", len(recorded), "steps") as progress:
            found = first_losses(config, args.data_dir, progress.step)
    except RulesNotMet as error:
        note(str(error))
        return 1
    here = {
        "commit": commit(),
        "device": describe_device(pick_device(config.device)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    differs = [name for name, value in here.items() if value != getattr(record, name)]
    if (record.extras or {}).get("fused") and library() is None:
        differs.append("fused operations: there is no C compiler here")
    equal = found == recorded
    if args.json:
        print_json({"equal": equal, "recorded": recorded, "found": found, "differs": differs} | here)
    else:
        _print(record, recorded, found, differs)
    return 0 if equal else 1


def _print(record: Any, recorded: list[float], found: list[float], differs: list[str]) -> None:
    rows = [
        [str(step), f"{a:.9f}", f"{b:.9f}", "yes" if a == b else "no"]
        for step, (a, b) in enumerate(zip(recorded, found, strict=False), 1)
    ]
    columns = ["step", "recorded loss", "loss now", "equal"]
    print_table(columns, rows, title=f"{record.recipe}, seed {record.seed}", right=columns[:3])
    if differs:
        print(f"not as recorded: {', '.join(differs)}")
    print("Bit for bit the same." if found == recorded else "Not the same.")

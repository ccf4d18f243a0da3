"""`featherweight eval`: measure trained weights on the test or validation pictures, beside what their record says."""

from __future__ import annotations

import argparse
import json
import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight.terminal import Progress, note, print_json, print_table, whole_from
from featherweight.utils import UserError, require_place, write_atomic

if TYPE_CHECKING:
    import torch
    from torch import nn

    from featherweight.datasets import PictureSet
    from featherweight.evaluation import Evaluation
    from featherweight.records import Record
    from featherweight.weights import Card


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("weights", metavar="WEIGHTS_OR_RUN", help="a published name, a .safetensors file or a run's folder")
    add(
        "--split",
        choices=("test", "val"),
        default="test",
        help="test: all test pictures; val: the tenth of the training pictures that is kept for validation",
    )
    add("--dataset", help="cifar10 or digits (default: what the weights were made for)")
    add("--data-dir", type=Path, help="where the data set is looked for first")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add(
        "--batch-size",
        type=whole_from(1),
        help="pictures at a time (default: what suits the device); no figure depends on it",
    )
    add(
        "--shifted",
        action="store_true",
        help="measure on shifted pictures as well: blur, noise, JPEG and contrast at five strengths each",
    )
    add("--out", type=Path, metavar="FILE", help="with --shifted: write that measurement here, as JSON")
    add("--json", action="store_true", help="print the figures as JSON")
    parser.epilog = (
        "Exits with 1 when the test accuracy is not the one in the weights' record (results/NAME.json or "
        "the run's result.json) to four decimals; on other hardware than the record's, when over two pictures differ."
    )


def run(args: argparse.Namespace) -> int:
    from featherweight import datasets, weights
    from featherweight.evaluation import evaluate
    from featherweight.utils import describe_device, pick_device

    _check_out(args)
    device = pick_device(args.device)
    path = weights.resolve(args.weights)
    network, card = weights.load(path)
    name = args.dataset or card.dataset
    if args.split == "test":
        pictures, of_train = datasets.load_test(name, args.data_dir), None
    else:
        training = datasets.load_train(name, args.data_dir)
        pictures, of_train = datasets.split_train(training)[1], len(training)
    if pictures.classes != card.classes:
        raise UserError(
            f"{path} tells {_few(card.classes)} apart, the data set {name} holds {_few(pictures.classes)}; "
            "evaluate on the data set the weights were made for, or on one with its classes"
        )
    record_path, record = find_record(path, card)
    with Progress("measuring", len(pictures)) as progress:
        found = evaluate(network, pictures, **_how(args, card, device), done=progress.step)
    comparison = None
    if args.split == "test" and record is not None and record_path is not None and name == card.dataset:
        comparison = compare(found, record, record_path, describe_device(device))
    trained_on = None if of_train is None or name != card.dataset else seen_in_training(card, record, of_train)
    title = f"{card.name} ({card.model}) on the {args.split} pictures of {name}"
    if not args.json:
        _tell(found, pictures, title)  # before the shifts, which take twenty times as long
    shifted = _measure_shifted(args, network, pictures, card, found, name, device) if args.shifted else None
    if args.json:
        print_json(
            {
                "weights": str(path),
                "model": card.model,
                "dataset": name,
                "split": args.split,
                **found.to_dict(),
                "trained_on": trained_on if of_train else False,
                "record": comparison,
                **({} if shifted is None else {"shifted": shifted}),
            }
        )
    elif shifted is not None:
        _tell_shifted(shifted, title)
    _remark(args.split, comparison, record_path, trained_on, name == card.dataset)
    return int(comparison is not None and not comparison["same"])


def _how(args: argparse.Namespace, card: Card, device: torch.device) -> dict[str, Any]:
    """What plain and shifted pictures are measured with alike."""
    return {"mean": card.mean, "std": card.std, "device": device, "batch_size": args.batch_size}


def _check_out(args: argparse.Namespace) -> None:
    """Raises UserError, before anything is measured, for an --out that could not be written in the end."""
    if args.out is None:
        return
    if not args.shifted:
        raise UserError("--out belongs to --shifted; give both, or print the figures with --json")
    require_place(args.out)


def _measure_shifted(
    args: argparse.Namespace,
    network: nn.Module,
    pictures: PictureSet,
    card: Card,
    clean: Evaluation,
    dataset: str,
    device: torch.device,
) -> dict[str, Any]:
    """The network under every shift, as `evaluation.tables` describes it; written where --out says."""
    import datetime

    import torch

    from featherweight.evaluation.shifts import SHIFTS, evaluate_shifted
    from featherweight.evaluation.tables import shifted_record
    from featherweight.utils import describe_device

    with Progress("shifted pictures", len(pictures) * sum(len(shift.strengths) for shift in SHIFTS)) as progress:
        shifted = evaluate_shifted(network, pictures, **_how(args, card, device), done=progress.step)
    about = {
        "command": _command(args),
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
    }
    measured = shifted_record(card, clean, shifted, dataset=dataset, split=args.split, about=about)
    if args.out is not None:
        write_atomic(args.out, json.dumps(measured, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        note(f"written to {args.out}")
    return measured


def _command(args: argparse.Namespace) -> str:
    """The command that repeats the measurement, wherever the data and one's own files lie."""
    weights = Path(args.weights)
    words = ["featherweight", "eval", weights.name if weights.is_absolute() else args.weights, "--shifted"]
    words += ["--split", args.split] if args.split != "test" else []
    words += ["--dataset", args.dataset] if args.dataset else []
    return shlex.join(words)


def find_record(path: Path, card: Card) -> tuple[Path | None, Record | None]:
    """The record of the weights at `path`: a run's result.json beside them, else results/NAME.json.

    A result.json beside them that is no record is of something else, and passed over with a note. Only a record of
    these very weights, by SHA-256, counts; (its path, None) says that there is one of others.
    """
    from featherweight.records import RESULTS, Record

    beside = path.with_name("result.json")
    other = None
    for candidate in (beside, path.parent.parent / "results" / f"{path.stem}.json", RESULTS / f"{path.stem}.json"):
        if candidate.is_file():
            try:
                record = Record.read(candidate)
            except UserError as error:
                if candidate != beside:
                    raise
                note(f"{error}; passed over")
                continue
            if record.weights_sha256 == card.weights_sha256:
                return candidate, record
            other = other or candidate
    return other, None


def compare(found: Evaluation, record: Record, record_path: Path, device: str) -> dict[str, Any]:
    """Whether the accuracy found is the recorded one, on as many pictures.

    To four decimals on the record's own hardware. Other hardware sums in another order, which can turn a picture whose
    two best classes are all but level: there, up to two pictures may differ.
    """
    recorded, slack = record.test_accuracy, 0.0 if device == record.device else 2.0
    same = (
        recorded is not None
        and record.test_images == found.images
        and (
            round(recorded, 4) == round(found.accuracy, 4)
            or abs(recorded - found.accuracy) * found.images < slack + 0.1
        )
    )
    return {"path": str(record_path), "test_accuracy": recorded, "test_images": record.test_images, "same": same}


def seen_in_training(card: Card, record: Record | None, of_train: int) -> bool | None:
    """Whether validation pictures were trained on: yes if as many as there are in all were; None where nobody says."""
    count = card.train_images or (record.train_images if record is not None else None)
    return None if count is None else count >= of_train


def _tell(found: Evaluation, pictures: PictureSet, title: str) -> None:
    rows = []
    for index, (name, accuracy) in enumerate(found.per_class.items()):
        row = found.confusion[index]
        wrong = [(count, pictures.classes[other]) for other, count in enumerate(row) if other != index and count]
        taken_for = max(wrong, key=lambda pair: pair[0]) if wrong else None
        rows.append(
            [
                name,
                sum(row),
                row[index],
                "–" if accuracy is None else f"{100 * accuracy:.2f}",
                f"{taken_for[1]} ({taken_for[0]})" if taken_for else "",
            ]
        )
    print_table(
        ["class", "pictures", "right", "%", "most often taken for"], rows, title=title, right=["pictures", "right", "%"]
    )
    right = sum(row[index] for index, row in enumerate(found.confusion))
    print(f"accuracy           {100 * found.accuracy:.2f} %  ({right:,} of {found.images:,} pictures)")
    print(f"loss               {found.loss:.4f}")
    print(f"calibration error  {100 * found.calibration_error:.2f} %")


def _tell_shifted(measured: dict[str, Any], title: str) -> None:
    """Accuracy in %, a row for each shift, from the weakest strength to the strongest."""
    rows = [
        [
            shift["shift"],
            *(f"{100 * accuracy:.2f}" for accuracy in shift["accuracy"]),
            f"{100 * shift['mean_accuracy']:.2f}",
        ]
        for shift in measured["shifts"]
    ]
    columns = ["accuracy in %", *(f"strength {number}" for number in range(1, len(rows[0]) - 1)), "mean"]
    print_table(columns, rows, title=f"{title}, shifted", right=columns[1:])
    for shift in measured["shifts"]:
        strengths = ", ".join(f"{one:g}" for one in shift["strengths"])
        print(textwrap.fill(f"{shift['shift']:<9} {shift['what']}: {strengths}", 80, subsequent_indent=" " * 10))
    mean, clean = measured["mean_accuracy"], measured["clean"]["accuracy"]
    print(f"accuracy  {100 * mean:.2f} % in the mean of all shifts, {100 * clean:.2f} % on pictures as they are")


def _remark(
    split: str, comparison: dict[str, Any] | None, record_path: Path | None, trained_on: bool | None, own_dataset: bool
) -> None:
    if comparison is not None:
        recorded = comparison["test_accuracy"]
        told = (
            f"{comparison['path']} records no test accuracy"
            if recorded is None
            else f"{comparison['path']} records {recorded:.4f} on {comparison['test_images']:,} pictures"
        )
        note(f"{told}: {'the same' if comparison['same'] else 'NOT the same'}")
    elif record_path is not None and split == "test" and own_dataset:
        note(f"{record_path} is the record of other weights, so it was not compared")
    if split == "val" and own_dataset:
        note(
            {
                True: "this network was TRAINED ON these validation pictures: the figures say nothing of new pictures",
                False: "these validation pictures were not trained on, but a recipe may have been chosen on them",
                None: "whether these validation pictures were trained on is not recorded: take the figures with care",
            }[trained_on]
        )


def _few(classes: tuple[str, ...]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:3])}{', …' if len(classes) > 3 else ''})"

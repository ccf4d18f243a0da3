"""`featherweight explain RUN_OR_WEIGHTS`: figures of a trained network, the data behind them, and a report to read."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight.terminal import Progress, note, print_json, print_table
from featherweight.utils import UserError, require_place, write_atomic

if TYPE_CHECKING:
    import torch
    from torch import nn

    from featherweight.config import TrainConfig
    from featherweight.datasets import PictureSet
    from featherweight.explain.gallery import Subject
    from featherweight.explain.layers import Layer
    from featherweight.explain.style import Exhibit
    from featherweight.records import Record
    from featherweight.weights import Card


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN_OR_WEIGHTS", help="a run's folder, a .safetensors file or a published name")
    add("--out", type=Path, metavar="FOLDER", help="where to write (default: RUN/explain, or explain-NAME for weights)")
    add("--data-dir", type=Path, help="where the data set is looked for first")
    add(
        "--split",
        choices=("test", "val"),
        help="test: all test pictures; val: the tenth of the training pictures that is kept for validation (default: "
        "test, but val for a run whose record says that it left the test pictures unread)",
    )
    add("--layer", help="the layer Grad-CAM and the receptive field look at (default: the last before global pooling)")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--json", action="store_true", help="print the paths and main figures as JSON")
    parser.epilog = "Writes each figure as PNG with its data as JSON beside it, and report.html, which holds them all."


def run(args: argparse.Namespace) -> int:
    from featherweight.explain.gallery import FIGURES, Skip

    begun = time.monotonic()
    source = _read(args)
    folder = args.out or source.default_folder()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose another folder with --out")
    require_place(folder / "report.html")
    shown, skipped = [], []
    with Progress("measuring the network", len(FIGURES) + 1, "steps") as progress:
        subject = source.measure()
        for name, draw in FIGURES:
            progress.step()
            progress.title = name
            try:
                shown.append(draw(subject))
            except Skip as reason:
                skipped.append((name, str(reason)))
        progress.step()
    for exhibit in shown:
        _write(exhibit, folder)
    report = folder / "report.html"
    write_atomic(report, _report(source, subject, shown, skipped))
    if args.json:
        seconds = round(time.monotonic() - begun, 2)
        print_json(_as_json(source, subject, report, shown, skipped) | {"seconds": seconds})
    else:
        rows = [[exhibit.title, f"{exhibit.name}.png"] for exhibit in shown]
        print_table(["figure", "file"], rows, title=f"{len(shown)} figures in {folder}")
        for name, reason in skipped:
            print(f"not drawn: {name} ({reason})")
        print(f"report     {report} (open it in a browser)")
    return 0


@dataclass(frozen=True, kw_only=True)
class _Source:
    """All that is read, and found sound, before anything is computed or written."""

    path: Path  # of the weights
    network: nn.Module
    card: Card
    record: Record | None
    settings: TrainConfig | None
    metrics: list[dict[str, Any]]
    layer: Layer
    device: torch.device
    pictures: PictureSet
    split: str
    trained_on: bool | None  # whether these pictures were trained on; None: nobody says
    data_dir: Path | None

    def default_folder(self) -> Path:
        if _is_run(self.path):
            return self.path.parent / ("explain" if self.path.stem == "model" else f"explain-{self.path.stem}")
        return Path(f"explain-{self.path.stem}")

    def measure(self) -> Subject:
        """The network evaluated on its pictures, with all else the figures need."""
        from featherweight.evaluation import evaluate
        from featherweight.explain.gallery import Subject

        card = self.card
        found = evaluate(self.network, self.pictures, mean=card.mean, std=card.std, device=self.device)
        return Subject(
            network=self.network.to(self.device),
            card=card,
            layer=self.layer,
            device=self.device,
            pictures=self.pictures,
            split=self.split,
            found=found,
            data_dir=self.data_dir,
            record=self.record,
            settings=self.settings,
            metrics=self.metrics,
            plan=_plan(self.settings, card.train_images),
        )


def _is_run(weights: Path) -> bool:
    """Whether the weights lie in a run's folder, and not in one for a model hub, whose config.json says no settings."""
    beside = weights.with_name("config.json")
    try:
        return beside.is_file() and "model_type" not in json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return True  # one that cannot be read is told of where it is read


def _read(args: argparse.Namespace) -> _Source:
    from featherweight import weights
    from featherweight.commands.eval import find_record
    from featherweight.explain.layers import find_layer
    from featherweight.training.run_folder import RunFolder
    from featherweight.utils import pick_device

    device = pick_device(args.device)
    path = weights.resolve(args.run)
    network, card = weights.load(path)
    record = find_record(path, card)[1]
    layer = find_layer(network, args.layer, (1, 3, card.input_size, card.input_size))
    metrics = RunFolder(path.parent).read_metrics() if _is_run(path) else []
    settings = _settings(path, card, record)
    split = args.split or _default_split(record, settings)
    pictures, trained_on = _pictures(args, split, card, record)
    return _Source(
        path=path,
        network=network,
        card=card,
        record=record,
        settings=settings,
        metrics=metrics,
        layer=layer,
        device=device,
        pictures=pictures,
        split=split,
        trained_on=trained_on,
        data_dir=args.data_dir,
    )


def _default_split(record: Record | None, settings: TrainConfig | None) -> str:
    """The test pictures, unless the run was one for choosing: those must not see them before the choice is made."""
    unread = record.test_accuracy is None if record is not None else settings is not None and not settings.read_test
    if unread:
        note("this run left the test pictures unread: the validation pictures are taken (--split test overrules this)")
    return "val" if unread else "test"


def _pictures(
    args: argparse.Namespace, split: str, card: Card, record: Record | None
) -> tuple[PictureSet, bool | None]:
    """The pictures of the split, and whether the network was trained on them (None: not recorded)."""
    from featherweight import datasets
    from featherweight.commands.eval import seen_in_training

    if split == "test":
        pictures, trained_on = datasets.load_test(card.dataset, args.data_dir), False
    else:
        training = datasets.load_train(card.dataset, args.data_dir)
        pictures, trained_on = datasets.split_train(training)[1], seen_in_training(card, record, len(training))
    if pictures.classes != card.classes:
        raise UserError(f"{args.run}: its classes are not those of the data set {card.dataset}; restore its card")
    return pictures, trained_on


# What the figures need of a configuration; the rest may be of another version of this program.
_NEEDED = ("epochs", "batch_size", "drop_last", "small_size", "small_until", "read_test", "schedule", "augment", "mix")


def _settings(path: Path, card: Card, record: Record | None) -> TrainConfig | None:
    """The run's settings: from its folder, else its record, else its recipe by name; None where nobody knows."""
    from featherweight import config as configuration

    if _is_run(path):
        source = path.with_name("config.json")
        try:
            found = json.loads(source.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"cannot read {source}: {error}; restore it, or explain the weights from elsewhere"
            ) from error
    elif record is not None and record.config:
        source, found = Path(f"results of {record.recipe}"), record.config
    elif card.recipe in configuration.recipe_names():
        source, found = Path(card.recipe), configuration.read_recipe(card.recipe).settings
    else:
        return None
    if not isinstance(found, dict):
        raise UserError(f"{source} holds no configuration; restore it")
    wanted = {key: found[key] for key in _NEEDED if key in found}
    optimizer = found.get("optimizer")
    if isinstance(optimizer, dict) and "lr" in optimizer:
        wanted["optimizer"] = {"lr": optimizer["lr"]}
    return configuration.apply(configuration.TrainConfig(), wanted, source=str(source))


def _plan(settings: TrainConfig | None, pictures: int | None) -> list[tuple[float, float]] | None:
    """(epochs done, learning rate) of about 400 steps, every epoch's last among them; None where nobody knows."""
    from featherweight.training.schedule import rate

    if settings is None or not pictures:
        return None
    size = settings.batch_size
    per_epoch = max(1, pictures // size if settings.drop_last else -(-pictures // size))
    total = per_epoch * settings.epochs
    steps = {part * (total - 1) // 400 for part in range(401)} | {
        epoch * per_epoch - 1 for epoch in range(1, settings.epochs + 1)
    }
    return [
        ((step + 1) / per_epoch, settings.optimizer.lr * rate(settings.schedule, step, total)) for step in sorted(steps)
    ]


def _write(exhibit: Exhibit, folder: Path) -> None:
    write_atomic(folder / f"{exhibit.name}.png", exhibit.png)
    content = {"title": exhibit.title, "caption": exhibit.caption, **exhibit.data}
    write_atomic(folder / f"{exhibit.name}.json", json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")


def _report(source: _Source, subject: Subject, shown: list[Exhibit], skipped: list[tuple[str, str]]) -> str:
    from featherweight.explain.page import page

    card, found = subject.card, subject.found
    split = {"test": "test pictures", "val": "validation pictures"}[subject.split]
    facts: list[tuple[str, Any]] = [
        ("network", f"{card.model}, {card.parameters:,} parameters"),
        ("recipe", card.recipe + (f", seed {card.seed}" if card.seed is not None else "")),
        ("pictures", f"{found.images:,} {split} of {card.dataset}"),
        ("accuracy", f"{100 * found.accuracy:.2f} %"),
        ("loss", f"{found.loss:.4f} nats"),
        ("calibration error", f"{100 * found.calibration_error:.2f} %"),
    ]
    if subject.record is not None:
        size = subject.record.receptive_field
        text = f"{size} pixels" if isinstance(size, int) else f"{size[0]} x {size[1]} pixels"
        rules = "all met" if subject.record.rules_passed else f"not met: {', '.join(subject.record.rules_failed or ())}"
        facts += [("receptive field", text), ("rules", rules), ("state", subject.record.selection)]
    facts += [
        ("layer looked at", f"{subject.layer.name}, a map of {' x '.join(map(str, subject.layer.shape))}"),
        ("weights", f"{source.path.name}, SHA-256 {card.weights_sha256[:16]}…"),
    ]
    notes = []
    if source.trained_on:
        notes.append("The network was TRAINED ON these pictures: these figures say nothing of how it does on new ones.")
    elif source.trained_on is None:
        notes.append("Whether the network was trained on these pictures is not recorded: take the figures with care.")
    if card.dataset == "digits":
        notes.append("This is the small data set 'digits', not CIFAR-10.")
    return page(f"{card.model}: what the network does, and why", facts, shown, skipped=skipped, notes=notes)


def _as_json(
    source: _Source, subject: Subject, report: Path, shown: list[Exhibit], skipped: list[tuple[str, str]]
) -> dict[str, Any]:
    found, folder = subject.found, report.parent
    return {
        "weights": str(source.path),
        "model": subject.card.model,
        "dataset": subject.card.dataset,
        "split": subject.split,
        "trained_on": source.trained_on,
        "images": found.images,
        "accuracy": found.accuracy,
        "calibration_error": found.calibration_error,
        "layer": subject.layer.name,
        "folder": str(folder),
        "report": str(report),
        "figures": [
            {
                "name": exhibit.name,
                "title": exhibit.title,
                "png": str(folder / f"{exhibit.name}.png"),
                "data": str(folder / f"{exhibit.name}.json"),
            }
            for exhibit in shown
        ],
        "skipped": [{"figure": name, "reason": reason} for name, reason in skipped],
    }

"""`featherweight train`: a recipe and overrides → a run folder with weights and a record."""

from __future__ import annotations

import argparse
import dataclasses
import signal
from pathlib import Path
from typing import Any

from featherweight import config as configuration
from featherweight import models
from featherweight.config import TrainConfig
from featherweight.terminal import note, print_json
from featherweight.utils import UserError, pick_device

# command-line name → key of the configuration
SHORT = {
    "model": "model",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "lr": "optimizer.lr",
    "seed": "seed",
    "device": "device",
    "threads": "threads",
    "dataset": "data.name",
    "augment": "augment.engine",
    "stop_at_accuracy": "stop_at_accuracy",
    "rules": "rules",
    "teacher": "teacher.weights",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--recipe", help="a published recipe's name or a .toml file (default: feather_quick; see recipes/)")
    add("--model", help="a registered network; its own recipe is taken where there is one")
    add("--epochs", help="passes over the training pictures")
    add("--batch-size", help="pictures a step")
    add("--lr", help="peak learning rate (muon: of the kernels; the rest follows in its proportion)")
    add("--seed", help="decides the start, the order, the augmentation and the dropout")
    add("--device", help="auto, cpu, cuda or mps")
    add("--threads", help="processor threads (0: torch's own choice)")
    add("--dataset", help="cifar10 or digits (small, comes with scikit-learn, needs no network)")
    add("--data-dir", type=Path, help="where the data set is looked for first, and put if fetched")
    add("--augment", help="albumentations, batched or none")
    add("--stop-at-accuracy", help="stop once this fraction of the validation pictures is right (holds 5,000 out)")
    add("--rules", help="the rule set the network must meet before training; none: train it all the same")
    add("--teacher", help="learn from this trained network's answers too: a published name, a weights file or a run")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting, such as optimizer.momentum=0.8",
    )
    add(
        "--resume",
        "-r",
        action="store_true",
        help="carry on the last interrupted run of this recipe and seed, or of --out",
    )
    add("--tensorboard", action="store_true", help="write the run's figures, pictures and graph for TensorBoard too")
    add("--out", type=Path, help="the run's folder (default: runs/RECIPE-seedN)")
    add(
        "--or-digits",
        action="store_true",
        help="where CIFAR-10 is neither here nor within reach, train on digits instead",
    )
    add("--json", action="store_true", help="print the result record as JSON")


def run(args: argparse.Namespace) -> int:
    overrides = _overrides(args)
    config = configuration.resolve(args.recipe or _recipe_for(args), overrides)
    if args.or_digits and config.data.name == "cifar10":
        config = _with_digits_if_needed(config, args, overrides)
    models.check_name(config.model)
    config, folder = _place(config, args, overrides)

    import torch

    from featherweight.training.engine import Interrupted
    from featherweight.training.run import RulesNotMet, train

    pick_device(config.device)  # a wrong one is told before anything else is
    note(f"{config.recipe}, seed {config.seed}, in {folder.path} (torch {torch.__version__})")
    try:
        record = train(
            config, folder, data_dir=args.data_dir, resume=args.resume, tensorboard=args.tensorboard, say=note
        )
    except RulesNotMet as error:
        note(str(error))
        return 1
    except Interrupted:
        note(f"stopped; the state is saved in {folder.path}: the same command with --resume carries on")
        return 128 + signal.SIGINT
    _draw_curves(folder)
    if args.json:
        print_json(record.to_dict())
    else:
        _tell(record, folder)
    return 0


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    overrides = {key: value for name, key in SHORT.items() if (value := getattr(args, name)) is not None}
    for pair in args.set:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair}: write it as KEY=VALUE, such as optimizer.momentum=0.8")
        overrides[key.strip()] = value.strip()
    if overrides.get("stop_at_accuracy") not in (None, "0") and "data.train_on" not in overrides:
        note("--stop-at-accuracy: a tenth of the training pictures is held out to measure it")
        overrides["data.train_on"] = "train"
    return overrides


def _recipe_for(args: argparse.Namespace) -> str:
    """The recipe where none is named: the model's own, digits for digits, else the quick one."""
    if args.model in configuration.recipe_names():
        return args.model
    return "digits" if args.dataset == "digits" else "feather_quick"


def _with_digits_if_needed(config: TrainConfig, args: argparse.Namespace, overrides: dict[str, Any]) -> TrainConfig:
    from featherweight import datasets

    if datasets.locate(args.data_dir) is not None:
        return config  # also where that copy is damaged: then the run stops and says so
    note(
        "CIFAR-10 is not on this machine: fetching it; failing that, the small data set 'digits' is trained on instead"
    )
    try:
        datasets.obtain(args.data_dir)
    except UserError as error:
        note(f"training on 'digits': {error}")
        others = {key: value for key, value in overrides.items() if key != "data.name"}
        return configuration.resolve("digits", others)
    return config


def _place(config: TrainConfig, args: argparse.Namespace, overrides: dict[str, Any]) -> tuple[TrainConfig, Any]:
    """The configuration and the folder: a new one, or on --resume the run's own with the overrides put over it."""
    from featherweight.training.run_folder import RunFolder, latest_folder, new_folder, run_name

    name = run_name(config.recipe, config.seed)
    if not args.resume:
        path = args.out or new_folder(Path("runs"), name)
        folder = RunFolder(path)
        if folder.checkpoint.exists() or folder.result.exists():
            raise UserError(f"{path} holds a run already; carry it on with --resume, or choose another --out")
        return config, folder
    # `--lr 0.01 --resume` carries on the run of the recipe as it is, with another rate from here on.
    unchanged = run_name(config.recipe.split("+")[0], config.seed)
    folder = RunFolder(args.out or latest_folder(Path("runs"), name, unchanged))
    if not folder.checkpoint.exists():
        raise UserError(f"no checkpoint in {folder.path}; start a run without --resume")
    before = folder.read_config()
    after = configuration.override(before, overrides)
    for key in ("seed", "model", "data", "batch_size", "drop_last", "whiten", "freeze_first", "optimizer.name"):
        if (old := configuration.get(before, key)) != configuration.get(after, key):
            raise UserError(f"--resume cannot change {key} of the run in {folder.path} ({old}); start a new run")
    kind = str(folder.started_with().get("device", "")).partition(" ")[0]
    if after.device == "auto" and "device" not in overrides and kind in ("cpu", "cuda", "mps"):
        after = dataclasses.replace(after, device=kind)  # where it was begun, also where there is a faster one now
    return after, folder


def _draw_curves(folder: Any) -> None:
    from featherweight.explain.curves import draw_curves

    draw_curves(folder.read_metrics(), folder.path / "curves.png")


def _tell(record: Any, folder: Any) -> None:
    what = f"{record.model}: {record.parameters:,} parameters, receptive field {record.receptive_field}"
    met = "all rules of structure met" if record.rules_passed else "not all rules of structure met"
    print(f"{what}, {met}")
    if record.test_accuracy is not None:
        pictures = f"{record.test_images:,} test pictures of {record.dataset}"
        print(f"test accuracy {record.test_accuracy:.2%} on {pictures} (last epoch, one view)")
    elif record.val_accuracy is not None:
        print(f"validation accuracy {record.val_accuracy:.2%}; the test pictures were not read")
    print(f"trained in {record.train_seconds:.0f} s, {record.wall_seconds:.0f} s in all, on {record.device}")
    print(f"weights, record and curves in {folder.path}")
    if record.dataset == "digits":
        print("this was the small data set 'digits', not CIFAR-10: its accuracy says nothing about the assignment")

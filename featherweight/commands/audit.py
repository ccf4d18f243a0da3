"""`featherweight audit`: measure what an augmentation pipeline really does to pictures, and judge it by rule."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight import terminal
from featherweight.commands.check import megabytes, seconds
from featherweight.utils import UserError

if TYPE_CHECKING:
    import numpy as np

    from featherweight.rules.audit import Source
    from featherweight.rules.audit_rules import AuditRules

ENGINES = ("albumentations", "batched")

ABOUT = """\
PIPELINE is path/to/file.py:NAME, where NAME is a pipeline (albumentations, torchvision transforms, or anything that
takes a picture), or a class or function that makes one without arguments. Or it is one of our own engines:
albumentations, batched; ENGINE:RECIPE audits it with that recipe's limits.

Auditing RUNS the file: its code is executed in a separate process, with a time limit, a memory limit, no standard
input and its output caught, but with your rights. Audit only files you would run.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `featherweight audit`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{parser.description}\n\n{ABOUT}"
    parser.add_argument("pipeline", metavar="PIPELINE", help="path/to/file.py:NAME, or albumentations, or batched")
    parser.add_argument(
        "--eval-transforms", metavar="FILE.py:NAME", help="the pipeline used in evaluation, judged beside it"
    )
    parser.add_argument(
        "--rules",
        default="assignment",
        metavar="FILE",
        help="a rule set's name or TOML file; its [augmentation] table sets what is required",
    )
    parser.add_argument(
        "--draws", type=int, default=400, metavar="N", help="draws on the main probe picture (default: 400)"
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="D",
        help="take the required mean and deviation from the CIFAR-10 training pictures found there",
    )
    parser.add_argument("--time-limit", type=seconds, default=120.0, metavar="SECONDS", help="default: 120")
    parser.add_argument("--memory-limit", type=megabytes, default=4096, metavar="MIB", help="default: 4096")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace) -> int:
    """Audit as asked: 0 all rules met, 1 some failed. Raises UserError for what cannot be run or read."""
    from featherweight.rules.audit import audit, parse_source
    from featherweight.rules.audit_rules import read_audit_rules

    rules = read_audit_rules(args.rules)
    if args.data_dir is not None:
        rules = _measured(rules, args.data_dir)
    own = args.pipeline.partition(":")[0] in ENGINES
    train = _own(args.pipeline, rules) if own else parse_source(args.pipeline)
    evaluation = parse_source(args.eval_transforms) if args.eval_transforms else _own_evaluation(rules) if own else None
    verdict = audit(
        train,
        evaluation,
        rules=rules,
        draws=args.draws,
        time_limit=args.time_limit,
        memory_limit=args.memory_limit,
        workers=not own,
    )
    if args.json:
        terminal.print_json(verdict)
    else:
        _show(verdict)
    return 0 if verdict["passed"] else 1


def _measured(rules: AuditRules, folder: Path) -> AuditRules:
    """The rules with mean and deviation measured on the training pictures in `folder`. Raises UserError without any."""
    from featherweight import datasets
    from featherweight.datasets.pictures import measure_statistics

    if not folder.is_dir():
        raise UserError(f"--data-dir {folder}: no such folder; give the one that holds cifar-10-batches-py")
    found = measure_statistics(datasets.load_train("cifar10", folder, fetch=False))
    return dataclasses.replace(rules, mean=found.mean, std=found.std)


# ---------------------------------------------------------------------------------------------- our own engines


def _own(text: str, rules: AuditRules) -> Source:
    from featherweight.config import TrainConfig, resolve
    from featherweight.rules.audit import Source

    engine, _, recipe = text.partition(":")
    spec = (resolve(recipe, {}) if recipe else TrainConfig()).augment
    arguments = {"settings": dataclasses.asdict(spec) | {"engine": engine}, "mean": rules.mean, "std": rules.std}
    return Source(where=text, module=__name__, name="own_pipeline", arguments=arguments)


def _own_evaluation(rules: AuditRules) -> Source:
    from featherweight.rules.audit import Source

    return Source(
        where="evaluation", module=__name__, name="own_evaluation", arguments={"mean": rules.mean, "std": rules.std}
    )


def own_pipeline(settings: dict[str, Any], mean: Sequence[float], std: Sequence[float]) -> Callable[..., Any]:
    """One of our engines as a pipeline for single pictures, called with image= uint8 (32, 32, 3)."""
    from featherweight.config import AugmentConfig

    spec = AugmentConfig(**settings)
    if spec.engine == "albumentations":
        from featherweight.augment import build_pipeline

        return build_pipeline(spec, mean, std)
    import torch

    from featherweight.augment import BatchAugmenter

    augmenter, generator = BatchAugmenter(spec, mean, std), torch.Generator().manual_seed(0)

    def batched(image: np.ndarray) -> torch.Tensor:
        return augmenter(torch.from_numpy(image[None]), generator)[0]

    return batched


def own_evaluation(mean: Sequence[float], std: Sequence[float]) -> Callable[..., Any]:
    """Our normalisation, as evaluation uses it, for single pictures."""
    import torch

    from featherweight.augment import normalize

    return lambda image: normalize(torch.from_numpy(image[None]), mean, std)[0]


# ---------------------------------------------------------------------------------------------- for people


def _show(verdict: dict[str, Any]) -> None:
    rows = [
        (item["rule"], "PASS" if item["passed"] else "FAIL", item["measured"], item["required"])
        for item in verdict["rules"]
    ]
    terminal.print_table(("rule", "", "measured", "required"), rows, title=f"audit of {verdict['pipeline']}")
    for item in verdict["rules"]:
        if not item["passed"]:
            print(f"{item['rule']}: {item['advice']}")
    for rule, why in verdict["not_measured"].items():
        print(f"not measured: {rule} ({why})")
    for note in verdict["notes"]:
        print(f"note: {note}")
    failed = sum(not item["passed"] for item in verdict["rules"])
    print("passed" if not failed else f"failed: {failed} of {len(verdict['rules'])} rules")

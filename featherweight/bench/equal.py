"""Accuracy after equal epochs: does our engine's speed cost anything of what is learned?

The plain loop and our engine train the same network from the same start, by the same optimiser (plain SGD at a constant
rate), over the same 45,000 pictures, for the same epochs; both are measured on the 5,000 validation pictures after the
last one. What is left to differ is what makes ours fast (its augmentation, precision, memory layout and fused
operations) and chance: each loop draws its batches and moves by a generator of its own. No test picture is read.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from featherweight.bench.contender import Contender
from featherweight.bench.job import LEARNING_RATE, MOMENTUM, Job
from featherweight.bench.machine import Idleness, describe
from featherweight.bench.speed import FORMS as ALL_FORMS
from featherweight.bench.speed import PLAIN, Options, base_job
from featherweight.terminal import Progress
from featherweight.training.run_folder import commit
from featherweight.utils import UserError

MODELS = ("separable_100k", "dilated_160k")
FORMS = ("albumentations", "batched")  # those that see the pictures as the plain loop does
CONFIDENCE = 0.95  # that all intervals of one measurement hold their differences (Bonferroni 1936)

# What the plain loop does, and nothing that it does not.
ALIKE: dict[str, Any] = {
    "optimizer.name": "sgd",
    "optimizer.lr": LEARNING_RATE,
    "optimizer.momentum": MOMENTUM,
    "optimizer.nesterov": False,
    "optimizer.weight_decay": 0.0,
    "schedule.name": "constant",
    "label_smoothing": 0.0,
    "dropout": True,
    "clip_norm": 0.0,
    "average": 0.0,
    "mix.mixup": 0.0,
    "mix.cutmix": 0.0,
    "whiten": False,
    "freeze_first": False,
    "small_size": 0,
    "small_until": 0.0,
    "augment.alternate_flip": False,
    "drop_last": True,
    "stop_at_accuracy": 0.0,
    "capture": False,
    "rules": "none",
    "data.train_on": "train",
    "read_test": False,
}


@dataclass(frozen=True)
class _Run:
    """One training: whose, from which seed, and the job that does it."""

    loop: str
    seed: int
    job: Job


def measure(
    epochs: int, options: Options, seeds: Sequence[int], say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Train every network for `epochs` by the plain loop and by each of our forms, once for each seed, one after the
    other, and compare the validation accuracies. Raises UserError for bad settings, missing data or a run that fails.
    """
    check(options, seeds)
    forms = list(dict.fromkeys(options.forms or FORMS))
    plans = {model: list(_runs(base_job(model, options), forms, epochs, seeds)) for model in options.models}
    for runs in plans.values():  # all settings are checked before any run
        for run in runs:
            run.job.config()
    comparisons = len(plans) * len(forms)
    idleness, networks, facts = Idleness(), [], {}
    with Progress("training", sum(map(len, plans.values())), "runs", lines=False) as bar:
        for model, runs in plans.items():
            found: dict[str, list[dict[str, Any]]] = {}
            for run in runs:
                name = f"{model}, {run.loop}, seed {run.seed}"
                say(f"{name}: {epochs} epochs")
                with Contender(name, run.job, say=prefixed(f"{model}, {run.loop}", say)) as contender:
                    facts = contender.ready().facts
                    answer = contender.ask({"do": "train", "epochs": epochs})
                found.setdefault(run.loop, []).append(_figures(run, answer))
                say(f"{name}: {100 * found[run.loop][-1]['accuracy']:.2f} %")
                bar.step()
            config = runs[0].job.config()
            networks.append(
                {
                    "model": model,
                    "dataset": config.data.name,
                    "batch_size": config.batch_size,
                    "loops": compare(found, comparisons),
                }
            )
    return {
        "kind": "equal_epochs",
        "commit": commit(),
        "machine": {**describe(facts), **idleness.found()},
        "epochs": epochs,
        "seeds": list(seeds),
        "learning_rate": LEARNING_RATE,
        "momentum": MOMENTUM,
        "met": all(loop["within_noise"] for network in networks for loop in network["loops"][1:]),
        "networks": networks,
    }


def check(options: Options, seeds: Sequence[int]) -> None:
    """Raises UserError for seeds or forms that cannot be compared."""
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise UserError("--seeds: the noise between runs takes two different seeds or more to be seen")
    unknown = [form for form in options.forms if form not in FORMS]
    if unknown:
        raise UserError(f"--forms: {unknown[0]!r} cannot be compared by accuracy; choose of {' and '.join(FORMS)}")


def _runs(base: Job, forms: Sequence[str], epochs: int, seeds: Sequence[int]) -> Iterator[_Run]:
    """All trainings of one network, seed by seed."""
    for seed in seeds:
        alike = {**base.overrides, **ALIKE, "epochs": epochs, "seed": seed}
        yield _Run(PLAIN, seed, replace(base, kind="plain", overrides=alike))
        for form in forms:
            yield _Run(form, seed, replace(base, kind="whole_run", overrides={**alike, **ALL_FORMS[form]}))


def _figures(run: _Run, answer: dict[str, Any]) -> dict[str, Any]:
    if run.loop == PLAIN:
        return {"seed": run.seed, "precision": "fp32", **answer}
    record = answer["record"]
    return {
        "seed": run.seed,
        "precision": record["precision"],
        "accuracy": record["val_accuracy"],
        "images": record["val_images"],
        "seconds": record["train_seconds"],
    }


def prefixed(name: str, say: Callable[[str], None]) -> Callable[[str], None]:
    """`say` that names who speaks first."""
    return lambda line: say(f"{name}, {line}")


def compare(found: dict[str, list[dict[str, Any]]], comparisons: int = 1) -> list[dict[str, Any]]:
    """Each loop's runs with their mean accuracy, its deviation and, for ours, the difference from the plain loop's mean
    with its confidence interval (Welch 1947: the loops' deviations need not be equal) and whether that holds 0.

    found: loop → its runs, the plain loop's first. comparisons: of the whole measurement, this network's among them;
    the more there are, the wider each interval.
    """
    plain = [run["accuracy"] for run in found[PLAIN]]
    loops = []
    for name, runs in found.items():
        accuracies = [run["accuracy"] for run in runs]
        loop: dict[str, Any] = {
            "name": name,
            "precision": runs[0]["precision"],
            "accuracy_mean": statistics.fmean(accuracies),
            "accuracy_deviation": statistics.stdev(accuracies),
            "train_seconds": statistics.fmean(run["seconds"] for run in runs),
            "runs": runs,
        }
        if name != PLAIN:
            low, high = _difference_interval(accuracies, plain, 1 - (1 - CONFIDENCE) / comparisons)
            loop |= {
                "difference": statistics.fmean(accuracies) - statistics.fmean(plain),
                "difference_interval": [low, high],
                "within_noise": low <= 0 <= high,
            }
        loops.append(loop)
    return loops


def _difference_interval(ours: Sequence[float], plain: Sequence[float], confidence: float) -> tuple[float, float]:
    from scipy.stats import t

    difference = statistics.fmean(ours) - statistics.fmean(plain)
    parts = [(statistics.variance(one) / len(one), len(one) - 1) for one in (ours, plain)]
    variance = sum(part for part, _ in parts)
    if variance == 0:  # no noise at all
        return difference, difference
    freedom = variance**2 / sum(part**2 / count for part, count in parts)
    half = float(t.ppf((1 + confidence) / 2, freedom)) * variance**0.5
    return difference - half, difference + half

"""Time to an accuracy, by the one protocol that does not look at the answer: the whole frozen recipe's training time,
counted when the accuracy on all test pictures after its last epoch reaches the target.

Stopping at the first epoch that reaches the target would need the test pictures read after every epoch; stopping by
validation pictures (`train --stop-at-accuracy`) holds training pictures out and gives a time for other data. A recipe
that overshoots or falls short is another recipe's business, chosen on validation pictures beforehand.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from featherweight.bench.contender import Contender
from featherweight.bench.job import Job
from featherweight.bench.machine import Idleness, describe
from featherweight.config import TrainConfig
from featherweight.terminal import Progress
from featherweight.training.run_folder import new_folder, run_name
from featherweight.utils import UserError, require_place

PROTOCOL = "the whole recipe's training time; all test pictures read once, after the last epoch, one view"
WARMED = "; before the clock, the GPU's kernels are loaded by a short run on noise, whose network is thrown away"
WATCH = 2.0  # seconds between looks at the memory of a run whose workers have some too


def measure(
    target: float,
    recipe: str,
    seeds: Sequence[int],
    *,
    data_dir: str | None = None,
    device: str = "auto",
    threads: int = 0,
    runs_folder: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train `recipe` once for each seed, each in a process of its own, and say what it took and whether the mean test
    accuracy reaches `target`. The runs (weights, record, metrics) are kept as new folders of `runs_folder`, where one
    is given. Raises UserError for bad settings, missing data or a run that fails."""
    job = Job(kind="whole_run", recipe=recipe, data_dir=data_dir, device=device, threads=threads)
    jobs, configs = _plan(job, seeds, runs_folder)
    idleness, runs, facts = Idleness(), [], {}
    with Progress("training", sum(config.epochs for config in configs), "epochs", lines=False) as bar:

        def epoch_done(line: str) -> None:
            say(line)
            bar.step()

        for seed, job, config in zip(seeds, jobs, configs, strict=True):
            say(f"{config.recipe}, seed {seed}: training for {config.epochs} epochs")
            workers = config.augment.engine == "albumentations" and config.augment.workers > 0
            with Contender(f"{recipe}, seed {seed}", job, say=epoch_done) as contender:
                facts = contender.ready().facts
                # Where no other processes augment, the system's own count of this one's memory is all there is to know.
                answer = contender.ask({"do": "train"}, watch=WATCH if workers else 0.0)
            runs.append(figures(answer, contender.peak_memory, target))
    return {
        "kind": "time_to",
        "machine": {**describe(facts), **idleness.found()},
        "target": target,
        "recipe": recipe,
        "model": configs[0].model,
        "dataset": configs[0].data.name,
        "protocol": PROTOCOL + (WARMED if facts["device"].startswith("cuda") else ""),
        **summarise(runs, target),
        "runs": runs,
    }


def _plan(job: Job, seeds: Sequence[int], runs_folder: Path | None) -> tuple[list[Job], list[TrainConfig]]:
    """The job of each seed, in a folder of its own where there is to be one, and its settings; all are checked before
    any run. Raises UserError."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {' '.join(map(str, seeds))}: give each seed once")
    jobs = [dataclasses.replace(job, overrides={"seed": seed}) for seed in seeds]
    configs = [job.config() for job in jobs]
    if runs_folder is not None:
        places = [new_folder(runs_folder, run_name(config.recipe, config.seed)) for config in configs]
        for place in places:
            require_place(place / "config.json")
        jobs = [dataclasses.replace(job, folder=str(place)) for job, place in zip(jobs, places, strict=True)]
    if not configs[0].read_test:
        raise UserError(f"recipe {job.recipe} leaves the test pictures unread: it cannot be timed to a test accuracy")
    return jobs, configs


def figures(answer: dict[str, Any], peak_memory: int, target: float) -> dict[str, Any]:
    """One run's row out of its record. `train_seconds`: first step to last; `wall_seconds`: everything from data to
    record, the start of Python and torch not included."""
    record = answer["record"]
    return {
        "seed": record["seed"],
        "train_seconds": record["train_seconds"],
        "wall_seconds": record["wall_seconds"],
        "epochs": record["epochs"],
        "precision": record["precision"],
        "train_images": record["train_images"],
        "flops": answer["flops"],
        "flops_per_second": answer["flops"] / record["train_seconds"],
        "test_images": record["test_images"],
        "test_accuracy": record["test_accuracy"],
        "met": record["test_accuracy"] >= target,
        "peak_memory_bytes": peak_memory,
        "device_memory_bytes": answer["device_memory"],
        "data_sha256": record["data_sha256"],
        "commit": record["commit"],
    }


def summarise(runs: Sequence[dict[str, Any]], target: float) -> dict[str, Any]:
    """Means over the runs; met: whether the mean accuracy reaches the target."""
    accuracies = [run["test_accuracy"] for run in runs]
    seconds = [run["train_seconds"] for run in runs]
    mean = statistics.fmean(accuracies)
    return {
        "met": mean >= target,
        "runs_that_met": sum(run["met"] for run in runs),
        "accuracy_mean": mean,
        "accuracy_deviation": statistics.stdev(accuracies) if len(runs) > 1 else None,
        "train_seconds": {"min": min(seconds), "mean": statistics.fmean(seconds), "max": max(seconds)},
    }

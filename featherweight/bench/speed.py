"""Training speed: the plain loop and our engine take turns in one run, at the same batch size.

In this process are no torch and no pictures: it only says whose turn it is. For each network the plain loop and our
forms start and wait; each of ours is tried out on all pictures (how fast it goes, how much memory it takes), so that a
turn of it can be laid out; each warms up; then turn and turn about, `repeats` times: a few matrix products, the plain
loop, each of our forms; last, a pass of each with a stopwatch between the parts of its steps.

    FLOP/s = multiply-adds of a picture's forward pass × 2 operations × 3 (backward costs twice forward) × images/s

The multiply-adds are those of direct convolutions, also where a quicker algorithm (Winograd's) takes fewer: FLOP/s say
how fast the same work is done.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from featherweight import config as configuration
from featherweight import models
from featherweight.bench.contender import WATCH, Contender
from featherweight.bench.job import Job
from featherweight.bench.machine import Idleness, cores, describe
from featherweight.config import TrainConfig
from featherweight.terminal import Progress
from featherweight.training.run_folder import commit
from featherweight.utils import UserError

PLAIN = "plain loop"
MODELS = ("feather_quick", "separable_100k", "dilated_160k")
FORMULA = (
    "multiply-adds (of direct convolutions) × 2 × 3 (forward + backward) × images/s, less what a frozen layer spares"
)
PRECISIONS = ("fp32", "bf16")  # of the matrix product
MATRIX_SECONDS = 0.3  # of matrix products in either precision, every time round
WARM_SHARE = 0.3  # of a turn's seconds, for the plain loop's warm-up

# Our engine's forms: name → what it changes in the recipe. "recipe" is the recipe as published.
FORMS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "full size": {"small_size": 0, "small_until": 0.0, "freeze_first": False},  # all the work of the plain loop
    "albumentations": {"augment.engine": "albumentations"},
    "batched": {"augment.engine": "batched"},
    "none": {"augment.engine": "none"},
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for."""

    models: Sequence[str] = MODELS
    forms: Sequence[str] = ()  # empty: what suits each recipe
    batch_size: int | None = None  # None: the recipe's
    repeats: int = 5
    seconds: float = 6.0  # of a turn
    dataset: str | None = None  # None: the recipe's
    data_dir: str | None = None
    device: str = "auto"
    threads: int = 0
    workers: int = 0  # worker processes of either loop; 0: as many as cores


def measure(options: Options, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """All that `featherweight bench` reports, as plain data. Raises UserError for bad settings or missing data."""
    jobs = [(name, base_job(name, options)) for name in options.models]
    chosen = [forms(job.config(), options.forms) for _, job in jobs]  # all settings are checked before any is run
    idleness = Idleness()
    with Contender("matrix product", Job(**_machine(options), kind="matrix", seconds=MATRIX_SECONDS)) as matrix:
        machine = matrix.ready().facts
        with Progress(
            "measuring", sum(_count(names, options.repeats) for names in chosen), "turns", lines=False
        ) as bar:
            networks = [
                _measure_network(name, job, names, matrix, options.repeats, say, bar)
                for (name, job), names in zip(jobs, chosen, strict=True)
            ]
    best = {kind: max(rate for network in networks for rate in network["matrix_rates"][kind]) for kind in PRECISIONS}
    product: dict[str, Any] = {"size": machine["size"], **best}
    return {
        "kind": "speed",
        "commit": commit(),
        "machine": {**describe(machine), **idleness.found()},
        "repeats": options.repeats,
        "seconds": options.seconds,
        "flops_formula": FORMULA,
        "matrix_product": product,
        "networks": [summarise(network, product) for network in networks],
    }


def base_job(model: str, options: Options) -> Job:
    """The recipe of the network's own name where there is one, else the quick one with this network in it."""
    models.check_name(model)
    own = model in configuration.recipe_names()
    overrides: dict[str, Any] = {} if own else {"model": model}
    # A teacher's forward pass is no work of the network's, and the plain loop has none.
    overrides["teacher.weights"] = ""
    if options.batch_size is not None:
        overrides["batch_size"] = options.batch_size
    if options.dataset is not None:
        overrides["data.name"] = options.dataset
    overrides["augment.workers"] = options.workers or cores()
    return Job(
        kind="engine",
        recipe=model if own else "feather_quick",
        overrides=overrides,
        seconds=options.seconds,
        workers=options.workers or cores(),
        **_machine(options),
    )


def _machine(options: Options) -> dict[str, Any]:
    return {"data_dir": options.data_dir, "device": options.device, "threads": options.threads}


def forms(config: TrainConfig, asked: Sequence[str]) -> list[str]:
    """The names of our engine's forms to be measured for a recipe. Raises UserError for one that does not fit it.

    Where none is asked for: a recipe that names albumentations is run with it and with augmentation in batches; a
    recipe that begins on small pictures is run without and with them; any other as it is.
    """
    unknown = [name for name in asked if name not in FORMS]
    if unknown:
        raise UserError(f"--forms: there is no form {unknown[0]!r}; choose among {', '.join(map(repr, FORMS))}")
    if "full size" in asked and not config.small_size:
        raise UserError(f"--forms: recipe {config.model} has no small pictures, so 'full size' is no form of its own")
    if asked:
        return list(dict.fromkeys(asked))
    if config.augment.engine == "albumentations":
        return ["albumentations", "batched"]
    return ["full size", "recipe"] if config.small_size else ["recipe"]


def _count(names: Sequence[str], repeats: int) -> int:
    """The turns of one network's contenders: our forms are tried out, all warm up, are timed, and are looked into."""
    return len(names) + (1 + len(names)) * (1 + repeats + 1)


def _measure_network(
    model: str,
    job: Job,
    names: Sequence[str],
    matrix: Contender,
    repeats: int,
    say: Callable[[str], None],
    bar: Progress,
) -> dict[str, Any]:
    """The raw figures of one network's contenders, and the matrix-product rates found between their turns."""
    config = job.config()
    jobs = {PLAIN: dataclasses.replace(job, kind="plain")}
    jobs |= {name: dataclasses.replace(job, overrides={**job.overrides, **FORMS[name]}) for name in names}
    say(f"{model}: starting {', '.join(jobs)}")
    bar.title = model
    with ExitStack() as stack:
        every = {name: stack.enter_context(Contender(f"{model}, {name}", one)) for name, one in jobs.items()}
        for contender in every.values():
            contender.ready(watch=WATCH)
        tried = {}
        for name in names:
            tried[name] = _lay_out(every[name], job.seconds, config.batch_size)
            bar.step()
        say(f"{model}: warming up")
        every[PLAIN].ask({"do": "turn", "seconds": WARM_SHARE * job.seconds}, watch=WATCH)
        bar.step()
        for name in names:  # a whole turn, so that a recipe's small pictures and its full ones come
            every[name].ask({"do": "turn"}, watch=WATCH)
            bar.step()
        turns, rates = _take_turns(every, matrix, repeats, lambda line: say(f"{model}: {line}"), bar)
        profiles = {}
        for name, contender in every.items():
            profiles[name] = contender.ask({"do": "profile"})
            bar.step()
        for contender in every.values():
            contender.dismiss()
    plain = every[PLAIN]
    tried[PLAIN] = profiles[PLAIN]
    return {
        "model": model,
        "recipe": job.recipe,
        "dataset": config.data.name,
        "batch_size": config.batch_size,
        "parameters": plain.facts["parameters"],
        "multiply_adds": plain.facts["multiply_adds"],
        "matrix_rates": rates,
        "loops": [
            _loop(name, contender, turns[name], tried[name], profiles[name]) for name, contender in every.items()
        ],
    }


def _loop(
    name: str, contender: Contender, turns: list[float], tried: dict[str, Any], profile: dict[str, Any]
) -> dict[str, Any]:
    """The raw figures of one contender. tried: what told its device's memory."""
    facts = contender.facts
    return {
        "name": name,
        "precision": facts["precision"],
        "fused": facts["fused"],
        "augmentation": facts["augmentation"],
        "multiply_adds": facts["multiply_adds"],
        "operations": facts["operations"],
        "turns": turns,
        "peak_memory_bytes": contender.peak_memory,
        "device_memory_bytes": tried["device_memory"],
        "shares": profile["shares"],
    }


def _take_turns(
    every: dict[str, Contender], matrix: Contender, repeats: int, say: Callable[[str], None], bar: Progress
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """(name → images/s of each turn, precision → matrix-product rate of each time round)."""
    turns: dict[str, list[float]] = {name: [] for name in every}
    rates: dict[str, list[float]] = {}
    for repeat in range(repeats):
        for kind, rate in matrix.ask({"do": "turn"})["rates"].items():
            rates.setdefault(kind, []).append(rate)
        for name, contender in every.items():
            turn = contender.ask({"do": "turn"})
            turns[name].append(turn["images"] / turn["seconds"])
            bar.step()
        so_far = ", ".join(f"{name} {found[-1]:,.0f}" for name, found in turns.items())
        say(f"turn {repeat + 1} of {repeats}: {so_far} images/s")
    return turns, rates


def _lay_out(form: Contender, seconds: float, batch_size: int) -> dict[str, Any]:
    """Try a form out over all pictures for half a turn's seconds, as a real run holds them in memory, and lay its turns
    out by the rate that it shows; what it found."""
    found = form.ask({"do": "try_out", "seconds": seconds / 2}, watch=WATCH)
    pictures, passes = turn_size(found["images_per_second"] * seconds, batch_size, found["images"])
    form.facts = form.ask({"do": "set_up", "pictures": pictures, "passes": passes})
    return found


def turn_size(wanted: float, batch_size: int, available: int) -> tuple[int, int]:
    """(pictures, passes) of a turn that takes about `wanted` pictures: whole batches, at least one, and the whole set
    several times where one pass is not enough."""
    batches = max(1, available // batch_size)
    steps = max(1, round(wanted / batch_size))
    passes = max(1, round(steps / batches))
    return (batches if passes > 1 else min(steps, batches)) * batch_size, passes


def summarise(network: dict[str, Any], product: dict[str, Any]) -> dict[str, Any]:
    """The network's raw figures with what follows from them: medians, ratios turn by turn, FLOP/s, shares of `product`.

    `augmentation_cost` of a form, where the form "none" was run as well, is the share of a turn's time that goes when
    it does without augmentation (whoever does it).
    """
    plain = network["loops"][0]["turns"]
    bare = next((loop["turns"] for loop in network["loops"] if loop["name"] == "none"), None)
    rates = {loop["name"]: statistics.median(loop["turns"]) for loop in network["loops"]}
    loops = []
    for loop in network["loops"]:
        rate = rates[loop["name"]]
        flops = loop["operations"] * rate
        ratios = [ours / theirs for ours, theirs in zip(loop["turns"], plain, strict=True)]
        costs = bare and [1 - ours / theirs for ours, theirs in zip(loop["turns"], bare, strict=True)]
        loops.append(
            {
                **loop,
                "images_per_second": rate,
                "ratio": _spread(ratios),
                "flops_per_second": flops,
                "of_matrix_product": {kind: flops / product[kind] for kind in PRECISIONS},
                "augmentation_cost": _spread(costs) if costs and loop["name"] != PLAIN else None,
            }
        )
    return {**network, "loops": loops}


def _spread(figures: Sequence[float]) -> dict[str, float]:
    return {"min": min(figures), "median": statistics.median(figures), "max": max(figures)}

"""Inference side by side: the same weights in torch (fp32, bf16) and ONNX (fp32, int8), one picture and 256 at a time.

Each form lives in a process of its own (onnxruntime's threads spin for a while after a call); they take turns. A form
that is not to be had here (a package is missing) is listed with the reason. ONNX runs on the processor, also where
torch runs on a GPU. `agreement` is the share of 512 pictures given the class that torch fp32 gives: speed without it
would mean nothing.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from featherweight.bench.contender import Contender
from featherweight.bench.job import Job
from featherweight.bench.machine import Idleness, describe
from featherweight.terminal import Progress
from featherweight.training.run_folder import commit
from featherweight.weights import resolve as find_weights

FORMS = {"torch_fp32": "torch fp32", "torch_bf16": "torch bf16", "onnx_fp32": "ONNX fp32", "onnx_int8": "ONNX int8"}
REFERENCE = "torch_fp32"
BATCH_SIZES = (1, 256)


def measure(
    weights: str,
    *,
    repeats: int = 5,
    seconds: float = 1.0,
    data_dir: str | None = None,
    device: str = "auto",
    threads: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Rates and latencies of every form at both batch sizes. Raises UserError when the weights cannot be used."""
    find_weights(weights)
    idleness = Idleness()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        say("exporting the network")
        shared = Job(
            kind="inference_files", weights=weights, folder=folder, data_dir=data_dir, device=device, threads=threads
        )
        with Contender("inference", shared) as child:
            facts = child.ready().facts
        unavailable = facts["unavailable"]
        shared = dataclasses.replace(shared, kind="inference", threads=facts["threads"])
        there = {
            form: stack.enter_context(Contender(name, dataclasses.replace(shared, form=form)))
            for form, name in FORMS.items()
            if form not in unavailable
        }
        for contender in there.values():
            contender.ready()
        classes = {form: contender.ask({"do": "classes"})["classes"] for form, contender in there.items()}
        latencies = _take_turns(there, repeats, seconds, say)
        memory = {form: contender.peak_memory for form, contender in there.items()}
        for contender in there.values():
            contender.dismiss()
    return {
        "kind": "predict",
        "commit": commit(),
        "machine": {**describe(facts), **idleness.found()},
        "weights": facts["name"],
        "model": facts["model"],
        "pictures": facts["pictures"],
        "repeats": repeats,
        "seconds": seconds,
        "forms": [
            {
                "form": form,
                "batch_size": batch_size,
                **figures(turns, batch_size),
                "agreement": agreement(classes[form], classes[REFERENCE]),
                "peak_memory_bytes": memory[form],
            }
            for (form, batch_size), turns in latencies.items()
        ],
        "unavailable": [{"form": form, "reason": reason} for form, reason in unavailable.items()],
    }


def _take_turns(
    there: dict[str, Contender], repeats: int, seconds: float, say: Callable[[str], None]
) -> dict[tuple[str, int], list[list[float]]]:
    """(form, batch size) → the latencies of each of its turns."""
    latencies: dict[tuple[str, int], list[list[float]]] = {}
    with Progress("measuring", len(BATCH_SIZES) * repeats * len(there), "turns", lines=False) as bar:
        for batch_size in BATCH_SIZES:
            for repeat in range(repeats):
                say(f"{batch_size} at a time: turn {repeat + 1} of {repeats}")
                for form, contender in there.items():
                    answer = contender.ask({"do": "turn", "batch_size": batch_size, "seconds": seconds})
                    latencies.setdefault((form, batch_size), []).append(answer["latencies"])
                    bar.step()
    return latencies


def figures(turns: list[list[float]], batch_size: int) -> dict[str, float]:
    """From the latencies (seconds) of each turn: the median over the turns of the rate, and over all calls the median
    and the 95th percentile of the latency."""
    rates = [batch_size * len(turn) / sum(turn) for turn in turns]
    calls = sorted(latency for turn in turns for latency in turn)
    return {
        "images_per_second": statistics.median(rates),
        "latency_median": statistics.median(calls),
        "latency_95": calls[min(len(calls) - 1, round(0.95 * (len(calls) - 1)))],
    }


def agreement(ours: list[int], reference: list[int]) -> float:
    """The share of pictures given the same class."""
    return sum(one == other for one, other in zip(ours, reference, strict=True)) / len(reference)

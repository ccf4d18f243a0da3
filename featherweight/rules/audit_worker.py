"""The separate process in which a stranger's pipeline is loaded and measured.

`python -m featherweight.rules.audit_worker SPEC RESULT`, both JSON files: started by audit.py, never by hand. What the
pipeline prints goes nowhere near the result.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import json
import os
import random
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from featherweight.rules.audit_measure import measure_evaluation, measure_training
from featherweight.rules.audit_probe import Pipeline, adapt, find_transform, load_module, ramps, resolve
from featherweight.utils import UserError

STREAM = 24  # pictures each of two workers makes; two fair coins agree that often once in 17 million times
PATIENCE = 60.0  # seconds a worker may take for them


def main() -> int:
    spec_file, result_file = map(Path, sys.argv[1:3])
    spec = json.loads(spec_file.read_text())
    sys.argv = [str(spec["train"].get("path", "audit"))]  # a file that parses its command line finds none
    try:
        limit_memory(int(spec["memory_bytes"]))
        result: dict[str, Any] = {"result": measure(spec)}
    except UserError as error:
        result = {"error": str(error)}
    except MemoryError:
        result = {
            "error": f"{spec['train']['where']} took more than {spec['memory_bytes'] >> 20} MiB of memory; "
            "raise --memory-limit if that is expected"
        }
    Path(result_file).write_text(json.dumps(result))
    return 0


def limit_memory(size: int) -> None:
    """Cap what the process may allocate, where the system can (on Linux private memory; elsewhere perhaps nothing)."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Load the pipelines of `spec` and measure them. Raises UserError."""
    random.seed(0)  # with these and reseed() an audit gives the same figures every time
    np.random.seed(0)  # noqa: NPY002 - the stranger's generator, not ours
    modules: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train, module = _pipeline(spec["train"], modules)
        calm_libraries()
        reseed(0)
        figures: dict[str, Any] = {
            "train": measure_training(train, int(spec["draws"]), _counter(spec.get("progress"))),
            "evaluation": None,
            "workers": None,
        }
        if spec.get("evaluation"):
            evaluation, _ = _pipeline(spec["evaluation"], modules)
            figures["evaluation"] = measure_evaluation(evaluation)
        if spec.get("workers", True):
            figures["workers"] = measure_workers(train, getattr(module, "worker_init_fn", None))
    return figures


def _counter(file: str | None) -> Callable[[], None]:
    """A function that counts its calls, for whoever looks into `file`."""
    count, due = 0, 0.0

    def step() -> None:
        nonlocal count, due
        count += 1
        if file is not None and time.monotonic() >= due:
            due = time.monotonic() + 0.2
            with contextlib.suppress(OSError):
                Path(file).write_text(str(count))

    return step


def _pipeline(source: dict[str, Any], modules: dict[str, Any]) -> tuple[Pipeline, Any]:
    where = source["where"]
    if source["kind"] == "made":  # one of this package's own engines, made by a function the caller names
        module = importlib.import_module(source["module"])
        return adapt(resolve(getattr(module, source["name"])(**source["arguments"]), where), where), module
    path = Path(source["path"])
    if str(path) not in modules:
        modules[str(path)] = load_module(path)
    module = modules[str(path)]
    return adapt(find_transform(module, source["name"], where), where), module


def calm_libraries() -> None:
    """One thread each: measuring needs no more, and a fork must not find other threads half-way through their work."""
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


# ---------------------------------------------------------------------------------------------- workers


def measure_workers(pipeline: Pipeline, worker_init_fn: Callable[[int], Any] | None) -> dict[str, Any] | None:
    """Fork two workers as torch's DataLoader does (random, numpy and torch seeded by worker, then the file's own
    worker_init_fn when it has one), and compare what they make of the same picture. None where there is no fork.

    alike: share of the pictures that are the same in both; reseeded: that share once the pipeline's own generator is
    reseeded (albumentations' set_random_seed), None where it has none.
    """
    if not hasattr(os, "fork"):
        return None
    init = worker_init_fn if callable(worker_init_fn) else None
    alike = _compare(pipeline, init, False)
    found: dict[str, Any] = {"alike": alike, "reseeded": None, "init": init is not None}
    if alike == 1.0 and _reseedable():
        found["reseeded"] = _compare(pipeline, init, True)
    return found


def _reseedable() -> list[Any]:
    """Every albumentations pipeline there is in this process, however the file holds it: each takes a new seed."""
    library = sys.modules.get("albumentations")
    kinds = tuple(filter(None, (getattr(library, name, None) for name in ("BaseCompose", "BasicTransform"))))
    if not kinds:
        return []
    everything = gc.get_objects()
    wanted = {
        kind for kind in set(map(type, everything)) if issubclass(kind, kinds) and hasattr(kind, "set_random_seed")
    }
    found = [item for item in everything if type(item) in wanted]
    return sorted(
        found, key=lambda item: not isinstance(item, kinds[:1])
    )  # a composition reseeds its parts: those come last


def reseed(number: int) -> None:
    """Give every albumentations transform a seed of its own."""
    for place, item in enumerate(_reseedable()):
        item.set_random_seed(100_000 * number + place)


def _compare(pipeline: Pipeline, init: Callable[[int], Any] | None, anew: bool) -> float | None:
    streams = [_stream(pipeline, init, anew, number) for number in (0, 1)]
    if any(len(stream) != STREAM for stream in streams):
        return None
    return sum(a == b for a, b in zip(*streams, strict=True)) / STREAM


def _stream(pipeline: Pipeline, init: Callable[[int], Any] | None, anew: bool, number: int) -> list[str]:
    """Hashes of STREAM outputs made in a forked process; fewer where that process failed or took too long."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            _seed_like_a_loader(number)
            if init is not None:
                init(number)
            if anew:
                reseed(1 + number)
            keys = [hashlib.sha256(pipeline.call(ramps()).tobytes()).hexdigest() for _ in range(STREAM)]
            os.write(writer, json.dumps(keys).encode())
        finally:
            os._exit(0)
    os.close(writer)
    text, deadline = b"", time.monotonic() + PATIENCE
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([reader], [], [], left)[0]:
            break
        block = os.read(reader, 1 << 16)
        if not block:
            break
        text += block
    os.close(reader)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        return json.loads(text)
    except ValueError:
        return []


def _seed_like_a_loader(number: int) -> None:
    base = 20_000
    random.seed(base + number)
    np.random.seed(np.random.SeedSequence([number, base]).generate_state(4))  # noqa: NPY002
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(base + number)
        from torch.utils.data._utils import worker

        worker._worker_info = worker.WorkerInfo(id=number, num_workers=2, seed=base + number, dataset=cast(Any, None))


if __name__ == "__main__":
    sys.exit(main())

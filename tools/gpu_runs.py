"""Trains what is meant for a GPU on one, in a given time: the teacher, then the students and others, several at a time.

    .venv/bin/python tools/gpu_runs.py --out FOLDER --minutes 25

Records, weights, cards and metrics of all finished runs come to lie in FOLDER/records.tar; what was not finished when
the time is up is stopped with its state saved in runs/, and the same command carries on there. Runs that share the GPU
take longer, and their records say that they shared it. Where the history is not there, set FEATHERWEIGHT_COMMIT to the
commit that the files are of: a record without one is not published.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

RUNS = Path("runs")
FIRST = [("teacher", 0)]
PLAN = [
    *((recipe, seed) for seed in range(5) for recipe in ("feather_200k", "feather_100k")),
    *((recipe, 0) for recipe in ("c1c2c3c4_dilated", "dilated_160k_ours", "c1c2c3c4_strided", "separable_100k_ours")),
]
KEPT = ("result.json", "model.safetensors", "model.json", "metrics.jsonl", "config.json")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for records.tar")
    parser.add_argument("--minutes", type=float, default=25, help="time for all; what is left then is stopped")
    parser.add_argument("--at-once", type=int, default=4, help="runs at a time: small networks do not fill a GPU")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    deadline = time.monotonic() + 60 * given.minutes
    finished = all_of(FIRST, 1, given.device, deadline) and all_of(PLAN, given.at_once, given.device, deadline)
    given.out.mkdir(parents=True, exist_ok=True)
    pack(given.out / "records.tar")
    return 0 if finished else 1


def all_of(plan: list[tuple[str, int]], at_once: int, device: str, deadline: float) -> bool:
    """Train each (recipe, seed), `at_once` at a time, until the deadline; whether all were finished."""
    waiting = [run for run in plan if not (folder(*run) / "result.json").exists()]
    running: dict[tuple[str, int], subprocess.Popen] = {}
    good = True
    while (waiting or running) and time.monotonic() < deadline:
        while waiting and len(running) < at_once:
            running[waiting[0]] = start(*waiting[0], device, at_once - 1)
            waiting.pop(0)
        for run in [run for run, process in running.items() if process.poll() is not None]:
            code = running.pop(run).returncode
            good = good and code == 0
            print(f"{run[0]}, seed {run[1]}: {'finished' if code == 0 else f'failed with {code}'}", flush=True)
        time.sleep(0.5)
    for process in running.values():
        process.terminate()  # saves its state
    for process in running.values():
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:  # what it had saved before stays good
            process.kill()
            process.wait()
    return good and not waiting and not running


def start(recipe: str, seed: int, device: str, beside: int) -> subprocess.Popen:
    """beside: how many other runs may share the device meanwhile; the record tells it with its times."""
    place = folder(recipe, seed)
    words = [
        sys.executable,
        "-m",
        "featherweight",
        "train",
        "--recipe",
        recipe,
        "--seed",
        str(seed),
        "--out",
        str(place),
    ]
    if place.exists() and not (place / "checkpoint.safetensors").exists():
        shutil.rmtree(place)  # begun, and stopped before anything was saved
    words += ["--device", device, *(["--resume"] if (place / "checkpoint.safetensors").exists() else [])]
    RUNS.mkdir(exist_ok=True)
    with (RUNS / f"{place.name}.log").open("a") as log:
        known = os.environ | {"FEATHERWEIGHT_BESIDE": str(beside)}
        return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=known)


def folder(recipe: str, seed: int) -> Path:
    return RUNS / f"{recipe}-seed{seed}"


def pack(path: Path) -> None:
    """Every log, and of every finished run what can be published; the teacher's weights are too large for it."""
    with tarfile.open(path, "w") as archive:
        for log in sorted(RUNS.glob("*.log")):
            archive.add(log)
        for record in sorted(RUNS.glob("*/result.json")):
            for name in KEPT:
                file = record.parent / name
                if file.is_file() and file.stat().st_size < 1_000_000:
                    archive.add(file)


if __name__ == "__main__":
    sys.exit(main())

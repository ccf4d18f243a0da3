r"""Trains what is meant for a GPU on one, in a given time: the teacher, its students and others, several at a time.

    .venv/bin/python tools/gpu_runs.py --out FOLDER --minutes 9

Records, weights, cards and metrics of all finished runs come to lie in FOLDER/records.tar, packed anew after each; the
teacher's weights, too large for it, and the checkpoints of unfinished runs lie beside it, so that another machine can
go on. What was not finished when the time is up is stopped with its state saved in runs/, and the same command carries
on there. Runs that share the GPU take longer, and their records say that they shared it. Where the history is not
there, set FEATHERWEIGHT_COMMIT to the commit that the files are of: a record without one is not published. The texts'
own recipes come last; they need albumentations, without which they fail and nothing else does.

Speed is measured apart, with nothing else on the GPU:

    .venv/bin/python -m featherweight bench --device cuda --out FOLDER/speed.json
    .venv/bin/python -m featherweight bench --time-to 0.85 --recipe feather_quick_gpu --seeds $(seq 0 19) \
        --device cuda --out FOLDER/time_to.json
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

RUNS = Path("runs")
TEACHER = ("teacher", 0)
STUDENTS = ("feather_200k", "feather_100k")  # begun when the teacher's run is finished
PLAN = [
    TEACHER,
    *((recipe, seed) for seed in range(5) for recipe in STUDENTS),
    *((recipe, 0) for recipe in ("separable_100k", "dilated_160k")),
]
KEPT = ("result.json", "model.safetensors", "model.json", "metrics.jsonl", "config.json")
STATE = ("checkpoint.safetensors", "metrics.jsonl", "config.json", "versions.json")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for records.tar and the other archives")
    parser.add_argument("--minutes", type=float, default=9, help="time for all; what is left then is stopped")
    parser.add_argument("--at-once", type=int, default=4, help="runs at a time: small networks do not fill a GPU")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    deadline = time.monotonic() + 60 * given.minutes
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {given.out}: {error.strerror}; choose another folder")
    try:
        finished = all_of(PLAN, given.at_once, given.device, deadline, on_finished=lambda: pack_all(given.out))
    finally:
        pack_all(given.out)
    return 0 if finished else 1


def all_of(
    plan: list[tuple[str, int]], at_once: int, device: str, deadline: float, on_finished: Callable[[], None]
) -> bool:
    """Train each (recipe, seed), `at_once` at a time, until the deadline; whether all were finished.

    Students wait for the teacher where it is in the plan, and are left where it failed.
    """
    waiting = [run for run in plan if not is_finished(run)]
    running: dict[tuple[str, int], subprocess.Popen] = {}
    good = True
    try:
        while (waiting or running) and time.monotonic() < deadline:
            ready = [run for run in waiting if run[0] not in STUDENTS or TEACHER not in plan or is_finished(TEACHER)]
            if not ready and not running:
                print("the teacher failed: its students are left", flush=True)
                return False
            for run in ready[: at_once - len(running)]:
                running[run] = start(*run, device, at_once - 1)
                waiting.remove(run)
            for run in [run for run, process in running.items() if process.poll() is not None]:
                code = running.pop(run).returncode
                good = good and code == 0
                print(f"{run[0]}, seed {run[1]}: {'finished' if code == 0 else f'failed with {code}'}", flush=True)
                on_finished()
            time.sleep(0.5)
    finally:
        stop(list(running.values()))
    return good and not waiting and not running


def stop(processes: list[subprocess.Popen]) -> None:
    """End them; each saves its state."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:  # what it had saved before stays good
            process.kill()
            process.wait()


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


def is_finished(run: tuple[str, int]) -> bool:
    return (folder(*run) / "result.json").exists()


def pack_all(out: Path) -> None:
    """records.tar: every log, and of every finished run what can be published; teacher.tar: the teacher's run, whose
    weights are too large for that; unfinished.tar: what the runs that are not finished are carried on from."""
    finished = sorted(record.parent for record in RUNS.glob("*/result.json"))
    begun = sorted(saved.parent for saved in RUNS.glob("*/checkpoint.safetensors"))
    files = [file for run in finished for file in present(run, KEPT) if file.stat().st_size < 1_000_000]
    pack(out / "records.tar", [*sorted(RUNS.glob("*.log")), *files])
    pack(out / "teacher.tar", present(folder(*TEACHER), KEPT) if is_finished(TEACHER) else [])
    pack(out / "unfinished.tar", [file for run in begun if run not in finished for file in present(run, STATE)])


def present(run: Path, names: tuple[str, ...]) -> list[Path]:
    return [run / name for name in names if (run / name).is_file()]


def pack(path: Path, files: list[Path]) -> None:
    """The files in a new archive, put in the place of an older one when it is whole; none where there are none."""
    unfinished = path.with_name(f"{path.name}.new")
    with tarfile.open(unfinished, "w") as archive:
        for file in files:
            archive.add(file)
    if files:
        unfinished.replace(path)
    else:
        unfinished.unlink()
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())

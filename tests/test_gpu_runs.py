"""tools/gpu_runs.py: so many runs at a time, none after the deadline, and what can be published in one archive."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import ModuleType

import pytest

from featherweight import config

PROGRAM = Path(__file__).resolve().parent.parent / "tools" / "gpu_runs.py"
SLEEP = "import sys, time; time.sleep(float(sys.argv[1])); sys.exit(int(sys.argv[2]))"


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_runs", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return module


def test_it_trains_recipes_that_there_are(plan: ModuleType) -> None:
    assert {recipe for recipe, _ in plan.PLAN} <= set(config.recipe_names())
    assert len(set(plan.PLAN)) == len(plan.PLAN)
    taught = {name for name in config.recipe_names() if config.resolve(name, {}).teacher.weights}
    assert taught == set(plan.STUDENTS)
    assert {config.resolve(name, {}).teacher.weights for name in taught} == {plan.folder(*plan.TEACHER).as_posix()}


def test_so_many_at_a_time_and_finished_ones_not_again(plan: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[subprocess.Popen] = []
    most = []

    def start(recipe: str, seed: int, device: str, beside: int) -> subprocess.Popen:
        assert beside == 1
        running.append(subprocess.Popen([sys.executable, "-c", SLEEP, "0.3", "0"]))
        most.append(sum(process.poll() is None for process in running))
        return running[-1]

    monkeypatch.setattr(plan, "start", start)
    done = plan.folder("a", 0)
    done.mkdir(parents=True)
    (done / "result.json").write_text("{}")
    told: list[int] = []
    finished = plan.all_of(
        [("a", seed) for seed in range(5)], 2, "cpu", time.monotonic() + 60, lambda: told.append(len(running))
    )
    assert finished
    assert len(running) == len(told) == 4
    assert max(most) == 2


@pytest.mark.parametrize(("seconds", "code"), [(60, 0), (0, 3)])
def test_a_run_past_the_deadline_or_one_that_fails_is_told(
    plan: ModuleType, monkeypatch: pytest.MonkeyPatch, seconds: int, code: int
) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLEEP, str(seconds), str(code)])
    monkeypatch.setattr(plan, "start", lambda *_: process)
    begun = time.monotonic()
    assert not plan.all_of([("a", 0)], 1, "cpu", begun + (1 if seconds else 30), lambda: None)
    assert process.poll() is not None
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("code", [0, 1])
def test_students_wait_for_their_teacher_and_others_do_not(
    plan: ModuleType, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    begun: list[str] = []

    def start(recipe: str, seed: int, device: str, beside: int) -> subprocess.Popen:
        begun.append(recipe)
        place = plan.folder(recipe, seed)
        place.mkdir(parents=True)
        if recipe == "teacher":
            assert begun == ["teacher"]
            if code == 0:
                (place / "result.json").write_text("{}")
        return subprocess.Popen([sys.executable, "-c", SLEEP, "0", str(code if recipe == "teacher" else 0)])

    monkeypatch.setattr(plan, "start", start)
    runs = [plan.TEACHER, ("feather_200k", 0), ("c1c2c3c4_dilated", 0)]
    assert plan.all_of(runs, 1, "cpu", time.monotonic() + 60, lambda: None) == (code == 0)
    assert sorted(begun) == sorted(recipe for recipe, _ in runs if code == 0 or recipe != "feather_200k")


def test_what_is_running_is_stopped_when_the_program_fails(plan: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", SLEEP, seconds, "0"]) for seconds in ("0", "60")]
    left = iter(processes)
    monkeypatch.setattr(plan, "start", lambda *_: next(left))

    def full() -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        plan.all_of([("a", 0), ("a", 1)], 2, "cpu", time.monotonic() + 60, full)
    assert all(process.poll() is not None for process in processes)


def test_the_archives_hold_what_can_be_published_and_what_is_carried_on(plan: ModuleType, tmp_path: Path) -> None:
    for name, size in (("little", 10), ("teacher", 1_000_000)):
        run = tmp_path / "runs" / f"{name}-seed0"
        run.mkdir(parents=True)
        (run / "result.json").write_text("{}")
        (run / "model.safetensors").write_bytes(bytes(size))
        (run / "checkpoint.safetensors").write_bytes(b"x")
    unfinished = tmp_path / "runs" / "unfinished-seed0"
    unfinished.mkdir()
    for name in ("metrics.jsonl", "checkpoint.safetensors", "config.json", "best.safetensors"):
        (unfinished / name).write_text("")
    (tmp_path / "runs" / "unfinished-seed0.log").write_text("epoch 1")
    plan.pack_all(tmp_path)

    def names(archive: str) -> list[str]:
        with tarfile.open(tmp_path / archive) as file:
            return sorted(file.getnames())

    assert names("records.tar") == [
        "runs/little-seed0/model.safetensors",
        "runs/little-seed0/result.json",
        "runs/teacher-seed0/result.json",
        "runs/unfinished-seed0.log",
    ]
    assert names("teacher.tar") == ["runs/teacher-seed0/model.safetensors", "runs/teacher-seed0/result.json"]
    assert names("unfinished.tar") == [
        "runs/unfinished-seed0/checkpoint.safetensors",
        "runs/unfinished-seed0/config.json",
        "runs/unfinished-seed0/metrics.jsonl",
    ]
    (unfinished / "result.json").write_text("{}")
    plan.pack_all(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.tar*")) == ["records.tar", "teacher.tar"]


def test_a_run_that_had_saved_nothing_is_begun_anew(plan: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    told: list[str] = []

    def popen(words: list[str], env: dict[str, str], **_: object) -> None:
        asked.append(words)
        told.append(env["FEATHERWEIGHT_BESIDE"])

    monkeypatch.setattr(plan.subprocess, "Popen", popen)
    for name in ("begun", "saved"):
        plan.folder(name, 0).mkdir(parents=True)
        (plan.folder(name, 0) / "config.json").write_text("{}")
    (plan.folder("saved", 0) / "checkpoint.safetensors").write_text("")
    for name in ("begun", "saved", "new"):
        plan.start(name, 0, "cpu", 3)
    assert told == ["3", "3", "3"]
    assert ["--resume" in words for words in asked] == [False, True, False]
    assert [plan.folder(name, 0).exists() for name in ("begun", "saved", "new")] == [False, True, False]

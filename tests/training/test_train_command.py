"""`featherweight train` as its users run it: without data, without a network, without a terminal, and on one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pseudo_terminal import Terminal

DEAD_END = "http://127.0.0.1:9"  # nothing listens there: as good as no network, and refused at once


def run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "FEATHERWEIGHT_DATA"}
    environment |= {"HOME": str(cwd), "XDG_CACHE_HOME": str(cwd.parent / "cache"), "PYTHONWARNINGS": "error"}
    environment |= {"http_proxy": DEAD_END, "https_proxy": DEAD_END, "no_proxy": ""}
    command = [sys.executable, "-m", "featherweight", "train", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def nowhere(tmp_path: Path, kernels: Path) -> Path:
    """A working folder with no data beside it, nor in the cache."""
    folder = tmp_path / "home" / "work"
    folder.mkdir(parents=True)
    shutil.copytree(kernels, folder.parent / "cache")
    return folder


def test_no_network_and_no_data_is_one_message_with_the_choices(nowhere: Path) -> None:
    done = run(nowhere)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "--data-dir" in last
    assert "--dataset digits" in last
    assert not (nowhere / "runs").exists()


@pytest.mark.slow
def test_or_digits_goes_on_and_says_so_first_and_last(nowhere: Path) -> None:
    done = run(nowhere, "--or-digits", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    assert "digits" in done.stderr.splitlines()[0]
    assert "digits" in done.stdout.splitlines()[-1]
    (record,) = nowhere.glob("runs/*/result.json")
    assert json.loads(record.read_text())["dataset"] == "digits"


@pytest.mark.slow
def test_digits_needs_nothing_and_resumes_nothing(nowhere: Path) -> None:
    done = run(nowhere, "--dataset", "digits", "--epochs", "1", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["test_images"] == 355
    assert record["recipe"] == "digits+epochs=1"
    lines = [line for line in done.stderr.splitlines() if line.startswith("epoch")]
    assert len(lines) == 1
    assert all("loss" in line and "accuracy" in line for line in lines)
    (folder,) = (nowhere / "runs").iterdir()
    kept = {path.name for path in folder.iterdir()}
    assert kept >= {"config.json", "versions.json", "metrics.jsonl", "result.json", "curves.png", "model.safetensors"}
    again = run(nowhere, "--dataset", "digits", "--epochs", "1", "--resume")
    assert again.returncode == 2
    assert "finished" in again.stderr
    over = run(nowhere, "--dataset", "digits", "--out", str(folder))
    assert over.returncode == 2
    assert "holds a run already" in over.stderr


def test_a_network_that_misses_the_rules_is_not_trained(nowhere: Path) -> None:
    done = run(nowhere, "--dataset", "digits", "--model", "dilated_160k", "--rules", "assignment", "--set", "epochs=1")
    assert done.returncode == 1, done.stderr
    assert "global_pooling" in done.stderr
    assert not list(nowhere.glob("runs/*/result.json"))


@pytest.mark.slow
def test_a_terminal_gets_a_bar_with_loss_and_accuracy(nowhere: Path) -> None:
    shown = Terminal()
    command = [sys.executable, "-m", "featherweight", "train", "--dataset", "digits", "--epochs", "1"]
    command += ["--set", "batch_size=8"]  # slow enough for the bar to be drawn
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    subprocess.run(
        command, cwd=nowhere, stdout=subprocess.DEVNULL, stderr=shown.stream, env=environment, timeout=120, check=True
    )
    text = shown.screen()
    assert "epoch 1/1" in text
    assert "accuracy" in text
    assert "━" in text


@pytest.mark.slow
def test_resume_takes_another_rate_but_no_other_data(nowhere: Path) -> None:
    begun = run(nowhere, "--dataset", "digits", "--epochs", "2", "--stop-at-accuracy", "0.01", "--out", "mine")
    assert begun.returncode == 0, begun.stderr
    assert "held out" in begun.stderr
    (nowhere / "mine" / "result.json").unlink()
    for change in ("seed=5", "whiten=false", "optimizer.name=adamw"):
        refused = run(nowhere, "--dataset", "digits", "--resume", "--out", "mine", "--set", change)
        assert refused.returncode == 2
        assert f"cannot change {change.split('=')[0]}" in refused.stderr


def test_main_py_takes_the_options_of_pytorch_cifar(nowhere: Path) -> None:
    main = Path(__file__).resolve().parents[2] / "main.py"
    command = [sys.executable, str(main), "--lr", "0.05", "--resume"]
    done = subprocess.run(command, cwd=nowhere, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no interrupted run" in done.stderr

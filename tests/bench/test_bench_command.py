"""`featherweight bench` as its users run it, on the small data set."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pseudo_terminal import Terminal

from featherweight.bench.table import speed_table

ROOT = Path(__file__).resolve().parents[2]


def bench(cwd: Path, *arguments: str, errors: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """errors: where its standard error goes, by itself into the answer."""
    command = [sys.executable, "-m", "featherweight", "bench", *arguments]
    environment = {**os.environ, "PYTHONWARNINGS": "error", "COLUMNS": "80", "TERM": "xterm"}
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "resnet50"], "no network is called 'resnet50'"),
        (["--seconds", "nan"], "not a number of seconds"),
        (["--time-to", "85"], "not an accuracy"),
        (["--repeats", "0"], "not a whole number from 1"),
        (["--dataset", "digits", "--forms", "magic"], "no form 'magic'"),
        (["--dataset", "imagenet"], "data.name"),
        (["--dataset", "digits", "--batch-size", "100000"], "batch_size"),
        (["--seeds", "1"], "belongs to the measurement of --time-to or --equal-epochs, not of training"),
        (["--time-to", "0.85", "--model", "feather_quick"], "belongs to the measurement of training or --equal-epochs"),
        (["predict", "--time-to", "0.85"], "predict and --time-to are 2 measurements"),
        (["--equal-epochs", "1", "--time-to", "0.85"], "--time-to and --equal-epochs are 2 measurements"),
        (["--equal-epochs", "1", "--seeds", "4"], "two different seeds or more"),
        (["--equal-epochs", "1", "--forms", "none"], "'none' cannot be compared by accuracy"),
        (["--equal-epochs", "0"], "not a whole number from 1"),
        (["predict", "--recipe", "digits"], "belongs to the measurement of --time-to, not of predict"),
        (["--time-to", "0.5", "--recipe", "no_such"], "no recipe 'no_such'"),
        (["--dataset", "digits", "--out", "/dev/null/x.json"], "cannot write /dev/null/x.json"),
        (["predict", "--weights", "no/such.safetensors"], "no weights at"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = bench(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_process_that_hands_out_the_turns_holds_no_torch() -> None:
    modules = "featherweight.commands.bench, featherweight.bench.speed, featherweight.bench.time_to, "
    modules += "featherweight.bench.predict, featherweight.bench.table"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_training_side_by_side(tmp_path: Path) -> None:
    options = ["--dataset", "digits", "--model", "feather_quick", "--forms", "recipe", "--device", "cpu"]
    options += ["--seconds", "0.2", "--repeats", "2", "--batch-size", "128", "--workers", "1"]
    options += ["--png", "speed.png", "--out", "speed.json"]
    shown = Terminal()
    done = bench(tmp_path, *options, "--json", errors=shown.stream)
    screen = shown.screen()
    assert done.returncode == 0, screen
    found: dict[str, Any] = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "speed.json").read_text())
    assert re.search(r"[━╸╺ ]{12} feather_quick: \d+ of \d+ turns", screen), screen
    assert "feather_quick: turn 1 of 2" in screen
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"speed.png", "speed.json"}
    assert found["command"] == (
        "featherweight bench --model feather_quick --batch-size 128 --dataset digits --workers 1 --forms recipe "
        "--repeats 2 --seconds 0.2 --device cpu"
    )
    (network,) = found["networks"]
    plain, ours = network["loops"]
    assert (network["batch_size"], network["parameters"], network["multiply_adds"]) == (128, 176_746, 21_798_336)
    assert plain["name"] == "plain loop"
    assert plain["precision"] == "fp32"
    assert not plain["fused"]
    for loop in (plain, ours):
        assert len(loop["turns"]) == 2
        assert min(loop["turns"]) > 0
        assert 150e6 < loop["peak_memory_bytes"] < 4e9
        assert sum(loop["shares"].values()) == pytest.approx(1)
        assert loop["flops_per_second"] == pytest.approx(loop["operations"] * loop["images_per_second"])
    assert plain["operations"] == 6 * plain["multiply_adds"] > ours["operations"] > 3 * plain["multiply_adds"]
    ratios = [mine / theirs for mine, theirs in zip(ours["turns"], plain["turns"], strict=True)]
    assert ours["ratio"]["min"] == pytest.approx(min(ratios))
    assert found["matrix_product"]["size"] == 2048
    assert found["matrix_product"]["fp32"] > 1e9
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["device"].startswith("cpu ")
    assert "separable" not in speed_table(found)
    assert "ours, recipe" in speed_table(found)


TINY = """
model = "feather_quick"
epochs = 1
batch_size = 64
[data]
name = "digits"
[optimizer]
lr = 0.05
"""


@pytest.mark.slow
def test_a_target_out_of_reach_is_told_by_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    options = ["--time-to", "1", "--recipe", "tiny.toml", "--seeds", "3", "--device", "cpu", "--out", "time.json"]
    done = bench(tmp_path, *options)
    assert done.returncode == 1, done.stderr
    assert "does not reach 100 %" in " ".join(done.stdout.split())
    assert "digits" in done.stdout.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.toml", "time.json"}  # its run's folder is gone
    found = json.loads((tmp_path / "time.json").read_text())
    (run,) = found["runs"]
    assert run["seed"] == 3
    assert run["test_images"] == 355
    assert run["epochs"] == 1
    assert 0 < run["train_seconds"] < run["wall_seconds"]
    assert run["test_accuracy"] == found["accuracy_mean"] < 1
    assert run["flops"] == 21_798_336 * 6 * (1442 // 64) * 64  # nothing is frozen, every picture of full size
    assert run["peak_memory_bytes"] > 150e6
    assert not found["met"]


@pytest.mark.slow
def test_inference_side_by_side(tmp_path: Path) -> None:
    done = bench(tmp_path, "predict", "--seconds", "0.1", "--repeats", "1", "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = {(row["form"], row["batch_size"]): row for row in found["forms"]}
    assert {("torch_fp32", 1), ("torch_fp32", 256), ("torch_bf16", 1), ("torch_bf16", 256)} <= set(rows)
    told = {form for form, _ in rows} | {missing["form"] for missing in found["unavailable"]}
    assert told == {"torch_fp32", "torch_bf16", "onnx_fp32", "onnx_int8"}
    assert all(missing["reason"] for missing in found["unavailable"])
    assert rows["torch_fp32", 1]["agreement"] == 1
    assert rows["torch_bf16", 1]["agreement"] > 0.9
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnxscript"):
        assert rows["onnx_fp32", 256]["agreement"] > 0.99
        if found["pictures"] == "cifar10":
            assert rows["onnx_int8", 256]["agreement"] > 0.8
    for (_, batch_size), row in rows.items():
        assert row["latency_median"] <= row["latency_95"]
        assert row["images_per_second"] == pytest.approx(batch_size / row["latency_median"], rel=0.9)
    # One picture at a time is never the faster way through many.
    assert rows["torch_fp32", 256]["images_per_second"] > rows["torch_fp32", 1]["images_per_second"]

"""`featherweight explain` from a run's folder or weights to figures, data and report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from featherweight import models, terminal, weights
from featherweight.cli import main
from featherweight.config import TrainConfig, resolve, to_dict
from featherweight.datasets import CLASSES, STATISTICS, load_train, split_train
from featherweight.explain import gallery
from featherweight.records import RESULTS, load_all
from featherweight.weights import Card

ALWAYS = [
    "augmented_batch",
    "confusion_matrix",
    "per_class",
    "calibration",
    "wrong_pictures",
    "attribution_right",
    "attribution_wrong",
    "first_filters",
    "receptive_field",
]


def make_run(folder: Path, *, dataset: str = "digits", config: TrainConfig | None = None) -> Path:
    """A run's folder as training leaves it, of an untrained network."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    statistics = STATISTICS[dataset]
    card = Card(
        name="little",
        model="feather_quick",
        classes=CLASSES[dataset],
        mean=statistics.mean,
        std=statistics.std,
        input_size=32,
        dataset=dataset,
        recipe="little",
        seed=0,
        train_images=1442,
    )
    weights.save(folder / "model.safetensors", models.build("feather_quick", classes=10), card)
    config = resolve("digits", {"epochs": 3}) if config is None else config
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    lines = [
        {"epoch": n, "train_loss": 2.0 - n / 2, "train_accuracy": 0.3 + n / 5, "lr": 0.1, "seconds": 1.5}
        for n in (0, 1, 2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.mark.usefixtures("few_figures")
def test_a_run_for_choosing_does_not_see_the_test_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run")
    card = weights.read_card(folder / "model.json")
    values = {"test_images": 0, "test_accuracy": None, "test_loss": None, "weights_sha256": card.weights_sha256}
    published = next(iter(load_all(RESULTS).values()))
    replace(published, **values, per_class=None, calibration_error=None).write(folder / "result.json")
    found = answer(capsys, "explain", str(folder), "--device", "cpu")
    assert found["split"] == "val"
    assert found["images"] == len(split_train(load_train("digits"))[1])


@pytest.fixture
def few_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two figures instead of eleven, for tests that ask about something else."""
    chosen = [entry for entry in gallery.FIGURES if entry[0] in ("confusion matrix", "accuracy against parameters")]
    assert len(chosen) == 2
    monkeypatch.setattr(gallery, "FIGURES", tuple(chosen))


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_gives_figures_data_and_report(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "explain", str(run_folder), "--device", "cpu")
    assert found["folder"] == str(run_folder / "explain")
    assert [figure["name"] for figure in found["figures"]] == ["learning_curves", *ALWAYS]
    assert [entry["figure"] for entry in found["skipped"]] == ["accuracy against parameters"]
    assert found["layer"] == "c4"
    measured = answer(capsys, "eval", str(run_folder), "--device", "cpu")
    assert {key: found[key] for key in ("accuracy", "images", "calibration_error")} == {
        key: measured[key] for key in ("accuracy", "images", "calibration_error")
    }
    report = Path(found["report"]).read_text(encoding="utf-8")
    for figure in found["figures"]:
        with Image.open(figure["png"]) as image:
            assert image.format == "PNG"
        assert json.loads(Path(figure["data"]).read_text(encoding="utf-8"))["title"] == figure["title"]
        assert f'id="{figure["name"]}"' in report
    assert report.count("data:image/png;base64,") == len(found["figures"])
    assert f"{100 * found['accuracy']:.2f} %" in report
    assert "small data set &#x27;digits&#x27;" in report
    data = {name: json.loads((run_folder / "explain" / f"{name}.json").read_text()) for name in ALWAYS}
    assert data["confusion_matrix"]["confusion"] == measured["confusion"]
    assert data["calibration"]["expected_calibration_error"] == pytest.approx(found["calibration_error"])
    assert data["receptive_field"]["theoretical"]["size"] == [65, 65]
    assert data["augmented_batch"]["augmentation"]["rotate_limit"] == 10.0  # the recipe's, not the default
    curves = json.loads((run_folder / "explain" / "learning_curves.json").read_text())
    steps = 1442 // 64
    assert curves["schedule"][0] == pytest.approx([1 / steps, 0.01])  # the recipe's: a tenth of 0.1 in the first step
    assert curves["schedule"][-1][0] == 3
    assert 0.095 < max(rate for _, rate in curves["schedule"]) <= 0.1


def test_weights_alone_go_to_a_folder_of_their_name(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for ending in (".safetensors", ".json"):
        (tmp_path / f"mine{ending}").write_bytes((run_folder / f"model{ending}").read_bytes())
    monkeypatch.chdir(tmp_path)
    found = answer(capsys, "explain", "mine.safetensors", "--split", "val", "--layer", "c2.1", "--device", "cpu")
    assert found["folder"] == "explain-mine"
    assert found["layer"] == "c2.1"
    assert found["trained_on"] is True
    reasons = {entry["figure"]: entry["reason"] for entry in found["skipped"]}
    assert "no metrics" in reasons["learning curves"]
    assert "little" in reasons["augmented batch"]
    report = (tmp_path / "explain-mine" / "report.html").read_text(encoding="utf-8")
    assert "TRAINED ON" in report
    assert "no metrics" in report


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("metrics.jsonl", '{"epoch": 0}\n', "metrics.jsonl, line 1"),
        ("metrics.jsonl", "{truncat", "metrics.jsonl, line 1"),
        ("metrics.jsonl", b"\xff\xfe\x00", "metrics.jsonl"),
        ("config.json", "[1, 2]", "holds no configuration"),
        ("config.json", "{", "config.json"),
        ("config.json", '{"augment": {"flip_p": 7}}', "flip_p"),
        ("model.json", "{}", "model.json"),
    ],
)
def test_damaged_runs_are_one_line(
    name: str, content: str | bytes, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["explain", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert len(err.strip().splitlines()) == 1
    assert not (folder / "explain").exists()


def test_what_cannot_be_explained_is_one_line(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    for arguments, told in (
        (["no_such_run"], "no weights at"),
        ([str(tmp_path)], "holds no model.safetensors"),
        ([str(run_folder), "--layer", "c9"], "no layer 'c9'"),
        ([str(run_folder), "--out", str(taken)], "is a file"),
        ([str(run_folder), "--device", "tpu"], "unknown device"),
    ):
        assert main(["explain", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert told in err
        assert len(err.strip().splitlines()) == 1


def test_without_cifar10_it_says_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", dataset="cifar10")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FEATHERWEIGHT")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONWARNINGS": "error"}
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        environment[name] = "http://127.0.0.1:9"  # nothing answers there
    command = [sys.executable, "-m", "featherweight", "explain", str(folder)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert "CIFAR-10 was not found" in last
    assert "Traceback" not in done.stderr
    assert not (folder / "explain").exists()


@pytest.mark.usefixtures("few_figures")
def test_progress_goes_to_standard_error(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.0)
    assert main(["explain", str(run_folder), "--out", str(tmp_path / "o"), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert [line.partition(",")[0] for line in err.splitlines()] == [
        "measuring the network: 1 of 3 steps",
        "confusion matrix: 2 of 3 steps",
    ]
    assert all(" left" in line for line in err.splitlines())
    assert "report.html" in out
    assert "measuring" not in out


@pytest.mark.cifar10
def test_the_quick_network_is_explained_in_under_a_minute(
    cifar10_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.process_time()
    found = answer(capsys, "explain", "feather_quick", "--data-dir", str(cifar10_dir), "--out", str(tmp_path))
    assert time.process_time() - begun < 2 * 60  # both cores' seconds, so that a busy machine does not count
    names = [figure["name"] for figure in found["figures"]]
    assert names == [*ALWAYS, "accuracy_parameters"]
    points = json.loads((tmp_path / "accuracy_parameters.json").read_text())["points"]
    this = [point for point in points if point["whose"] == "this"]
    assert this[0]["accuracy"] == pytest.approx(found["accuracy"])
    assert {point["name"] for point in points} >= {"cifar10-tiniest", "ResNet-20", "feather_quick"}
    overlays = json.loads((tmp_path / "attribution_wrong.json").read_text())
    assert overlays["completeness_error"] < 0.5  # whichever the weights: a wrong sign or factor would be 1 and more
    assert all(shown["true"] != shown["said"] for shown in overlays["pictures"])


@pytest.mark.usefixtures("few_figures")
def test_a_best_state_of_a_run_for_choosing_does_not_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run", config=resolve("digits", {"read_test": "false"}))
    for ending in (".safetensors", ".json"):
        (folder / f"model{ending}").rename(folder / f"best{ending}")
    found = answer(capsys, "explain", str(folder / "best.safetensors"), "--device", "cpu")
    assert found["split"] == "val"
    assert found["folder"] == str(folder / "explain-best")

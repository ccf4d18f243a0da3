"""`featherweight replay`: a recorded run's first steps, bit for bit; a record that is not theirs is found out."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from featherweight import records, weights
from featherweight.cli import main
from featherweight.utils import describe_device, pick_device

ROOT = Path(__file__).resolve().parents[2]
TOLD = {
    name: record
    for name, record in records.load_all(ROOT / "results").items()
    if "first_losses" in (record.extras or {})
}
NEWEST = max((name for name in weights.published() if name in TOLD), key=lambda name: TOLD[name].date or "", default="")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "digits"
    # Two epochs of five steps and a short one that is left out: the first ten are of both.
    words = ["train", "--recipe", "digits", "--epochs", "2", "--batch-size", "250"]
    words += ["--set", "whiten=true", "--device", "cpu", "--out", str(folder)]
    assert main(words) == 0
    return folder


def test_the_first_ten_steps_are_the_recorded_ones(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(run / "result.json"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["equal"]
    assert found["found"] == found["recorded"]
    assert len(set(found["found"])) == 10
    assert found["differs"] == []


def test_the_steps_are_repeated_where_they_were_taken(run: Path, tmp_path: Path) -> None:
    """Whatever device the settings name: "auto" would take a faster one that is here now."""
    record = records.Record.read(run / "result.json")
    assert record.config is not None
    dataclasses.replace(record, config=record.config | {"device": "cuda"}).write(tmp_path / "other.json")
    assert main(["replay", str(tmp_path / "other.json")]) == 0


def test_what_cannot_be_the_same_here_is_told(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No compiler where there was one; a network that no longer meets the rules it was held to."""
    record = records.Record.read(run / "result.json")
    assert record.config is not None
    monkeypatch.setattr("featherweight.fused.build.library", lambda: None)
    without = dataclasses.replace(record, config=record.config | {"fused": False})  # as where there is no compiler
    dataclasses.replace(without, extras={**(record.extras or {}), "fused": True}).write(tmp_path / "fused.json")
    main(["replay", str(tmp_path / "fused.json"), "--json"])
    assert "fused operations: there is no C compiler here" in json.loads(capsys.readouterr().out)["differs"]
    dataclasses.replace(record, config=record.config | {"model": "separable_100k"}).write(tmp_path / "other.json")
    assert main(["replay", str(tmp_path / "other.json")]) == 1
    assert "receptive_field: 31" in capsys.readouterr().err


def test_a_record_of_another_seed_or_setting_is_found_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = records.Record.read(run / "result.json")
    assert record.config is not None
    for change in ({"seed": 1}, {"label_smoothing": 0.3}):
        other = dataclasses.replace(record, config=record.config | change)
        other.write(tmp_path / "other.json")
        assert main(["replay", str(tmp_path / "other.json")]) == 1
        assert "Not the same" in capsys.readouterr().out


def test_a_record_without_first_losses_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = records.Record.read(run / "result.json")
    dataclasses.replace(record, extras={}).write(tmp_path / "bare.json")
    assert main(["replay", str(tmp_path / "bare.json")]) == 2
    assert "first steps" in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "absent.json")]) == 2


@pytest.mark.cifar10
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({"feather_quick", NEWEST} & TOLD.keys()))
def test_a_published_runs_first_steps_come_again_from_its_commit(name: str, cifar10_dir: Path, tmp_path: Path) -> None:
    """The code of the record's own commit, run beside it; bits are compared on the record's kind of processor. Of all
    records the quick one and the newest: each takes half a minute, and an older one was tested when it was new."""
    record = TOLD[name]
    if not record.device.startswith("cpu") or (record.extras or {}).get("teacher_sha256"):
        pytest.skip(f"{name} is of {record.device}, or had a teacher that is not published: not repeated here")
    archive = subprocess.run(["git", "archive", record.commit], cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.skip(f"the history that holds {record.commit[:10]} is not here: its first steps were not repeated")
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=archive.stdout, check=True)
    words = ["replay", str(ROOT / "results" / f"{name}.json"), "--json", "--data-dir", str(cifar10_dir)]
    done = subprocess.run(
        [sys.executable, "-m", "featherweight", *words],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": str(record.threads)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = json.loads(done.stdout)
    if record.device == describe_device(pick_device("cpu")):
        assert found["found"] == found["recorded"]
    else:
        assert found["found"] == pytest.approx(found["recorded"], rel=0.02)

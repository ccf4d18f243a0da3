"""Records: the contract's fields, checked one by one; what a group of seeds says."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

import pytest

from featherweight.records import Record, group_by_recipe, load_all
from featherweight.utils import UserError, require_place, write_atomic, write_together

# in the design's own order
CONTRACT = [
    "recipe",
    "model",
    "parameters",
    "multiply_adds",
    "receptive_field",
    "rules_passed",
    "seed",
    "epochs",
    "train_images",
    "test_images",
    "test_accuracy",
    "test_loss",
    "selection",
    "wall_seconds",
    "train_seconds",
    "device",
    "threads",
    "torch",
    "commit",
    "data_sha256",
    "weights",
    "weights_sha256",
]


def values(**changes: Any) -> dict[str, Any]:
    base = {
        "recipe": "quick",
        "model": "feather_quick",
        "parameters": 151_234,
        "multiply_adds": 11_400_000,
        "receptive_field": 61,
        "rules_passed": True,
        "seed": 0,
        "epochs": 12,
        "train_images": 50_000,
        "test_images": 10_000,
        "test_accuracy": 0.8531,
        "test_loss": 0.4512,
        "selection": "none: last epoch",
        "wall_seconds": 130.5,
        "train_seconds": 118.25,
        "device": "cpu Some Processor",
        "threads": 2,
        "torch": "2.13.0",
        "commit": "abc123",
        "data_sha256": "a" * 64,
        "weights": "weights/quick.safetensors",
        "weights_sha256": "b" * 64,
    }
    return {**base, **changes}


def write(folder: Path, name: str, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(values(**changes)))
    return path


def test_files_that_belong_together_are_written_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("older")
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="b: it is there and no plain file"):
        write_together({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert (tmp_path / "a").read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    (tmp_path / "b").rmdir()
    write_together({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert {path.read_text() for path in tmp_path.iterdir()} == {"new"}


def test_the_contract_is_written_and_read_back(tmp_path: Path) -> None:
    record = Record(**values())
    record.write(tmp_path / "deep" / "result.json")
    written = json.loads((tmp_path / "deep" / "result.json").read_text())
    assert list(written) == CONTRACT
    assert written == values()
    assert Record.read(tmp_path / "deep" / "result.json") == record


def test_additions_are_kept(tmp_path: Path) -> None:
    more = {
        "dataset": "cifar10",
        "per_class": {"cat": 0.7, "dog": None},
        "calibration_error": 0.02,
        "command": "x",
        "config": {"optimizer": {"lr": 0.1, "nesterov": True}, "sizes": [1, 2]},
        "date": "2026-11-22",
        "val_accuracy": 0.84,
        "rules_failed": [],
        "extras": {"note": "é ✓"},
    }
    record = Record(**values(**more, receptive_field=[61, 45], commit=""))
    record.write(tmp_path / "r.json")
    assert Record.read(tmp_path / "r.json") == record
    assert json.loads((tmp_path / "r.json").read_text()) == values(**more, receptive_field=[61, 45], commit="")


WRONG = {
    "recipe": ["", " ", 3, None, "two\nlines"],
    "model": [""],
    "parameters": [-1, 1.5, "1", True, None, 10**400],
    "multiply_adds": [-1, 2.0],
    "receptive_field": [0, -3, [61], [61, 0], [61, 45, 3], 61.0, "61", [[[[]]]]],
    "rules_passed": [1, "yes", None],
    "seed": [-1, 0.0],
    "epochs": [-1, "12"],
    "train_images": [0],
    "test_accuracy": [-0.1, 1.01, 85.31, "0.85", None, True, float("nan"), float("inf"), 10**400],
    "test_loss": [-1, None, float("nan")],
    "selection": ["", None],
    "wall_seconds": [-1, "long"],
    "train_seconds": [-0.5, None],
    "device": ["", "tpu v4", "cpuish", None],
    "threads": [0, 1.0],
    "torch": [2.13],
    "commit": [None, 3],
    "data_sha256": ["", "a" * 63, "A" * 64, "g" * 64, None],
    "weights": [None, 3],
    "weights_sha256": ["", None],
    "per_class": [{"cat": 85}, [0.5], {"cat\n": 0.5}],
    "calibration_error": [2],
    "config": [[1], {"a": {1, 2}}, {"a": float("nan")}, {"a": "\ud800"}, {"a": b"bytes"}],
    "extras": ["text"],
    "val_accuracy": [1.5],
    "rules_failed": ["all"],
    "dataset": [""],
    "test_images": [-1, 0, 9_999.5],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, wrong in WRONG.items() for value in wrong])
def test_a_wrong_value_is_named(name: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        Record(**values(**{name: value}))
    text = str(caught.value)
    expected = {("test_images", "0"): "test_accuracy"}.get((name, str(value)), name)
    assert f": {expected} is " in text
    assert len(text) < 300


def test_every_field_has_a_wrong_value_above() -> None:
    assert set(CONTRACT) <= set(WRONG)


def test_training_cannot_outlast_the_run() -> None:
    with pytest.raises(UserError, match="train_seconds is 131, more than the 130"):
        Record(**values(train_seconds=131, wall_seconds=130))


def test_a_run_that_read_no_test_picture() -> None:
    record = Record(**values(test_images=0, test_accuracy=None, test_loss=None, val_accuracy=0.84))
    assert record.to_dict()["test_accuracy"] is None
    with pytest.raises(UserError, match=r"test_loss is 0\.3, but must be null"):
        Record(**values(test_images=0, test_accuracy=None, test_loss=0.3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "not a record in JSON"),
        (b"{\xff", "not a record in JSON"),
        (b"[]", "holds list"),
        (b"{}", "is missing 'recipe', 'model', 'parameters' and 19 more"),
        (b"[" * 99_999, "not a record in JSON"),
        (b'{"a": Infinity}', "Infinity is no JSON"),
        (b'{"a": 1, "a": 2}', "given twice"),
        (b" " * ((4 << 20) + 1), "larger than"),
        (json.dumps(values(surprise=1)).encode(), "unknown 'surprise'"),
        (json.dumps(values(seed="0")).encode(), "seed is '0', but must be a whole number from 0"),
        (json.dumps(values())[:-1].encode(), "not a record in JSON"),
        (json.dumps(values(seed="X")).replace('"X"', "[" * 900 + "]" * 900).encode(), "seed is "),
        (json.dumps(values(config="X")).replace('"X"', '{"a":' * 300 + "1" + "}" * 300).encode(), "config is "),
    ],
)
def test_files_that_are_no_record(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "broken.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        Record.read(path)
    assert "broken.json" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_folder_is_grouped_by_recipe(tmp_path: Path) -> None:
    write(tmp_path, "quick", seed=2, test_accuracy=0.8550)
    write(tmp_path, "quick-seed0", seed=0, test_accuracy=0.8510)
    write(tmp_path, "quick-seed1", seed=1, test_accuracy=0.8535)
    write(tmp_path, "slow-seed7", recipe="slow", seed=7, test_accuracy=0.9)
    (tmp_path / "notes.txt").write_text("not a record")
    found = load_all(tmp_path)
    assert list(found) == ["quick", "quick-seed0", "quick-seed1", "slow-seed7"]
    quick, slow = group_by_recipe(found)
    assert [record.seed for record in quick.records] == [0, 1, 2]
    assert quick.published is found["quick"] is quick.shown
    assert quick.mean == pytest.approx((0.8550 + 0.8510 + 0.8535) / 3, abs=1e-12)
    squares = sum((value - quick.mean) ** 2 for value in (0.8550, 0.8510, 0.8535))
    assert quick.deviation == pytest.approx((squares / 2) ** 0.5, abs=1e-12)
    assert quick.deviation == pytest.approx(statistics.stdev([0.8550, 0.8510, 0.8535]))
    assert (quick.count, quick.minimum) == (3, 0.8510)
    assert slow.published is None
    assert slow.shown is found["slow-seed7"]
    assert slow.deviation is None  # one run says nothing of the spread


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"other": {}}, r"other\.json: holds recipe quick, seed 0; name it quick\.json"),
        ({"quick-seed3": {"seed": 4}}, "holds recipe quick, seed 4"),
        ({"quick": {"seed": 1}, "quick-seed1": {"seed": 1}}, "two runs have the same seed"),
        ({"quick": {}, "quick-seed1": {"seed": 1, "epochs": 13}}, r"epochs differs between its runs \(12, 13\)"),
        ({"quick": {}, "quick-seed1": {"seed": 1, "model": "big"}}, "model differs"),
        ({"quick": {}, "quick-seed1": {"seed": 1, "data_sha256": "c" * 64}}, "data_sha256 differs"),
        ({"quick": {}, "quick-seed1": {"seed": 1, "selection": "best on test"}}, "selection differs"),
        ({"quick": {"test_images": 0, "test_accuracy": None, "test_loss": None}}, "test_accuracy is null"),
    ],
)
def test_records_that_do_not_belong_together(tmp_path: Path, files: dict[str, dict], message: str) -> None:
    for name, changes in files.items():
        write(tmp_path, name, **changes)
    with pytest.raises(UserError, match=message):
        group_by_recipe(load_all(tmp_path))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder of records"):
        load_all(tmp_path / "nowhere")
    assert load_all(tmp_path) == {}


def test_published_records_are_sound() -> None:
    """Those of this repository, as far as there are any."""
    folder = Path(__file__).resolve().parent.parent / "results"
    if folder.is_dir():
        for group in group_by_recipe(load_all(folder)):
            assert group.shown.selection == "none: last epoch"


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no such device here")
def test_nothing_is_written_over_a_device_a_pipe_or_a_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for place in (Path("/dev/full"), tmp_path / "pipe", tmp_path / "folder"):
        with pytest.raises(UserError, match="no plain file"):
            write_atomic(place, b"a record")
        with pytest.raises(UserError, match="no plain file"):
            require_place(place)
    assert Path("/dev/full").is_char_device()


def test_where_nothing_could_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    require_place(None)
    (tmp_path / "file").write_text("kept")
    require_place(tmp_path / "file")
    require_place(tmp_path / "not" / "yet" / "there.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # trying leaves nothing behind
    assert (tmp_path / "file").read_text() == "kept"
    for place in (tmp_path / "file" / "x.json", Path("/proc/nothing/x.json")):
        with pytest.raises(UserError, match=f"cannot write {place}: .*; free some space or choose another folder"):
            require_place(place)

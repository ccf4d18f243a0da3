"""`featherweight eval` from weights to exit code, on digits and, where it is here, on CIFAR-10."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight import models, weights
from featherweight.cli import main
from featherweight.datasets import STATISTICS, load_test, load_train, split_train
from featherweight.evaluation import evaluate
from featherweight.records import Record
from featherweight.weights import Card


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the weights of an untrained network for digits."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("run")
    statistics = STATISTICS["digits"]
    pictures = load_test("digits")
    card = Card(
        name="little",
        model="feather_quick",
        classes=pictures.classes,
        mean=statistics.mean,
        std=statistics.std,
        input_size=32,
        dataset="digits",
        recipe="little",
    )
    network = models.build("feather_quick", classes=10)
    weights.save(place / "model.safetensors", network, card)
    return place


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    network, card = weights.load(folder)
    return evaluate(network, load_test("digits"), mean=card.mean, std=card.std, device="cpu").to_dict()


@pytest.fixture
def recorded(folder: Path, expected: dict[str, Any]):
    """Writes result.json beside the weights, with the changes asked for; takes it away afterwards."""

    def write(**changes: Any) -> None:
        digest = weights.read_card(folder / "model.json").weights_sha256
        values: dict[str, Any] = {
            "recipe": "little",
            "model": "feather_quick",
            "parameters": 1,
            "multiply_adds": 1,
            "receptive_field": 61,
            "rules_passed": True,
            "seed": 0,
            "epochs": 1,
            "train_images": len(load_train("digits")),
            "test_images": expected["images"],
            "test_accuracy": expected["accuracy"],
            "test_loss": 2.3,
            "selection": "none: last epoch",
            "wall_seconds": 2,
            "train_seconds": 1,
            "device": "cpu x",
            "threads": 1,
            "torch": "2",
            "commit": "",
            "data_sha256": "a" * 64,
            "weights": "model.safetensors",
            "weights_sha256": digest,
        }
        Record(**{**values, **changes}).write(folder / "result.json")

    yield write
    (folder / "result.json").unlink(missing_ok=True)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["eval", *map(str, arguments), "--device", "cpu"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json(folder: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, folder, "--json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert {name: told[name] for name in expected} == expected
    assert told["images"] == len(load_test("digits")) == sum(map(sum, told["confusion"]))
    assert (told["model"], told["dataset"], told["split"]) == ("feather_quick", "digits", "test")
    assert told["record"] is None


def test_the_batch_size_is_used_and_changes_nothing(
    folder: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = []
    watch = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: sizes.append(len(inputs[0])) if type(module).__name__ == "FeatherQuick" else None
    )
    told = json.loads(run(capsys, folder, "--json", "--batch-size", 100)[1])
    watch.remove()
    assert sizes == [100, 100, 100, len(load_test("digits")) - 300]
    assert told["confusion"] == expected["confusion"]
    assert told["loss"] == pytest.approx(expected["loss"], abs=1e-6)


def test_the_table_for_people(folder: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, folder)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    lines = out.splitlines()
    assert "little (feather_quick) on the test pictures of digits" in lines[0]
    for index, name in enumerate(expected["per_class"]):
        (row,) = [line.split() for line in lines if line.split()[:1] == [name]]
        assert row[1:3] == [str(sum(expected["confusion"][index])), str(expected["confusion"][index][index])]
        assert row[3] == f"{100 * expected['per_class'][name]:.2f}"
    (total,) = [line for line in lines if line.startswith("accuracy ")]
    assert f"{100 * expected['accuracy']:.2f} %" in total


def test_the_recorded_accuracy_is_reproduced(
    folder: Path, expected: dict[str, Any], recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(test_accuracy=round(expected["accuracy"], 4))
    code, out, err = run(capsys, folder, "--json")
    assert code == 0
    assert json.loads(out)["record"]["same"] is True
    assert err.rstrip().endswith("pictures: the same")


@pytest.mark.parametrize("changes", [{"test_accuracy": 0.5}, {"test_images": 10_000}])
def test_a_record_that_is_not_reproduced_fails(
    folder: Path, recorded, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    recorded(**changes)
    code, out, err = run(capsys, folder, "--json")
    assert code == 1
    assert json.loads(out)["record"]["same"] is False
    assert "NOT the same" in err


def test_a_record_of_other_weights_is_not_compared(folder: Path, recorded, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(weights_sha256="0" * 64, test_accuracy=0.5)
    code, out, err = run(capsys, folder, "--json")
    assert code == 0
    assert json.loads(out)["record"] is None
    assert "record of other weights" in err


def test_a_result_that_is_no_record_is_passed_over(folder: Path, recorded, capsys: pytest.CaptureFixture[str]) -> None:
    recorded()
    beside = folder / "result.json"
    beside.write_text('{"accuracy": 1}')
    code, out, err = run(capsys, folder, "--json")
    assert code == 0
    assert json.loads(out)["record"] is None
    assert "passed over" in err


def test_published_weights_and_their_record(
    folder: Path,
    expected: dict[str, Any],
    recorded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recorded()
    network, card = weights.load(folder)
    weights.save(tmp_path / "weights", network, Card(**{**card.__dict__, "weights_sha256": ""}))
    (tmp_path / "results").mkdir()
    (folder / "result.json").rename(tmp_path / "results" / "little.json")
    monkeypatch.setattr(weights, "WEIGHTS", tmp_path / "weights")
    code, out, err = run(capsys, "little", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["accuracy"] == expected["accuracy"]
    assert told["record"]["path"] == str(tmp_path / "results" / "little.json")
    assert "the same" in err


@pytest.mark.parametrize(
    ("train_images", "trained_on", "words"),
    [(None, None, "is not recorded"), ("all", True, "TRAINED ON these"), (1_300, False, "not trained on")],
)
def test_validation_pictures_and_whether_they_were_trained_on(
    folder: Path,
    recorded,
    capsys: pytest.CaptureFixture[str],
    train_images: int | str | None,
    trained_on: bool | None,
    words: str,
) -> None:
    if train_images:
        recorded(**({} if train_images == "all" else {"train_images": train_images}))
    code, out, err = run(capsys, folder, "--split", "val", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["images"] == len(split_train(load_train("digits"))[1])
    assert told["trained_on"] is trained_on
    assert told["record"] is None
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no weights at 'nowhere'"),
        (["FOLDER", "--dataset", "imagenet"], "imagenet"),
        (["FOLDER", "--batch-size", "0"], "whole number from 1"),
        (["FOLDER", "--split", "train"], "invalid choice"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    try:
        code = main(["eval", *[str(folder) if word == "FOLDER" else word for word in arguments]])
    except SystemExit as stop:  # argparse leaves by itself
        code = stop.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.cifar10
def test_another_data_set_is_refused_and_cifar10_is_measured(
    folder: Path, cifar10_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, folder, "--dataset", "cifar10", "--data-dir", cifar10_dir)
    assert code == 2
    assert "tells 10 classes (0, 1, 2, …) apart, the data set cifar10 holds 10 classes (airplane" in err
    statistics = STATISTICS["cifar10"]
    pictures = load_test("cifar10", cifar10_dir)
    card = Card(
        name="raw",
        model="feather_quick",
        classes=pictures.classes,
        mean=statistics.mean,
        std=statistics.std,
        input_size=32,
        dataset="cifar10",
        recipe="raw",
    )
    weights.save(tmp_path, models.build("feather_quick"), card)
    code, out, _ = run(capsys, tmp_path / "raw.safetensors", "--json", "--data-dir", cifar10_dir)
    told = json.loads(out)
    assert code == 0
    assert told["images"] == 10_000
    assert [sum(row) for row in told["confusion"]] == [1_000] * 10

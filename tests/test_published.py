"""What is published holds together: weights, cards, records, recipes and the README's tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from featherweight import config, records, report, weights
from featherweight.commands import report as report_command
from featherweight.ship import onnx_table
from featherweight.utils import sha256_file

ROOT = Path(__file__).resolve().parent.parent
RECORDS = records.load_all(ROOT / "results")
CIFAR10 = {name: record for name, record in RECORDS.items() if record.dataset == "cifar10"}


def test_the_readme_says_what_the_records_say() -> None:
    """Every marked part: runs, recipes, classes, shifted inputs, speed, figures."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = report_command.blocks(RECORDS, ROOT / "results", ROOT / "README.md")
    assert all(f"<!-- report:{name} -->" in text for name in blocks)
    assert report.fill(text, blocks) == text, "run `featherweight report`"
    assert "draw the figures anew" not in text, "run `featherweight report --figures`"


def test_something_is_published() -> None:
    assert {"feather_quick", "feather_quick-seed1", "feather_quick-seed2"} <= set(RECORDS)


@pytest.mark.parametrize("name", sorted(CIFAR10))
def test_a_published_run_trained_on_all_and_selected_nothing(name: str) -> None:
    record = CIFAR10[name]
    assert (record.train_images, record.test_images) == (50_000, 10_000)
    assert record.selection == "none: last epoch"
    assert "+" not in record.commit, "trained on uncommitted code"
    assert record.config is not None
    assert record.config["data"]["train_on"] == "all"
    assert record.config["stop_at_accuracy"] == 0


@pytest.mark.parametrize("name", sorted(CIFAR10))
def test_a_records_settings_are_its_recipes_of_today(name: str) -> None:
    record = CIFAR10[name]
    expected = config.to_dict(config.resolve(record.recipe, {"seed": str(record.seed)}))
    assert record.config is not None
    for key in ("device", "precision", "threads"):  # where it ran, not what was run
        expected.pop(key)
    assert _common(expected, record.config) == _common(record.config, expected)


@pytest.mark.parametrize("name", config.recipe_names())
def test_what_a_recipe_expects_is_what_its_records_say(name: str) -> None:
    recipe = config.read_recipe(name)
    runs = [record for record in RECORDS.values() if record.recipe == name]
    assert (recipe.expected_accuracy is None) == (recipe.expected_seconds is None) == (not runs)
    if runs:
        mean = sum(run.test_accuracy or 0 for run in runs) / len(runs)
        assert recipe.expected_accuracy == pytest.approx(mean, abs=5e-5)
        assert recipe.expected_seconds in [round(run.train_seconds) for run in runs]
        assert "not yet run" not in recipe.about
    elif recipe.settings.get("data", {}).get("name") != "digits" and name not in ("separable_100k", "dilated_160k"):
        assert "not yet run to its end" in recipe.about


def _common(ours: dict, theirs: dict) -> dict:
    """What both name: a record older than a setting does not tell it, and its default is what was done before."""
    return {
        key: _common(value, theirs[key]) if isinstance(value, dict) else value
        for key, value in ours.items()
        if key in theirs
    }


@pytest.mark.parametrize("name", sorted(name for name in CIFAR10 if CIFAR10[name].model == "feather_quick"))
def test_the_quick_network_reaches_85_percent_with_every_seed(name: str) -> None:
    assert CIFAR10[name].test_accuracy >= 0.85  # type: ignore[operator]
    assert CIFAR10[name].rules_passed


@pytest.mark.parametrize("name", weights.published())
def test_weights_are_small_and_their_records(name: str) -> None:
    path = ROOT / "weights" / f"{name}.safetensors"
    assert path.stat().st_size < 1_000_000
    assert RECORDS[name].weights_sha256 == sha256_file(path)
    assert RECORDS[name].weights == f"weights/{path.name}"


def test_every_published_network_is_exported_faithfully() -> None:
    """As the cards say that `featherweight export` wrote with the published weights."""
    for name in weights.published():
        for form, most_lost in (("fp32", 0.0), ("int8", 0.5)):
            path = ROOT / "results" / "onnx" / f"{name}.{form}.json"
            card = records.read_json_object(path, limit=onnx_table.MAX_CARD, what="card")
            assert card["weights_sha256"] == RECORDS[name].weights_sha256, "export it anew"
            parity = card["onnx"]["parity"]
            assert card["onnx"]["form"] == form
            assert parity["images"] == 10_000
            assert parity["torch_accuracy"] == pytest.approx(RECORDS[name].test_accuracy, abs=1e-9)
            assert parity["lost_points"] <= most_lost
            assert form == "int8" or (parity["agreeing"] == 10_000 and parity["max_difference"] <= 1e-4)


@pytest.mark.cifar10
@pytest.mark.slow
@pytest.mark.parametrize("name", weights.published())
def test_eval_gives_each_records_accuracy(name: str, cifar10_dir: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "featherweight",
        "eval",
        f"weights/{name}.safetensors",
        "--data-dir",
        str(cifar10_dir),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{RECORDS[name].test_accuracy:.4f}" in done.stderr
    assert "the same" in done.stderr


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "results" / "first_epoch").glob("*.json")))
def test_a_kept_first_epoch_of_a_texts_network_is_what_it_says(name: str) -> None:
    """One whole epoch of the texts' own settings, on all 50,000 pictures (their full runs are still to come)."""
    record = records.Record.read(ROOT / "results" / "first_epoch" / f"{name}.json")
    assert record.recipe == f"{name}+epochs=1"
    assert (record.model, record.epochs, record.train_images, record.test_images) == (name, 1, 50_000, 10_000)
    assert record.config is not None
    assert record.config["augment"]["engine"] == "albumentations"
    assert (record.config["batch_size"], record.config["drop_last"]) == (128, False)
    assert record.test_accuracy > 0.1  # type: ignore[operator]

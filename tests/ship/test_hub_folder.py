"""The hub folder rebuilds the network, from its card and, with nothing of ours but the network, from config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from ship_pictures import gradient

import featherweight
from featherweight import models, weights
from featherweight.ship.hub import readme, write_folder
from featherweight.utils import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = weights.resolve("feather_quick")
    write_folder(tmp_path / "hub", path, weights.load("feather_quick")[1])
    return tmp_path / "hub"


def test_it_is_written_anew_but_over_no_other_folders_files(folder: Path, tmp_path: Path) -> None:
    path, card = weights.resolve("feather_quick"), weights.load("feather_quick")[1]
    write_folder(folder, path, card)
    for name, content in (("README.md", "# Mine"), ("config.json", '{"epochs": 4}'), ("config.json", "[")):
        place = tmp_path / content
        place.mkdir()
        (place / name).write_text(content)
        with pytest.raises(UserError, match=f"another {name}, which is kept"):
            write_folder(place, path, card)
        assert [(one.name, one.read_text()) for one in place.iterdir()] == [(name, content)]


def test_explain_takes_its_settings_from_the_recipe(folder: Path) -> None:
    """Its config.json is a network's, which says nothing of the training, and not a run's."""
    from featherweight import config
    from featherweight.commands.explain import _settings

    card = weights.load(folder)[1]
    assert _settings(folder / "model.safetensors", card, None).augment == config.resolve("feather_quick", {}).augment  # type: ignore[union-attr]


def test_the_folder_rebuilds_the_network(folder: Path) -> None:
    names = {"model.safetensors", "model.json", "config.json", "README.md", "predictor.py"}
    assert {path.name for path in folder.iterdir()} == names
    config = json.loads((folder / "config.json").read_text())
    network = models.build(config["architecture"], classes=config["num_labels"])
    network.load_state_dict(load_file(folder / "model.safetensors"))
    network.eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == config["num_parameters"]
    pixels = torch.rand(4, 3, config["image_size"], config["image_size"])
    expected, card = weights.load("feather_quick")
    with torch.inference_mode():
        torch.testing.assert_close(network(pixels), expected(pixels), rtol=0, atol=0)
    assert [config["id2label"][str(index)] for index in range(10)] == list(card.classes)
    assert (config["image_mean"], config["image_std"]) == (list(card.mean), list(card.std))


def test_the_package_takes_the_folder_as_it_takes_a_run(folder: Path) -> None:
    picture = gradient(60, 60)
    assert featherweight.load(folder).predict(picture) == featherweight.load("feather_quick").predict(picture)


def test_the_header_is_metadata_that_parses(folder: Path) -> None:
    yaml = pytest.importorskip("yaml")
    start, header, text = (folder / "README.md").read_text().split("---\n", 2)
    assert start == ""
    found = yaml.safe_load(header)
    assert found["license"] == "mit"
    assert found["datasets"] == ["cifar10"]
    assert found["metrics"] == ["accuracy"]
    (entry,) = found["model-index"]
    recorded = weights.load("feather_quick")[1].test_accuracy
    assert recorded is not None
    assert entry["results"][0]["metrics"] == [{"type": "accuracy", "value": recorded}]
    assert "image-classification" in found["tags"]
    assert f"**{100 * recorded:.2f} %**" in text


def test_weights_without_an_accuracy_claim_none() -> None:
    import dataclasses

    card = dataclasses.replace(weights.load("feather_quick")[1], test_accuracy=None)
    told = readme(card, {})
    assert "model-index" not in told
    assert "metrics" not in told
    assert "**not recorded**" in told


def test_other_weights_than_the_cards_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(weights.resolve("feather_quick").read_bytes() + b" ")
    with pytest.raises(UserError, match="SHA-256"):
        write_folder(tmp_path / "hub", other, weights.load("feather_quick")[1])
    assert not (tmp_path / "hub").exists()

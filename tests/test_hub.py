"""torch.hub finds an entry point for every registered network, and published ones with their recorded accuracy."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import pytest
import torch

from featherweight import datasets, models, records, weights
from featherweight.evaluation.evaluate import evaluate
from featherweight.utils import UserError

ROOT = str(Path(__file__).resolve().parent.parent)


def load(name: str, **options: object) -> torch.nn.Module:
    return torch.hub.load(ROOT, name, source="local", **options)  # type: ignore[return-value]


def test_every_network_has_an_entry_point_with_its_help() -> None:
    found = runpy.run_path(f"{ROOT}/hubconf.py")
    assert {name for name, value in found.items() if callable(value) and name[0] != "_"} == set(models.names())
    for name in models.names():
        network = load(name)
        assert type(network) is type(models.build(name))
        assert network.training
        assert "normalised" in found[name].__doc__


def test_options() -> None:
    assert load("feather_quick", classes=7)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    unpublished = next(name for name in models.names() if weights.published_of(name) is None)
    with pytest.raises(UserError, match="no weights"):
        load(unpublished, pretrained=True)
    with pytest.raises(UserError, match="10 classes"):
        load("feather_quick", pretrained=True, classes=7)


def test_a_networks_name_means_its_most_accurate_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = models.build("feather_200k")
    card = dataclasses.replace(weights.load("feather_quick")[1], parameters=0, weights_sha256="")
    monkeypatch.setattr(weights, "WEIGHTS", tmp_path)
    assert weights.published_of("feather_200k") is None
    for name, accuracy in (("feather_200k_cpu", 0.92), ("feather_200k_short", 0.90), ("feather_200k_none", None)):
        own = dataclasses.replace(card, name=name, model="feather_200k", recipe=name, test_accuracy=accuracy)
        weights.save(tmp_path / f"{name}.safetensors", network, own)
    assert load("feather_200k", pretrained=True).card.name == "feather_200k_cpu"  # type: ignore[union-attr]
    assert weights.load("feather_200k")[1].name == "feather_200k_cpu"
    assert weights.load("feather_200k_short")[1].name == "feather_200k_short"
    own = dataclasses.replace(card, name="own", model="feather_200k")
    weights.save(tmp_path / "feather_200k.safetensors", network, own)
    assert weights.load("feather_200k")[1].name == "own"


@pytest.mark.parametrize("name", sorted(filter(None, map(weights.published_of, models.names()))))
def test_pretrained_networks_carry_their_card(name: str) -> None:
    network = load(weights.load(name)[1].model, pretrained=True)
    assert network.card == weights.load(name)[1]
    assert not network.training
    expected = weights.load(name)[0].state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


@pytest.mark.cifar10
def test_the_pretrained_quick_network_is_the_recorded_one(cifar10_dir: Path) -> None:
    """Its answers with the normalisation written out as the docstring says it, and those of an evaluation."""
    network = load("feather_quick", pretrained=True)
    card = network.card
    mean, std = (torch.tensor(value)[:, None, None] for value in (card.mean, card.std))  # type: ignore[union-attr]
    some = datasets.load_test("cifar10", cifar10_dir).subset(range(1000))
    with torch.inference_mode():
        outputs = network((some.images.permute(0, 3, 1, 2) / 255 - mean) / std)
    found = evaluate(network, some, mean=card.mean, std=card.std, device=torch.device("cpu"))  # type: ignore[union-attr]
    assert int((outputs.argmax(1) == some.labels).sum()) / 1000 == pytest.approx(found.accuracy)
    assert found.accuracy > 0.8
    recorded = records.Record.read(records.RESULTS / "feather_quick.json")
    assert recorded.weights_sha256 == card.weights_sha256  # type: ignore[union-attr]

"""One contract for every registered network, and the two texts' networks against their texts' figures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from featherweight import models
from featherweight.utils import UserError

OURS = [name for name in models.names() if name not in ("separable_100k", "dilated_160k")]


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize("classes", [10, 3])
def test_outputs_have_a_column_a_class_and_every_parameter_learns(name: str, classes: int) -> None:
    torch.manual_seed(0)
    network = models.build(name, classes=classes)
    outputs = network(torch.randn(4, 3, 32, 32))
    assert outputs.shape == (4, classes)
    outputs[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    budget = {"feather_100k": 100_000, "teacher": 4_000_000}.get(name, 200_000)
    assert sum(p.numel() for p in network.parameters()) < budget


@pytest.mark.parametrize("name", models.names())
def test_log_probabilities_are_said_to_be_such_and_nothing_else_is(name: str) -> None:
    torch.manual_seed(0)
    network = models.build(name).eval()
    with torch.no_grad():
        sums = network(torch.randn(4, 3, 32, 32)).exp().sum(1)
    normalised = torch.allclose(sums, torch.ones(4), atol=1e-5)
    assert normalised == getattr(network, "log_probabilities", False)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("size", [16, 17, 32, 45, 224])
def test_any_input_from_16_to_224_pixels(name: str, size: int) -> None:
    network = models.build(name).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 3, size, size + 3)).shape == (1, 10)


@pytest.mark.parametrize("name", OURS)
def test_global_pooling_looks_at_every_position(name: str) -> None:
    """Each position of the last map counts alike: permuting them leaves the output as it is."""
    network = models.build(name).eval()
    maps: list[torch.Tensor] = []
    pool = next(layer for layer in network.modules() if type(layer).__name__ == "GlobalAveragePool")
    pool.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    with torch.inference_mode():
        network(torch.randn(1, 3, 48, 48))
        shuffled = maps[0].flatten(2)[:, :, torch.randperm(maps[0][0, 0].numel())].view_as(maps[0])
        torch.testing.assert_close(pool(shuffled), pool(maps[0]))
        assert maps[0].shape[2:].numel() > 1


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("separable_100k", 99_968),
        ("dilated_160k", 159_552),
        ("c1c2c3c4_strided", 161_386),
        ("c1c2c3c4_dilated", 94_202),
        ("feather_quick", 176_746),
        ("feather_100k", 99_722),
        ("feather_200k", 195_306),
    ],
)
def test_parameters(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in models.build(name).parameters()) == parameters


def test_the_texts_dropout_rates() -> None:
    for name, rate in (("separable_100k", 0.1), ("dilated_160k", 0.05)):
        rates = {layer.p for layer in models.build(name).modules() if isinstance(layer, nn.Dropout)}
        assert rates == {rate}


@pytest.mark.parametrize("name", models.names())
def test_no_max_pooling_module(name: str) -> None:
    assert not any("MaxPool" in type(layer).__name__ for layer in models.build(name).modules())


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="separable_100k"):
        models.build("resnet18")

"""Registered and well-known networks: published tables and figures, torch's own counters, and the measuring oracle."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from featherweight import models
from featherweight.rules.findings import convolutions, max_pooling
from featherweight.rules.graph import trace
from featherweight.rules.layers import summarise
from featherweight.rules.oracle import verify
from featherweight.rules.receptive_field import receptive_field
from featherweight.rules.verdict import check_network

sys.path.insert(0, str(Path(__file__).parent))
from known_networks import KNOWN

FIGURES = {"separable_100k": (99_968, 31, 35), "dilated_160k": (159_552, 101, 117)}
FAILS = {
    "separable_100k": ["receptive_field", "blocks", "strided_convolutions", "global_pooling"],
    "dilated_160k": ["blocks", "global_pooling"],
    "teacher": ["parameters", "blocks", "strided_convolutions", "depthwise_separable", "dilated"],  # made for others
}


class Function(nn.Module):
    """A network that is one function of the picture."""

    def __init__(self, function: Any, *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, *self.parts)


def test_the_published_table_row_by_row() -> None:
    lines = (Path(__file__).parent / "separable_100k_rows.tsv").read_text().splitlines()[1:]
    wanted = [(kind, (int(c), int(h), int(w)), int(n)) for kind, c, h, w, n in (line.split("\t") for line in lines)]
    rows = summarise(trace(models.build("separable_100k"))).layers
    assert len(wanted) == 51
    assert [(row.kind, row.output_shape, row.parameters) for row in rows] == wanted


@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_of_the_texts(name: str) -> None:
    parameters, field, with_pooling = FIGURES[name]
    made = summarise(trace(models.build(name)))
    assert made.cost.parameters == parameters
    assert made.reception.figure is not None
    assert made.reception.figure.size == (field, field)
    assert made.reception.with_pooling == (with_pooling, with_pooling)


@pytest.mark.parametrize("name", models.names())
def test_registered_networks_are_judged(name: str) -> None:
    assert check_network(models.build(name)).failed() == FAILS.get(name, [])


@pytest.mark.parametrize("name", models.names())
def test_oracle_agrees_on_registered_networks(name: str) -> None:
    result = verify(models.build(name))
    assert result.agrees
    assert result.measured == result.expected


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_oracle_agrees_on_known_networks(name: str) -> None:
    build, published = KNOWN[name]
    result = verify(build())
    assert result.agrees, result
    assert result.measured == result.expected
    if published is not None:
        assert result.measured == (published, published)


def test_squeeze_excite_is_named_and_not_counted() -> None:
    reception = receptive_field(trace(KNOWN["efficientnet_b0"][0](), (1, 3, 64, 64)))
    assert len(reception.wide) == 16
    assert all(name.endswith("mean") for name in reception.wide)


@pytest.mark.parametrize("name", [*models.names(), *KNOWN])
def test_multiply_adds_equal_torch(name: str) -> None:
    network = (models.build(name) if name in models.names() else KNOWN[name][0]()).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 64, 64) if name in KNOWN else torch.zeros(1, 3, 32, 32))
    made = summarise(trace(network, (1, 3, 64, 64) if name in KNOWN else (1, 3, 32, 32)))
    assert 2 * made.cost.multiply_adds == counter.get_total_flops()
    assert sum(row.multiply_adds for row in made.layers) == made.cost.multiply_adds
    assert sum(row.parameters for row in made.layers) == made.cost.parameters
    assert made.cost.parameters == sum(p.numel() for p in network.parameters())


def test_multiply_adds_of_transposed_grouped_attention_and_products() -> None:
    network = Function(
        lambda x, up, part, mix: mix(*[part(up(x)).flatten(2).transpose(1, 2)] * 3)[0].mean(1),
        nn.ConvTranspose2d(3, 8, 3, 2),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.MultiheadAttention(8, 2, batch_first=True),
    )
    made = summarise(trace(network, (1, 3, 8, 8)))
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 8, 8))
    assert 2 * made.cost.multiply_adds == counter.get_total_flops()
    assert made.reception.wide
    assert [row.kind for row in made.layers][:3] == ["ConvTranspose2d", "Conv2d", "MultiheadAttention"]


def test_a_shared_layer_is_counted_once_and_shown_twice() -> None:
    network = Function(lambda x, layer: layer(layer(x)).mean((2, 3)), nn.Conv2d(3, 3, 3))
    made = summarise(trace(network))
    assert [row.parameters for row in made.layers] == [84, 0, 0]
    assert made.cost.parameters == 84
    assert made.reception.figure is not None
    assert made.reception.figure.size == (5, 5)


def test_functional_dropout_is_a_row() -> None:
    network = Function(lambda x, layer: F.dropout(layer(x), 0.5, False).mean((2, 3)), nn.Conv2d(3, 3, 3))
    assert [row.kind for row in summarise(trace(network)).layers] == ["Conv2d", "Dropout", "Mean"]


def test_edges_join_the_rows() -> None:
    network = Function(
        lambda x, one, other: F.relu(one(x) + other(x)).mean((2, 3)), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
    )
    rows = summarise(trace(network)).layers
    assert [(row.kind, row.inputs) for row in rows] == [
        ("Conv2d", []),
        ("Conv2d", []),
        ("Add", [0, 1]),
        ("ReLU", [2]),
        ("Mean", [3]),
    ]


def test_the_network_is_left_as_it_was() -> None:
    network = models.build("feather_quick").train()
    network(torch.rand(4, 3, 32, 32))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random.seed(3)
    torch.manual_seed(3)
    state, python_state = torch.get_rng_state(), random.getstate()
    check_network(network)
    verify(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python_state
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_networks_whose_parameters_have_no_numbers_yet() -> None:
    with torch.device("meta"):
        network = models.build("c1c2c3c4_strided")
    assert check_network(network).passed


HEIGHT_AND_WIDTH = [
    (lambda x, c: c(x), nn.Conv2d(3, 3, (5, 1), padding=(2, 0)), (5, 1), (1, 1)),
    (lambda x, c: c(F.avg_pool2d(x, (1, 2))), nn.Conv2d(3, 3, 3, dilation=(1, 3)), (3, 14), (1, 2)),
    (lambda x, c: F.interpolate(c(x), scale_factor=2), nn.Conv2d(3, 3, 3, 4), (3, 3), (2, 2)),
    (lambda x, c: c(x[:, :, 2:, ::2]), nn.Conv2d(3, 3, 3), (3, 5), (1, 2)),
]


@pytest.mark.parametrize(("function", "layer", "size", "jump"), HEIGHT_AND_WIDTH)
def test_height_and_width_are_apart(function: Any, layer: nn.Module, size: Any, jump: Any) -> None:
    network = Function(lambda x, c: function(x, c).mean((2, 3)), layer)
    figure = receptive_field(trace(network)).figure
    assert figure is not None
    assert (figure.size, figure.jump) == (size, jump)
    assert verify(network).measured == size


MAXIMA = {
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "adaptive": lambda x: F.adaptive_max_pool2d(x, 4),
    "fractional": lambda x: F.fractional_max_pool2d(x, 2, output_size=9),
    "amax over the map": lambda x: x.amax((2, 3), keepdim=True),
    "torch.max twice": lambda x: x.max(3, keepdim=True)[0].max(2, keepdim=True)[0],
    "unfold": lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)),
    "unfold flattened": lambda x: x.unfold(2, 3, 1).unfold(3, 3, 1).flatten(-2).max(-1).values,
    "im2col": lambda x: F.unfold(x, 2, stride=2).view(1, 3, 4, -1).amax(2).view(1, 3, 16, 16),
    "view": lambda x: x.view(1, 3, 16, 2, 16, 2).amax((3, 5)),
    "slices": lambda x: torch.maximum(x[:, :, ::2], x[:, :, 1::2]),
    "stacked slices": lambda x: torch.stack([x[:, :, ::2], x[:, :, 1::2]]).amax(0),
    "negated minimum": lambda x: -(-x).view(1, 3, 16, 2, 32).amin(3),
    "topk": lambda x: x.flatten(2).topk(4)[0].unsqueeze(-1),
    "sorted": lambda x: x.flatten(2).sort(-1)[0][:, :, -1:, None],
}
NO_MAXIMA = {
    "average": lambda x: F.avg_pool2d(x, 2),
    "channels": lambda x: x.amax(1, keepdim=True),
    "maxout": lambda x: torch.maximum(x[:, :1], x[:, 1:2]),
    "branches": lambda x: torch.maximum(F.avg_pool2d(x, 3, 1, 1), x),
    "window of one": lambda x: F.max_pool2d(x, 1),
    "mean of windows": lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)),
    "clipped": lambda x: torch.clamp(x, min=0),
}


@pytest.mark.parametrize("name", [*MAXIMA, *NO_MAXIMA])
def test_max_pooling_is_found_whatever_it_is_called(name: str) -> None:
    function = MAXIMA.get(name) or NO_MAXIMA[name]
    graph = trace(Function(lambda x, c: function(c(x)).mean((2, 3)), nn.Conv2d(3, 3, 1)))
    assert graph.error is None
    assert bool(max_pooling(graph, receptive_field(graph).layouts)) is (name in MAXIMA)


def test_an_inference_mode_inside_is_seen_through() -> None:
    def inside(x: torch.Tensor, layer: nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return F.max_pool2d(layer(x), 2).mean((2, 3))

    graph = trace(Function(inside, nn.Conv2d(3, 3, 3)))
    assert len(convolutions(graph)) == 1
    assert len(max_pooling(graph, receptive_field(graph).layouts)) == 1


def test_attention_is_reported_not_given_a_number() -> None:
    def tokens(x: torch.Tensor, mix: nn.Module) -> torch.Tensor:
        t = x.flatten(2).transpose(1, 2)
        return (t + mix(t, t, t)[0]).transpose(1, 2).view(1, 4, 8, 8).mean((2, 3))

    network = Function(tokens, nn.MultiheadAttention(4, 2, batch_first=True))
    reception = receptive_field(trace(network, (1, 4, 8, 8)))
    assert reception.figure is not None
    assert reception.figure.size == (1, 1)
    assert reception.wide == ["parts.0"]

"""Parameter groups, and Muon against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from featherweight import models
from featherweight.config import OptimizerConfig
from featherweight.training.optimizers import build_optimizer, orthogonalised, set_rate


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("model", models.names())
def test_every_parameter_is_in_one_group_and_only_kernels_are_decayed(name, model: str) -> None:
    network = models.build(model)
    optimizer = build_optimizer(network, OptimizerConfig(name=name, weight_decay=0.01))
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, network.parameters()))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    for layer in network.modules():
        for key, p in layer.named_parameters(recurse=False):
            if isinstance(layer, nn.BatchNorm2d) or key == "bias":
                assert id(p) not in decayed
            elif name != "muon":
                assert id(p) in decayed


def test_rates_are_fractions_of_each_groups_own_peak() -> None:
    network = models.build("feather_quick")
    optimizer = build_optimizer(network, OptimizerConfig(name="muon", lr=0.3, rest=1 / 3))
    set_rate(optimizer, 0.5)
    assert {round(group["lr"], 6) for group in optimizer.param_groups} == {0.15, 0.05}


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_orthogonalised_keeps_the_singular_vectors_and_evens_out_the_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(*shape, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonalised([matrix], steps=6)[0] @ vh.T  # diagonal if the vectors are the same
    assert (inside - inside.diagonal().diag()).abs().max() < 1e-9
    assert 0.6 < inside.diagonal().min() <= inside.diagonal().max() < 1.3
    assert s.max() / s.min() > 1.5


def test_orthogonalised_zero_is_zero() -> None:
    assert orthogonalised([torch.zeros(4, 9)])[0].eq(0).all()


def test_matrices_taken_together_are_each_taken_by_the_definition() -> None:
    """Newton-Schulz as it is written, a matrix at a time in double precision; float32 has 7 digits, and 3 steps lift
    the smallest values by 40."""
    torch.manual_seed(1)
    matrices = [torch.randn(*shape) for shape in [(8, 40), (64, 576), (40, 8), (8, 9), (128, 64), (8, 8)]]
    matrices[1][:, 0] *= 1000  # nearly of rank one
    for matrix, found in zip(matrices, orthogonalised(matrices), strict=True):
        x = matrix.double() / matrix.double().norm()
        for _ in range(3):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        assert found.shape == matrix.shape
        torch.testing.assert_close(found.double(), x, rtol=0, atol=1e-4)


def test_the_rest_of_muon_steps_as_sgd_does() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(6, 4), nn.Linear(6, 4)
    theirs.load_state_dict(ours.state_dict())
    config = OptimizerConfig(name="muon", lr=0.05, rest_momentum=0.8, weight_decay=0.01)
    plain = OptimizerConfig(name="sgd", lr=0.05, momentum=0.8, weight_decay=0.01)
    pairs = [(ours, build_optimizer(ours, config)), (theirs, build_optimizer(theirs, plain))]
    for _ in range(5):
        x = torch.randn(3, 6)
        for layer, optimizer in pairs:
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


@pytest.mark.parametrize("name", models.names())
def test_muon_takes_what_mixes_channels_and_neither_the_first_layer_nor_the_class_scores(name: str) -> None:
    network = models.build(name)
    optimizer = build_optimizer(network, OptimizerConfig(name="muon"))
    taken = {id(p) for group in optimizer.param_groups if group["orthogonal"] for p in group["params"]}
    weights = [p for p in network.parameters() if p.ndim > 1]
    assert not {id(weights[0]), id(weights[-1])} & taken
    middle = [p for p in weights[1:-1] if p.shape[1] > 1]
    assert middle
    assert {id(p) for p in middle} == taken
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))


def test_muon_holds_kernels_at_their_norm() -> None:
    torch.manual_seed(0)
    layer, scores = nn.Conv2d(8, 16, 3, bias=False), nn.Conv2d(16, 10, 1, bias=False)
    network = nn.Sequential(layer, scores)
    optimizer = build_optimizer(network, OptimizerConfig(name="muon", lr=0.01, momentum=0.6))
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.randn(2, 8, 6, 6)).square().sum().backward()
        optimizer.step()
    # norm sqrt(O) = 4 before the step, then a step of at most lr · sqrt(O) · 1.3
    assert layer.weight.norm().item() == pytest.approx(4, abs=0.06)

"""The layer chosen, and the receptive field in theory and as measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from featherweight import models
from featherweight.explain.field import effective_field, enclosing_square, extended, luo_size, margin_for
from featherweight.explain.layers import find_layer, first_filters, unit_field
from featherweight.utils import UserError


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("feather_quick", "c4", (96, 4, 4)),
        ("c1c2c3c4_strided", "c4", (128, 4, 4)),
        ("c1c2c3c4_dilated", "output.0", (128, 32, 32)),
        ("separable_100k", "conv4", (64, 3, 3)),
        ("dilated_160k", "conv4", (10, 4, 4)),
    ],
)
def test_the_layer_before_global_pooling_is_found(name: str, layer: str, shape: tuple[int, ...]) -> None:
    found = find_layer(models.build(name))
    assert (found.name, found.shape) == (layer, shape)


class Functional(nn.Module):
    """Its last map is made by a function; the module that feeds it is `norm`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.aside = nn.Conv2d(3, 7, 1)
        self.linear = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        aside = self.aside(x).amax(dim=(2, 3))
        maps = F.relu(self.norm(self.second(F.relu(self.first(x)))))
        return self.linear(torch.cat([maps.flatten(2).mean(2), aside], dim=1))


def test_the_layer_behind_a_functional_end_is_found() -> None:
    assert find_layer(Functional(), input_shape=(1, 3, 16, 16)).name == "norm"
    assert find_layer(Functional(), "first", (1, 3, 16, 16)).shape == (4, 8, 8)


def test_layers_that_are_none_are_told_with_choices() -> None:
    with pytest.raises(UserError, match=r"no layer 'c5' with a map in FeatherQuick; try .*c4"):
        find_layer(models.build("feather_quick"), "c5")
    with pytest.raises(UserError, match=r"no layer 'output\.1'"):
        find_layer(models.build("feather_quick"), "output.1")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    with pytest.raises(UserError, match="no layer whose output is a map"):
        find_layer(flat)
    with pytest.raises(UserError, match="no Conv2d"):
        first_filters(flat)


def test_the_first_filters_are_those_the_picture_meets_first() -> None:
    network = Functional()
    found = first_filters(network, (1, 3, 16, 16))
    assert found.name == "aside"  # it is called first, though it was made last
    assert torch.equal(found.weight, network.aside.weight)


def positive(network: nn.Module) -> nn.Module:
    """No path cancels another, and no ReLU is shut: what has a path shows in the gradient."""
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.05, 0.15, generator=torch.Generator().manual_seed(0))
    return network.eval()


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)), "2"),
        (nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.Conv2d(4, 4, 3, padding=2, dilation=2, stride=2)), "1"),
        (nn.Sequential(nn.Conv2d(3, 4, (3, 5)), nn.AvgPool2d(2), nn.Conv2d(4, 2, 3)), "2"),
    ],
)
def test_the_theoretical_square_is_where_the_gradient_ends(network: nn.Sequential, layer: str) -> None:
    whole = nn.Sequential(*network, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    field = unit_field(whole, layer, (1, 3, 32, 32))
    assert field is not None
    energy = effective_field(positive(whole), layer, torch.rand(2, 3, 32, 32), field.unit)
    rows, columns = energy.sum(1).nonzero().flatten(), energy.sum(0).nonzero().flatten()
    measured = (int(rows[0]) - 0.5, int(rows[-1]) + 0.5, int(columns[0]) - 0.5, int(columns[-1]) + 0.5)
    assert field.edges() == measured
    middle = 15.5
    assert all(abs(place - middle) <= jump / 2 for place, jump in zip(field.centre, field.jump, strict=True))


def test_the_measured_field_of_one_convolution_is_its_squared_weights() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 1, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    energy = effective_field(network, "0", torch.randn(3, 3, 12, 12), (2, 4))
    expected = torch.zeros(12, 12, dtype=torch.float64)
    expected[2:7, 4:9] = network[0].weight.detach().double().square().sum(dim=(0, 1))  # type: ignore[union-attr]
    torch.testing.assert_close(energy, expected, rtol=1e-5, atol=1e-9)


def test_the_random_signs_estimate_the_sum_over_channels() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 16, 3)
    energy = effective_field(nn.Sequential(layer), "0", torch.randn(4000, 2, 3, 3), (0, 0))
    expected = layer.weight.detach().double().square().sum(dim=(0, 1))
    torch.testing.assert_close(energy, expected, rtol=0.1, atol=0)
    again = effective_field(nn.Sequential(layer), "0", torch.randn(40, 2, 3, 3), (0, 0))
    assert not torch.allclose(again, expected, rtol=1e-6)  # it is an estimate: the test above says how good


def test_a_unit_outside_the_map_is_refused() -> None:
    with pytest.raises(ValueError, match="outside the map of 10x10"):
        effective_field(nn.Sequential(nn.Conv2d(3, 1, 3)), "0", torch.rand(1, 3, 12, 12), (10, 0))


def test_the_enclosing_square() -> None:
    energy = torch.zeros(11, 11, dtype=torch.float64)
    energy[5, 5], energy[5, 8], energy[0, 5] = 90, 8, 2
    assert enclosing_square(energy, (5, 5), 0.90) == 1
    assert enclosing_square(energy, (5, 5), 0.95) == 7
    assert enclosing_square(energy, (5, 5), 1.0) == 11
    assert enclosing_square(energy, (4.5, 5.5), 0.95) == 6  # between pixels: sides are even
    assert enclosing_square(torch.zeros(4, 4), (1.5, 1.5)) == 0
    with pytest.raises(ValueError, match="share"):
        enclosing_square(energy, (5, 5), 0)


def test_luos_size_of_a_normal_curve() -> None:
    """exp(-r²/2s²) > 0.0455 is a disc of radius s·sqrt(2 ln(1/0.0455)), whose area's root is the size."""
    place = torch.arange(101, dtype=torch.float64) - 50
    strength = torch.exp(-(place[:, None] ** 2 + place[None, :] ** 2) / (2 * 8.0**2))
    expected = math.sqrt(math.pi) * 8 * math.sqrt(2 * math.log(1 / 0.0455))
    assert luo_size(strength.square()) == pytest.approx(expected, rel=0.01)


def test_pictures_are_continued_by_their_mirror_images() -> None:
    image = torch.arange(4 * 5 * 3, dtype=torch.uint8).reshape(1, 4, 5, 3)
    large = extended(image, 7)
    assert large.shape == (1, 18, 19, 3)
    assert torch.equal(large[:, 7:11, 7:12], image)
    assert torch.equal(large[:, 6], large[:, 7])  # the first row added is the picture's first
    assert torch.equal(large[0, 3:7, 7:12].flip(0), image[0])
    assert np.array_equal(large[0, 11:15, 7:12].numpy()[::-1], image[0].numpy())


@pytest.mark.parametrize(("name", "side"), [("feather_quick", 32), ("c1c2c3c4_dilated", 32), ("dilated_160k", 32)])
def test_the_grown_picture_holds_the_whole_field(name: str, side: int) -> None:
    network = models.build(name)
    layer = find_layer(network).name
    known = unit_field(network, layer, (1, 3, side, side))
    assert known is not None
    margin = margin_for(known.size, known.jump, side)
    assert margin % max(known.jump) == 0
    grown = side + 2 * margin
    field = unit_field(network, layer, (1, 3, grown, grown))
    assert field is not None
    top, bottom, left, right = field.edges()
    assert min(top, left) >= -0.5
    assert max(bottom, right) <= grown - 0.5
    assert margin_for((3, 3), (1, 1), side) == 0

"""The whitened first layer does what its name says, on pictures with strongly correlated pixels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from featherweight import models
from featherweight.augment import normalize
from featherweight.training.whitening import freeze_first_layer, whiten_first_layer
from featherweight.utils import UserError

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def smooth_pictures(count: int = 512) -> torch.Tensor:
    noise = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures = F.interpolate(noise, size=(32, 32), mode="bilinear") * 60 + 128
    return pictures.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def test_outputs_are_uncorrelated_and_the_second_half_is_the_first_negated() -> None:
    network = models.build("feather_quick")
    images = smooth_pictures()
    whiten_first_layer(network, images, MEAN, STD)
    layer = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        outputs = F.conv2d(normalize(images, MEAN, STD), layer.weight, stride=layer.stride)
    flat = outputs.transpose(0, 1).flatten(1)
    covariance = (flat @ flat.T / flat.shape[1])[:16, :16]
    scale = covariance.diagonal().sqrt()
    correlation = covariance / scale[:, None] / scale[None]
    assert (correlation - torch.eye(16)).abs().max() < 0.02
    assert 0.9 < covariance[0, 0] < 1.01  # the leading component, at variance 1 but for the floor
    assert torch.equal(layer.weight[16:32], -layer.weight[:16])


def test_a_start_that_does_not_depend_on_the_order_of_equal_pictures() -> None:
    images = smooth_pictures(64)
    weights = []
    for order in (torch.arange(64), torch.arange(63, -1, -1)):
        network = models.build("feather_quick")
        whiten_first_layer(network, images[order], MEAN, STD)
        weights.append(next(network.parameters()).detach().clone())
    torch.testing.assert_close(*weights)


def test_kernels_beyond_the_components_keep_their_start() -> None:
    layer = nn.Conv2d(3, 64, 3)
    before = layer.weight.detach().clone()
    whiten_first_layer(layer, smooth_pictures(64), MEAN, STD)
    assert torch.equal(layer.weight[54:], before[54:])
    assert not torch.equal(layer.weight[:54], before[:54])


@pytest.mark.parametrize("network", [nn.Linear(3, 3), nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(1, 6, 3)])
def test_a_network_that_begins_otherwise_is_refused(network: nn.Module) -> None:
    with pytest.raises(UserError, match="does not begin"):
        whiten_first_layer(network, smooth_pictures(8), MEAN, STD)


def test_the_norm_behind_is_told_what_it_will_be_given() -> None:
    network, images = models.build("feather_quick"), smooth_pictures(64)
    whiten_first_layer(network, images, MEAN, STD)
    conv, norm = network.get_submodule("c1.0"), network.get_submodule("c1.1")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        given = conv(normalize(images, MEAN, STD))
    torch.testing.assert_close(norm.running_mean, given.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(norm.running_var, given.var((0, 2, 3)), atol=1e-3, rtol=2e-2)


def test_what_is_frozen_is_the_first_convolution_and_its_norm() -> None:
    network = models.build("feather_quick")
    freeze_first_layer(network)
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"c1.0.weight", "c1.1.weight", "c1.1.bias"}
    assert freeze_first_layer(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)))[1:] == []
    with pytest.raises(UserError, match="no convolution"):
        freeze_first_layer(nn.Linear(3, 3))

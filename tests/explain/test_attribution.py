"""Grad-CAM and integrated gradients against what they must equal where that can be worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from featherweight import models
from featherweight.explain.attribution import CHUNK, class_scores, completeness, grad_cam, integrated_gradients
from featherweight.utils import UserError


class Pooled(nn.Module):
    """Convolutions, global average, linear: here Grad-CAM is the positive part of CAM, divided by the positions."""

    def __init__(self, ending: str = "", *, in_place: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.maps = nn.Sequential(first, self.norm, nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1))
        self.bend = nn.ReLU(inplace=in_place)
        self.linear = nn.Linear(6, 4)
        self.ending = {"": nn.Identity(), "log": nn.LogSoftmax(dim=1), "soft": nn.Softmax(dim=-1)}[ending]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ending(self.linear(self.bend(self.maps(x)).mean(dim=(2, 3))))


def made(ending: str = "", *, in_place: bool = False) -> Pooled:
    torch.manual_seed(3)
    network = Pooled(ending, in_place=in_place)
    assert network.norm.running_mean is not None
    nn.init.uniform_(network.norm.running_mean, -0.2, 0.2)
    nn.init.normal_(network.linear.weight)
    return network.eval()


def pictures(count: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 12, 10, generator=torch.Generator().manual_seed(seed))


def cam(network: Pooled, batch: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Class activation maps (Zhou et al. 2016), position by position, without any gradient."""
    with torch.no_grad():
        maps = network.bend(network.maps(batch).clone())
        found = torch.zeros(len(batch), *maps.shape[2:])
        for n, wanted in enumerate(classes.tolist()):
            for i in range(maps.shape[2]):
                for j in range(maps.shape[3]):
                    found[n, i, j] = network.linear.weight[wanted] @ maps[n, :, i, j]
        return F.interpolate(found.relu()[:, None], size=batch.shape[2:], mode="bilinear", align_corners=False)[:, 0]


@pytest.mark.parametrize("ending", ["", "log", "soft"])
def test_grad_cam_is_the_positive_part_of_cam(ending: str) -> None:
    network, batch, classes = made(ending), pictures(), torch.tensor([0, 1, 2, 3, 1])
    found = grad_cam(network, "bend", batch, classes)
    positions = 6 * 5
    assert found.shape == (5, 12, 10)
    assert float(found.max()) > 0.001  # not all blank
    torch.testing.assert_close(found * positions, cam(network, batch, classes), rtol=1e-4, atol=1e-5)


def test_grad_cam_of_a_saturated_network_that_ends_in_log_softmax_is_not_blank() -> None:
    network, batch = made("log"), pictures()
    with torch.no_grad():
        network.linear.weight.mul_(1000)
    said = network(batch).argmax(1)
    probability = network(batch).exp().max(1).values
    assert (probability == 1).any()  # where the log-probability's own gradient is exactly 0
    found = grad_cam(network, "bend", batch, said)
    torch.testing.assert_close(found * 30, cam(network, batch, said), rtol=1e-4, atol=1e-2)


def test_grad_cam_of_a_registered_network_is_its_cam() -> None:
    torch.manual_seed(7)
    network = models.build("feather_quick").eval()
    batch = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    classes = network(batch).argmax(1)
    with torch.no_grad():
        maps = network.c4(network.c3(network.c2(network.c1(batch))))  # type: ignore[operator]
        weight = dict(network.named_parameters())["output.1.weight"]
        low = torch.einsum("nk,nkhw->nhw", weight[classes], maps).relu() / 16
    expected = F.interpolate(low[:, None], size=(32, 32), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(grad_cam(network, "c4", batch, classes), expected, rtol=1e-4, atol=1e-6)


def test_a_layer_before_an_operation_in_place_is_kept_as_it_was() -> None:
    batch, classes = pictures(), torch.tensor([3, 2, 1, 0, 0])
    plain = grad_cam(made(), "maps", batch, classes)
    torch.testing.assert_close(grad_cam(made(in_place=True), "maps", batch, classes), plain)
    assert not torch.allclose(plain, grad_cam(made(), "bend", batch, classes))  # another layer, another map


def test_the_network_is_left_as_it_was() -> None:
    network, batch, classes = made().train(), pictures(), torch.tensor([0, 0, 1, 1, 2])
    network.norm.eval()
    network.linear.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    copy = batch.clone()
    grad_cam(network, "bend", batch, classes)
    integrated_gradients(network, batch, classes, steps=4)
    assert network.training
    assert not network.norm.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.bend._forward_hooks
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(batch, copy)
    assert batch.grad is None
    assert not batch.requires_grad


def test_it_works_inside_inference_mode_and_on_a_frozen_network() -> None:
    network, classes = made(), torch.tensor([0, 1, 2, 3, 1])
    expected = grad_cam(network, "bend", pictures(), classes)
    network.requires_grad_(False)
    with torch.inference_mode():
        batch = pictures()
        found = grad_cam(network, "bend", batch, classes)
        summed = integrated_gradients(network, batch, classes, steps=8)
    torch.testing.assert_close(found, expected)
    assert summed.abs().sum() > 0


def test_chunks_do_not_show() -> None:
    network, batch = made(), pictures(CHUNK + 3)
    classes = torch.arange(len(batch)) % 4
    found = grad_cam(network, "bend", batch, classes)
    for number in (0, CHUNK - 1, CHUNK, CHUNK + 2):
        alone = grad_cam(network, "bend", batch[number : number + 1], classes[number : number + 1])
        torch.testing.assert_close(found[number], alone[0], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(class_scores(network, batch), network(batch).detach(), rtol=1e-4, atol=1e-5)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 6, 5, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ self.weight.flatten(1).T) + 7


class Squared(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ self.weight.flatten(1).T) ** 2


def small(count: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 6, 5, generator=torch.Generator().manual_seed(seed))


def test_integrated_gradients_of_a_linear_network_are_weight_times_difference() -> None:
    network, batch, classes = Linear(), small(3), torch.tensor([0, 3, 1])
    base = small(1, seed=9)[0]
    for baseline, way in ((None, batch), (base, batch - base), (torch.tensor(0.5), batch - 0.5)):
        found = integrated_gradients(network, batch, classes, baseline=baseline, steps=3)
        torch.testing.assert_close(found, way * network.weight.detach()[classes], rtol=1e-5, atol=1e-5)


def test_integrated_gradients_of_a_square() -> None:
    """For f(x) = (w·x)² along t·x the gradient is 2t(w·x)w, whose integral over t is (w·x)w: times x, part by part."""
    network, batch, classes = Squared().double(), small(4).double(), torch.tensor([0, 1, 2, 3])
    weight = network.weight.detach()[classes]
    expected = batch * weight * (weight * batch).sum(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(integrated_gradients(network, batch, classes, steps=2), expected)
    one = integrated_gradients(network, batch, classes, steps=1)  # the middle is exact for a straight line too
    torch.testing.assert_close(one, expected)


def test_integrated_gradients_add_up_to_the_difference_of_scores() -> None:
    """Along a path across many ReLU edges a sum of few steps misses by some percent, and closes in with more."""
    network, batch, classes = made(), pictures(4), torch.tensor([0, 3, 2, 1])
    with torch.no_grad():
        plain = network(torch.zeros_like(batch[:1]))[0, classes]
        expected = network(batch).gather(1, classes[:, None])[:, 0] - plain
    gaps = {}
    for steps in (1, 16, 512):
        found = integrated_gradients(network, batch, classes, steps=steps)
        is_, should = completeness(network, batch, classes, found)
        torch.testing.assert_close(should, expected, rtol=1e-4, atol=1e-4)
        gaps[steps] = float((is_ - should).abs().max() / expected.abs().max())
    assert gaps[1] > 0.02
    assert gaps[16] < gaps[1] / 2
    assert gaps[512] < 0.002


def test_what_cannot_be_asked_is_refused() -> None:
    network, batch, classes = made(), pictures(), torch.tensor([0, 1, 2, 3, 1])
    with pytest.raises(UserError, match="no layer 'nothing'"):
        grad_cam(network, "nothing", batch, classes)
    with pytest.raises(UserError, match="linear gives no map"):
        grad_cam(network, "linear", batch, classes)
    with pytest.raises(ValueError, match="classes must lie in 0 … 3"):
        grad_cam(network, "bend", batch, classes + 1)
    with pytest.raises(ValueError, match="classes must be int64"):
        grad_cam(network, "bend", batch, classes.float())
    with pytest.raises(ValueError, match="pictures must be floating-point"):
        grad_cam(network, "bend", batch[0], classes)
    with pytest.raises(ValueError, match="steps"):
        integrated_gradients(network, batch, classes, steps=0)
    with pytest.raises(UserError, match="pictures, classes"):
        class_scores(network.maps, batch)


class Beside(Pooled):
    """Its layer `aside` runs, but the output does not depend on it; `never` does not even run."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = nn.Conv2d(3, 2, 1)
        self.never = nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.aside(x)
        return super().forward(x)


def test_a_layer_that_does_not_reach_the_output_is_told() -> None:
    with pytest.raises(UserError, match="does not depend on the layer aside"):
        grad_cam(Beside(), "aside", pictures(), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(UserError, match="not reached"):
        grad_cam(Beside(), "never", pictures(), torch.zeros(5, dtype=torch.int64))

"""The fused operations against torch's own in double precision, and what stands in where they cannot be made."""

from __future__ import annotations

import copy
import itertools
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fused_maps import close, maps
from torch import nn

from featherweight import models
from featherweight.fused import build, depthwise, first
from featherweight.fused.depthwise import DepthwiseConv
from featherweight.fused.norm import FusedNorm
from featherweight.fused.rewrite import fused
from featherweight.fused.winograd import WinogradConv
from featherweight.training.engine import without_dropout
from featherweight.training.whitening import freeze_first_layer

pytestmark = pytest.mark.skipif(build.library() is None, reason="no C compiler here: fused operations did not run")


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("first", "after"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("channels", [16, 48, 64, 112, 128])
def test_norm_and_its_gradients(first: bool, after: bool, with_residual: bool, channels: int) -> None:
    """An offset far from zero would show a variance taken as a difference of large squares."""
    x = maps(5, channels, 7, 9) + torch.linspace(-30, 30, channels)[:, None, None]
    residual, slope = maps(5, channels, 7, 9, seed=1), maps(5, channels, 7, 9, seed=2)
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.uniform_(norm.bias, -1, 1)
    exact = copy.deepcopy(norm).double()
    one, two = x.requires_grad_(), x.detach().double().requires_grad_()
    r1, r2 = residual.requires_grad_(), residual.detach().double().requires_grad_()
    y = FusedNorm(norm, relu_first=first, relu_after=after, dropout=0)(one, r1 if with_residual else None)
    right = exact(two.relu() if first else two)
    right = (right.relu() if after else right) + (r2 if with_residual else 0)
    y.backward(slope)
    right.backward(slope.double())
    close(y, right, 1e-5)
    for found, true in ((one, two), (norm.weight, exact.weight), (norm.bias, exact.bias)):
        assert found.grad is not None
        assert true.grad is not None
        close(found.grad, true.grad, 3e-5)
    if with_residual:
        assert torch.equal(r1.grad, slope)  # type: ignore[arg-type]
    for name, value in exact.named_buffers():
        close(norm.get_buffer(name), value, 1e-5)


@pytest.mark.usefixtures("threads")
def test_dropout_keeps_its_share_independently_and_scales() -> None:
    torch.manual_seed(3)
    layer = FusedNorm(nn.BatchNorm2d(32), relu_first=False, relu_after=False, dropout=0.1)
    x = torch.rand(64, 32, 16, 16).contiguous(memory_format=torch.channels_last)
    gone = [layer(x) == 0 for _ in range(2)]
    n = x.numel()
    for mask in gone:
        rate, flat = mask.double().mean(), mask.permute(0, 2, 3, 1).reshape(-1).double() - 0.1
        assert abs(float(rate) - 0.1) < 5 * math.sqrt(0.09 / n)
        for lag in (1, 2, 16, 32, 512):  # neighbours, channels, pixels, rows
            assert abs(float((flat[:-lag] * flat[lag:]).mean()) / 0.09) < 5 / math.sqrt(n), lag
    both = (gone[0] & gone[1]).double().mean()  # one step's mask says nothing of the next one's
    assert abs(float(both) - 0.01) < 5 * math.sqrt(0.01 * 0.99 / n)


@pytest.mark.usefixtures("threads")
def test_dropout_scales_what_it_keeps_and_its_gradient_is_its_own_mask() -> None:
    torch.manual_seed(4)
    norm = nn.BatchNorm2d(16)
    x = maps(8, 16, 6, 6).requires_grad_()
    y = FusedNorm(norm, relu_first=True, relu_after=False, dropout=0.25)(x)
    plain = F.batch_norm(x.relu(), None, None, norm.weight, norm.bias, training=True)
    kept = y != 0
    close(y[kept], plain[kept] / 0.75, 1e-5)
    exact = x.detach().double().requires_grad_()
    slope = maps(8, 16, 6, 6, seed=5)
    y.backward(slope)
    masked = F.batch_norm(exact.relu(), None, None, training=True) * kept / 0.75
    masked.backward(slope.double())
    close(x.grad, exact.grad, 1e-5)  # type: ignore[arg-type]


@pytest.mark.usefixtures("threads")
def test_dropout_repeats_from_the_seed() -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return FusedNorm(nn.BatchNorm2d(16), relu_first=False, relu_after=True, dropout=0.5)(maps(2, 16, 4, 4))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("first", "after"), [(True, False), (False, True)])
def test_what_is_not_a_number_stays_so(first: bool, after: bool) -> None:
    x = maps(2, 16, 4, 4)
    x[1, 3, 2, 2] = math.nan
    y = FusedNorm(nn.BatchNorm2d(16), relu_first=first, relu_after=after, dropout=0)(x)
    assert y[:, 3].isnan().all()
    assert y[:, 4].isfinite().all()


def same_convolution(ours: nn.Module, layer: nn.Conv2d, side: int, *, values: float, kernel: float) -> None:
    """`ours`, made of `layer`, against `layer` in double precision: maps and both gradients within those tolerances."""
    exact = copy.deepcopy(layer).double()
    one = maps(3, layer.in_channels, side, side + 2).requires_grad_()
    two = one.detach().double().requires_grad_()
    y, right = ours(one), exact(two)
    slope = maps(*y.shape, seed=1)
    y.backward(slope)
    right.backward(slope.double())
    close(y, right, values)
    close(one.grad, two.grad, values)  # type: ignore[arg-type]
    close(layer.weight.grad, exact.weight.grad, kernel)  # type: ignore[arg-type]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 48), (64, 32), (32, 16)])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_minimal_filtering_is_the_convolution(inputs: int, outputs: int, dilation: int) -> None:
    """Every side and padding, those included where a tile hangs over the edge."""
    for side, padding in itertools.product((1, 2, 3, 4, 5, 8, 13), sorted({0, 1, dilation, 2 * dilation})):
        if side + 2 * padding - 2 * dilation < 1:
            continue
        layer = nn.Conv2d(inputs, outputs, 3, padding=padding, dilation=dilation, bias=False)
        same_convolution(WinogradConv(layer), layer, side, values=3e-5, kernel=1e-4)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_depthwise_is_the_convolution(kernel: int, multiplier: int, stride: int, dilation: int) -> None:
    """Every side and padding, those included where no window lies inside the picture."""
    reach = dilation * (kernel - 1)
    for side, padding in itertools.product((1, 2, 4, 5, 9), sorted({0, reach // 2, reach})):
        if side + 2 * padding <= reach:
            continue
        layer = nn.Conv2d(32, 32 * multiplier, kernel, stride, padding, dilation, groups=32, bias=False)
        same_convolution(DepthwiseConv(layer), layer, side, values=2e-6, kernel=2e-6)


def test_only_depthwise_layers_that_fit_are_taken() -> None:
    assert depthwise.fits(nn.Conv2d(32, 64, 3, groups=32, bias=False))
    assert depthwise.fits(nn.Conv2d(32, 32, 5, padding=2, groups=32, bias=False))
    for other in (
        nn.Conv2d(32, 32, 3, groups=32, bias=False),  # torch's own is as fast
        nn.Conv2d(32, 64, 3, groups=32),
        nn.Conv2d(32, 64, 3, groups=16, bias=False),
        nn.Conv2d(24, 48, 3, groups=24, bias=False),
        nn.Conv2d(32, 64, (3, 5), groups=32, bias=False),
        nn.Conv2d(32, 64, 3, (1, 2), groups=32, bias=False),
        nn.Conv2d(32, 64, 3, padding=1, groups=32, bias=False, padding_mode="reflect"),
    ):
        assert not depthwise.fits(other), other


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", models.names())
def test_a_network_takes_the_same_step(name: str) -> None:
    """Loss, running statistics and gradients of the rewritten pass are the network's own."""
    torch.manual_seed(0)
    network = models.build(name).train()
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    exact, plain = copy.deepcopy(network).double(), copy.deepcopy(network)
    rewritten = fused(network)
    assert rewritten is not None
    x, labels = maps(8, 3, 32, 32), torch.arange(8)
    for run, pictures in ((rewritten, x), (exact, x.double()), (plain, x)):
        F.cross_entropy(run(pictures), labels).backward()
    for (key, found), true, usual in zip(
        network.named_parameters(), exact.parameters(), plain.parameters(), strict=True
    ):
        assert found.grad is not None, key
        assert true.grad is not None
        assert usual.grad is not None
        own, torchs = ((one.grad.double() - true.grad).norm() for one in (found, usual))  # type: ignore[union-attr]
        # ReLU answers a rounding error near zero by a whole gradient, so 1 %; a bias that the next norm takes out has
        # a gradient of 0 and rounding errors, hence the floor
        assert own <= max(30 * torchs, 1e-2 * true.grad.norm(), 1e-6), key
    for key, value in exact.named_buffers():
        torch.testing.assert_close(network.get_buffer(key).double(), value.double(), rtol=1e-4, atol=1e-5)


def test_a_rewritten_network_shares_everything_and_evaluates_as_before() -> None:
    network = models.build("feather_quick").eval()
    keys, x = list(network.state_dict()), torch.rand(2, 3, 32, 32)
    before = network(x)
    assert fused(network) is not None
    assert list(network.state_dict()) == keys
    assert torch.equal(network(x), before)
    assert not network.training


class Branches(nn.Module):
    """What must not be fused: a value read twice, channels that fill no vector, a norm without scale."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        self.narrow, self.bare = nn.BatchNorm2d(3), nn.BatchNorm2d(16, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.norm(self.conv(self.narrow(x)))
        return (self.bare(self.relu(a)) + a).mean((2, 3))


def test_values_that_others_read_are_left_alone() -> None:
    network = Branches().train()
    plain, rewritten = copy.deepcopy(network), fused(network)
    assert rewritten is not None
    x = maps(4, 3, 8, 8)
    close(rewritten(x), plain(x), 1e-5)


class Fickle(nn.Module):
    """A pass that depends on its data: torch.fx cannot trace it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) if x.sum() > 0 else x


def test_a_network_that_cannot_be_traced_is_left_alone() -> None:
    assert fused(Fickle()) is None
    assert fused(nn.Sequential(nn.Conv2d(3, 8, 3))) is None  # nothing to gain


@pytest.fixture
def afresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Nothing built yet, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.library.cache_clear()
    yield tmp_path / "featherweight"
    build.library.cache_clear()


def test_no_compiler_means_torchs_own_operations(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build.library() is None
    assert fused(models.build("feather_quick")) is None


def test_a_compiler_that_fails_means_torchs_own_operations(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    assert build.library() is None
    assert not list(afresh.glob("*.so"))


def test_the_library_is_built_once_and_a_broken_one_again(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.library() is not None
    (made,) = afresh.iterdir()
    stamp = made.stat().st_mtime_ns
    build.library.cache_clear()
    assert build.library() is not None
    assert made.stat().st_mtime_ns == stamp
    elsewhere = afresh.parent / "elsewhere"
    broken = elsewhere / "featherweight" / made.name
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"\x7fELF half a library")
    monkeypatch.setenv("XDG_CACHE_HOME", str(elsewhere))
    build.library.cache_clear()
    assert build.library() is not None
    assert broken.stat().st_size > 10_000


@pytest.mark.skipif(os.name == "nt", reason="folders without permission")
def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "featherweight").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.library.cache_clear()
    assert build.library() is not None
    build.library.cache_clear()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("channels", "height", "width"), [(16, 7, 9), (32, 24, 24), (48, 5, 17)])
def test_a_frozen_first_layer_is_what_its_layers_give(channels: int, height: int, width: int) -> None:
    conv, norm = nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
    for value, low, high in ((norm.weight, 0.5, 2), (norm.bias, -1, 1)):
        nn.init.uniform_(value, low, high)
    nn.init.uniform_(norm.running_mean, -1, 1)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    exact = copy.deepcopy(nn.Sequential(conv, norm, nn.ReLU())).double().eval()
    for layer in (conv, norm):
        layer.requires_grad_(False)
    assert first.fits(conv, norm)
    x = maps(5, 3, height, width)
    found = first.FrozenFirst(conv, norm)(x)
    close(found, exact(x.double()), 1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not found.requires_grad
    x[1, 2, 3, 4] = math.nan
    spoilt = first.FrozenFirst(conv, norm)(x).isnan().any(1)
    assert spoilt[1, 2:5, 3:6].all()
    assert spoilt.sum() == 9


@pytest.mark.parametrize("name", ["feather_quick", "feather_200k", "separable_100k"])
def test_a_network_with_a_frozen_first_layer_learns_alike(name: str) -> None:
    """Also where the norm stands behind the ReLU, so that the convolution alone is frozen."""
    torch.manual_seed(0)
    network = models.build(name).train()
    without_dropout(network)
    frozen = freeze_first_layer(network)
    for layer in frozen:
        layer.eval()
    exact, plain, rewritten = copy.deepcopy(network).double(), copy.deepcopy(network), fused(network)
    assert rewritten is not None
    taken = [module for module in rewritten.modules() if isinstance(module, first.FrozenFirst)]  # type: ignore[attr-defined]
    assert len(taken) == (name != "separable_100k")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x, labels = maps(8, 3, 32, 32), torch.arange(8)
    for run, pictures in ((rewritten, x), (exact, x.double()), (plain, x)):
        F.cross_entropy(run(pictures), labels).backward()
    for (key, found), true, usual in zip(
        network.named_parameters(), exact.parameters(), plain.parameters(), strict=True
    ):
        assert (found.grad is None) == (true.grad is None) == (not found.requires_grad), key
        if found.grad is not None and true.grad is not None and usual.grad is not None:
            own, torchs = ((one.double() - true.grad).norm() for one in (found.grad, usual.grad))
            assert own <= max(30 * torchs, 3e-3 * true.grad.norm(), 1e-6), key  # as for a network that learns whole
    kept = {id(value) for layer in frozen for value in layer.state_dict(keep_vars=True).values()}
    for key, value in network.state_dict(keep_vars=True).items():
        if id(value) in kept:
            assert torch.equal(value, before[key]), key

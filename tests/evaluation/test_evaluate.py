"""One pass over a set: every picture counted, independent of the batch size, nothing about the network changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from featherweight.datasets import PictureSet
from featherweight.evaluation import Evaluation, evaluate
from featherweight.utils import UserError

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CLASSES = ("ant", "bee", "cat", "dog", "emu")


def pictures_of(count: int, seed: int = 0) -> PictureSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8, generator=generator)
    return PictureSet(images, torch.randint(len(CLASSES), (count,), generator=generator), CLASSES)


class Small(nn.Module):
    """Convolution, batch norm, dropout, global pooling: everything whose behaviour depends on the mode."""

    def __init__(self, classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.output = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.features(x).mean((2, 3)))


@pytest.fixture
def network() -> Small:
    torch.manual_seed(1)
    small = Small()
    with torch.no_grad():
        small.features[1].running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
        small.output.weight.mul_(10)
    return small


def measure(network: nn.Module, pictures: PictureSet, **options) -> Evaluation:
    return evaluate(network, pictures, mean=MEAN, std=STD, device="cpu", **options)


def by_hand(network: nn.Module, pictures: PictureSet) -> torch.Tensor:
    """Outputs picture by picture, normalised in this test's own words."""
    network.eval()
    rows = []
    with torch.no_grad():
        for image in pictures.images:
            channels = [(image[..., c].double() / 255 - MEAN[c]) / STD[c] for c in range(3)]
            rows.append(network(torch.stack(channels)[None].float())[0])
    return torch.stack(rows)


def test_figures_are_those_of_a_plain_loop(network: Small) -> None:
    pictures = pictures_of(53)
    outputs = by_hand(network, pictures)
    found = measure(network, pictures, batch_size=10)
    assert torch.allclose(found.logits, outputs, atol=1e-4)
    right = [int(row.argmax()) == int(label) for row, label in zip(outputs, pictures.labels, strict=True)]
    assert found.images == 53
    assert found.accuracy == sum(right) / 53
    assert found.loss == pytest.approx(float(nn.functional.cross_entropy(outputs, pictures.labels)), abs=1e-5)
    for index, name in enumerate(CLASSES):
        own = [hit for hit, label in zip(right, pictures.labels.tolist(), strict=True) if label == index]
        assert found.per_class[name] == pytest.approx(sum(own) / len(own))
        assert sum(found.confusion[index]) == len(own)


@pytest.mark.parametrize("batch_size", [1, 7, 52, 53, 54, 500])
def test_the_batch_size_changes_nothing(network: Small, batch_size: int) -> None:
    pictures = pictures_of(53)
    whole, parts = measure(network, pictures, batch_size=53), measure(network, pictures, batch_size=batch_size)
    assert parts.images == 53
    assert torch.equal(parts.logits.argmax(1), whole.logits.argmax(1))
    assert torch.allclose(parts.logits, whole.logits, atol=1e-5)
    assert parts.confusion == whole.confusion
    assert parts.loss == pytest.approx(whole.loss, abs=1e-6)


def test_mode_and_weights_are_left_as_they_were(network: Small) -> None:
    network.train()
    network.features[1].eval()  # a frozen batch norm inside a network in training
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    first, second = measure(network, pictures_of(20)), measure(network, pictures_of(20))
    assert torch.equal(first.logits, second.logits)  # dropout was off
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not first.logits.is_inference()


def test_the_mode_is_restored_when_the_network_fails() -> None:
    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ArithmeticError("no")

    failing = Failing().train()
    with pytest.raises(ArithmeticError):
        measure(failing, pictures_of(3))
    assert failing.training


def test_fp32_means_fp32_whatever_is_set_around_it(network: Small) -> None:
    pictures = pictures_of(40)
    exact = measure(network, pictures)
    backends: Any = torch.backends  # its parts have no stubs
    before = backends.mkldnn.conv.fp32_precision, backends.cudnn.conv.fp32_precision
    inside = []
    watch = network.features[0].register_forward_hook(
        lambda *_: inside.append(
            (
                backends.cudnn.conv.fp32_precision,
                backends.cuda.matmul.fp32_precision,
                backends.mkldnn.conv.fp32_precision,
                torch.is_autocast_enabled("cpu"),
            )
        )
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        around = measure(network, pictures)
        assert torch.is_autocast_enabled("cpu")
    watch.remove()
    assert torch.equal(exact.logits, around.logits)
    assert inside == [("ieee", "ieee", "ieee", False)]
    after = backends.mkldnn.conv.fp32_precision, backends.cudnn.conv.fp32_precision
    assert after == before


def test_bf16_is_another_arithmetic(network: Small) -> None:
    pictures = pictures_of(40)
    exact, rounded = measure(network, pictures), measure(network, pictures, precision="bf16")
    assert rounded.logits.dtype == torch.float32
    assert not torch.equal(exact.logits, rounded.logits)
    assert torch.allclose(exact.logits, rounded.logits, atol=0.2)


def test_log_probabilities_are_measured_like_logits(network: Small) -> None:
    pictures = pictures_of(40)
    logits, logs = measure(network, pictures), measure(nn.Sequential(network, nn.LogSoftmax(1)), pictures)
    assert logs.confusion == logits.confusion
    assert logs.loss == pytest.approx(logits.loss, abs=1e-6)
    assert logs.calibration_error == pytest.approx(logits.calibration_error, abs=1e-6)


def test_the_dictionary_is_plain_json(network: Small) -> None:
    import json

    pictures = pictures_of(12)
    some = PictureSet(pictures.images, torch.zeros(12, dtype=torch.int64), CLASSES)  # four classes without pictures
    values = json.loads(json.dumps(measure(network, some).to_dict(), allow_nan=False))
    assert set(values) == {"accuracy", "loss", "images", "per_class", "confusion", "calibration_error"}
    assert values["per_class"]["bee"] is None
    assert values["per_class"]["ant"] == values["accuracy"]


def test_what_cannot_be_measured_is_refused(network: Small) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        measure(network, pictures_of(0))
    with pytest.raises(ValueError, match="batch_size"):
        measure(network, pictures_of(3), batch_size=0)
    with pytest.raises(UserError, match=r"\[3, 4\] for 3 pictures of 5 classes"):
        measure(Small(4), pictures_of(3))
    with torch.no_grad():
        network.output.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite for 3 of 3"):
        measure(network, pictures_of(3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_the_host_waits_once(network: Small) -> None:
    pictures = pictures_of(60)
    expected = measure(network, pictures)
    waits = []
    original = torch.Tensor.cpu
    network.cuda()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "cpu", lambda self: waits.append(self.shape) or original(self))
        found = evaluate(network, pictures, mean=MEAN, std=STD, device="cuda", batch_size=7)
    assert torch.allclose(found.logits, expected.logits, atol=1e-4)
    assert waits.count(torch.Size([60, 5])) == 1

"""The loop: same seed same weights, exact resume after a signal, nothing waits for the device."""

from __future__ import annotations

import copy
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from featherweight import datasets, models
from featherweight.config import AugmentConfig, MixConfig, OptimizerConfig, ScheduleConfig, TeacherConfig, TrainConfig
from featherweight.models.layers import GlobalAveragePool, conv_norm_relu
from featherweight.training import precision
from featherweight.training.averaging import AveragedWeights
from featherweight.training.engine import Trainer, epoch_order, loss_function, shrunk, signals
from featherweight.training.precision import resolve_precision
from featherweight.utils import UserError

QUICK = TrainConfig(
    epochs=2,
    batch_size=32,
    precision="fp32",
    average=0.9,
    clip_norm=1.0,
    augment=AugmentConfig(engine="batched", rotate_limit=10.0),
    optimizer=OptimizerConfig(lr=0.05),
    schedule=ScheduleConfig(warmup=0.2),
)


def pictures(count: int = 160, size: int = 32) -> datasets.PictureSet:
    """Noise about one of three greys: a task that a few steps can learn."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 3
    noise = torch.randint(0, 60, (count, size, size, 3), generator=generator)
    return datasets.PictureSet((noise + 60 * labels[:, None, None, None]).to(torch.uint8), labels, ("a", "b", "c"))


def trainer(
    settings: TrainConfig = QUICK, model: str = "feather_quick", data: datasets.PictureSet | None = None
) -> Trainer:
    torch.manual_seed(settings.seed)
    network = models.build(model, classes=3)
    statistics = datasets.Statistics(mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))
    return Trainer(network, settings, data or pictures(), None, statistics, torch.device("cpu"))


def weights_after(settings: TrainConfig, folder: Path, model: str = "feather_quick") -> dict[str, torch.Tensor]:
    run = trainer(settings, model)
    run.train(folder / "checkpoint.safetensors", lambda figures: None)
    return run.final_network().state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("model", ["feather_quick", "separable_100k"])  # the second has dropout
def test_the_seed_decides_the_weights_bit_for_bit(tmp_path: Path, model: str) -> None:
    settings = dataclasses.replace(QUICK, epochs=1)
    first = weights_after(settings, tmp_path / "a", model)
    assert equal(first, weights_after(settings, tmp_path / "b", model))
    assert not equal(first, weights_after(dataclasses.replace(settings, seed=1), tmp_path / "c", model))


def test_it_learns(tmp_path: Path) -> None:
    run = trainer(dataclasses.replace(QUICK, epochs=4, average=0.0))
    lines: list[dict] = []
    run.train(tmp_path / "checkpoint.safetensors", lines.append)
    assert lines[-1]["train_loss"] < 0.5 * lines[0]["train_loss"]
    assert lines[-1]["train_accuracy"] > 0.9
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert lines[-1]["images_per_second"] > 0


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("stop_after", [1, 5, 7])
def test_a_run_cut_off_at_any_step_goes_on_bit_for_bit(tmp_path: Path, name, stop_after: int) -> None:
    settings = dataclasses.replace(QUICK, optimizer=OptimizerConfig(name=name, lr=0.02))
    if stop_after == 7:
        settings = dataclasses.replace(settings, whiten=True, freeze_first=True)
    whole = weights_after(settings, tmp_path / "whole", "separable_100k")
    cut = trainer(settings, "separable_100k")
    checkpoint = tmp_path / "checkpoint.safetensors"

    class Stop(Exception):
        pass

    done = 0
    step = cut._step

    def counted(*batch: torch.Tensor) -> None:
        nonlocal done
        if done == stop_after:
            raise Stop
        step(*batch)
        done += 1

    cut._step = counted  # type: ignore[method-assign]
    with pytest.raises(Stop):
        cut.train(checkpoint, lambda figures: None)
    cut.save(checkpoint)
    torch.manual_seed(999)  # the state must come from the file, not from where the generator happens to be
    resumed = trainer(settings, "separable_100k")
    resumed.load(checkpoint)
    resumed.train(checkpoint, lambda figures: None)
    assert equal(whole, resumed.final_network().state_dict())


@pytest.mark.parametrize("fused", [True, False])
def test_a_frozen_first_layer_stays_and_the_rest_learns(tmp_path: Path, fused: bool) -> None:
    settings = dataclasses.replace(QUICK, whiten=True, freeze_first=True, fused=fused)
    start = {key: value.clone() for key, value in trainer(settings).network.state_dict().items()}
    end = weights_after(settings, tmp_path)
    frozen = {key for key in start if key.startswith(("c1.0.", "c1.1."))}
    assert {key for key in start if key in frozen and not torch.equal(start[key], end[key])} == set()
    learnt = {key for key in start if key.endswith("weight") and key not in frozen}
    assert all(not torch.equal(start[key], end[key]) for key in learnt)


TRAIN = [sys.executable, "-m", "featherweight", "train", "--recipe", "digits", "--epochs", "2", "--device", "cpu"]
# Two threads wait for each other beside other tests; that their sums keep their order, the replay of records shows.
TRAIN += ["--threads", "1"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run([*TRAIN, "--out", str(folder)], check=True, capture_output=True, timeout=300, cwd=ROOT)
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_either_signal_asks_once_and_is_then_what_it_was(number: int) -> None:
    heard: list[int] = []
    before = signal.signal(number, lambda number, frame: heard.append(number))
    try:
        with signals() as stop:
            signal.raise_signal(number)
            assert stop.is_set()
            assert heard == []
            signal.raise_signal(number)
            assert heard == [number]
        signal.raise_signal(number)
        assert heard == [number, number]
    finally:
        signal.signal(number, before)


@pytest.mark.slow
def test_a_signalled_run_that_is_resumed_ends_as_the_uninterrupted_one(tmp_path: Path, uninterrupted: bytes) -> None:
    command = [*TRAIN, "--out", str(tmp_path / "cut")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    metrics = tmp_path / "cut" / "metrics.jsonl"
    while not metrics.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "--resume" in told.strip().splitlines()[-1]
    assert "Traceback" not in told
    assert len(metrics.read_text().splitlines()) == 1
    resume = [*command, "--resume", "--json"]
    done = subprocess.run(resume, check=True, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == uninterrupted
    assert json.loads(done.stdout)["epochs"] == 2
    assert len(metrics.read_text().splitlines()) == 2


@pytest.mark.parametrize("damage", ["truncate", "scribble", "other", "absent"])
def test_a_checkpoint_that_does_not_fit_is_told_in_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    run = trainer()
    run.save(path)
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "scribble":
        path.write_bytes(b"\xff" * 64 + content[64:])
    elif damage == "absent":
        path.unlink()
    with pytest.raises(UserError, match=r"checkpoint\.safetensors"):
        trainer(model="separable_100k" if damage == "other" else "feather_quick").load(path)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    run = trainer()
    run.save(path)
    before = path.read_bytes()
    with torch.no_grad():
        next(run.network.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="no longer finite in epoch 1"):
        run.train(path, lambda figures: None)
    assert path.read_bytes() == before


class _NoWaiting(TorchDispatchMode):
    """Fails on any operation that makes the host wait for a value of the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": OptimizerConfig(name="muon")},
        {"small_size": 24, "small_until": 1.0},
        {"mix": MixConfig(mixup=0.4)},
        {"mix": MixConfig(cutmix=1.0)},
        {"teacher": TeacherConfig(weights="feather_quick", share=0.5)},
    ],
    ids=["muon", "small pictures", "mixup", "cutmix", "teacher"],
)
def test_a_step_does_not_wait_for_the_device(changes: dict[str, Any]) -> None:
    settings = dataclasses.replace(QUICK, clip_norm=1.0, **changes)
    ten = dataclasses.replace(pictures(), classes=datasets.CLASSES["cifar10"])
    network = models.build("feather_quick")
    run = Trainer(network, settings, ten, None, datasets.STATISTICS["cifar10"], torch.device("cpu"))
    batch, labels = torch.randn(32, 3, 32, 32), torch.randint(0, 3, (32,))
    with _NoWaiting():
        run._step(batch, labels)


def test_the_epochs_order_is_a_permutation_that_seed_and_epoch_decide() -> None:
    order = epoch_order(1000, 0, 0)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert torch.equal(order, epoch_order(1000, 0, 0))
    assert not torch.equal(order, epoch_order(1000, 0, 1))
    assert not torch.equal(order, epoch_order(1000, 1, 0))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_log_probabilities_get_the_loss_of_logits(smoothing: float) -> None:
    logits, labels = torch.randn(8, 5, dtype=torch.float64), torch.randint(0, 5, (8,))
    ends_in_log_softmax = nn.Identity()
    ends_in_log_softmax.log_probabilities = True  # type: ignore[assignment]
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(loss_function(nn.Identity(), smoothing)(logits, labels), expected)
    torch.testing.assert_close(loss_function(ends_in_log_softmax, smoothing)(logits.log_softmax(1), labels), expected)


def test_the_average_follows_its_definition() -> None:
    source = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = AveragedWeights(source, 0.5)
    expected = copy.deepcopy(source.state_dict())
    for step in range(20):
        with torch.no_grad():
            for value in source.state_dict().values():
                value.add_(1)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        for key, value in source.state_dict().items():
            whole = not value.is_floating_point()
            expected[key] = value.clone() if whole else decay * expected[key] + (1 - decay) * value
    for key, value in average.network.state_dict().items():
        torch.testing.assert_close(value, expected[key])
    assert not any(p.requires_grad for p in average.network.parameters())


def test_automatic_precision_is_settled_once_and_asked_for_precision_kept() -> None:
    settled = resolve_precision(TrainConfig(), torch.device("cpu"))
    assert settled.precision in ("fp32", "bf16")
    assert (
        resolve_precision(dataclasses.replace(TrainConfig(), precision="bf16"), torch.device("cpu")).precision == "bf16"
    )


def test_bf16_is_not_measured_where_it_is_known_whether_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disturbed clock once chose it on a processor that cannot compute in it."""
    asked: list[str] = []

    def layer(*arguments: object, **options: object) -> None:
        asked.append("measured")
        raise AssertionError

    monkeypatch.setattr(precision.nn, "Conv2d", layer)
    monkeypatch.setattr(precision.tiles, "available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "amx_bf16": False, "avx2": True})
    assert resolve_precision(TrainConfig(), torch.device("cpu")).precision == "fp32"
    assert not asked
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    with pytest.raises(AssertionError):
        resolve_precision(TrainConfig(), torch.device("cpu"))
    assert asked
    asked.clear()
    monkeypatch.setattr(precision.tiles, "available", lambda: True)  # where it always pays, no clock is asked
    assert resolve_precision(TrainConfig(), torch.device("cpu")).precision == "bf16"
    assert not asked
    for torchs in (TrainConfig(fused=False), TrainConfig(compile=True), TrainConfig(channels_last=False)):
        with pytest.raises(AssertionError):  # but by torch's operations it need not
            resolve_precision(torchs, torch.device("cpu"))


def test_bf16_trains(tmp_path: Path) -> None:
    """It learns; and that it computes otherwise than in fp32, but near it, shows in the first step's loss."""
    run = trainer(dataclasses.replace(QUICK, precision="bf16"))
    lines: list[dict] = []
    run.train(tmp_path / "checkpoint.safetensors", lines.append)
    assert lines[1]["train_loss"] < 0.9 * lines[0]["train_loss"]
    exact = trainer(dataclasses.replace(QUICK, epochs=1))
    exact.train(tmp_path / "exact.safetensors", lines.append)
    first, other = run.progress.first_losses[0], exact.progress.first_losses[0]
    assert first != other
    assert first == pytest.approx(other, rel=0.03)


def test_small_pictures_come_first_and_the_full_size_last(tmp_path: Path) -> None:
    run = trainer(dataclasses.replace(QUICK, small_size=24, small_until=0.6, fused=False))  # 10 steps in all
    sizes: list[int] = []
    run.network.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[-1]))
    run.train(tmp_path / "checkpoint.safetensors", lambda figures: None)
    assert sizes == [24] * 6 + [32] * 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # inductor, at its import
def test_a_compiled_network_takes_the_same_steps(tmp_path: Path) -> None:
    """Two steps, to float accuracy, the averaged weights included, and the keys are the plain network's. A network of
    one layer: what is compiled for a larger one takes the compiler most of a minute."""
    short = dataclasses.replace(QUICK, epochs=1, batch_size=80)
    ends = []
    for compiled in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(conv_norm_relu(3, 8), GlobalAveragePool(), nn.Linear(8, 3))
        settings = dataclasses.replace(short, compile=compiled)
        statistics = datasets.Statistics(mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))
        run = Trainer(network, settings, pictures(), None, statistics, torch.device("cpu"))
        run.train(tmp_path / f"{compiled}.safetensors", lambda figures: None)
        ends.append(run.final_network().state_dict())
    plain, fused = ends
    assert list(plain) == list(fused)
    for key, value in plain.items():
        torch.testing.assert_close(fused[key], value, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(("height", "width", "side"), [(32, 32, 24), (32, 32, 20), (28, 36, 16)])
def test_pictures_are_shrunk_as_torch_resamples_them(height: int, width: int, side: int) -> None:
    pictures = torch.randn(5, 3, height, width, generator=torch.Generator().manual_seed(0))
    right = F.interpolate(pictures, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    found = shrunk(pictures.contiguous(memory_format=torch.channels_last), side)
    torch.testing.assert_close(found, right, atol=1e-5, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last)

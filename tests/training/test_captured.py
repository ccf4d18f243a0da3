"""Recorded steps, by a recorder that works on any device as a CUDA graph does: at every replay the same operations on
the same memory, and nothing of Python in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from featherweight import config, datasets, models
from featherweight.config import MixConfig, OptimizerConfig, TeacherConfig, TrainConfig
from featherweight.training import engine
from featherweight.training.engine import Trainer, epoch_order
from featherweight.utils import UserError

COUNT, BATCH, EPOCHS = 64, 8, 2


pytestmark = pytest.mark.usefixtures("one_thread")


class Tape(TorchDispatchMode):
    """Records torch's operations below autograd, where a device is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []
        self._done = False  # recording on a CPU does the work, so the first replay has nothing left to do

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found

    def warm(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        return work()

    def record(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        with self:
            result = work()
        self._done = True
        return result

    @torch.no_grad()
    def replay(self) -> None:
        if self._done:
            self._done = False
            return
        for func, args, kwargs, before in self.calls:
            now = func(*args, **kwargs)
            for old, new in zip(tree_leaves(before), tree_leaves(now), strict=True):
                if isinstance(old, torch.Tensor) and _memory(old) != _memory(new):
                    old.copy_(new)


class Unrecorded(Tape):
    """Does each step anew, from the same memory that a recording would work on."""

    def record(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        self._work, self._result = work, torch.zeros(())
        return self._result

    def replay(self) -> None:
        self._result.copy_(self._work())


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _settings(**changes: Any) -> TrainConfig:
    base = TrainConfig(
        epochs=EPOCHS,
        batch_size=BATCH,
        precision="fp32",
        fused=False,  # whose operations are not torch's
        label_smoothing=0.1,
        capture=True,
        optimizer=OptimizerConfig(name="muon", lr=0.05, momentum=0.6, rest=2.0, rest_momentum=0.85),
    )
    return dataclasses.replace(base, **changes)


def _pictures() -> datasets.PictureSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return datasets.PictureSet(images, torch.arange(COUNT) % 10, datasets.CLASSES["cifar10"])


def _trainer(settings: TrainConfig, device: str = "cpu") -> Trainer:
    torch.manual_seed(0)
    network = models.build(settings.model)
    return Trainer(network, settings, _pictures(), None, datasets.STATISTICS["cifar10"], torch.device(device))


def _run(trainer: Trainer) -> tuple[dict[str, torch.Tensor], list[float]]:
    """All epochs; the state at the end (weights, statistics, average, sums) and the first losses."""
    trainer.network.train()
    torch.manual_seed(1)
    for epoch in range(EPOCHS):
        order = epoch_order(COUNT, 0, epoch)
        trainer.progress.epoch = epoch
        for step, batch in enumerate(trainer.source.epoch(order, epoch=epoch)):
            trainer.progress.step = step
            trainer._step(*batch)
    trainer._read_first_losses()
    return {**trainer.final_network().state_dict(), "sums": trainer.sums}, trainer.progress.first_losses


CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "mixtures and an average": {"mix": MixConfig(mixup=0.4, cutmix=1.0), "average": 0.9},
    "small pictures, clipped": {"small_size": 24, "small_until": 0.5, "clip_norm": 0.5},
    "dropout, log-probabilities": {"model": "separable_100k", "rules": "none"},
    "a teacher": {"teacher": TeacherConfig(weights="feather_quick", share=0.5)},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_replayed_steps_are_the_steps(changes: dict[str, Any]) -> None:
    settings = _settings(**changes)
    direct, captured = _trainer(settings), _trainer(settings)
    tapes: list[Tape] = []
    captured.capture(lambda: tapes.append(Tape()) or tapes[-1])  # type: ignore[func-returns-value]
    direct.capture(Unrecorded)
    right, right_losses = _run(direct)
    found, losses = _run(captured)
    assert sum(bool(tape.calls) for tape in tapes) == (2 if settings.small_size else 1)  # a recording for each size
    for key, value in right.items():
        assert torch.equal(found[key], value), key
    assert losses == right_losses
    assert len(losses) == engine.FIRST_STEPS


def test_steps_that_can_be_recorded_are_the_usual_ones_but_for_rounding() -> None:
    usual, capturable = _trainer(_settings()), _trainer(_settings())
    capturable.capture(Unrecorded)
    _, right = _run(usual)
    _, found = _run(capturable)
    assert found[:5] == pytest.approx(right[:5], rel=1e-4)  # rounding grows from step to step


def test_a_step_with_a_number_of_pythons_in_it_is_found_out() -> None:
    """What the comparison above relies on: rates that are not tensors stay what they were at the recording."""
    settings = _settings()
    direct, captured = _trainer(settings), _trainer(settings)
    captured.capture(Tape)
    for group in captured.optimizer.param_groups:
        group["lr"] = float(group["lr"])
    right, _ = _run(direct)
    found, _ = _run(captured)
    assert max(float((found[key] - right[key]).abs().max()) for key in right if "num_batches" not in key) > 1e-3


class _OnTheDevice(TorchDispatchMode):
    """Fails on an operation on the host's memory (numbers aside), or one that makes the host wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func is not torch.ops.aten._local_scalar_dense.default
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, found)):
            assert not isinstance(value, torch.Tensor) or value.device.type == "meta" or value.ndim == 0, func
        return found


@pytest.mark.parametrize("recipe", ["feather_quick", "feather_quick_gpu", "separable_100k_ours", "c1c2c3c4_dilated"])
def test_what_is_recorded_stays_on_the_device(recipe: str) -> None:
    """A copy from the host's memory cannot be recorded. The meta device stands for the GPU: shapes, no values."""
    settings = config.resolve(recipe, {"capture": True, "precision": "fp32", "batch_size": BATCH, "clip_norm": 1.0})
    trainer = _trainer(settings, "meta")
    trainer.capture(Tape)
    batch = torch.empty(BATCH, 3, 32, 32, device="meta").to(memory_format=torch.channels_last)
    labels = torch.zeros(BATCH, dtype=torch.long, device="meta")
    share = torch.ones((), device="meta")
    trainer.learn_directly(batch, labels, share)  # makes the optimiser's buffers, as the steps before a recording do
    with _OnTheDevice():
        trainer.learn_directly(batch, labels, share)


def test_what_cannot_be_recorded_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match="only Muon takes its rates"):
        _trainer(_settings(optimizer=OptimizerConfig(name="sgd")))
    with pytest.raises(UserError, match="two ways to the same end"):
        _trainer(_settings(compile=True))

    class Refusing(Tape):
        def record(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
            try:
                raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
            finally:
                raise RuntimeError("operation failed due to a previous error during capture")

    trainer = _trainer(_settings())
    trainer.capture(Refusing)
    with pytest.raises(UserError, match=r"recorded as a CUDA graph \(operation not permitted .*capture=false"):
        _run(trainer)

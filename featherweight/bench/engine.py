"""Our engine by turns, through its public door alone: a `Trainer` whose epochs are the turns.

A turn is one epoch (or several, on a fast device) over as many pictures as take about the seconds wanted, at the
recipe's own schedule: where a recipe trains its first steps on small pictures, every turn does so in proportion. The
trainer starts each epoch afresh, so what an epoch's start costs (the order, the first batch of the workers) is inside,
as is a checkpoint once a minute.
"""

from __future__ import annotations

import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from featherweight import config as configuration
from featherweight import models
from featherweight.bench.channel import Channel
from featherweight.bench.job import OPERATIONS, Job, Setting, chosen, prepare, start_torch
from featherweight.bench.machine import own_peak
from featherweight.bench.phases import Phases, device_memory, synchronise
from featherweight.config import TrainConfig
from featherweight.rules.cost import cost
from featherweight.rules.graph import trace
from featherweight.training.engine import Interrupted, Trainer
from featherweight.training.memory import keep_freed_memory
from featherweight.training.precision import resolve_precision
from featherweight.training.whitening import freeze_first_layer

SIDE = 32  # of both data sets' pictures
SETTLE_STEPS = 2  # steps before the clock of `try_out` starts: kernels are built, workers have begun
ENDLESS = 100_000  # epochs of `try_out`, which is stopped long before


def build_trainer(setting: Setting, *, epochs: int = 1, pictures: int = 0) -> Trainer:
    """A trainer of the setting's recipe over its first `pictures` (0: all), set up as `training.run` does."""
    config = resolve_precision(configuration.override(setting.config, {"epochs": epochs}), setting.device)
    some = setting.pictures.subset(chosen(pictures, len(setting.pictures))) if pictures else setting.pictures
    network = models.build(config.model, classes=len(some.classes))
    return Trainer(network, config, some, None, setting.statistics, setting.device)


def multiply_adds(config: TrainConfig, classes: int, side: int, steps: int) -> float:
    """Multiply-adds of one picture's forward pass, averaged over a run of `steps` of which the first are on small
    pictures where the recipe says so."""
    network = models.build(config.model, classes=classes)
    return _averaged(config, side, steps, lambda size: cost(trace(network, (1, 3, size, size))).multiply_adds)


def operations(config: TrainConfig, classes: int, side: int, steps: int) -> float:
    """Operations of one picture's training step, averaged likewise: 2 × 3 for each multiply-add, less what a frozen
    first layer spares (the gradients to its kernels and to its map), as torch's counter finds it."""

    def spared(size: int) -> float:
        counts = []
        for freeze in (False, True):
            network = models.build(config.model, classes=classes)
            if freeze:
                freeze_first_layer(network)
            with FlopCounterMode(display=False) as counter:
                network(torch.zeros(2, 3, size, size)).sum().backward()
            counts.append(counter.get_total_flops() / 2)
        return counts[0] - counts[1]

    whole = OPERATIONS * multiply_adds(config, classes, side, steps)
    return whole - _averaged(config, side, steps, spared) if config.freeze_first else whole


def _averaged(config: TrainConfig, side: int, steps: int, at: Callable[[int], float]) -> float:
    """The mean over the steps of what `at` says for a step's size of pictures."""
    small = min(math.ceil(config.small_until * steps), steps) if config.small_size else 0
    return at(side) if not small else (small * at(config.small_size) + (steps - small) * at(side)) / steps


def serve(job: Job, channel: Channel) -> None:
    """Answer `try_out` (a short run over all pictures), then `set_up` (a trainer whose epochs are turns), then `turn`
    and `profile` until there are no more commands."""
    if start_torch(job).type == "cpu":
        keep_freed_memory()  # as `training.run` does
    setting = prepare(job)
    channel.send({})
    while (command := channel.receive()) is not None:
        if command["do"] == "try_out":
            channel.send({**try_out(setting, command["seconds"]), "peak_rss": own_peak()})
        else:
            trainer = build_trainer(setting, pictures=command["pictures"])
            channel.send(_facts(trainer, len(setting.pictures.classes)))
            with tempfile.TemporaryDirectory() as folder:
                Turns(trainer, command["passes"], channel).run(Path(folder) / "checkpoint.safetensors")
            return


def _facts(trainer: Trainer, classes: int) -> dict[str, Any]:
    config = trainer.config
    engine, workers = config.augment.engine, config.augment.workers
    return {
        "precision": config.precision,
        "fused": trainer.fused,
        "augmentation": f"albumentations, {workers} workers" if engine == "albumentations" else engine,
        "multiply_adds": multiply_adds(config, classes, SIDE, trainer.steps_per_epoch),
        "operations": operations(config, classes, SIDE, trainer.steps_per_epoch),
    }


class _NoMoreTurns(Exception):
    """Raised out of the trainer's callback, so that the trainer closes what it opened."""


class Turns:
    """Gives the trainer's epochs out by command: the trainer calls back after each one, and waits there."""

    def __init__(self, trainer: Trainer, passes: int, channel: Channel) -> None:
        self._trainer, self._passes, self._channel = trainer, passes, channel
        self._left, self._images = 0, 0
        self._begun = 0.0
        self._phases: Phases | None = None
        self._unmark: Callable[[], None] = lambda: None

    def run(self, checkpoint: Path) -> None:
        """Serve turns until the commands end."""
        try:
            with self._trainer.source:  # its workers, also where no turn is asked for
                self._await_command()
                self._trainer.train(checkpoint, self._after_epoch)
        except _NoMoreTurns:
            pass

    def _after_epoch(self, figures: dict[str, Any]) -> None:
        trainer = self._trainer
        self._left -= 1
        size, count = trainer.config.batch_size, trainer.source.count
        self._images += min(trainer.steps_per_epoch * size, count)
        trainer.progress.epoch = 0  # the same epoch again, with the same schedule
        if self._left:
            return
        synchronise(trainer.device)
        seconds = time.perf_counter() - self._begun
        if self._phases is None:
            self._channel.send({"images": self._images, "seconds": seconds, "peak_rss": own_peak()})
        else:
            self._unmark()
            self._channel.send({"shares": self._phases.shares(), "peak_rss": own_peak()})
        self._await_command()

    def _await_command(self) -> None:
        command = self._channel.receive()
        if command is None:
            raise _NoMoreTurns
        self._left, self._images, self._phases = self._passes, 0, None
        if command["do"] == "profile":
            self._left = 1
            self._phases = Phases(self._trainer.device)
            self._unmark = mark_parts(self._trainer, self._phases)
        synchronise(self._trainer.device)
        self._begun = time.perf_counter()


def mark_parts(trainer: Trainer, phases: Phases) -> Callable[[], None]:
    """Have `phases` marked at the borders of the parts of each of the trainer's steps; calling the result undoes it.

    "augmentation" is all from the pictures in memory to the network's input; where other processes augment, the time
    spent on their batches here is "waiting".
    """
    config = trainer.config.augment
    apart = config.engine == "albumentations" and config.workers > 0
    epoch, loss, captured = trainer.source.epoch, trainer.loss, trainer.captured
    inside = False  # of the network's pass

    def marked_epoch(*arguments: Any, **options: Any) -> Generator[tuple[torch.Tensor, torch.Tensor]]:
        nonlocal inside
        with closing(epoch(*arguments, **options)) as batches:
            phases.start()
            while (batch := next(batches, None)) is not None:
                phases.mark("waiting" if apart else "augmentation")
                inside = False
                yield batch
                phases.mark("other")

    def enter(module: nn.Module, inputs: object) -> None:
        nonlocal inside
        if not inside:  # the first module that is called, whatever form the network's pass takes
            inside = True
            phases.mark("augmentation")

    def marked_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        value = loss(outputs, labels)
        phases.mark("forward")
        return value

    trainer.source.epoch, trainer.loss = marked_epoch, marked_loss  # type: ignore[method-assign]
    trainer.captured = None  # a recorded step has no parts
    hooks = [
        register_module_forward_pre_hook(enter),
        trainer.optimizer.register_step_pre_hook(lambda *_: phases.mark("backward")),
        trainer.optimizer.register_step_post_hook(lambda *_: phases.mark("optimiser")),
    ]

    def undo() -> None:
        trainer.source.epoch, trainer.loss, trainer.captured = epoch, loss, captured  # type: ignore[method-assign]
        for hook in hooks:
            hook.remove()

    return undo


def try_out(setting: Setting, seconds: float) -> dict[str, Any]:
    """Train over all pictures for some seconds, as a real run would, then stop as Ctrl-C does.

    The answer: the `images_per_second` seen on the way, how many `images` there are and, on CUDA, the `device_memory`
    taken. Meanwhile the parent watches this process's memory.
    """
    trainer = build_trainer(setting, epochs=ENDLESS)
    rates: list[float] = []
    over = threading.Event()
    with tempfile.TemporaryDirectory() as folder, _stopping(trainer, seconds, rates, over):
        try:
            trainer.train(Path(folder) / "checkpoint.safetensors", lambda figures: None)
        except (Interrupted, KeyboardInterrupt):
            pass
        finally:
            over.set()
    memory = device_memory(setting.device)
    return {"images_per_second": rates[0], "images": len(setting.pictures), "device_memory": memory}


@contextmanager
def _stopping(trainer: Trainer, seconds: float, rates: list[float], over: threading.Event) -> Iterator[None]:
    """A thread beside the training that measures its rate for `seconds`, then interrupts it."""

    def steps() -> int:
        progress = trainer.progress
        return progress.epoch * trainer.steps_per_epoch + progress.step

    def watch() -> None:
        while steps() < SETTLE_STEPS and not over.wait(0.01):
            pass
        first, begun = steps(), time.perf_counter()
        while not over.is_set():  # at least one step, however slow the machine
            over.wait(seconds)
            synchronise(trainer.device)
            done, now = steps(), time.perf_counter()
            if done > first:
                rates.append((done - first) * trainer.config.batch_size / (now - begun))
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()

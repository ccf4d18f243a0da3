"""The training loop. Shapes: N pictures, C classes.

    pictures (uint8, in memory) → augmented batch → forward → loss → backward → clip → step → average      per step
    running sums read → validation → checkpoint                                                            per epoch

Nothing on the way of a step waits for the device: loss and hits are summed there and read once a second at most. (Where
albumentations' workers make the batches, sending a batch to the device does wait.)
Everything random is a function of (seed, epoch, step) or of torch's generator, whose state a checkpoint keeps: on the
CPU an interrupted run that is carried on ends bit for bit where the uninterrupted one ends.
"""

from __future__ import annotations

import functools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from featherweight.augment import BatchSource
from featherweight.config import TrainConfig
from featherweight.datasets import PictureSet, Statistics
from featherweight.evaluation import evaluate
from featherweight.fused.rewrite import fused
from featherweight.training.averaging import AveragedWeights
from featherweight.training.captured import CapturedStep, CudaGraph, Graph
from featherweight.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from featherweight.training.distillation import Teacher
from featherweight.training.memory import long_lived_objects
from featherweight.training.mixing import mixed, mixed_loss
from featherweight.training.optimizers import Muon, build_optimizer, keep_rates_on, set_rate
from featherweight.training.precision import autocast
from featherweight.training.progress import EpochProgress
from featherweight.training.schedule import rate
from featherweight.training.whitening import freeze_first_layer
from featherweight.utils import UserError, mix_seed

FIRST_STEPS = 10  # whose losses a record tells
CHECKPOINT_SECONDS = 60.0  # at an epoch's end, a checkpoint is written when the last is older than this


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved."""


def loss_function(network: nn.Module, label_smoothing: float) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Cross-entropy of outputs [N, C] and labels [N], smoothed as in Szegedy et al. 2015 (arXiv:1512.00567).

    A network that gives log-probabilities gets the same loss without a second log-softmax.
    """
    if not getattr(network, "log_probabilities", False):
        return lambda outputs, labels: F.cross_entropy(outputs, labels, label_smoothing=label_smoothing)

    def smoothed_nll(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = F.nll_loss(outputs, labels)
        return loss if label_smoothing == 0 else (1 - label_smoothing) * loss - label_smoothing * outputs.mean()

    return smoothed_nll


DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def without_dropout(network: nn.Module) -> None:
    """Set the rate of every dropout layer of `network` to 0."""
    for layer in network.modules():
        if isinstance(layer, DROPOUT):
            layer.p = 0.0


class Trainer:
    """One run's moving parts. `train()` does all epochs that are left; `final_network()` is what they gave."""

    def __init__(
        self,
        network: nn.Module,
        config: TrainConfig,
        pictures: PictureSet,
        validation: PictureSet | None,
        statistics: Statistics,
        device: torch.device,
    ) -> None:
        """config.precision must be resolved ("fp32" or "bf16"); all parts are moved to `device` here."""
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.config = config
        self.device = device
        self.network = network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        if not config.dropout:
            without_dropout(self.network)
        self.layout = layout
        self.frozen = freeze_first_layer(self.network) if config.freeze_first else []
        self.optimizer = build_optimizer(self.network, config.optimizer)
        if config.capture:
            self._require_capturable()
        self.average = AveragedWeights(self.network, config.average) if config.average > 0 else None
        self.loss = loss_function(network, config.label_smoothing)
        self.teacher = Teacher(config.teacher, pictures.classes, statistics, device) if config.teacher.weights else None
        if self.teacher is not None and validation is not None:
            self.teacher.require_at_most(len(pictures))
        self.statistics = statistics
        self.source = BatchSource(
            config.augment,
            pictures.images,
            pictures.labels,
            config.batch_size,
            seed=config.seed,
            mean=statistics.mean,
            std=statistics.std,
            device=device,
        )
        self.validation = validation
        exact = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        self.sums = torch.zeros(3, dtype=exact, device=device)  # loss · pictures, hits, pictures
        self._begun, self._wall_before = time.perf_counter(), 0.0
        self.progress = Progress()
        self._first_losses: list[torch.Tensor] = []  # not yet read from the device
        self.steps_per_epoch = self.source.steps(len(pictures), drop_last=config.drop_last)
        self._forward: Callable[[torch.Tensor], torch.Tensor] = self.network
        if config.compile:
            # Each size of pictures and batches gets a program of its own, not one slower program for all.
            self._forward = torch.compile(self.network, dynamic=False)
        elif config.fused and device.type == "cpu" and config.channels_last:
            kind = torch.bfloat16 if config.precision == "bf16" else torch.float32
            self._forward = fused(self.network, kind) or self.network
        self.captured: CapturedStep | None = None
        if config.capture and device.type == "cuda":
            self.capture(lambda: CudaGraph(device))

    def _require_capturable(self) -> None:
        """Raises UserError for settings that a recorded step cannot follow."""
        if not isinstance(self.optimizer, Muon):
            raise UserError("capture: only Muon takes its rates from the device; set optimizer.name=muon")
        if self.config.compile:
            raise UserError("capture and compile are two ways to the same end; set one of them to false")

    def capture(self, graph: Callable[[], Graph]) -> None:
        """From now on, record the steps (as `captured` tells) and replay them."""
        assert isinstance(self.optimizer, Muon)
        keep_rates_on(self.optimizer, self.device)
        self.captured = CapturedStep(graph)

    @property
    def fused(self) -> bool:
        """Whether the training pass runs on this project's own operations."""
        return not self.config.compile and self._forward is not self.network

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self.steps_per_epoch

    def final_network(self) -> nn.Module:
        """The network of the last step: its averaged weights where the recipe keeps an average."""
        return self.network if self.average is None else self.average.network

    def train(
        self,
        checkpoint: Path,
        on_epoch: Callable[[dict[str, Any]], None],
        on_best: Callable[[], None] = lambda: None,
    ) -> None:
        """Do the epochs that are left, calling `on_epoch` with each one's figures, and `on_best` before it when the
        network's validation accuracy is the best so far.

        Raises Interrupted after a signal, the state saved in `checkpoint`; UserError when the loss is no longer finite,
        the last good checkpoint kept.
        """
        if not checkpoint.exists():
            self.save(checkpoint)  # so that there is a good one from the first step on
        saved = time.monotonic()
        with self.source, signals() as stop, long_lived_objects():
            while self.progress.epoch < self.config.epochs:
                begun, done_before = time.perf_counter(), self.progress.step
                complete = self._run_epoch(stop)
                seconds = time.perf_counter() - begun
                self.progress.train_seconds += seconds
                if not complete:
                    self._running()
                    self.save(checkpoint)
                    raise Interrupted
                figures = self._finish_epoch(seconds, done_before, on_best)
                on_epoch(figures)
                target = self.config.stop_at_accuracy
                reached = target > 0 and figures.get("val_accuracy", 0.0) >= target
                self.progress.finished = reached or self.progress.epoch == self.config.epochs
                if self.progress.finished or stop.is_set() or time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self.save(checkpoint)
                    saved = time.monotonic()
                if self.progress.finished:
                    return
                if stop.is_set():
                    raise Interrupted

    def save(self, path: Path) -> None:
        """Write the complete state. Raises UserError, leaving the file as it is, for weights that are not finite."""
        if not all(bool(p.isfinite().all()) for p in self.network.parameters()):
            raise self._diverged()
        self.progress.wall_seconds = self._wall_before + time.perf_counter() - self._begun
        self._read_first_losses()
        save_checkpoint(path, self.network, self.optimizer, self.average, self.sums, self.progress)

    def load(self, path: Path) -> None:
        """Take the complete state over from `path`. Raises UserError when it cannot be."""
        self.progress = load_checkpoint(path, self.network, self.optimizer, self.average, self.sums)
        self._wall_before = self.progress.wall_seconds

    def first_batch(self) -> torch.Tensor:
        """The augmented pictures that the next step will see, [N, 3, H, W]; nothing of the run's state changes."""
        order = epoch_order(self.source.count, self.config.seed, self.progress.epoch)
        with closing(self.source.epoch(order, epoch=self.progress.epoch, first_step=self.progress.step)) as stream:
            return next(stream)[0]

    def started(self, moment: float) -> None:
        """Count wall seconds from `moment` (time.perf_counter) instead of from when the trainer was made."""
        self._begun = moment

    def _run_epoch(self, stop: threading.Event) -> bool:
        """The steps of this epoch that are left; false when a signal came in between."""
        config, progress = self.config, self.progress
        self._set_to_training()
        order = epoch_order(self.source.count, config.seed, progress.epoch)
        source = self.source.epoch(order, epoch=progress.epoch, first_step=progress.step, drop_last=config.drop_last)
        shown = EpochProgress(progress.epoch, config.epochs, self.steps_per_epoch, progress.step, config.batch_size)
        with shown, closing(source) as stream:
            for pictures, labels in stream:
                self._step(pictures, labels)
                progress.step += 1
                if shown.due():
                    shown.show(progress.step, *self._running())
                if stop.is_set() and progress.step < self.steps_per_epoch:
                    return False
        self._running()
        return True

    def _set_to_training(self) -> None:
        self.network.train()
        for layer in self.frozen:
            layer.eval()

    def _step(self, pictures: torch.Tensor, labels: torch.Tensor) -> None:
        config, progress = self.config, self.progress
        step = progress.epoch * self.steps_per_epoch + progress.step
        set_rate(self.optimizer, rate(config.schedule, step, self.total_steps))
        if config.small_size and step < config.small_until * self.total_steps:
            pictures = shrunk(pictures, config.small_size)
        mixture = mixed(pictures, config.mix, seed=config.seed, step=step, total_steps=self.total_steps)
        batch = mixture.pictures.contiguous(memory_format=self.layout), labels, mixture.share
        loss = self.learn_directly(*batch) if self.captured is None else self.captured(self.learn_directly, *batch)
        if self.average is not None:
            self.average.update()
        if step < FIRST_STEPS:
            self._first_losses.append(loss.clone())

    def learn_directly(self, pictures: torch.Tensor, labels: torch.Tensor, share: float | torch.Tensor) -> torch.Tensor:
        """Forward, backward and the optimiser's step on a batch as the network sees it; the batch's loss.

        Nothing in here knows which step it is, or it could not be recorded.
        """
        config = self.config
        with autocast(self.device, config.precision):
            outputs = self._forward(pictures)
        loss = mixed_loss(self.loss, outputs.float(), labels, share)
        if self.teacher is not None:
            answers = self.teacher.answers(pictures, autocast(self.device, config.precision))
            loss = self.teacher.loss(outputs.float(), answers, loss)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        self.optimizer.step()
        loss = loss.detach()
        with torch.no_grad():
            hits = (outputs.argmax(1) == labels).sum()
            self.sums += torch.stack([loss.to(self.sums.dtype) * len(labels), hits, hits.new_full((), len(labels))])
        return loss

    def first_losses(self, done: Callable[[], object] = lambda: None) -> list[float]:
        """Does the first steps of a run that is not yet begun, and no more; gives their losses. done: told each."""
        config, progress, left = self.config, self.progress, min(FIRST_STEPS, self.total_steps)
        self._set_to_training()
        with self.source:
            while left:
                order = epoch_order(self.source.count, config.seed, progress.epoch)
                source = self.source.epoch(order, epoch=progress.epoch, drop_last=config.drop_last)
                with closing(source) as stream:
                    for progress.step, (pictures, labels) in zip(range(left), stream, strict=False):
                        self._step(pictures, labels)
                        done()
                left -= progress.step + 1
                progress.epoch, progress.step = progress.epoch + 1, 0
        self._read_first_losses()
        return progress.first_losses

    def _read_first_losses(self) -> None:
        self.progress.first_losses += [float(loss) for loss in self._first_losses]
        self._first_losses = []

    def _running(self) -> tuple[float, float]:
        """Mean loss and accuracy of the epoch so far. Raises UserError when the loss is not finite."""
        loss, hits, _ = (self.sums / self.sums[2].clamp(min=1)).tolist()
        if not math.isfinite(loss):
            raise self._diverged()
        return loss, hits

    def _diverged(self) -> UserError:
        return UserError(
            f"the loss is no longer finite in epoch {self.progress.epoch + 1}, near step {self.progress.step}; "
            "the last good checkpoint is kept: try a lower --lr, or --set clip_norm=1"
        )

    def _finish_epoch(self, seconds: float, done_before: int, on_best: Callable[[], None]) -> dict[str, Any]:
        """Validation, the best state, and the epoch's figures; then on to the next epoch."""
        loss, accuracy = self._running()
        progress = self.progress
        fraction = rate(self.config.schedule, (progress.epoch + 1) * self.steps_per_epoch - 1, self.total_steps)
        figures: dict[str, Any] = {
            "epoch": progress.epoch,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "lr": self.config.optimizer.lr * fraction,
            "seconds": seconds,
            "images_per_second": self._pictures_in(done_before, progress.step) / seconds,
        }
        progress.epoch, progress.step = progress.epoch + 1, 0
        self._read_first_losses()
        self.sums.zero_()
        if self.validation is not None:
            found = evaluate(
                self.final_network(),
                self.validation,
                mean=self.statistics.mean,
                std=self.statistics.std,
                device=self.device,
            )
            figures |= {"val_loss": found.loss, "val_accuracy": found.accuracy}
            if found.accuracy > progress.best_accuracy:
                progress.best_accuracy = found.accuracy
                on_best()
        return figures

    def _pictures_in(self, first: int, last: int) -> int:
        """How many pictures the steps from `first` up to `last` of an epoch hold; the last may be short."""
        size, count = self.config.batch_size, self.source.count
        return min(last * size, count) - min(first * size, count)


def shrunk(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """[N, C, H, W] → [N, C, side, side] in channels-last memory, bilinear with antialiasing. Training on small pictures
    first costs less and teaches nearly as much: progressive resizing (Howard 2018; Tan & Le 2021, arXiv:2104.00298).

    Each way is one product with a fixed matrix: on a CPU a tenth of the time of torch's own resampling.
    """
    (n, c, h, w), device = pictures.shape, str(pictures.device)
    across = _resampling(w, side, c, device)
    rows = pictures.permute(0, 2, 3, 1).reshape(n, h, w * c) @ across.T  # [N, H, side·C]
    return (_resampling(h, side, 1, device) @ rows).view(n, side, side, c).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=16)
def _resampling(length: int, side: int, channels: int, device: str) -> torch.Tensor:
    """[side·channels, length·channels]: what torch's antialiased bilinear resampling does to one line of pixels."""
    units = torch.eye(length).view(length, 1, 1, length)
    line = F.interpolate(units, size=(1, side), mode="bilinear", antialias=True, align_corners=False).view(length, side)
    return torch.kron(line.T.contiguous(), torch.eye(channels)).to(device)


def epoch_order(count: int, seed: int, epoch: int) -> torch.Tensor:
    """The epoch's permutation of `count` pictures: a function of seed and epoch alone."""
    generator = torch.Generator().manual_seed(mix_seed(seed, epoch))
    return torch.randperm(count, generator=generator)


@contextmanager
def signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C or a terminate signal sets; a second one is obeyed at once, as without this."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread alone
        return
    before = {}

    def ask(number: int, frame: object) -> None:
        stop.set()
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""The plain training loop that ours is measured against: what most scripts for CIFAR-10 do, done decently.

torch's DataLoader with as many worker processes as there are cores, a Dataset that augments picture by picture with the
recipe's own albumentations pipeline, the default memory layout, float32, SGD with momentum, loss and hits read with
`.item()` at every step. On a GPU the batches come through pinned memory.

The workers live as long as the loop (starting them is charged to nobody). Out of turn they fill their queues, two
batches each, and then block, which takes no processor time; so a turn begins with full queues, as any step but an
epoch's first does, and up to those batches are a gift to the plain loop.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from featherweight import models
from featherweight.augment import build_pipeline
from featherweight.bench.channel import Channel
from featherweight.bench.job import LEARNING_RATE, MOMENTUM, OPERATIONS, Job, Setting, prepare, torch_facts
from featherweight.bench.machine import own_peak
from featherweight.bench.phases import Phases, device_memory, synchronise
from featherweight.config import AugmentConfig
from featherweight.datasets import PictureSet, Statistics
from featherweight.evaluation import evaluate
from featherweight.rules.cost import cost
from featherweight.rules.graph import trace


class AugmentedPictures(Dataset):
    """Picture by picture: float32 [3, H, W], augmented and normalised, and its label."""

    def __init__(self, pictures: PictureSet, spec: AugmentConfig, statistics: Statistics) -> None:
        self.images, self.labels = pictures.images.numpy(), pictures.labels.numpy()
        self._spec, self._statistics = spec, statistics
        self._pipeline = None  # made in the process that uses it, so that no two draw the same numbers

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        if self._pipeline is None:
            self._pipeline = build_pipeline(self._spec, self._statistics.mean, self._statistics.std)
        picture = self._pipeline(image=self.images[place])["image"]
        return torch.from_numpy(picture.transpose(2, 0, 1)), int(self.labels[place])


class Endless(Sampler):
    """The places of a set, shuffled anew each time round, for ever; each time whole batches of them, as an epoch's last
    and short batch is left out."""

    def __init__(self, count: int, batch_size: int = 1, seed: int = 0) -> None:
        self._count, self._generator = count, np.random.default_rng(seed)
        self._taken = count - count % batch_size

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from self._generator.permutation(self._count)[: self._taken].tolist()


class PlainLoop:
    """The loop, to be run step by step."""

    def __init__(self, setting: Setting, workers: int) -> None:
        """workers: processes that augment, 0 for none."""
        config, self.device = setting.config, setting.device
        # Before the loader, which draws a number: the weights begin as our engine's do.
        self.network = models.build(config.model, classes=len(setting.pictures.classes)).to(self.device)
        self.network.train()
        data = AugmentedPictures(setting.pictures, config.augment, setting.statistics)
        build_pipeline(config.augment, setting.statistics.mean, setting.statistics.std)  # imported before the fork
        loader = DataLoader(
            data,
            batch_size=config.batch_size,
            sampler=Endless(len(data), config.batch_size, config.seed),
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            drop_last=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12's, on forks beside threads
            self._batches = iter(loader)
        log_probabilities = getattr(self.network, "log_probabilities", False)
        self.criterion = nn.NLLLoss() if log_probabilities else nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
        self.steps_per_epoch = len(data) // config.batch_size
        self.loss, self.hits, self.seen = 0.0, 0, 0
        self.mark: Callable[[str], None] = lambda name: None

    def step(self) -> int:
        """One training step; how many pictures it took."""
        pictures, labels = next(self._batches)
        self.mark("waiting")
        pictures, labels = pictures.to(self.device), labels.to(self.device)
        self.optimizer.zero_grad()
        self.mark("other")
        outputs = self.network(pictures)
        loss = self.criterion(outputs, labels)
        self.mark("forward")
        loss.backward()
        self.mark("backward")
        self.optimizer.step()
        self.mark("optimiser")
        self.loss += loss.item() * len(labels)
        self.hits += (outputs.argmax(1) == labels).sum().item()
        self.seen += len(labels)
        self.mark("other")
        return len(labels)

    def turn(self, seconds: float) -> dict[str, float]:
        """Whole steps until `seconds` have gone by, at least one: `images` and the `seconds` they took."""
        images = 0
        synchronise(self.device)
        begun = time.perf_counter()
        while images == 0 or time.perf_counter() - begun < seconds:
            images += self.step()
        synchronise(self.device)
        return {"images": images, "seconds": time.perf_counter() - begun}

    def train(self, epochs: int, setting: Setting, say: Callable[[str], None]) -> dict[str, float]:
        """Whole epochs, told one by one, then the validation pictures: their `accuracy`, how many `images` they are,
        and the `seconds` that the training took."""
        assert setting.validation is not None
        if self.device.type == "cuda":
            self._load_kernels(setting)
        synchronise(self.device)
        begun = time.perf_counter()
        for epoch in range(epochs):
            self.loss, self.hits, self.seen = 0.0, 0, 0
            for _ in range(self.steps_per_epoch):
                self.step()
            say(f"epoch {epoch + 1}/{epochs}  loss {self.loss / self.seen:.4f}  accuracy {self.hits / self.seen:.2%}")
        synchronise(self.device)
        seconds = time.perf_counter() - begun
        mean, std = setting.statistics.mean, setting.statistics.std
        found = evaluate(self.network, setting.validation, mean=mean, std=std, device=self.device)
        return {"accuracy": found.accuracy, "images": found.images, "seconds": seconds}

    def _load_kernels(self, setting: Setting) -> None:
        """A pass on noise by a copy of the network: what a GPU does once a process is no part of the training's time,
        here as for our engine (`whole_run.warm_up`)."""
        side = setting.pictures.images.shape[1]
        noise = torch.randn(setting.config.batch_size, 3, side, side, device=self.device)
        self.criterion(
            copy.deepcopy(self.network)(noise), torch.zeros(len(noise), dtype=torch.long).to(self.device)
        ).backward()
        synchronise(self.device)

    def profile(self, seconds: float) -> dict[str, float]:
        """Each part's share of the step's time, over about `seconds`."""
        phases = Phases(self.device)
        self.mark = phases.mark
        self.turn(seconds)
        self.mark = lambda name: None
        return phases.shares()


def serve(job: Job, channel: Channel) -> None:
    """Answer `turn`, `profile` and `train` until there are no more commands."""
    setting = prepare(job)
    loop = PlainLoop(setting, job.workers)
    side, seed = setting.pictures.images.shape[1], setting.config.seed
    spent = cost(trace(loop.network, (1, 3, side, side)))
    channel.send(
        torch_facts(setting.device)
        | {
            "precision": "fp32",
            "fused": False,
            "augmentation": f"albumentations, {job.workers} workers",
            "parameters": spent.parameters,
            "multiply_adds": spent.multiply_adds,
            "operations": OPERATIONS * spent.multiply_adds,
        }
    )
    while (command := channel.receive()) is not None:
        if command["do"] == "profile":
            shares = loop.profile(job.seconds)
            channel.send({"shares": shares, "device_memory": device_memory(setting.device), "peak_rss": own_peak()})
        elif command["do"] == "train":
            channel.send(
                loop.train(command["epochs"], setting, lambda line: channel.send({"say": f"seed {seed}: {line}"}))
            )
        else:
            channel.send({**loop.turn(command.get("seconds", job.seconds)), "peak_rss": own_peak()})

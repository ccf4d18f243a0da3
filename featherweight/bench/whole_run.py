"""One whole published run in a process of its own: train to the recipe's end, read the test pictures once."""

from __future__ import annotations

import gc
import math
import tempfile
from pathlib import Path

import torch

from featherweight import config as configuration
from featherweight.bench.channel import Channel
from featherweight.bench.engine import SIDE, build_trainer, operations
from featherweight.bench.job import Job, Setting, start_torch, torch_facts
from featherweight.bench.machine import own_peak
from featherweight.bench.phases import device_memory
from featherweight.config import TrainConfig
from featherweight.datasets import CLASSES, STATISTICS, PictureSet
from featherweight.training.run import RulesNotMet, train
from featherweight.training.run_folder import RunFolder
from featherweight.utils import UserError

WARM_STEPS = 10  # an epoch


def serve(job: Job, channel: Channel) -> None:
    """Say what torch is and runs on; on a command, train and answer with the run's figures."""
    device = start_torch(job)
    channel.send(torch_facts(device))
    if channel.receive() is None:
        return
    config = job.config()
    if device.type == "cuda":
        warm_up(config, device)
    with tempfile.TemporaryDirectory() as folder:
        try:
            record = train(
                config,
                RunFolder(job.folder or Path(folder) / "run"),
                data_dir=None if job.data_dir is None else Path(job.data_dir),
                say=lambda line: channel.send({"say": f"seed {config.seed}: {line}"}),
            )
        except RulesNotMet as error:
            raise UserError(str(error)) from error
    channel.send(
        {
            "record": record.to_dict(),
            "flops": training_flops(config, record.train_images, record.epochs),
            "device_memory": device_memory(device),
            "peak_rss": own_peak(),
        }
    )


def warm_up(config: TrainConfig, device: torch.device) -> None:
    """A short run of the recipe on noise, whose network is thrown away.

    A GPU's kernels are loaded and chosen when first used, once a process: seconds that are no training, and that are
    not counted in this field (Jordan 2024, arXiv:2404.00498).
    """
    config = configuration.override(config, {"data.train_on": "all", "stop_at_accuracy": 0.0})
    count, classes = WARM_STEPS * config.batch_size, CLASSES[config.data.name]
    noise = torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8)
    pictures = PictureSet(noise, torch.arange(count) % len(classes), classes)
    trainer = build_trainer(Setting(config, pictures, STATISTICS[config.data.name], device), epochs=2)
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(Path(folder) / "checkpoint.safetensors", lambda figures: None)
    if device.type == "cuda":  # none of its memory is to be counted as the run's
        del trainer
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def training_flops(config: TrainConfig, pictures: int, epochs: int) -> float:
    """All operations of a run over `pictures` for `epochs`, by the formula of `speed`; evaluation is not counted."""
    steps = pictures // config.batch_size if config.drop_last else math.ceil(pictures / config.batch_size)
    seen = epochs * min(steps * config.batch_size, pictures)
    classes = len(CLASSES[config.data.name])
    return seen * operations(config, classes, SIDE, steps * epochs)

"""One whole published run in a process of its own: train to the recipe's end, read the test pictures once."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from featherweight.bench.channel import Channel
from featherweight.bench.engine import SIDE, multiply_adds
from featherweight.bench.job import Job, start_torch, torch_facts
from featherweight.bench.machine import own_peak
from featherweight.bench.phases import device_memory
from featherweight.bench.speed import OPERATIONS
from featherweight.config import TrainConfig
from featherweight.datasets import CLASSES
from featherweight.training.run import RulesNotMet, train
from featherweight.training.run_folder import RunFolder
from featherweight.utils import UserError


def serve(job: Job, channel: Channel) -> None:
    """Say what torch is and runs on; on a command, train and answer with the run's figures."""
    device = start_torch(job)
    channel.send(torch_facts(device))
    if channel.receive() is None:
        return
    config = job.config()
    with tempfile.TemporaryDirectory() as folder:
        try:
            record = train(
                config,
                RunFolder(Path(folder) / "run"),
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


def training_flops(config: TrainConfig, pictures: int, epochs: int) -> float:
    """All operations of a run over `pictures` for `epochs`, by the formula of `speed`; evaluation is not counted."""
    steps = pictures // config.batch_size if config.drop_last else math.ceil(pictures / config.batch_size)
    seen = epochs * min(steps * config.batch_size, pictures)
    classes = len(CLASSES[config.data.name])
    return seen * multiply_adds(config, classes, SIDE, steps * epochs) * OPERATIONS

"""What a child process is asked to do, and the settings that follow from it. A job travels as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight import config as configuration
from featherweight.config import TrainConfig

if TYPE_CHECKING:
    import torch

    from featherweight.datasets import PictureSet, Statistics


LEARNING_RATE = 0.01  # the plain loop's: small enough for every network here; the speed does not depend on it
MOMENTUM = 0.9
OPERATIONS = 6  # of a training step for each multiply-add of the forward pass: 2 × 3


@dataclass(frozen=True, kw_only=True)
class Job:
    """One child's task. What a kind does not need is left at its default."""

    kind: str  # as in `child`
    recipe: str = "feather_quick"
    overrides: dict[str, Any] = field(default_factory=dict)  # `section.key` → value, put over the recipe
    data_dir: str | None = None
    device: str = "auto"
    threads: int = 0  # 0: torch's own choice
    seconds: float = 6.0  # of a turn
    workers: int = 2  # the plain loop's worker processes
    folder: str = ""  # inference: where its files are; a whole run: where it is kept, if at all
    weights: str = ""  # inference
    form: str = ""  # inference: torch_fp32, torch_bf16, onnx_fp32 or onnx_int8

    def config(self) -> TrainConfig:
        """The recipe with the overrides, device and threads over it."""
        return configuration.resolve(self.recipe, {**self.overrides, "device": self.device, "threads": self.threads})


@dataclass(frozen=True)
class Setting:
    """A job's parts in memory: the pictures trained on, those validated on where the configuration holds some out, and
    where the arithmetic is done."""

    config: TrainConfig
    pictures: PictureSet
    statistics: Statistics
    device: torch.device
    validation: PictureSet | None = None


def prepare(job: Job) -> Setting:
    """Load and set up what training loops share. Raises UserError for bad settings or missing data."""
    from featherweight import datasets
    from featherweight.utils import UserError, seed_everything

    config = job.config()
    device = start_torch(job)
    seed_everything(config.seed)
    pictures = datasets.load_train(config.data.name, None if job.data_dir is None else Path(job.data_dir))
    validation = None
    if config.data.train_on == "train":
        pictures, validation = datasets.split_train(pictures)
    if config.batch_size > len(pictures):
        raise UserError(f"--batch-size {config.batch_size} is more than the {len(pictures)} pictures; choose less")
    return Setting(config, pictures, datasets.STATISTICS[config.data.name], device, validation)


def start_torch(job: Job) -> torch.device:
    """The job's device, with the job's number of threads set. Raises UserError when there is no such device."""
    import torch

    from featherweight.utils import pick_device

    if job.threads:
        torch.set_num_threads(job.threads)
    return pick_device(job.device)


def torch_facts(device: torch.device) -> dict[str, Any]:
    """What `machine.describe` asks a child: the device, the processor, torch and its threads."""
    import torch

    from featherweight.utils import describe_device

    return {
        "device": describe_device(device),
        "processor": describe_device(torch.device("cpu")).removeprefix("cpu "),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def chosen(count: int, total: int) -> torch.Tensor:
    """`count` of `total` places in an order drawn once for all: the first ones, so that a smaller choice lies in a
    larger one and all contenders see the same pictures. int64 [count]."""
    import torch

    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[: count or total]

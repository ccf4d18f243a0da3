"""The engine's steps are those of a loop written out by hand, every option of the recipe in it."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from featherweight import config, datasets, models
from featherweight.augment import normalize
from featherweight.config import AugmentConfig, MixConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from featherweight.training.engine import Trainer, epoch_order
from featherweight.training.mixing import mixed
from featherweight.training.run import prepare, train
from featherweight.training.run_folder import RunFolder
from featherweight.utils import UserError

MEAN, STD = (0.4, 0.4, 0.4), (0.2, 0.2, 0.2)
COUNT, BATCH, EPOCHS = 80, 20, 2
STEPS = EPOCHS * COUNT // BATCH
FULL = TrainConfig(
    epochs=EPOCHS,
    batch_size=BATCH,
    precision="fp32",
    label_smoothing=0.4,
    clip_norm=0.5,
    average=0.8,
    small_size=16,
    small_until=0.5,
    augment=AugmentConfig(engine="none"),
    mix=MixConfig(mixup=1.0),
    optimizer=OptimizerConfig(name="sgd", lr=0.2, momentum=0.9, nesterov=True, weight_decay=0.1),
    schedule=ScheduleConfig(name="linear", warmup=0.25, start=0.1, final=0.0),
)
WITHOUT = {
    "label smoothing": {"label_smoothing": 0.0},
    "clipping": {"clip_norm": 0.0},
    "averaging": {"average": 0.0},
    "small pictures": {"small_size": 0, "small_until": 0.0},
    "mixing": {"mix": MixConfig()},
    "momentum": {"optimizer": dataclasses.replace(FULL.optimizer, momentum=0.0, nesterov=False)},
    "Nesterov": {"optimizer": dataclasses.replace(FULL.optimizer, nesterov=False)},
    "decay": {"optimizer": dataclasses.replace(FULL.optimizer, weight_decay=0.0)},
    "the schedule": {"schedule": ScheduleConfig(name="constant")},
}
TOLERANCE = 0.02  # of the way gone: the engine's own operations round otherwise than torch's


@pytest.fixture(scope="module")
def pictures() -> datasets.PictureSet:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(COUNT) % 3
    noise = torch.randint(0, 60, (COUNT, 32, 32, 3), generator=generator)
    return datasets.PictureSet((noise + 60 * labels[:, None, None, None]).to(torch.uint8), labels, ("a", "b", "c"))


@pytest.fixture(scope="module")
def found(pictures: datasets.PictureSet, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """The weights that the engine ends with, all in one vector."""
    torch.manual_seed(0)
    run = Trainer(
        models.build("feather_quick", classes=3), FULL, pictures, None, datasets.Statistics(mean=MEAN, std=STD),
        torch.device("cpu"),
    )  # fmt: skip
    run.train(tmp_path_factory.mktemp("run") / "checkpoint.safetensors", lambda figures: None)
    return _vector(list(run.final_network().parameters()))


def by_hand(settings: TrainConfig, pictures: datasets.PictureSet) -> torch.Tensor:
    torch.manual_seed(0)
    network = models.build("feather_quick", classes=3).train()
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    given = settings.optimizer
    optimizer = torch.optim.SGD(
        [{"params": kernels, "weight_decay": given.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=given.lr, momentum=given.momentum, nesterov=given.nesterov,
    )  # fmt: skip
    average = copy.deepcopy(network)
    for step in range(STEPS):
        epoch, place = divmod(step, COUNT // BATCH)
        pick = epoch_order(COUNT, settings.seed, epoch)[place * BATCH : (place + 1) * BATCH]
        inputs, labels = normalize(pictures.images[pick], MEAN, STD), pictures.labels[pick]
        if step < settings.small_until * STEPS:
            inputs = F.interpolate(inputs, size=(16, 16), mode="bilinear", antialias=True)
        mixture = mixed(inputs, settings.mix, seed=settings.seed, step=step, total_steps=STEPS)
        outputs = network(mixture.pictures)
        first, second = (
            F.cross_entropy(outputs, wanted, label_smoothing=settings.label_smoothing)
            for wanted in (labels, labels.flip(0))
        )
        optimizer.zero_grad()
        (mixture.share * first + (1 - mixture.share) * second).backward()
        if settings.clip_norm:
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = given.lr * (_linear(step) if settings.schedule.name == "linear" else 1.0)
        optimizer.step()
        decay = min(settings.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for ours, theirs in zip(average.parameters(), network.parameters(), strict=True):
                ours.mul_(decay).add_(theirs, alpha=1 - decay)
    return _vector(list((average if settings.average else network).parameters()))


def _linear(step: int) -> float:
    """From 0.1 to 1 within the first quarter of the steps, then to 0."""
    done = step / STEPS
    return 0.1 + 0.9 * done / 0.25 if done < 0.25 else 1 - (done - 0.25) / 0.75


def _vector(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def apart(found: torch.Tensor, other: torch.Tensor) -> float:
    """How far two ends lie from each other, as a part of the way from the start to the first."""
    torch.manual_seed(0)
    start = _vector(list(models.build("feather_quick", classes=3).parameters()))
    return float((found - other).norm() / (found - start).norm())


def test_the_engines_steps_are_these(found: torch.Tensor, pictures: datasets.PictureSet) -> None:
    assert apart(found, by_hand(FULL, pictures)) < TOLERANCE


@pytest.mark.parametrize("option", WITHOUT)
def test_a_loop_without_an_option_ends_elsewhere(
    option: str, found: torch.Tensor, pictures: datasets.PictureSet
) -> None:
    """So that leaving it out of the engine would be seen above."""
    other = by_hand(dataclasses.replace(FULL, **WITHOUT[option]), pictures)
    assert apart(found, other) > 2 * TOLERANCE


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
def test_dropout_can_be_left_out(fused: bool, pictures: datasets.PictureSet) -> None:
    """The first step's loss is then that of the network's layers without it, whatever torch's generator gives."""

    def loss(dropout: bool, seed: int) -> float:
        torch.manual_seed(0)
        network = models.build("separable_100k", classes=3)
        settings = dataclasses.replace(
            FULL, small_size=0, small_until=0.0, mix=MixConfig(), fused=fused, dropout=dropout
        )
        run = Trainer(network, settings, pictures, None, datasets.Statistics(mean=MEAN, std=STD), torch.device("cpu"))
        torch.manual_seed(seed)
        inputs, labels = next(run.source.epoch(epoch_order(COUNT, 0, 0), epoch=0))
        run._step(inputs, labels)
        return float(run._first_losses[0])

    assert loss(False, 1) == loss(False, 2)
    assert len({loss(False, 1), loss(True, 1), loss(True, 2)}) == 3
    torch.manual_seed(0)
    network = models.build("separable_100k", classes=3).train()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    pick = epoch_order(COUNT, 0, 0)[:BATCH]
    outputs = network(normalize(pictures.images[pick], MEAN, STD))
    wanted = F.cross_entropy(outputs, pictures.labels[pick], label_smoothing=FULL.label_smoothing)
    assert loss(False, 1) == pytest.approx(float(wanted.detach()), rel=1e-4)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_a_loaded_optimizer_has_its_parameters_strides(
    name: Literal["sgd", "adamw", "muon"], pictures: datasets.PictureSet, tmp_path: Path
) -> None:
    """Without them torch takes its tensors one by one."""
    settings = dataclasses.replace(FULL, epochs=1, optimizer=config.OptimizerConfig(name=name, lr=0.01))
    runs = [
        Trainer(
            models.build("feather_quick", classes=3), settings, pictures, None,
            datasets.Statistics(mean=MEAN, std=STD), torch.device("cpu"),
        )
        for _ in range(2)
    ]  # fmt: skip
    runs[0].train(tmp_path / "checkpoint.safetensors", lambda figures: None)
    runs[1].load(tmp_path / "checkpoint.safetensors")
    seen = 0
    for ours, theirs in zip(*(run.network.parameters() for run in runs), strict=True):
        for key, value in runs[0].optimizer.state[ours].items():
            loaded = runs[1].optimizer.state[theirs][key]
            assert torch.equal(loaded, value)
            assert loaded.stride() == (theirs.stride() if value.shape == theirs.shape else value.stride())
            seen += 1
    assert seen >= len(list(runs[0].network.parameters()))


def test_a_run_is_not_carried_on_to_fewer_epochs_than_it_has_done(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    settings = {"epochs": "1", "small_size": "0", "small_until": "0", "batch_size": "1400", "read_test": "false"}
    short = config.resolve("digits", settings)
    train(short, folder)
    run, _, _ = prepare(short, None, whiten=False)
    run.load(folder.checkpoint)
    run.progress.finished = False  # as if it was meant to last longer, and was stopped here
    run.save(folder.checkpoint)
    folder.result.unlink()
    with pytest.raises(UserError, match="has done 1 epochs already"):
        train(short, folder, resume=True)
    assert not folder.result.exists()

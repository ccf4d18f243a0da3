"""One whole run: data, network, rules, training, the one look at the test pictures, the record.

Order matters here: the rules are checked before compute is spent, and the test pictures are opened only after the last
epoch, through `evaluation.HeldOutTest`, which refuses anything earlier.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from featherweight import datasets, models
from featherweight.config import TrainConfig, to_dict
from featherweight.evaluation import Evaluation, HeldOutTest, disjoint, evaluate
from featherweight.records import LAST_EPOCH, Record
from featherweight.rules.graph import trace
from featherweight.rules.layers import one, summarise
from featherweight.rules.verdict import check_network
from featherweight.terminal import Progress
from featherweight.training.engine import Trainer, signals
from featherweight.training.memory import keep_freed_memory
from featherweight.training.precision import resolve_precision
from featherweight.training.progress import epoch_line
from featherweight.training.run_folder import RunFolder, carried_on, commit, package_versions, runs_beside
from featherweight.training.whitening import whiten_first_layer
from featherweight.utils import UserError, describe_device, mix_seed, pick_device, seed_everything, sha256_file
from featherweight.weights import Card
from featherweight.weights import save as save_weights

if TYPE_CHECKING:
    from featherweight.training.tensorboard import TensorBoardLog


@dataclass(frozen=True)
class NetworkFacts:
    """What the rules say of a network, for its record."""

    parameters: int
    multiply_adds: int
    receptive_field: int | list[int]
    rules_failed: list[str]


def train(
    config: TrainConfig,
    folder: RunFolder,
    *,
    data_dir: Path | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Record:
    """Train as `config` says in `folder`, from its checkpoint if `resume`, and return the record (also in result.json).

    Raises UserError for bad input or a loss that is no longer finite, RulesNotMet when the network fails the rules that
    the configuration names, Interrupted (state saved) after a signal.
    """
    begun = time.perf_counter()
    versions: dict[str, Any] = package_versions() | {"commit": commit()}  # as it is now: files may change meanwhile
    if resume:
        config = _as_begun(config, folder)
    trainer, facts, trained_on = prepare(config, data_dir, whiten=config.whiten and not resume)
    test = HeldOutTest(lambda: datasets.load_test(config.data.name, data_dir))
    versions |= {"device": describe_device(trainer.device), "threads": torch.get_num_threads()}
    versions |= {"runs_beside": runs_beside()}
    if resume:
        _take_up(trainer, folder, versions, say)
    trainer.started(begun)
    folder.start(trainer.config, versions, resume=resume)
    try:
        # The network's start came from the seed; training draws (dropout) go on from a stream of their own, so that
        # they do not depend on how many numbers the start took.
        if not resume:
            torch.manual_seed(mix_seed(config.seed, -1))
        _train_epochs(trainer, folder, facts, trained_on, tensorboard, say)
    except BaseException:
        folder.abandon()  # which does nothing once there is something to carry on
        raise
    with signals():  # what is left takes seconds: a signal now lets it be done
        found, shared = _final_evaluation(trainer, test, trained_on)
        save_weights(folder.model, trainer.final_network(), _card(trainer, facts, trained_on, found))
        trainer.save(folder.checkpoint)  # the last epoch's own, with the clock as the record will tell it
        record = _record(trainer, folder, facts, found, trained_on, versions, shared)
        record.write(folder.result)
    return record


def _as_begun(config: TrainConfig, folder: RunFolder) -> TrainConfig:
    """`config` with the run's own precision where it is left to a measurement, which could come out otherwise now; on
    another kind of device it is measured anew."""
    begun_on = str(folder.started_with().get("device", "")).partition(" ")[0]
    if config.precision != "auto" or begun_on != pick_device(config.device).type:
        return config
    return dataclasses.replace(config, precision=folder.read_config().precision)


def _take_up(trainer: Trainer, folder: RunFolder, versions: dict[str, Any], say: Callable[[str], None]) -> None:
    """Put the trainer where the run in `folder` stopped, and into `versions` what the record must tell of all sittings.

    Raises UserError for a run with nothing left to do, or one whose files are damaged.
    """
    trainer.load(folder.checkpoint)
    folder.read_metrics()  # a damaged file is told now, not after an epoch that could not be put down
    progress, epochs = trainer.progress, trainer.config.epochs
    if progress.finished and folder.result.exists():
        raise UserError(f"the run in {folder.path} is finished; its record is {folder.result}: nothing to carry on")
    if progress.epoch >= epochs and not progress.finished:
        raise UserError(
            f"the run in {folder.path} has done {progress.epoch} epochs already; carry it on to more with --epochs, or "
            "start a new one"
        )
    say(f"carrying on at epoch {progress.epoch + 1}, step {progress.step}")
    before = folder.started_with().get("runs_beside")
    versions["runs_beside"] = max(versions["runs_beside"], before if isinstance(before, int) else 0)
    versions["carried_on"] = carried_on(folder, trainer.config, versions, progress, say)


def _train_epochs(
    trainer: Trainer,
    folder: RunFolder,
    facts: NetworkFacts,
    trained_on: datasets.PictureSet,
    tensorboard: bool,
    say: Callable[[str], None],
) -> None:
    """The epochs that are left, each put down in the folder and told."""
    log = _tensorboard(trainer, folder) if tensorboard else None

    def on_epoch(figures: dict[str, Any]) -> None:
        folder.add_metrics(figures, epoch=figures["epoch"])
        if log is not None:
            log.epoch(figures, step=figures["epoch"] + 1)
        say(epoch_line(figures, trainer.config.epochs))

    def on_best() -> None:
        save_weights(folder.best, trainer.final_network(), _card(trainer, facts, trained_on, None))

    with log or nullcontext():
        if not trainer.progress.finished:
            trainer.train(folder.checkpoint, on_epoch, on_best)


def prepare(
    config: TrainConfig, data_dir: Path | None, *, whiten: bool
) -> tuple[Trainer, NetworkFacts, datasets.PictureSet]:
    """What stands before the first step: the network that the seed gives, checked by the rules, and its pictures."""
    device = pick_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    if device.type == "cpu":
        keep_freed_memory()
    config = resolve_precision(config, device)
    seed_everything(config.seed)
    network = models.build(config.model, classes=len(datasets.CLASSES[config.data.name]))
    facts = check_rules(network, config.rules)
    trained_on, validation = _pictures(config, data_dir)
    if config.small_size:
        _require_side(network, config.small_size)
    statistics = datasets.STATISTICS[config.data.name]
    if whiten:
        whiten_first_layer(network, trained_on.images, statistics.mean, statistics.std)
    return Trainer(network, config, trained_on, validation, statistics, device), facts, trained_on


def first_losses(
    config: TrainConfig, data_dir: Path | None = None, done: Callable[[], object] = lambda: None
) -> list[float]:
    """The losses of a run's first ten steps, as its record tells them, exactly: on one kind of CPU, at the same commit
    and number of threads, bit for bit the same. Nothing is written.

    done: called after each step. Raises as `train` does.
    """
    trainer, _, _ = prepare(config, data_dir, whiten=config.whiten)
    torch.manual_seed(mix_seed(config.seed, -1))
    return trainer.first_losses(done)


def _tensorboard(trainer: Trainer, folder: RunFolder) -> TensorBoardLog:
    """The run's event files, begun with the network's graph and the first augmented batch of the epoch to come."""
    from featherweight.training.tensorboard import TensorBoardLog

    log = TensorBoardLog(folder.path / "tensorboard", first_step=trainer.progress.epoch + 1)
    batch = trainer.first_batch()
    log.graph(trainer.network, batch)
    log.pictures(batch, step=trainer.progress.epoch, mean=trainer.statistics.mean, std=trainer.statistics.std)
    return log


class RulesNotMet(Exception):
    """The network fails rules the configuration holds it to; the message lists them, a line each."""


def check_rules(network: nn.Module, rule_set: str) -> NetworkFacts:
    """The verdict on `network` before compute is spent. Raises RulesNotMet; with "none" it only notes the outcome."""
    verdict = check_network(network, "assignment" if rule_set == "none" else rule_set)
    if not verdict.passed and rule_set != "none":
        failed = [f"  {r.rule}: {r.measured}, required {r.required}" for r in verdict.rules if not r.passed]
        raise RulesNotMet(
            "\n".join(["the network does not meet the rules (--rules none trains it all the same):", *failed])
        )
    summary = summarise(trace(network))
    field = None if summary.reception.figure is None else one(summary.reception.figure.size)
    if field is None:  # a record needs one; every registered network has one
        raise UserError("the network has no map before its output, so it has no receptive field to record")
    return NetworkFacts(summary.cost.parameters, summary.cost.multiply_adds, field, verdict.failed())


def _require_side(network: nn.Module, side: int) -> None:
    """Raises UserError when `network`, still on the CPU, takes no pictures of `side` x `side`; leaves it training."""
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(2, 3, side, side))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"small_size: {side} pixels are too few for this network ({reason}); choose more") from error
    finally:
        network.train()


def _pictures(config: TrainConfig, data_dir: Path | None) -> tuple[datasets.PictureSet, datasets.PictureSet | None]:
    """The pictures trained on, and those validated on where the configuration holds some out."""
    pictures, validation = datasets.load_train(config.data.name, data_dir), None
    if config.data.train_on == "train":
        pictures, validation = datasets.split_train(pictures)
    if config.batch_size > len(pictures):
        raise UserError(
            f"batch_size {config.batch_size} is more than the {len(pictures)} pictures; choose a smaller one"
        )
    return pictures, validation


def _final_evaluation(
    trainer: Trainer, test: HeldOutTest, trained_on: datasets.PictureSet
) -> tuple[Evaluation | None, int]:
    """The one reading of the test pictures, after the last step, and how many of them were trained on (0, or the data
    are broken); None where the configuration leaves them unread."""
    if not trainer.config.read_test:
        return None, 0
    test.training_finished(last_epoch=trainer.progress.finished)
    pictures, statistics = test.read(), trainer.statistics
    network = trainer.final_network()
    with Progress("measuring on the test pictures", len(pictures)) as progress:
        found = evaluate(
            network,
            pictures,
            mean=statistics.mean,
            std=statistics.std,
            device=trainer.device,
            done=progress.step,
        )
    return found, disjoint(trained_on, pictures)


def _card(trainer: Trainer, facts: NetworkFacts, trained_on: datasets.PictureSet, found: Evaluation | None) -> Card:
    config = trainer.config
    return Card(
        name=re.sub(r"[^\w.+-]", "_", config.recipe),
        model=config.model,
        classes=trained_on.classes,
        mean=trainer.statistics.mean,
        std=trainer.statistics.std,
        input_size=trained_on.images.shape[1],
        parameters=facts.parameters,
        dataset=config.data.name,
        recipe=config.recipe,
        train_images=len(trained_on),
        test_accuracy=None if found is None else found.accuracy,
        seed=config.seed,
        epochs=trainer.progress.epoch,
    )


def _selection(config: TrainConfig) -> str:
    if config.stop_at_accuracy > 0:
        return f"first epoch with a validation accuracy of {config.stop_at_accuracy:g}, or the last"
    return LAST_EPOCH


def _record(
    trainer: Trainer,
    folder: RunFolder,
    facts: NetworkFacts,
    found: Evaluation | None,
    trained_on: datasets.PictureSet,
    versions: dict[str, Any],
    shared: int,
) -> Record:
    """The record of a finished run, whose weights are written."""
    config, progress = trainer.config, trainer.progress
    sittings, code = versions.get("carried_on", []), versions["commit"]
    if any("commit" in sitting.get("changed", {}) for sitting in sittings):  # no single commit made this run
        code = code.removesuffix("+changes") + "+changes"
    last = next(reversed(folder.read_metrics()), {})
    return Record(
        recipe=config.recipe,
        model=config.model,
        parameters=facts.parameters,
        multiply_adds=facts.multiply_adds,
        receptive_field=facts.receptive_field,
        rules_passed=not facts.rules_failed,
        seed=config.seed,
        epochs=progress.epoch,
        train_images=len(trained_on),
        test_images=0 if found is None else found.images,
        test_accuracy=None if found is None else found.accuracy,
        test_loss=None if found is None else found.loss,
        selection=_selection(config),
        wall_seconds=round(progress.wall_seconds, 2),
        train_seconds=round(progress.train_seconds, 2),
        device=describe_device(trainer.device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        commit=code,
        data_sha256=trained_on.digest(),
        weights=folder.model.name,
        weights_sha256=sha256_file(folder.model),
        dataset=config.data.name,
        val_images=None if trainer.validation is None else len(trainer.validation),
        val_accuracy=last.get("val_accuracy"),
        val_loss=last.get("val_loss"),
        precision=config.precision,
        command=_command(config),
        per_class=None if found is None else found.per_class,
        calibration_error=None if found is None else found.calibration_error,
        rules_failed=facts.rules_failed,
        config=to_dict(config),
        date=datetime.date.today().isoformat(),
        extras={"fused": trainer.fused, "first_losses": progress.first_losses}
        | ({} if found is None else {"test_pictures_among_training": shared})
        | ({"runs_beside": versions["runs_beside"]} if versions["runs_beside"] else {})
        | ({"carried_on": sittings} if sittings else {})
        | ({} if trainer.teacher is None else {"teacher_sha256": trainer.teacher.card.weights_sha256}),
    )


def _command(config: TrainConfig) -> str:
    """The command that repeats the run: a changed recipe's name lists its changes after its own."""
    recipe, *changes = re.split(r"\+(?=[a-z_.]+=)", config.recipe)
    return " ".join([f"featherweight train --recipe {recipe} --seed {config.seed}", *(f"--set {c}" for c in changes)])

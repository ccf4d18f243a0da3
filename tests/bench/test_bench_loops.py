"""The two loops themselves: that the plain one trains, that ours is the engine, that arithmetic is counted right."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module
from torch.utils.flop_counter import FlopCounterMode

from featherweight import config as configuration
from featherweight import datasets, models, records
from featherweight.augment import normalize
from featherweight.bench import engine, equal, plain, speed, time_to, whole_run
from featherweight.bench.job import OPERATIONS, Job, Setting, chosen, prepare, torch_facts
from featherweight.bench.matrix import Product
from featherweight.bench.phases import NAMES, Phases
from featherweight.bench.whole_run import training_flops, warm_up
from featherweight.cli import main
from featherweight.config import AugmentConfig
from featherweight.training import captured
from featherweight.utils import sha256_file

OVERRIDES = {"batch_size": 64, "augment.workers": 0, "data.name": "digits", "precision": "fp32"}
JOB = Job(kind="engine", recipe="feather_quick", overrides=OVERRIDES, device="cpu", seconds=0.1)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def setting() -> Setting:
    return prepare(JOB)


class Commands:
    """A channel with its commands written beforehand."""

    def __init__(self, *kinds: str) -> None:
        self.commands: list[dict[str, Any]] = [{"do": kind} for kind in kinds]
        self.answers: list[dict[str, Any]] = []

    def receive(self) -> dict[str, Any] | None:
        return self.commands.pop(0) if self.commands else None

    def send(self, answer: dict[str, Any]) -> None:
        self.answers.append(answer)


def test_the_plain_loop_learns(setting: Setting) -> None:
    loop = plain.PlainLoop(dataclasses.replace(setting, config=dataclasses.replace(setting.config, batch_size=32)), 0)
    for _ in range(10):
        assert loop.step() == 32
    early = loop.loss / loop.seen
    for _ in range(20):
        loop.step()
    loop.loss, loop.hits, loop.seen = 0.0, 0, 0
    for _ in range(10):
        loop.step()
    assert loop.loss / loop.seen < 0.8 * early
    assert loop.hits / loop.seen > 0.3  # chance is 0.1


def test_the_plain_loop_is_plain(setting: Setting) -> None:
    loop = plain.PlainLoop(setting, workers=0)
    seen = []
    loop.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loop.step()
    (batch,) = seen
    assert batch.shape == (64, 3, 32, 32)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous()  # the default layout, not channels-last
    assert all(p.is_contiguous() and p.dtype == torch.float32 for p in loop.network.parameters())


def test_both_loops_begin_with_the_same_weights() -> None:
    theirs = plain.PlainLoop(prepare(JOB), workers=0).network
    ours = engine.build_trainer(prepare(JOB)).network
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_without_chance_the_plain_pictures_are_the_normalised_ones(setting: Setting) -> None:
    spec = AugmentConfig(flip_p=0.0, affine_p=0.0, hole_p=0.0)
    data = plain.AugmentedPictures(setting.pictures, spec, setting.statistics)
    expected = normalize(setting.pictures.images[:20], setting.statistics.mean, setting.statistics.std)
    for place in range(20):
        picture, label = data[place]
        torch.testing.assert_close(picture, expected[place], atol=1e-5, rtol=1e-5)
        assert label == int(setting.pictures.labels[place])


def test_loading_the_kernels_leaves_the_network_as_it_is(setting: Setting) -> None:
    loop = plain.PlainLoop(setting, workers=0)
    before = {key: value.clone() for key, value in loop.network.state_dict().items()}
    loop._load_kernels(setting)
    assert all(torch.equal(value, before[key]) for key, value in loop.network.state_dict().items())
    assert all(p.grad is None for p in loop.network.parameters())


def test_the_sampler_goes_round_all_places_for_ever() -> None:
    endless = iter(plain.Endless(6))
    rounds = [[next(endless) for _ in range(6)] for _ in range(4)]
    assert all(sorted(one) == list(range(6)) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_an_epochs_last_and_short_batch_is_left_out() -> None:
    endless = iter(plain.Endless(10, 4, seed=1))
    rounds = [[next(endless) for _ in range(8)] for _ in range(40)]
    assert all(len(set(one)) == 8 for one in rounds)
    assert {place for one in rounds for place in one} == set(range(10))


def test_a_smaller_choice_of_pictures_lies_in_a_larger_one() -> None:
    assert chosen(8, 20)[:5].tolist() == chosen(5, 20).tolist()
    assert sorted(chosen(0, 20).tolist()) == list(range(20))


def test_a_log_probability_network_gets_nll_and_logits_get_cross_entropy(setting: Setting) -> None:
    assert isinstance(plain.PlainLoop(setting, workers=0).criterion, torch.nn.CrossEntropyLoss)
    texts = dataclasses.replace(setting, config=dataclasses.replace(setting.config, model="separable_100k"))
    assert isinstance(plain.PlainLoop(texts, workers=0).criterion, torch.nn.NLLLoss)


def test_turns_are_epochs_of_the_engine_and_the_profile_leaves_no_trace(setting: Setting, tmp_path: Path) -> None:
    trainer = engine.build_trainer(setting, pictures=320)
    sides: list[list[int]] = [[]]  # of the maps that the modules of each step are given
    trainer.optimizer.register_step_post_hook(lambda *_: sides.append([]))
    seen = module.register_module_forward_pre_hook(
        lambda _, inputs: sides[-1].append(inputs[0].shape[2]) if inputs[0].ndim == 4 else None
    )
    channel = Commands("turn", "profile", "turn")
    with contextlib.closing(SimpleNamespace(close=seen.remove)):  # type: ignore[type-var]
        engine.Turns(trainer, 2, channel).run(tmp_path / "checkpoint.safetensors")  # type: ignore[arg-type]
    first, profile, last = channel.answers
    assert first["images"] == last["images"] == 640  # two passes over 320 pictures
    assert 0 < first["seconds"] < 60
    assert set(profile["shares"]) == set(NAMES)
    assert sum(profile["shares"].values()) == pytest.approx(1)
    assert profile["shares"]["forward"] + profile["shares"]["backward"] > 0.5
    assert profile["shares"]["augmentation"] > 0
    assert profile["shares"]["waiting"] == 0
    # Five steps a pass; two passes, one, two; 60 % of each on small pictures, as the recipe says.
    assert [max(step) for step in sides[:-1]] == [24, 24, 24, 32, 32] * 5
    assert not module._global_forward_pre_hooks
    assert trainer.source.epoch.__name__ == "epoch"


def test_no_commands_no_training(setting: Setting, tmp_path: Path) -> None:
    channel = Commands()
    engine.Turns(engine.build_trainer(setting, pictures=64), 1, channel).run(tmp_path / "c")  # type: ignore[arg-type]
    assert channel.answers == []
    assert not (tmp_path / "c").exists()


def test_time_under_way_is_booked_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 1.5, 5.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    phases = Phases(torch.device("cpu"))
    for name in ("waiting", "forward", "waiting"):
        phases.mark(name)
    assert phases.shares()["waiting"] == pytest.approx(4.5 / 5)
    assert phases.shares()["forward"] == pytest.approx(0.1)


def _counted(network: nn.Module, side: int, *, backward: bool = False) -> int:
    """torch's own count of operations, for two pictures."""
    pictures = torch.randn(2, 3, side, side)
    with FlopCounterMode(display=False) as counter:
        outputs = network(pictures)
        if backward:
            F.cross_entropy(outputs, torch.tensor([1, 2])).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["feather_quick", "separable_100k", "dilated_160k"])
def test_multiply_adds_agree_with_torchs_counter(name: str) -> None:
    config = dataclasses.replace(JOB.config(), model=name, small_size=0, small_until=0.0)
    assert 2 * engine.multiply_adds(config, 10, 32, 100) * 2 == _counted(models.build(name), 32)


def test_a_training_step_takes_nearly_three_forward_passes() -> None:
    """Of ordinary convolutions only: for grouped ones torch's counter takes the weights' gradient to be a full one."""
    layers = [
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(32, 10, 3),
    ]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    forward, whole = _counted(network, 32), _counted(network, 32, backward=True)
    first = 2 * 2 * 3 * 16 * 9 * 32 * 32  # operations of the first layer: its pictures need no gradient
    assert whole == 3 * forward - first
    assert OPERATIONS == 2 * 3


def test_small_pictures_count_for_what_they_are(setting: Setting) -> None:
    config = configuration.override(setting.config, {"freeze_first": False})  # 60 % of the steps at 24x24
    small, full = (_counted(models.build("feather_quick"), side) / 4 for side in (24, 32))
    assert engine.multiply_adds(config, 10, 32, 10) == pytest.approx(0.6 * small + 0.4 * full)
    # 1,442 pictures in batches of 64, the last short one left out: 22 steps, 2 epochs, 27 of the 44 steps small
    expected = 6 * 64 * (27 * small + 17 * full)
    assert training_flops(dataclasses.replace(config, drop_last=True), 1442, 2) == pytest.approx(expected)
    whole = dataclasses.replace(config, drop_last=False, small_size=0, small_until=0.0)
    assert training_flops(whole, 1442, 2) == pytest.approx(6 * 1442 * 2 * full)


def test_what_a_frozen_first_layer_spares_is_not_counted_as_done(setting: Setting) -> None:
    whole = configuration.override(setting.config, {"small_size": 0, "small_until": 0.0, "freeze_first": False})
    frozen = configuration.override(whole, {"freeze_first": True})
    first = 32 * 32 * 32 * 27  # multiply-adds of the first convolution, whose kernels get no gradient
    second = 48 * 16 * 16 * 9 * 32  # of the one that reads its map, which gets none
    spared = engine.operations(whole, 10, 32, 10) - engine.operations(frozen, 10, 32, 10)
    assert spared == 2 * (first + second)


def test_a_gpu_is_warmed_up_by_steps_of_every_size(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = []
    learn = engine.Trainer.learn_directly

    def noted(trainer: engine.Trainer, pictures: torch.Tensor, *others: Any) -> torch.Tensor:
        sides.append(pictures.shape[2])
        return learn(trainer, pictures, *others)

    monkeypatch.setattr(engine.Trainer, "learn_directly", noted)
    held_out = {"batch_size": 4, "data.train_on": "train", "stop_at_accuracy": 0.5}
    warm_up(configuration.override(setting.config, held_out), torch.device("cpu"))
    assert sides == [24] * 12 + [32] * 8
    assert min(sides.count(side) for side in sides) > captured.WARM  # and so recorded, where steps are


class Here:
    """A contender in this process: starting four would take most of a minute."""

    def __init__(self, name: str, job: Job, *, say: Callable[[str], None]) -> None:
        self.job, self.say = dataclasses.replace(job, workers=0), say
        self.facts = torch_facts(torch.device("cpu"))
        self.peak_memory = 1

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None: ...

    def ready(self) -> Here:
        return self

    def ask(self, command: dict[str, Any], watch: float = 0.0) -> dict[str, Any]:
        del watch
        channel = Commands()
        channel.commands.append(command)
        {"plain": plain.serve, "whole_run": whole_run.serve}[self.job.kind](self.job, channel)  # type: ignore[arg-type]
        for answer in channel.answers:
            if "say" in answer:
                self.say(answer["say"])
        return channel.answers[-1]


def test_accuracy_after_equal_epochs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(equal, "Contender", Here)
    whole = datasets.load_train("digits", None)
    monkeypatch.setattr(datasets, "load_train", lambda *_: whole.subset(range(400)))
    options = ["--equal-epochs", "2", "--dataset", "digits", "--model", "feather_quick", "--forms", "batched"]
    options += ["--batch-size", "32", "--seeds", "5", "6", "--workers", "1", "--device", "cpu"]
    code = main(["bench", *options, "--out", str(tmp_path / "equal.json"), "--png", str(tmp_path / "equal.png")])
    told, found = capsys.readouterr(), json.loads((tmp_path / "equal.json").read_text())
    assert code == int(not found["met"]), told.err
    assert found["command"] == (
        "featherweight bench --equal-epochs 2 --model feather_quick --batch-size 32 --dataset digits --workers 1 "
        "--forms batched --seeds 5 6 --device cpu"
    )
    _, held_out = datasets.split_train(whole.subset(range(400)))
    loops = found["networks"][0]["loops"]
    assert [loop["name"] for loop in loops] == ["plain loop", "batched"]
    for loop in loops:
        assert [run["seed"] for run in loop["runs"]] == [5, 6]
        assert {run["images"] for run in loop["runs"]} == {len(held_out)}
        assert loop["accuracy_mean"] > 0.1
    assert "feather_quick, plain loop, seed 5: epoch 2/2" in told.err
    assert "feather_quick, batched, seed 6: epoch   2/2" in told.err
    assert "equal epochs" in told.out


def test_timed_runs_can_be_kept_and_none_is_overwritten(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(time_to, "Contender", Here)
    whole = datasets.load_train("digits", None)
    monkeypatch.setattr(datasets, "load_train", lambda *_: whole.subset(range(128)))
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text('model = "feather_quick"\nepochs = 1\nbatch_size = 64\n[data]\nname = "digits"\n')
    command = ["bench", "--time-to", "0.01", "--recipe", "tiny.toml", "--seeds", "3", "--device", "cpu", "--json"]
    for name in ("tiny.toml-seed3", "tiny.toml-seed3-2"):
        assert main([*command, "--runs", "kept"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert "kept" not in found["command"]
        record = records.Record.read(Path("kept", name, "result.json"))
        assert (record.seed, record.test_accuracy) == (3, found["runs"][0]["test_accuracy"])
        assert sha256_file(Path("kept", name, "model.safetensors")) == record.weights_sha256
    assert {path.name for path in Path("kept").iterdir()} == {"tiny.toml-seed3", "tiny.toml-seed3-2"}
    assert main([*command, "--runs", "tiny.toml"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("featherweight bench: cannot write tiny.toml/tiny.toml-seed3/config.json")
    assert len(told.strip().splitlines()) == 1


def test_the_matrix_product_rate_is_that_of_a_loop_of_ones_own() -> None:
    import time

    side, best = 512, float("inf")
    left, right = torch.randn(side, side), torch.randn(side, side)
    for _ in range(20):
        begun = time.perf_counter()
        torch.matmul(left, right)
        best = min(best, time.perf_counter() - begun)
    found = Product(torch.device("cpu"), torch.float32, side).rate(0.1)
    assert 0.2 < found / (2 * side**3 / best) < 5


@pytest.mark.parametrize("name", ["feather_200k", "feather_quick"])
def test_a_teachers_work_is_not_measured_as_the_networks(name: str) -> None:
    """Nor need a teacher be there to measure the student of one."""
    own = configuration.resolve(name, {})
    measured = speed.base_job(name, speed.Options(workers=1)).config()
    assert measured.teacher.weights == ""
    assert (measured.model, measured.batch_size, measured.mix) == (own.model, own.batch_size, own.mix)

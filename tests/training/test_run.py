"""A whole run in one process: the protocol, the record, the rules, and what happens at its edges."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from featherweight import config, datasets, weights
from featherweight.cli import main
from featherweight.report import format_hardware
from featherweight.training import run
from featherweight.training.run_folder import RunFolder, latest_folder, new_folder, run_name
from featherweight.utils import UserError, sha256_file

SHORT = config.resolve("digits", {"epochs": "1", "device": "cpu", "precision": "fp32"})


def test_test_pictures_are_read_once_and_after_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    load, step = datasets.load_test, run.Trainer._step

    def loading(*arguments, **options):
        events.append("test")
        return load(*arguments, **options)

    def stepping(self, *batch: torch.Tensor) -> None:
        events.append("step")
        step(self, *batch)

    monkeypatch.setattr(datasets, "load_test", loading)
    monkeypatch.setattr(run.Trainer, "_step", stepping)
    record = run.train(SHORT, RunFolder(tmp_path))
    assert events.count("test") == 1
    assert events[-1] == "test"
    assert events.count("step") == 1442 // 64
    assert record.test_images == 355


def test_the_record_states_what_was_done(tmp_path: Path) -> None:
    record = run.train(SHORT, RunFolder(tmp_path))
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["test_accuracy"] == record.test_accuracy
    assert (record.parameters, record.multiply_adds, record.receptive_field) == (176_746, 21_798_336, 65)
    assert record.rules_passed
    assert record.selection == "none: last epoch"
    assert record.train_images == 1442
    assert record.device.startswith("cpu ")
    assert 0 < record.train_seconds < record.wall_seconds
    assert record.weights_sha256 == sha256_file(tmp_path / "model.safetensors")
    assert record.config == config.to_dict(SHORT)
    assert record.command == "featherweight train --recipe digits --seed 0 --set epochs=1 --set precision=fp32"


def test_validation_pictures_are_held_out_and_the_best_state_kept(tmp_path: Path) -> None:
    held = config.override(SHORT, {"data.train_on": "train", "read_test": "false"})
    record = run.train(held, RunFolder(tmp_path))
    assert record.train_images + 140 == 1442
    assert record.val_images == 140
    assert record.test_accuracy is None
    assert weights.load(tmp_path / "best.safetensors")[1].train_images == 1302


def test_stopping_at_an_accuracy_stops(tmp_path: Path) -> None:
    early = config.override(SHORT, {"data.train_on": "train", "epochs": "6", "stop_at_accuracy": "0.05"})
    record = run.train(early, RunFolder(tmp_path))
    assert record.epochs == 1
    assert "validation accuracy of 0.05" in record.selection
    assert "stop_at_accuracy=0.05" in record.recipe


def test_a_network_that_misses_rules_costs_no_compute(tmp_path: Path) -> None:
    text = dataclasses.replace(SHORT, model="separable_100k")
    with pytest.raises(run.RulesNotMet, match="receptive_field: 31"):
        run.train(text, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_carried_on(tmp_path: Path) -> None:
    run.train(SHORT, RunFolder(tmp_path))
    before = sha256_file(tmp_path / "result.json")
    with pytest.raises(UserError, match="is finished"):
        run.train(SHORT, RunFolder(tmp_path), resume=True)
    assert sha256_file(tmp_path / "result.json") == before


def test_more_pictures_a_step_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch_size 2000 is more than the 1442 pictures"):
        run.train(dataclasses.replace(SHORT, batch_size=2000), RunFolder(tmp_path))


def test_no_run_overwrites_another_and_the_latest_is_carried_on(tmp_path: Path) -> None:
    assert new_folder(tmp_path, "a-seed1") == tmp_path / "a-seed1"
    for name in ("a-seed1", "a-seed1-2", "a-seed10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "checkpoint.safetensors").write_text("")
    assert new_folder(tmp_path, "a-seed1") == tmp_path / "a-seed1-3"
    assert latest_folder(tmp_path, "a-seed1") == tmp_path / "a-seed1-2"
    with pytest.raises(UserError, match=r"no interrupted run of b-seed1 under .* --resume --out .*/a-seed1(0|-2)$"):
        latest_folder(tmp_path, "b-seed1")
    for name in ("a-seed1", "a-seed1-2", "a-seed10"):
        (tmp_path / name / "result.json").write_text("{}")
    with pytest.raises(UserError, match=r"no interrupted run of b-seed1 under .*; start one without --resume"):
        latest_folder(tmp_path, "b-seed1")


def test_a_long_list_of_settings_still_names_a_folder(tmp_path: Path) -> None:
    many = "feather_quick+" + "+".join(f"augment.setting{n}=0.1" for n in range(40))
    assert run_name("feather_quick+data.name=a/b", 3) == "feather_quick+data.name=a_b-seed3"
    names = {run_name(many, 1), run_name(many, 2), run_name(many + "+é" * 100, 1)}
    assert len(names) == 3
    for name in names:
        (tmp_path / f"{name}-999").mkdir()
        assert name.startswith("feather_quick+augment")
        assert name[:-1].endswith("-seed")


@pytest.mark.cifar10
@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["separable_100k", "dilated_160k"])
def test_the_texts_recipes_start_on_cifar10(recipe: str, cifar10_dir: Path) -> None:
    """Their own settings: albumentations, batch 128, negative log-likelihood of log-probabilities; three steps."""
    settings = config.resolve(recipe, {"augment.workers": "0", "device": "cpu"})
    assert (settings.augment.engine, settings.batch_size, settings.epochs) == ("albumentations", 128, 150)
    pictures = datasets.load_train("cifar10", cifar10_dir).subset(range(3 * 128))
    network = run.models.build(settings.model)
    trainer = run.Trainer(
        network,
        run.resolve_precision(settings, torch.device("cpu")),
        pictures,
        None,
        datasets.STATISTICS["cifar10"],
        torch.device("cpu"),
    )
    losses = []
    with trainer.source:
        for batch in trainer.source.epoch(torch.arange(3 * 128), epoch=0, drop_last=True):
            trainer._step(*batch)
            losses.append(trainer.sums[0].item())
    first = losses[0] / 128
    assert 2.2 < first < 2.8  # untrained: near log 10


def test_a_batch_larger_than_what_is_trained_on_is_refused(tmp_path: Path) -> None:
    held = config.override(SHORT, {"data.train_on": "train", "batch_size": "1400"})
    with pytest.raises(UserError, match="batch_size 1400 is more than the 1302 pictures"):
        run.train(held, RunFolder(tmp_path))


def test_a_run_that_was_killed_is_finished_by_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after a checkpoint, with nothing tidied up: the record's times still add up."""

    class Killed(BaseException):
        pass

    def killed(*arguments, **options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run, "_final_evaluation", killed)
        with pytest.raises(Killed):
            run.train(SHORT, RunFolder(tmp_path))
    record = run.train(SHORT, RunFolder(tmp_path), resume=True)
    assert record.wall_seconds > record.train_seconds > 0
    assert (tmp_path / "result.json").is_file()
    assert record.weights_sha256 == run.train(SHORT, RunFolder(tmp_path / "unhurt")).weights_sha256
    assert "carried_on" not in (record.extras or {})


def test_what_changes_on_the_way_is_told_and_recorded(tmp_path: Path) -> None:
    """Two epochs begun at one rate, the second at another, by code of another commit; the epochs' figures lost."""
    two = config.override(SHORT, {"epochs": "2", "batch_size": "700"})
    folder, said = RunFolder(tmp_path), []

    class Stopped(BaseException):
        pass

    def stopping(line: str) -> None:
        if line.startswith("epoch"):
            raise Stopped

    with pytest.raises(Stopped):
        run.train(two, folder, say=stopping)
    versions = json.loads(folder.versions.read_text())
    folder.versions.write_text(json.dumps(versions | {"commit": "0" * 40, "threads": versions["threads"] + 1}))
    folder.metrics.unlink()
    record = run.train(config.override(two, {"optimizer.lr": "0.07"}), folder, resume=True, say=said.append)
    assert record.extras is not None
    assert record.extras["carried_on"] == [
        {
            "epoch": 1,
            "step": 0,
            "changed": {
                "optimizer.lr": [SHORT.optimizer.lr, 0.07],
                "commit": ["0" * 40, versions["commit"]],
                "threads": [versions["threads"] + 1, versions["threads"]],
            },
        }
    ]
    assert record.commit.endswith("+changes")
    assert any(f"optimizer.lr {SHORT.optimizer.lr} → 0.07" in line for line in said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to carry on on")
def test_a_run_is_carried_on_where_it_was_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not on whatever device "auto" would take now, unless it is told to."""
    folder, words = RunFolder(tmp_path), ["train", "--recipe", "digits", "--out", str(tmp_path)]
    automatic = config.resolve("digits", {"epochs": "1", "batch_size": "700", "read_test": "false"})
    run.train(automatic, folder)
    folder.result.unlink()
    versions = json.loads(folder.versions.read_text())
    folder.versions.write_text(json.dumps(versions | {"device": "cuda NVIDIA A", "carried_on": None}))
    assert main([*words, "--resume"]) == 2
    assert "device 'cuda' is not available" in capsys.readouterr().err
    assert main([*words, "--resume", "--device", "cpu", "--json"]) == 0
    (sitting,) = json.loads(capsys.readouterr().out)["extras"]["carried_on"]
    assert sitting["changed"] == {"device": ["cuda NVIDIA A", versions["device"]]}


def test_a_run_goes_on_in_the_precision_it_was_begun_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a measurement would say now; asked for by name, another one is taken, and told."""
    folder = RunFolder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(run, "_final_evaluation", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.train(dataclasses.replace(SHORT, precision="bf16"), folder)
    automatic = dataclasses.replace(SHORT, precision="auto")
    assert run._as_begun(automatic, folder).precision == "bf16"
    assert run._as_begun(dataclasses.replace(SHORT, precision="fp32"), folder).precision == "fp32"
    versions = json.loads(folder.versions.read_text())
    folder.versions.write_text(json.dumps(versions | {"device": "cuda some GPU"}))
    assert run._as_begun(automatic, folder).precision == "auto"
    folder.versions.write_text(json.dumps(versions))
    record = run.train(automatic, folder, resume=True)
    assert record.precision == "bf16"
    assert not (record.extras or {}).get("carried_on")


def test_a_damaged_line_of_metrics_is_told_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(run, "_final_evaluation", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.train(SHORT, folder)
    whole = folder.metrics.read_text()
    for damaged in (whole[:20], "[1]\n" + whole, '{"epoch": "x"}\n'):
        folder.metrics.write_text(damaged)
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 1: no epoch's figures"):
            run.train(SHORT, folder, resume=True)
    folder.metrics.unlink()  # nothing but the figures of validation is taken from it
    assert run.train(SHORT, folder, resume=True).test_accuracy is not None


def test_what_fails_before_the_first_step_leaves_the_folder_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*arguments):
        raise UserError("TensorBoard is not installed")

    with monkeypatch.context() as patch:
        patch.setattr(run, "_tensorboard", missing)
        with pytest.raises(UserError, match="TensorBoard"):
            run.train(SHORT, RunFolder(tmp_path), tensorboard=True)
    with monkeypatch.context() as patch:
        patch.setattr("featherweight.training.run_folder.write_atomic", missing)
        with pytest.raises(UserError, match="TensorBoard"):
            run.train(SHORT, RunFolder(tmp_path))
    assert run.train(SHORT, RunFolder(tmp_path)).epochs == 1


def test_a_record_says_that_the_device_was_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATHERWEIGHT_BESIDE", "3")
    record = run.train(SHORT, RunFolder(tmp_path / "shared"))
    assert record.extras is not None
    assert record.extras["runs_beside"] == 3
    assert format_hardware(record).endswith(", shared with up to 3 other trainings")
    monkeypatch.setenv("FEATHERWEIGHT_BESIDE", "some")
    with pytest.raises(UserError, match="FEATHERWEIGHT_BESIDE is 'some'"):
        run.train(SHORT, RunFolder(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_pictures_too_small_for_the_network_are_refused_at_once(tmp_path: Path) -> None:
    small = dataclasses.replace(SHORT, model="separable_100k", rules="none", small_size=24)
    with pytest.raises(UserError, match="small_size: 24 pixels are too few for this network"):
        run.train(small, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_checkpoint_is_not_written_twice_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first step, after the last epoch, and once more with the times that the record tells."""
    written: list[float] = []
    save = run.Trainer.save

    def saving(self, path: Path) -> None:
        save(self, path)
        written.append(self.progress.wall_seconds)

    monkeypatch.setattr(run.Trainer, "save", saving)
    record = run.train(SHORT, RunFolder(tmp_path))
    assert len(written) == 3
    assert record.wall_seconds == round(written[-1], 2)


def test_two_runs_cannot_take_one_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.start(SHORT, {"commit": "a"}, resume=False)
    with pytest.raises(UserError, match="another run has taken"):
        folder.start(SHORT, {"commit": "a"}, resume=False)


def test_no_test_picture_was_trained_on(tmp_path: Path) -> None:
    record = run.train(SHORT, RunFolder(tmp_path))
    assert record.extras is not None
    assert record.extras["test_pictures_among_training"] == 0


def test_an_unfinished_run_is_preferred_and_a_changed_rate_finds_the_recipes_run(tmp_path: Path) -> None:
    for name in ("a-seed0", "a-seed0-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint.safetensors").write_text("")
    (tmp_path / "a-seed0-2" / "result.json").write_text("{}")
    assert latest_folder(tmp_path, "a-seed0") == tmp_path / "a-seed0"
    assert latest_folder(tmp_path, "a+optimizer.lr=0.01-seed0", "a-seed0") == tmp_path / "a-seed0"


def test_tensorboard_sees_the_run_and_changes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    plain = run.train(SHORT, RunFolder(tmp_path / "plain"))
    seen = run.train(SHORT, RunFolder(tmp_path / "seen"), tensorboard=True)
    assert seen.weights_sha256 != ""
    assert (tmp_path / "plain" / "model.safetensors").read_bytes() == (
        tmp_path / "seen" / "model.safetensors"
    ).read_bytes()
    assert seen.test_loss == plain.test_loss
    (events,) = (tmp_path / "seen" / "tensorboard").iterdir()
    text = events.read_bytes()
    assert all(word in text for word in (b"loss", b"accuracy", b"pictures", b"c1/0"))


def test_a_copy_without_its_history_is_told_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from featherweight.training import run_folder

    monkeypatch.setenv("FEATHERWEIGHT_COMMIT", "0123abcd")
    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "featherweight" / "training" / "run_folder.py"))
    assert run_folder.commit() == "0123abcd"
    monkeypatch.delenv("FEATHERWEIGHT_COMMIT")
    assert run_folder.commit() == ""
    monkeypatch.undo()
    if (Path(__file__).resolve().parents[2] / ".git").exists():
        monkeypatch.setenv("FEATHERWEIGHT_COMMIT", "0123abcd")
        assert not run_folder.commit().startswith("0123abcd")  # the history knows better

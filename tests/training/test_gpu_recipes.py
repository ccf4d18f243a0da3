"""The recipes meant for a GPU, on the CPU: each for two epochs of a few pictures, the teacher first, as on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherweight import config, datasets, weights
from featherweight.training import run
from featherweight.training.run_folder import RunFolder

FOR_A_GPU = ["teacher", "feather_100k", "feather_200k", "feather_quick_gpu"]
PICTURES = 32


def two_epochs(recipe: str, folder: Path) -> list[dict]:
    """Everything is the recipe's own but the data, the length and the batch."""
    changes = {"epochs": "2", "batch_size": "16", "data.name": "digits", "device": "cpu", "mix.ramp": "0"}
    settings = config.resolve(recipe, changes)
    assert settings.augment.engine == "batched"  # what can run on the device
    run.train(settings, RunFolder(folder))
    return RunFolder(folder).read_metrics()


@pytest.mark.slow
def test_each_runs_two_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the teacher is looked for in runs/, where its recipe's run leaves it
    whole = datasets.load_train("digits", None)
    monkeypatch.setattr(datasets, "load_train", lambda *_: whole.subset(range(PICTURES)))
    for recipe in FOR_A_GPU:
        epochs = two_epochs(recipe, Path("runs") / f"{recipe}-seed0")
        assert len(epochs) == 2
        assert all(0 < epoch["train_loss"] < 20 for epoch in epochs)
        network, card = weights.load(str(Path("runs") / f"{recipe}-seed0"))
        assert card.epochs == 2
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_the_students_learn_from_the_teacher_and_meet_the_rules() -> None:
    for recipe in ("feather_100k", "feather_200k"):
        settings = config.resolve(recipe, {})
        assert settings.teacher.weights == "runs/teacher-seed0"
        assert settings.rules == "assignment"
        assert settings.data.train_on == "all"

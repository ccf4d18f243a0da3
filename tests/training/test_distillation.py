"""Learning from a teacher: its loss against the definition, and that a run with one does what it says."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from featherweight import datasets, models, weights
from featherweight.augment import normalize
from featherweight.config import AugmentConfig, DataConfig, OptimizerConfig, TeacherConfig, TrainConfig
from featherweight.training.distillation import Teacher
from featherweight.training.engine import Trainer
from featherweight.utils import UserError
from featherweight.weights import Card

CLASSES = tuple("0123456789")
STATISTICS = datasets.STATISTICS["digits"]


@pytest.fixture
def teacher_file(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    card = Card(
        name="teacher",
        model="feather_quick",
        classes=CLASSES,
        mean=STATISTICS.mean,
        std=STATISTICS.std,
        input_size=32,
        train_images=160,
        dataset="digits",
        recipe="digits",
    )
    return weights.save(tmp_path / "teacher.safetensors", models.build("feather_quick"), card)


def teacher(path: Path, **settings: float) -> Teacher:
    config = TeacherConfig(weights=str(path), **settings)  # type: ignore[arg-type]
    return Teacher(config, CLASSES, STATISTICS, torch.device("cpu"))


def test_the_loss_is_the_softened_divergence_and_the_labels_share(teacher_file: Path) -> None:
    outputs, answers = torch.randn(6, 10), torch.randn(6, 10)
    one = teacher(teacher_file, share=0.7, temperature=3.0)
    p, q = (answers / 3).softmax(1), (outputs / 3).softmax(1)
    right = 0.7 * 9 * (p * (p / q).log()).sum(1).mean() + 0.3 * 2.5
    torch.testing.assert_close(one.loss(outputs, answers, torch.tensor(2.5)), right)
    logs = outputs.log_softmax(1)  # log-probabilities are as good
    torch.testing.assert_close(one.loss(logs, answers, torch.tensor(2.5)), right)


def test_the_teacher_is_left_as_it_was(teacher_file: Path) -> None:
    one = teacher(teacher_file)
    before = {key: value.clone() for key, value in one.network.state_dict().items()}
    answers = one.answers(torch.randn(4, 3, 32, 32), nullcontext())
    assert not answers.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in one.network.state_dict().items())


def test_other_classes_and_no_file_are_told(teacher_file: Path) -> None:
    with pytest.raises(UserError, match="other classes"):
        Teacher(TeacherConfig(weights=str(teacher_file)), ("cat", "dog"), STATISTICS, torch.device("cpu"))
    other = dataclasses.replace(STATISTICS, mean=(0.5, 0.5, 0.5))
    with pytest.raises(UserError, match="another mean"):
        Teacher(TeacherConfig(weights=str(teacher_file)), CLASSES, other, torch.device("cpu"))
    teacher(teacher_file).require_at_most(160)
    with pytest.raises(UserError, match="160 pictures, those held out here among them"):
        teacher(teacher_file).require_at_most(144)
    with pytest.raises(UserError, match="no-such"):
        teacher(Path("no-such.safetensors"))


def test_a_student_of_nothing_but_its_teacher_comes_to_agree_with_it(teacher_file: Path, tmp_path: Path) -> None:
    """Labels are wrong on purpose; with share 1 they do not count."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (160, 32, 32, 3), dtype=torch.uint8, generator=generator)
    pictures = datasets.PictureSet(images=images, labels=torch.zeros(160, dtype=torch.int64), classes=CLASSES)
    settings = TrainConfig(
        model="feather_quick",
        epochs=6,
        batch_size=40,
        precision="fp32",
        data=DataConfig(name="digits"),
        augment=AugmentConfig(engine="none"),
        optimizer=OptimizerConfig(name="adamw", lr=3e-3),
        teacher=TeacherConfig(weights=str(teacher_file), share=1.0, temperature=1.0),
    )
    losses: list[float] = []
    for config in (settings, dataclasses.replace(settings, teacher=TeacherConfig())):
        torch.manual_seed(1)
        run = Trainer(models.build("feather_quick"), config, pictures, None, STATISTICS, torch.device("cpu"))
        run.train(tmp_path / f"{len(losses)}.safetensors", lambda figures: None)
        inputs = normalize(images, STATISTICS.mean, STATISTICS.std)
        judge = teacher(teacher_file, share=1.0, temperature=1.0)
        outputs = run.final_network().eval()(inputs)
        losses.append(judge.loss(outputs, judge.answers(inputs, nullcontext()), torch.zeros(())).item())
    assert losses[0] < 0.3 * losses[1]  # the other one learned that everything is class 0

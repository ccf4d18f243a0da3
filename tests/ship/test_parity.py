"""The figures of parity and of latency, against what is counted by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest

from featherweight.ship.parity import compare, measure_latency, problem_with
from featherweight.ship.predictor import PictureClassifier, Prediction

OURS = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8], [0.3, 0.6, 0.1]], np.float32)
THEIRS = np.array([[0.6, 0.3, 0.1], [0.4, 0.5, 0.1], [0.1, 0.1, 0.8], [0.3, 0.6, 0.1]], np.float32)
LABELS = np.array([0, 0, 2, 0])


def test_compare_counts_as_by_hand() -> None:
    found = compare(OURS, THEIRS, LABELS)
    assert (found.images, found.agreeing, found.agreement) == (4, 3, 0.75)
    assert found.max_difference == pytest.approx(0.1)
    assert found.mean_difference == pytest.approx(4 * 0.1 / 12)
    assert (found.torch_accuracy, found.accuracy) == (0.75, 0.5)
    assert found.lost_points == pytest.approx(25)


def test_compare_refuses_what_cannot_be_compared() -> None:
    for ours, theirs, labels in (
        (OURS, THEIRS[:3], LABELS),
        (OURS, THEIRS, LABELS[:3]),
        (OURS[:0], THEIRS[:0], LABELS[:0]),
        (OURS, THEIRS * np.nan, LABELS),
    ):
        with pytest.raises(ValueError, match=r"shapes differ|finite"):
            compare(ours, theirs, labels)


def test_what_keeps_a_form_from_being_published() -> None:
    bad = compare(OURS, THEIRS, LABELS)
    assert "differ from torch's by up to 0.1" in str(problem_with(bad, "fp32"))
    assert "loses 25.00 points" in str(problem_with(bad, "int8"))
    assert problem_with(bad, "int8", max_loss=25) is None
    assert problem_with(compare(OURS, OURS + np.float32(5e-5), LABELS), "fp32") is None
    assert problem_with(compare(OURS, OURS + np.float32(2e-4), LABELS), "fp32") is not None
    better = compare(THEIRS, OURS, LABELS)
    assert better.lost_points == pytest.approx(-25)
    assert problem_with(better, "int8", max_loss=0) is None


class Sleeper(PictureClassifier):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds * len(images))
        return np.zeros((len(images), 2), np.float32)


def test_latency_is_of_the_form_and_its_ratio_to_torch() -> None:
    forms = {"torch": Sleeper(0.002), "fp32": Sleeper(0.0005)}
    found = measure_latency(forms, np.zeros((4, 8, 8, 3), np.uint8), batches=(1, 4))
    assert list(found) == ["batch_1", "batch_4"]
    assert found["batch_1"]["torch"]["ms"] == pytest.approx(2, rel=0.4)
    assert found["batch_4"]["torch"]["ms"] == pytest.approx(8, rel=0.4)
    assert found["batch_4"]["torch"]["torch_ratio"] == 1
    assert 2.5 < found["batch_4"]["fp32"]["torch_ratio"] < 4.4


def test_predictions_are_ranked_best_first() -> None:
    found = Prediction.of(np.array([0.2, 0.5, 0.3]), ("a", "b", "c"), 2)
    assert (found.label, found.confidence) == ("b", 0.5)
    assert found.top == (("b", 0.5), ("c", 0.3))
    assert str(found) == "b (50.0%)"
    assert [name for name, _ in Prediction.of(np.array([0.5, 0.5]), ("a", "b"), 9).top] == ["a", "b"]

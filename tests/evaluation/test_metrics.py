"""The figures against scikit-learn and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, recall_score

from featherweight.evaluation import metrics


def some(seed: int, pictures: int = 400, classes: int = 7, spread: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (pictures,), generator=generator)
    outputs = spread * torch.randn(pictures, classes, generator=generator)
    outputs[torch.arange(pictures), labels] += 1.5
    return outputs, labels


def plain_calibration_error(outputs: torch.Tensor, labels: torch.Tensor, bins: int) -> float:
    """The definition word by word, in Python's own floats."""
    boxes: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for row, label in zip(outputs.tolist(), labels.tolist(), strict=True):
        top = max(row)
        powers = [math.exp(value - top) for value in row]
        confidence = max(powers) / sum(powers)
        for m in range(1, bins + 1):
            if (m - 1) / bins < confidence <= m / bins:
                boxes[m - 1].append((confidence, row.index(top) == label))
    assert sum(map(len, boxes)) == len(labels)
    error = 0.0
    for box in boxes:
        if box:
            right = sum(hit for _, hit in box) / len(box)
            sure = sum(confidence for confidence, _ in box) / len(box)
            error += len(box) / len(labels) * abs(right - sure)
    return error


@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_those_of_scikit_learn(seed: int) -> None:
    outputs, labels = some(seed)
    truth, given_classes = labels.numpy(), outputs.numpy().argmax(1)
    probabilities = outputs.double().softmax(1).numpy()
    confusion = metrics.confusion_matrix(outputs, labels)
    assert float(metrics.accuracy(outputs, labels)) == pytest.approx(accuracy_score(truth, given_classes), abs=1e-12)
    assert np.array_equal(confusion.numpy(), confusion_matrix(truth, given_classes, labels=range(7)))
    recalls = recall_score(truth, given_classes, average=None, labels=range(7))  # type: ignore[arg-type]
    assert metrics.per_class_accuracy(confusion).numpy() == pytest.approx(recalls, abs=1e-12)
    loss = log_loss(truth, probabilities, labels=range(7))
    assert float(metrics.negative_log_likelihood(outputs, labels)) == pytest.approx(loss, abs=1e-9)


@pytest.mark.parametrize("bins", [1, 2, 15, 40])
@pytest.mark.parametrize("spread", [0.1, 2.0, 30.0])
def test_calibration_error_equals_its_definition(bins: int, spread: float) -> None:
    outputs, labels = some(bins, spread=spread)
    found = float(metrics.expected_calibration_error(outputs, labels, bins))
    assert found == pytest.approx(plain_calibration_error(outputs.double(), labels, bins), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 10_000))
def test_calibration_error_of_any_small_set(pictures: int, classes: int, seed: int) -> None:
    outputs, labels = some(seed, pictures, classes)
    found = float(metrics.expected_calibration_error(outputs, labels))
    assert found == pytest.approx(plain_calibration_error(outputs.double(), labels, 15), abs=1e-9)
    assert 0 <= found <= 1


def test_calibration_by_hand() -> None:
    """Four pictures at confidence 0.8, of which three are right: |0.75 - 0.8|; sure and always right: 0."""
    outputs = torch.log(torch.tensor([[0.8, 0.2]] * 4, dtype=torch.float64))
    assert float(metrics.expected_calibration_error(outputs, torch.tensor([0, 0, 0, 1]))) == pytest.approx(0.05)
    certain = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    assert float(metrics.expected_calibration_error(certain, torch.tensor([0, 1]))) == pytest.approx(0, abs=1e-12)
    assert float(metrics.expected_calibration_error(certain, torch.tensor([1, 0]))) == pytest.approx(1)


def test_a_confidence_on_a_bin_edge_belongs_to_the_lower_bin() -> None:
    """Bins are ((m-1)/M, m/M]. With two bins, 0.5 and 0.4 share the lower one, where their gaps cancel in part."""
    outputs = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.4, 0.3, 0.3]], dtype=torch.float64))
    labels = torch.tensor([0, 1])  # right, wrong: (1 - 0.5) + (0 - 0.4) = 0.1 over 2 pictures
    assert float(metrics.expected_calibration_error(outputs, labels, bins=2)) == pytest.approx(0.05)


def test_logits_and_log_probabilities_give_the_same_figures() -> None:
    outputs, labels = some(3)
    logs = outputs.double().log_softmax(1)
    for figure in (metrics.accuracy, metrics.negative_log_likelihood, metrics.expected_calibration_error):
        assert float(figure(outputs.double(), labels)) == pytest.approx(float(figure(logs, labels)), abs=1e-12)


def test_a_class_without_pictures_has_no_accuracy() -> None:
    confusion = metrics.confusion_matrix(torch.eye(3), torch.tensor([0, 0, 2]))
    assert confusion.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    recalls = metrics.per_class_accuracy(confusion).tolist()
    assert recalls[0] == 0.5
    assert math.isnan(recalls[1])
    assert recalls[2] == 1


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="labels must be"):
        metrics.accuracy(torch.eye(3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="labels must be"):
        metrics.negative_log_likelihood(torch.eye(2), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="outputs must be"):
        metrics.accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="bins"):
        metrics.expected_calibration_error(torch.eye(2), torch.tensor([0, 1]), bins=0)

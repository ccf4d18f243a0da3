"""What the figures are drawn from, and that each can be drawn: odd sizes, empty classes, one epoch, no validation."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

from featherweight.config import AugmentConfig, to_dict
from featherweight.evaluation.metrics import expected_calibration_error
from featherweight.explain import filters
from featherweight.explain.calibration import reliability, reliability_diagram
from featherweight.explain.classes import confusion_matrix, mix_ups, per_class, wilson_interval
from featherweight.explain.curves import draw_curves, learning_curves
from featherweight.explain.field_figure import receptive_field_figure
from featherweight.explain.filters import as_colours, colourfulness, first_layer, flatness
from featherweight.explain.gallery import _landscape
from featherweight.explain.landscape import ANCHORS, Point, _draw_point, accuracy_against_parameters
from featherweight.explain.layers import UnitField
from featherweight.explain.pictures import (
    augmented_batch,
    describe,
    first_right,
    surest_errors,
    verdicts,
    wrong_pictures,
)
from featherweight.explain.saliency import CAM, PIXELS, MapRow, gathered, overlays, where_strongest
from featherweight.explain.style import Exhibit, new_figure, rounded, show_picture, to_pictures, to_png
from featherweight.utils import UserError

CLASSES = tuple("abcd")


def looked_at(exhibit: Exhibit) -> np.ndarray:
    """The picture of an exhibit that is complete: legible size, not blank, with words and a table beside it."""
    with Image.open(io.BytesIO(exhibit.png)) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert 600 <= pixels.shape[1] <= 1000
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    assert len(exhibit.alt) > 30
    assert len(exhibit.caption) > 60
    assert exhibit.rows
    assert all(len(row) == len(exhibit.columns) for row in exhibit.rows)
    json.dumps(exhibit.data, allow_nan=False)
    return pixels


def random_outputs(count: int, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    outputs = torch.randn(count, classes, generator=generator)
    outputs[torch.arange(count), labels] += 1.5
    return outputs, labels


def random_pictures(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------------ the numbers


def test_the_bins_of_the_diagram_add_up_to_the_calibration_error() -> None:
    outputs, labels = random_outputs(997)
    bins = reliability(outputs, labels)
    assert sum(entry["pictures"] for entry in bins) == 997
    total = sum(e["pictures"] * abs(e["accuracy"] - e["confidence"]) for e in bins if e["pictures"]) / 997
    assert total == pytest.approx(float(expected_calibration_error(outputs, labels)), rel=1e-9)
    full = [entry for entry in bins if entry["pictures"]]
    assert all(entry["low"] < entry["confidence"] <= entry["high"] for entry in full)
    assert {entry["accuracy"] for entry in bins if not entry["pictures"]} <= {None}


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (7, 10), (10, 10), (865, 1000), (1, 1)])
def test_wilsons_interval_is_scipys(hits: int, count: int) -> None:
    known = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson_interval(hits, count) == pytest.approx((known.low, known.high), abs=1e-4)


def test_mix_ups_are_the_errors_by_frequency() -> None:
    confusion = [[5, 0, 2], [3, 4, 0], [0, 9, 1]]
    assert mix_ups(confusion, "abc") == [("c", "b", 9), ("b", "a", 3), ("a", "c", 2)]
    assert mix_ups(confusion, "abc", most=1) == [("c", "b", 9)]
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_who_is_shown() -> None:
    logits = torch.tensor([[9.0, 0, 0], [0, 3, 0], [0, 8, 0], [0, 0, 5], [4, 0, 0], [0, 2, 0]])
    labels = torch.tensor([1, 1, 0, 2, 0, 1])
    assert [said.index for said in surest_errors(logits, labels, 5)] == [0, 2]
    assert [said.index for said in surest_errors(logits, labels, 1)] == [0]
    assert [said.index for said in first_right(logits, labels, 5)] == [1, 3, 4]
    said = verdicts(logits, labels)[2]
    assert said.named("xyz") == pytest.approx(
        {"index": 2, "true": "x", "said": "y", "confidence": 0.999330, "confidence_in_true": 0.000335}, abs=1e-6
    )
    assert not said.right


def test_gathering_keeps_the_sum_and_spreads_by_binomial_weights() -> None:
    values = np.zeros((9, 9))
    values[4, 4] = 256.0
    found = gathered(values)
    assert found[2:7, 2:7].tolist() == np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]).tolist()
    noisy = np.random.default_rng(0).normal(size=(32, 32))
    assert gathered(noisy).sum() == pytest.approx(noisy.sum())


def test_where_a_map_is_strongest_is_told() -> None:
    values = torch.zeros(32, 32)
    values[0:5, 28:], values[20, 20], values[31, 0] = 1.0, 5.0, -100.0
    assert where_strongest(values) == "upper right (80 %)"
    assert where_strongest(-torch.ones(8, 8)) == "nowhere"


def test_kernels_as_colours() -> None:
    weight = torch.zeros(3, 3, 3, 3)
    weight[0, :, 1, :] = -2.0  # a grey line
    weight[1, 0] = 0.5  # plain red
    weight[2, 1, 0, 0], weight[2, 2, 0, 0] = 1.0, -1.0
    colours = as_colours(weight)
    assert colours.shape == (3, 3, 3, 3)
    assert colours[0, 1, 0].tolist() == [0, 0, 0]
    assert colours[0, 0, 0].tolist() == [0.5, 0.5, 0.5]
    assert colours[1, 2, 2].tolist() == [1, 0.5, 0.5]
    assert colourfulness(weight).tolist() == pytest.approx([0, 2 / 3, 1])
    assert flatness(weight).tolist() == pytest.approx([1 / 3, 1, 1 / 9])
    assert as_colours(weight[:, :1]).shape == (3, 3, 3, 3)


def test_rounding_keeps_significant_digits() -> None:
    assert rounded(torch.tensor([[0.0, 123456.0], [-0.000123456, 1.0]]), 3) == [[0.0, 123000.0], [-0.000123, 1.0]]


def test_normalised_pictures_come_back() -> None:
    images = random_pictures(3)
    mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    batch = (torch.from_numpy(images).double() / 255 - torch.tensor(mean)) / torch.tensor(std)
    assert np.array_equal(to_pictures(batch.float().permute(0, 3, 1, 2), mean, std), images)


# ------------------------------------------------------------------------------------------------------ the figures


def epochs(count: int, *, validated: bool) -> list[dict[str, Any]]:
    lines = []
    for epoch in range(count):
        line = {"epoch": epoch, "train_loss": 2 / (epoch + 1), "train_accuracy": 0.5, "lr": 0.1, "seconds": 2.5}
        lines.append(line | ({"val_loss": 1.0, "val_accuracy": 0.75} if validated else {}))
    return lines


@pytest.mark.parametrize(("count", "validated"), [(1, False), (12, True)])
def test_learning_curves(count: int, validated: bool, tmp_path: Path) -> None:
    metrics = epochs(count, validated=validated)
    plan = [(0.0, 0.0), (count / 2, 0.1), (float(count), 0.0)]
    exhibit = learning_curves(metrics, plan)
    looked_at(exhibit)
    assert ("validation accuracy" in exhibit.columns) == validated
    assert exhibit.rows[-1][0] == count
    if not validated:
        draw_curves(metrics, tmp_path / "curves.png")
        assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert (tmp_path / "curves.png").read_bytes() != exhibit.png  # without the plan


def test_curves_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        draw_curves(epochs(2, validated=False), tmp_path / "file" / "curves.png")


def test_confusion_and_bars_also_of_a_class_without_pictures() -> None:
    confusion = [[5, 0, 2, 0], [3, 4, 0, 0], [0, 9, 1, 0], [0, 0, 0, 0]]
    exhibit = confusion_matrix(confusion, CLASSES)
    looked_at(exhibit)
    assert exhibit.data["confusion"] == confusion
    assert "c called b, 9 times" in exhibit.caption
    bars = per_class(confusion, ("x", "y $1$", "z", "none"))
    looked_at(bars)
    assert [row[0] for row in bars.rows] == ["x", "y $1$", "z", "none"]
    first, last = bars.data["classes"][0], bars.data["classes"][-1]
    assert first["recall"] == pytest.approx(5 / 7)
    assert first["precision"] == pytest.approx(5 / 8)
    assert last["recall"] is None
    assert last["precision"] is None
    assert "No errors" in confusion_matrix([[3, 0], [0, 4]], "ab").caption


def test_many_classes_are_drawn_without_numbers() -> None:
    exhibit = confusion_matrix(np.eye(21, dtype=int).tolist(), [f"class {n}" for n in range(21)])
    assert len(looked_at(exhibit)) > 300


@pytest.mark.parametrize("sureness", [0.2, 5.0])
def test_the_reliability_diagram(sureness: float) -> None:
    outputs, labels = random_outputs(300)
    exhibit = reliability_diagram(sureness * outputs, labels)
    looked_at(exhibit)
    expected = {0.2: "less sure than it may be", 5.0: "surer than it should be"}[sureness]
    assert expected in exhibit.caption


@pytest.mark.parametrize("count", [1, 5])
def test_wrong_pictures(count: int) -> None:
    outputs, labels = random_outputs(80)
    errors = surest_errors(outputs, labels, count)
    assert len(errors) == count
    exhibit = wrong_pictures(random_pictures(80)[[e.index for e in errors]], errors, CLASSES, 30)
    looked_at(exhibit)
    assert [shown["index"] for shown in exhibit.data["shown"]] == [e.index for e in errors]


def test_the_augmented_batch_counts_what_changed() -> None:
    before = random_pictures(8)
    after = before.copy()
    after[3, 4:20, 4:20] = 128
    settings = to_dict(AugmentConfig())
    exhibit = augmented_batch(before, [before, after], CLASSES * 2, settings)
    looked_at(exhibit)
    assert exhibit.data["changed"] == [[False] * 8, [number == 3 for number in range(8)]]
    assert "one hole of 16x16 pixels" in exhibit.caption
    assert "1 of 16" in exhibit.alt
    with pytest.raises(ValueError, match="same number"):
        augmented_batch(before, [after[:3]], CLASSES * 2, settings)


@pytest.mark.parametrize("right", [True, False])
def test_overlays(right: bool) -> None:
    outputs, labels = random_outputs(40)
    said = (first_right if right else surest_errors)(outputs, labels, 4)
    images = random_pictures(40)[[verdict.index for verdict in said]]
    generator = torch.Generator().manual_seed(0)
    cam = torch.rand(len(said), 32, 32, generator=generator)
    cam[0] = 0  # nothing speaks for it
    rows = [MapRow(method=CAM, about="said", maps=cam)]
    rows.append(MapRow(method=PIXELS, about="said" if right else "true", maps=cam - 0.5))
    exhibit = overlays("name", "Title", images, said, CLASSES, rows, layer="c4", completeness_error=0.012)
    looked_at(exhibit)
    assert exhibit.rows[0][4] == "nowhere"
    assert "1.20 %" in exhibit.caption
    assert ("the true one" in exhibit.caption) != right
    assert np.allclose(exhibit.data["maps"][0]["values"][1], cam[1], rtol=0.01)


@pytest.mark.parametrize("shape", [(12, 3, 5, 5), (4, 1, 3, 3)])
def test_first_layer(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "MOST", 8)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exhibit = first_layer(weight, "c1.0")
    looked_at(exhibit)
    assert sorted(row[0] for row in exhibit.rows) == list(range(shape[0]))
    assert ("Drawn are 8" in exhibit.caption) == (shape[0] == 12)


def test_the_receptive_field_figure() -> None:
    margin = 16
    side = 32 + 2 * margin
    picture = random_pictures(1, side)[0]
    place = torch.arange(side, dtype=torch.float64) - side / 2
    energy = torch.exp(-(place[:, None] ** 2 + place[None] ** 2) / 20)
    field = UnitField(unit=(4, 4), size=(21, 21), jump=(8.0, 8.0), centre=(side / 2, side / 2), exact=True)
    exhibit = receptive_field_figure(picture, margin, energy, field, "c4", 64)
    looked_at(exhibit)
    assert exhibit.data["theoretical"]["size"] == [21, 21]
    assert exhibit.data["measured_square"] < 21
    assert "mirror image" in exhibit.caption


def test_a_unit_that_sees_the_whole_map_has_no_square() -> None:
    exhibit = receptive_field_figure(random_pictures(1)[0], 0, torch.rand(32, 32).double(), None, "c4", 64)
    looked_at(exhibit)
    assert exhibit.data["theoretical"] is None
    assert "the whole picture" in exhibit.caption
    assert "mirror image" not in exhibit.caption


def test_marks_of_what_was_picked_on_the_test_set_are_hollow() -> None:
    assert [anchor.parameters for anchor in ANCHORS if anchor.selected_on_test] == [176_122, 272_474, 96_436]
    assert [anchor.name for anchor in ANCHORS if anchor.selected_on_test is None] == ["cifar10-tiniest"]
    axes = new_figure().subplots()
    measured = Point(name="ours", parameters=100_000, accuracy=0.9, selected_on_test=False)
    for point, hollow in [*((anchor, True) for anchor in ANCHORS), (measured, False)]:
        _draw_point(axes, point)
        assert (axes.lines[-1].get_markerfacecolor() == "none") == hollow


def test_accuracy_against_parameters() -> None:
    ours = [
        Point(name="a", parameters=150_186, accuracy=0.8553, deviation=0.003, runs=3, whose="ours"),
        Point(name="b", parameters=150_186, accuracy=0.8528, whose="this"),
        Point(name="c", parameters=199_000, accuracy=0.95, runs=5, deviation=0.001, whose="ours"),
    ]
    exhibit = accuracy_against_parameters([*ours, *ANCHORS], "cifar10", assignment=True)
    looked_at(exhibit)
    assert len(exhibit.rows) == 7
    picked = {point["name"] for point in exhibit.data["points"] if point["selected_on_test"]}
    assert picked == {"DenseNet-BC-40 (k=12)", "ResNet-20", "best public solution"}
    told = {row[0]: row[4] for row in exhibit.rows}
    assert (told["a"], told["ResNet-20"], told["cifar10-tiniest"]) == ("no", "yes", "not said")
    looked_at(accuracy_against_parameters(ours[:1], "digits", assignment=False))


@pytest.mark.parametrize(
    ("record", "told"), [(SimpleNamespace(selection="none: last epoch"), "no"), (None, "not said")]
)
def test_a_network_without_its_record_is_not_called_unpicked(record: SimpleNamespace | None, told: str) -> None:
    card = SimpleNamespace(dataset="cifar10", test_accuracy=0.9, name="mine", parameters=1000)
    subject: Any = SimpleNamespace(card=card, split="val", record=record)
    assert {row[0]: row[4] for row in _landscape(subject).rows}["this run"] == told


def test_grey_is_grey_and_faded_is_paler() -> None:
    figure = new_figure()
    axes = figure.subplots()
    show_picture(axes, random_pictures(1)[0], grey=True, fade=0.5)
    shown = np.asarray(axes.images[0].get_array())
    assert np.allclose(shown[..., 0], shown[..., 2])
    assert shown.min() >= 0.5
    assert to_png(figure) == to_png(figure)


def test_alternating_flips_are_described_as_such() -> None:
    chance, turns = (describe(to_dict(AugmentConfig(alternate_flip=turns))) for turns in (False, True))
    assert chance.startswith("Mirrored with probability 0.5; with probability 0.5 shifted")
    assert turns.startswith("Mirrored in every other epoch, half of the pictures in the first; with probability 0.5")

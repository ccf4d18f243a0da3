"""All figures of one trained network, in the order of the report: from what is known of a run to exhibits."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from featherweight import datasets
from featherweight.augment import BatchSource, normalize
from featherweight.config import TrainConfig
from featherweight.datasets import PictureSet
from featherweight.evaluation import Evaluation
from featherweight.explain.attribution import completeness, grad_cam, integrated_gradients
from featherweight.explain.calibration import reliability_diagram
from featherweight.explain.classes import confusion_matrix, per_class
from featherweight.explain.curves import Schedule, learning_curves
from featherweight.explain.field import effective_field, extended, margin_for
from featherweight.explain.field_figure import receptive_field_figure
from featherweight.explain.filters import first_layer
from featherweight.explain.landscape import ANCHORS, Point, accuracy_against_parameters, points_of
from featherweight.explain.layers import Layer, first_filters, unit_field
from featherweight.explain.pictures import augmented_batch, first_right, surest_errors, wrong_pictures
from featherweight.explain.saliency import CAM, PIXELS, MapRow, overlays
from featherweight.explain.style import Exhibit, to_pictures
from featherweight.records import RESULTS, Record, group_by_recipe, load_all
from featherweight.utils import UserError
from featherweight.weights import Card

WRONG = 16  # errors shown
OVERLAID = 5  # pictures with overlays, of each kind
STEPS = 128  # of the integrated gradients; they add up to within about 2 % on the published networks
EPOCHS_SHOWN = 3  # of augmented pictures
AUGMENTED = 8  # pictures of the batch
FIELD_PICTURES = 64  # the measured field is averaged over


class Skip(Exception):
    """A figure that cannot be drawn of this run; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is explained: a network, what is known of its run, and how it did on the pictures it is explained with."""

    network: nn.Module  # on `device`
    card: Card
    layer: Layer  # the one looked at
    device: torch.device
    pictures: PictureSet
    split: str  # "test" or "val"
    found: Evaluation  # on those pictures
    data_dir: Path | None = None  # where the training pictures are looked for
    record: Record | None = None
    settings: TrainConfig | None = None  # what is known of the run's configuration
    metrics: Sequence[dict[str, Any]] = ()  # an epoch each, as training writes them
    plan: Schedule | None = None  # of the learning rate
    photo: np.ndarray | None = None  # uint8 [S, S, 3]: the field is drawn on it, not on a picture of the set

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [N, H, W, 3] → what the network takes, on its device."""
        return normalize(images.to(self.device), self.card.mean, self.card.std)


def _curves(subject: Subject) -> Exhibit:
    if not subject.metrics:
        raise Skip("there are no metrics beside the weights; give the run's folder")
    settings, remark = subject.settings, ""
    if settings is not None and settings.small_size:
        remark = (
            f"The first {settings.small_until:.0%} of the steps were trained on pictures shrunk to "
            f"{settings.small_size} pixels; until then, pictures of full size look strange to the network."
        )
    return learning_curves(list(subject.metrics), subject.plan, remark)


def _augmented(subject: Subject) -> Exhibit:
    if subject.settings is None:
        raise Skip(f"the settings of the recipe {subject.card.recipe} are not known here")
    spec = subject.settings.augment
    if spec.engine == "none":
        raise Skip("this run did not augment its pictures")
    card = subject.card
    try:
        training = datasets.load_train(card.dataset, subject.data_dir)
    except UserError as error:
        raise Skip(f"the training pictures are not at hand: {error}") from error
    chosen = torch.tensor(
        [int((training.labels == number).nonzero()[0]) for number in range(len(card.classes))][:AUGMENTED]
    )
    images, labels = training.images[chosen], training.labels[chosen]
    spec = dataclasses.replace(spec, workers=0)  # one batch is not worth processes
    source = BatchSource(
        spec, images, labels, len(chosen), seed=card.seed or 0, mean=card.mean, std=card.std, device="cpu"
    )
    after: list[np.ndarray] = []
    with source:
        for epoch in range(EPOCHS_SHOWN):
            batch, _ = next(source.epoch(torch.arange(len(chosen)), epoch=epoch))
            after.append(to_pictures(batch, card.mean, card.std))
    names = [card.classes[int(label)] for label in labels]
    settings = {key: value for key, value in dataclasses.asdict(spec).items() if key != "workers"}
    if subject.settings.mix.mixup or subject.settings.mix.cutmix:
        settings["then"] = "mixed in pairs, which is not drawn"
    if subject.settings.small_size:
        settings["then_shrunk_to"] = f"{subject.settings.small_size} pixels, first {subject.settings.small_until:.0%}"
    return augmented_batch(images.numpy(), after, names, settings)


def _confusion(subject: Subject) -> Exhibit:
    return confusion_matrix(subject.found.confusion, subject.card.classes)


def _per_class(subject: Subject) -> Exhibit:
    return per_class(subject.found.confusion, subject.card.classes)


def _calibration(subject: Subject) -> Exhibit:
    return reliability_diagram(subject.found.logits, subject.pictures.labels.cpu())


def _wrong(subject: Subject) -> Exhibit:
    labels = subject.pictures.labels.cpu()
    errors = surest_errors(subject.found.logits, labels, WRONG)
    if not errors:
        raise Skip("the network made no error on these pictures")
    images = subject.pictures.images[[error.index for error in errors]].cpu().numpy()
    total = int((subject.found.logits.argmax(1) != labels).sum())
    return wrong_pictures(images, errors, subject.card.classes, total)


def _overlays(subject: Subject, *, right: bool) -> Exhibit:
    labels = subject.pictures.labels.cpu()
    said = (first_right if right else surest_errors)(subject.found.logits, labels, OVERLAID)
    if not said:
        raise Skip(f"the network named no picture {'rightly' if right else 'wrongly'}")
    images = subject.pictures.images[[verdict.index for verdict in said]]
    batch = subject.normalised(images)
    asked = {"said": torch.tensor([verdict.said for verdict in said])}
    if not right:
        asked["true"] = torch.tensor([verdict.true for verdict in said])
    rows, gap = [], 0.0
    for about, classes in asked.items():
        cam = grad_cam(subject.network, subject.layer.name, batch, classes)
        pixels = integrated_gradients(subject.network, batch, classes, steps=STEPS)
        is_, should = completeness(subject.network, batch, classes, pixels)
        gap = max(gap, float(((is_ - should).abs() / should.abs().clamp(min=1.0)).max()))
        rows.append((CAM, about, cam))
        rows.append((PIXELS, about, pixels.sum(dim=1)))
    order = {CAM: 0, PIXELS: 1}
    rows.sort(key=lambda row: order[row[0]])  # the same method's rows below each other, to be compared
    return overlays(
        "attribution_right" if right else "attribution_wrong",
        "What speaks for the class: rightly named" if right else "What speaks for the class: the surest errors",
        images.cpu().numpy(),
        said,
        subject.card.classes,
        [MapRow(method=method, about=about, maps=maps.cpu()) for method, about, maps in rows],
        layer=subject.layer.name,
        completeness_error=gap,
    )


def _filters(subject: Subject) -> Exhibit:
    try:
        found = first_filters(subject.network, (1, 3, subject.card.input_size, subject.card.input_size))
    except UserError as error:
        raise Skip(str(error)) from error
    return first_layer(found.weight, found.name)


def _field(subject: Subject) -> Exhibit:
    images = subject.pictures.images[:FIELD_PICTURES]
    side = images.shape[1]
    known = unit_field(subject.network, subject.layer.name, (1, 3, side, side))
    margin = 0 if known is None else margin_for(known.size, known.jump, side)
    grown = side + 2 * margin
    placed = unit_field(subject.network, subject.layer.name, (1, 3, grown, grown)) if margin else known
    unit = placed.unit if placed else (subject.layer.shape[1] // 2, subject.layer.shape[2] // 2)
    large = extended(images, margin)
    energy = effective_field(subject.network, subject.layer.name, subject.normalised(large), unit)
    if subject.photo is not None:
        shown = extended(torch.from_numpy(subject.photo)[None], margin)[0]
    else:  # the picture of middling brightness: outlines show on it, whatever their colour
        shown = large[int((images.float().mean(dim=(1, 2, 3)) - 127.5).abs().argmin())]
    return receptive_field_figure(shown.numpy(), margin, energy, placed, subject.layer.name, len(images))


def _landscape(subject: Subject) -> Exhibit:
    card = subject.card
    accuracy = subject.found.accuracy if subject.split == "test" else card.test_accuracy
    points = list(ANCHORS) if card.dataset == "cifar10" else []
    try:
        points += points_of(group_by_recipe(load_all(RESULTS)), card.dataset) if RESULTS.is_dir() else []
    except UserError as error:  # a damaged record of another run is no reason to stop
        raise Skip(str(error)) from error
    if accuracy is not None:
        selection = subject.record.selection if subject.record else "how its state was chosen is not recorded"
        source = f"{card.name}; {selection}"
        points.append(
            Point(
                name="this run",
                parameters=card.parameters,
                accuracy=accuracy,
                whose="this",
                source=source,
                selected_on_test=False if subject.record else None,
            )
        )
    if len(points) < 2:
        raise Skip(f"no other network's accuracy on {card.dataset} is recorded here")
    return accuracy_against_parameters(points, card.dataset, assignment=card.dataset == "cifar10")


# What is drawn, in the report's order.
FIGURES: tuple[tuple[str, Callable[[Subject], Exhibit]], ...] = (
    ("learning curves", _curves),
    ("augmented batch", _augmented),
    ("confusion matrix", _confusion),
    ("accuracy by class", _per_class),
    ("calibration", _calibration),
    ("most confidently wrong", _wrong),
    ("attribution, right pictures", functools.partial(_overlays, right=True)),
    ("attribution, wrong pictures", functools.partial(_overlays, right=False)),
    ("first-layer filters", _filters),
    ("receptive field", _field),
    ("accuracy against parameters", _landscape),
)

"""The README's figures, drawn from published weights and records.

They are committed, so none holds a picture of the data set: what needs a picture is drawn on a photograph given for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from featherweight import datasets, weights
from featherweight.evaluation import evaluate
from featherweight.explain.attribution import class_scores, completeness, grad_cam, integrated_gradients
from featherweight.explain.gallery import FIGURES, STEPS, Subject
from featherweight.explain.landscape import ANCHORS, accuracy_against_parameters, points_of
from featherweight.explain.layers import find_layer
from featherweight.explain.photo import photo_attribution
from featherweight.explain.style import Exhibit
from featherweight.records import Group
from featherweight.utils import UserError
from featherweight.weights import Card

CLASSES_SHOWN = 3  # of the photograph
PHOTO_SIDE = 256  # at which people see it, in pixels

# What stands below each figure, in the README's order. All that depends on the weights is in the figures themselves.
CAPTIONS = {
    "accuracy_parameters": "Accuracy against parameters. Filled: measured without looking at the test pictures before "
    "the end. Hollow: others' figures, picked on the test pictures (so too good by an unknown amount) or "
    "without a word of how.",
    "confusion_matrix": "What {name} takes for what, on all {images} test pictures.",
    "calibration": "How often {name} is right at each level of confidence, on the same pictures; on the diagonal, "
    "confidence means what it says.",
    "photo_attribution": "Why {name} says what it says of a photograph that is not from the data set: the parts that "
    "speak for each class, by Grad-CAM and by integrated gradients.",
    "receptive_field": "What one unit of {name} before the pooling can see (left) and does see (right), drawn on the "
    "same photograph.",
}
OF_THE_GALLERY = {  # name here → name there
    "confusion_matrix": "confusion matrix",
    "calibration": "calibration",
    "receptive_field": "receptive field",
}


@dataclass(frozen=True, kw_only=True)
class Showcase:
    """The figures in the README's order, each with its short caption, and whose they are."""

    card: Card
    figures: tuple[tuple[Exhibit, str], ...]


def draw(
    network: str,
    read_photo: Callable[[int, bool], np.ndarray],
    groups: Sequence[Group],
    *,
    data_dir: Path | None = None,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> Showcase:
    """The figures of the weights `network` (a name or path) on all test pictures.

    read_photo: side in pixels, and whether to keep the shape → a photograph that is not of the data set, uint8, as
    `predictor.read_picture`; groups: the published runs; say: told what is being done. Raises UserError where weights
    or pictures cannot be read.
    """
    path = weights.resolve(network)
    built, card = weights.load(path)
    layer = find_layer(built, None, (1, 3, card.input_size, card.input_size))
    small, large = read_photo(card.input_size, False), read_photo(PHOTO_SIDE, True)
    pictures = datasets.load_test(card.dataset, data_dir)
    if pictures.classes != card.classes:
        raise UserError(f"{path}: its classes are not those of the data set {card.dataset}; restore its card")
    say(f"measuring {card.name} on {len(pictures):,} test pictures")
    subject = Subject(
        network=built.to(device),
        card=card,
        layer=layer,
        device=torch.device(device),
        pictures=pictures,
        split="test",
        found=evaluate(built, pictures, mean=card.mean, std=card.std, device=device),
        data_dir=data_dir,
        photo=small,
    )
    from_gallery = dict(FIGURES)
    exhibits = []
    for name in CAPTIONS:
        say(f"drawing {name}")
        if name in OF_THE_GALLERY:
            exhibits.append(from_gallery[OF_THE_GALLERY[name]](subject))
        elif name == "photo_attribution":
            exhibits.append(_of_photo(subject, small, large))
        else:
            exhibits += _landscape(groups, card.dataset)
    facts = {"name": card.name, "images": f"{len(pictures):,}"}
    return Showcase(card=card, figures=tuple((one, CAPTIONS[one.name].format(**facts)) for one in exhibits))


def _landscape(groups: Sequence[Group], dataset: str) -> list[Exhibit]:
    """Accuracy against parameters, of the published runs and others; nothing where there are no two to compare."""
    of_assignment = dataset == "cifar10"
    points = [*(ANCHORS if of_assignment else ()), *points_of(groups, dataset)]
    return [accuracy_against_parameters(points, dataset, assignment=of_assignment)] if len(points) > 1 else []


def _of_photo(subject: Subject, small: np.ndarray, large: np.ndarray) -> Exhibit:
    """Grad-CAM and integrated gradients for the photograph's likeliest classes."""
    batch = subject.normalised(torch.from_numpy(small)[None])
    confidence, said = class_scores(subject.network, batch)[0].cpu().double().softmax(0).topk(CLASSES_SHOWN)
    repeated = batch.expand(CLASSES_SHOWN, -1, -1, -1).contiguous()
    cams = grad_cam(subject.network, subject.layer.name, repeated, said)
    pixels = integrated_gradients(subject.network, repeated, said, steps=STEPS)
    is_, should = completeness(subject.network, repeated, said, pixels)
    gap = float(((is_ - should).abs() / should.abs().clamp(min=1.0)).max())
    names = [subject.card.classes[int(number)] for number in said]
    return photo_attribution(
        large,
        small,
        list(zip(names, confidence.tolist(), strict=True)),
        cams,
        pixels.sum(dim=1),
        layer=subject.layer.name,
        completeness_error=gap,
    )

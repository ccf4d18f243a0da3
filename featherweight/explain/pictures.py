"""Figures made of pictures: an augmented batch before and after, and the errors the network was surest of.

Pictures are uint8 [N, H, W, 3]; outputs are [N, K], logits or log-probabilities; labels int64 [N].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from featherweight.explain.style import (
    GREY,
    VERMILION,
    WIDTH,
    Exhibit,
    new_figure,
    percent,
    plain,
    show_picture,
    to_png,
)


@dataclass(frozen=True)
class Said:
    """One picture's verdict. index: its place in the set; labels as numbers; confidence in what was said."""

    index: int
    true: int
    said: int
    confidence: float
    true_confidence: float  # what was left for the true class

    @property
    def right(self) -> bool:
        return self.true == self.said

    def named(self, classes: Sequence[str]) -> dict[str, Any]:
        """With the classes' names, ready for JSON."""
        return {
            "index": self.index,
            "true": classes[self.true],
            "said": classes[self.said],
            "confidence": self.confidence,
            "confidence_in_true": self.true_confidence,
        }


def verdicts(outputs: torch.Tensor, labels: torch.Tensor) -> list[Said]:
    """What was said of every picture, in order."""
    probabilities = outputs.double().softmax(1)
    confidence, said = probabilities.max(1)
    left = probabilities.gather(1, labels[:, None])[:, 0]
    columns = (labels.tolist(), said.tolist(), confidence.tolist(), left.tolist())
    return [Said(index, *row) for index, row in enumerate(zip(*columns, strict=True))]


def surest_errors(outputs: torch.Tensor, labels: torch.Tensor, most: int) -> list[Said]:
    """The errors with the highest confidence, the surest first; of equals the first in the set."""
    wrong = [said for said in verdicts(outputs, labels) if not said.right]
    return sorted(wrong, key=lambda said: -said.confidence)[:most]


def first_right(outputs: torch.Tensor, labels: torch.Tensor, most: int) -> list[Said]:
    """The first picture in the set that is named rightly, for as many different classes: not a choice of the best."""
    found: dict[int, Said] = {}
    for said in verdicts(outputs, labels):
        if said.right:
            found.setdefault(said.true, said)
    return sorted(found.values(), key=lambda said: said.index)[:most]


def wrong_pictures(images: np.ndarray, errors: Sequence[Said], classes: Sequence[str], total: int) -> Exhibit:
    """The pictures `errors` speaks of, with true and predicted label. images: those pictures; total: all errors."""
    columns = 4
    rows = -(-len(errors) // columns)
    figure = new_figure(WIDTH, 0.4 + 1.93 * rows, grid_of_pictures=True)
    figure.suptitle(f"The {len(errors)} surest of {total:,} errors", x=0.01, ha="left", fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture, error in zip(grid.flat, images, errors, strict=False):
        axes.axis("on")
        show_picture(axes, picture)
        axes.set_title(f"true: {plain(classes[error.true])}", fontsize=9, pad=3)
        said = f"said: {plain(classes[error.said])}, {100 * error.confidence:.1f} %"
        axes.set_xlabel(said, fontsize=9, color=VERMILION, labelpad=3)
    worst = errors[0]
    return Exhibit(
        name="wrong_pictures",
        title="Most confidently wrong",
        caption=f"Of {total:,} errors, those in which the network was surest, the surest first. Above each picture "
        "what it is, below what the network said and how sure it was. Look for a common cause: mislabelled, cut off, "
        "seen from an odd side, or a true blind spot.",
        alt=f"A grid of {len(errors)} small pictures with true and predicted labels; the surest error is a "
        f"{classes[worst.true]} called {classes[worst.said]} with {percent(worst.confidence)}.",
        png=to_png(figure, crop=True),
        data={"errors": total, "shown": [error.named(classes) for error in errors]},
        columns=["picture no.", "true", "said", "confidence", "left for the true class"],
        rows=[
            [e.index, classes[e.true], classes[e.said], percent(e.confidence, 2), percent(e.true_confidence, 2)]
            for e in errors
        ],
    )


def augmented_batch(
    before: np.ndarray, after: Sequence[np.ndarray], names: Sequence[str], settings: dict[str, Any]
) -> Exhibit:
    """One batch before and after augmentation. before: [B, H, W, 3]; after: the same pictures in several epochs.

    settings: the specification's fields, as in `config.AugmentConfig`. Raises ValueError for batches of other sizes.
    """
    if not after or any(batch.shape != before.shape for batch in after):
        raise ValueError("the batches before and after must hold the same number of pictures of one size")
    columns = len(before)
    figure = new_figure(WIDTH, 0.55 + 6.35 / columns * (1 + len(after)), grid_of_pictures=True)
    grid = figure.subplots(1 + len(after), columns, squeeze=False)
    for row, batch in enumerate([before, *after]):
        for axes, picture in zip(grid[row], batch, strict=True):
            show_picture(axes, picture)
        grid[row, 0].set_ylabel("before" if row == 0 else f"after,\nepoch {row}", fontsize=9.5)
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(plain(name), fontsize=8, pad=3)
    for axes in grid[0]:
        for spine in axes.spines.values():
            spine.set(color=GREY, linewidth=2)
    changed = [[bool((a != b).any()) for a, b in zip(before, batch, strict=True)] for batch in after]
    shown, touched = len(after) * columns, sum(map(sum, changed))
    figure.suptitle(
        f"One batch, before and after augmentation ({touched} of {shown} changed)", x=0.01, ha="left", size=11
    )
    return Exhibit(
        name="augmented_batch",
        title="Augmentation, before and after",
        caption="Top row: training pictures as they are. Below: the same pictures as the run's own recipe changes "
        f"them, drawn anew in each of {len(after)} epochs. {describe(settings)} Pictures may come through unchanged.",
        alt=f"A grid: {columns} pictures on top, below them {len(after)} rows of the same pictures, mirrored, shifted, "
        f"turned or with a square hole; {touched} of {shown} differ from the original.",
        png=to_png(figure, crop=True),
        data={"augmentation": settings, "classes": list(names), "changed": changed},
        columns=["setting", "value"],
        rows=[[key.replace("_", " "), value] for key, value in settings.items()],
    )


def describe(settings: dict[str, Any]) -> str:
    """The specification in a sentence."""
    size = settings["hole_size"]
    mirrored = f"Mirrored with probability {settings['flip_p']:g}"
    if settings.get("alternate_flip"):
        mirrored = "Mirrored in every other epoch, half of the pictures in the first"
    return (
        f"{mirrored}; with probability {settings['affine_p']:g} shifted by up to "
        f"{100 * settings['shift_limit']:g} % of the side, scaled by up to ±{100 * settings['scale_limit']:g} % and "
        f"turned by up to ±{settings['rotate_limit']:g}°; with probability {settings['hole_p']:g} one hole of "
        f"{size}x{size} pixels, filled with the data set's mean colour."
    )

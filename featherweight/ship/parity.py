"""Whether an exported form says what the trained network says, and how long each takes.

Shapes: N pictures, C classes; probabilities are float32 [N, C], labels int64 [N].
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from featherweight.ship.predictor import BATCH, PictureClassifier

MAX_DIFFERENCE = 1e-4  # of a float32 form's probabilities from torch's: both sum the same products in another order
MAX_LOSS = 0.5  # points of accuracy an int8 form may lose
LATENCY_BATCHES = (1, BATCH)
ROUNDS = 7
TURN_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Parity:
    """One form beside torch on the same pictures. Fractions, not percentages."""

    images: int
    max_difference: float  # of any one probability
    mean_difference: float  # of all probabilities
    agreeing: int  # pictures that are given the same class
    accuracy: float
    torch_accuracy: float

    @property
    def agreement(self) -> float:
        return self.agreeing / self.images

    @property
    def lost_points(self) -> float:
        """Of accuracy, in percentage points; negative where the form happens to be better."""
        return 100 * (self.torch_accuracy - self.accuracy)

    def to_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {**asdict(self), "agreement": self.agreement, "lost_points": round(self.lost_points, 6)}


def probabilities_of(
    classifier: PictureClassifier, images: np.ndarray, step: Callable[[int], None] = lambda count: None
) -> np.ndarray:
    """`classifier.probabilities` of all `images` (uint8 [N, S, S, 3]), telling `step` of each batch that is done."""
    parts = []
    for start in range(0, len(images), BATCH):
        parts.append(classifier.probabilities(images[start : start + BATCH]))
        step(len(parts[-1]))
    return np.concatenate(parts)


def compare(torch_gives: np.ndarray, form_gives: np.ndarray, labels: np.ndarray) -> Parity:
    """The figures of one form. Raises ValueError when the arrays do not fit together, or hold what is not finite."""
    if torch_gives.shape != form_gives.shape or len(labels) != len(torch_gives) or not len(labels):
        raise ValueError(f"shapes differ: {torch_gives.shape}, {form_gives.shape}, {labels.shape}")
    if not (np.isfinite(torch_gives).all() and np.isfinite(form_gives).all()):
        raise ValueError("probabilities are not finite")
    difference = np.abs(torch_gives.astype(np.float64) - form_gives)
    ours, theirs = torch_gives.argmax(1), form_gives.argmax(1)
    return Parity(
        images=len(labels),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        agreeing=int((ours == theirs).sum()),
        accuracy=float((theirs == labels).mean()),
        torch_accuracy=float((ours == labels).mean()),
    )


def problem_with(parity: Parity, form: str, max_loss: float = MAX_LOSS) -> str | None:
    """What keeps a form from being published, in words; None where nothing does.

    A float32 form must be within MAX_DIFFERENCE everywhere: then only pictures whose two best classes lie within twice
    that can be given another class. An int8 form may lose `max_loss` points of accuracy.
    """
    if form == "fp32" and parity.max_difference > MAX_DIFFERENCE:
        return f"probabilities differ from torch's by up to {parity.max_difference:.2g}, over {MAX_DIFFERENCE:g}"
    if parity.lost_points > max_loss + 1e-9:
        return f"loses {parity.lost_points:.2f} points of accuracy, over {max_loss:g}"
    return None


def latency_turns(forms: int) -> int:
    """How many turns `measure_latency` takes with so many forms."""
    return forms * ROUNDS * len(LATENCY_BATCHES)


def measure_latency(
    forms: Mapping[str, PictureClassifier],
    images: np.ndarray,
    batches: tuple[int, ...] = LATENCY_BATCHES,
    step: Callable[[], Any] = lambda: None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds from pixels to probabilities of each form: {"batch_1": {form: {"ms": …, "torch_ratio": …}}, …}.

    The forms take turns, ROUNDS times, and each one's first call of a turn is not counted. ms: of the quickest call,
    which whatever else the machine does disturbs least. torch_ratio: how many times quicker than the form "torch".
    torch works with one thread meanwhile, and the forms should too: two that wait for each other measure the machine's
    other work, by a factor of 30 where it is busy. step: called after each turn.
    """
    import torch

    found: dict[str, dict[str, dict[str, float]]] = {}
    threads = torch.get_num_threads()
    for batch in batches:
        pictures = images[:batch]
        best = dict.fromkeys(forms, math.inf)
        torch.set_num_threads(1)
        try:
            for name, classifier in list(forms.items()) * ROUNDS:
                best[name] = min(best[name], _quickest(classifier, pictures))
                step()
        finally:
            torch.set_num_threads(threads)
        found[f"batch_{len(pictures)}"] = {
            name: {"ms": round(1000 * own, 4), "torch_ratio": round(best["torch"] / own, 3)}
            for name, own in best.items()
        }
    return found


def _quickest(classifier: PictureClassifier, pictures: np.ndarray) -> float:
    """Seconds of the quickest call in a turn of TURN_SECONDS, of two calls at least, after one that is not counted."""
    classifier.probabilities(pictures)
    best, calls, until = math.inf, 0, time.perf_counter() + TURN_SECONDS
    while calls < 2 or time.perf_counter() < until:
        begun = time.perf_counter()
        classifier.probabilities(pictures)
        best, calls = min(best, time.perf_counter() - begun), calls + 1
    return best


def versions() -> dict[str, str]:
    """Of the packages that decide an export's figures."""
    import onnx
    import onnxruntime
    import torch

    return {
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "system": os.uname().sysname if hasattr(os, "uname") else os.name,
    }

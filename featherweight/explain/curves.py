"""Learning curves of a run as a PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from featherweight.utils import write_atomic

# Okabe & Ito's palette: told apart by all kinds of colour vision
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"


def draw_curves(metrics: list[dict[str, Any]], path: Path) -> None:
    """Loss, accuracy and learning rate over the epochs, from a run's metrics, written to `path` (PNG)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [line["epoch"] + 1 for line in metrics]
    panels = figure.subplots(1, 3)
    for panel, quantity, factor in ((panels[0], "loss", 1), (panels[1], "accuracy", 100)):
        for split, label, colour, marker in (("train", "training", BLUE, "o"), ("val", "validation", ORANGE, "s")):
            points = [
                (e, line[f"{split}_{quantity}"] * factor)
                for e, line in zip(epochs, metrics, strict=True)
                if f"{split}_{quantity}" in line
            ]
            if points:
                panel.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=3, label=label)
        panel.legend()
    panels[2].plot(epochs, [line["lr"] for line in metrics], color=GREY, marker="o", markersize=3)
    titles = (
        "Loss (training: augmented pictures)",
        "Accuracy (training: augmented pictures)",
        "Learning rate, at the epoch's end",
    )
    for panel, title, unit in zip(panels, titles, ("nats", "% of pictures", "rate"), strict=True):
        panel.set(title=title, xlabel="epoch", ylabel=unit)
        panel.title.set_fontsize(10)
        panel.grid(alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    write_atomic(path, image.getvalue())

"""Learning curves of a run, with its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featherweight.explain.style import BLUE, GREY, VERMILION, WIDTH, Exhibit, new_figure, percent, to_png
from featherweight.utils import write_atomic

Metrics = list[dict[str, Any]]  # one line an epoch, as training writes them
Schedule = Sequence[tuple[float, float]]  # (epochs done, learning rate), in order


def draw_curves(metrics: Metrics, path: Path, *, schedule: Schedule | None = None) -> None:
    """Loss, accuracy and learning rate over the epochs, from a run's metrics, written to `path` (PNG).

    schedule: the planned learning rate, drawn as a line under the rates of the epochs' last steps. Raises UserError
    when the file cannot be written.
    """
    write_atomic(path, _draw(metrics, schedule))


def learning_curves(metrics: Metrics, schedule: Schedule | None = None, remark: str = "") -> Exhibit:
    """The same as an exhibit. remark: what else a reader should know of this run, put at the caption's end."""
    last = metrics[-1]
    validated = "val_accuracy" in last
    outcome = f"training accuracy {percent(last['train_accuracy'])}"
    if validated:
        outcome += f", validation accuracy {percent(last['val_accuracy'])}"
    caption = (
        "One point an epoch. Loss (lower is better) and accuracy (higher is better) of the training pictures are "
        "running means over the epoch, of augmented pictures and of a network that is still changing"
        + (
            "; those of the validation pictures, which were not trained on, are of the network at the epoch's end and "
            "of plain pictures, so they may well be the better ones."
            if validated
            else ". This run held no validation pictures out, so there is no second curve."
        )
        + " Below, the learning rate: "
        + (
            "the line is the plan, the points what it was in each epoch's last step."
            if schedule
            else "in each epoch's last step."
        )
        + (f" {remark}" if remark else "")
    )
    columns = ["epoch", "training loss", "training accuracy", "learning rate", "seconds"]
    keys = ["train_loss", "train_accuracy", "lr", "seconds"]
    if validated:
        columns[3:3], keys[2:2] = ["validation loss", "validation accuracy"], ["val_loss", "val_accuracy"]
    return Exhibit(
        name="learning_curves",
        title="Learning curves and schedule",
        caption=caption,
        alt=f"Curves of loss, accuracy and learning rate over {len(metrics)} epochs; after the last: {outcome}.",
        png=_draw(metrics, schedule),
        data={"metrics": metrics, "schedule": [list(point) for point in schedule or ()]},
        columns=columns,
        rows=[[line["epoch"] + 1, *(_cell(key, line.get(key)) for key in keys)] for line in metrics],
    )


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return percent(value, 2) if key.endswith("accuracy") else f"{value:.0f}" if key == "seconds" else f"{value:.4f}"


def _draw(metrics: Metrics, schedule: Schedule | None) -> bytes:
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(WIDTH, 6.6)
    panels = figure.subplots(3, 1, sharex=True, height_ratios=[1.2, 1.2, 0.8])
    epochs = [line["epoch"] + 1 for line in metrics]
    for panel, quantity, factor in ((panels[0], "loss", 1), (panels[1], "accuracy", 100)):
        for split, label, colour, marker in (
            ("train", "training (augmented pictures)", BLUE, "o"),
            ("val", "validation", VERMILION, "s"),
        ):
            key = f"{split}_{quantity}"
            points = [(line["epoch"] + 1, line[key] * factor) for line in metrics if key in line]
            if points:
                panel.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=3.5, label=label)
        if epochs:
            panel.legend(frameon=False)
    if schedule:
        panels[2].plot(*zip(*schedule, strict=True), color=GREY, linewidth=1.2)
    line = "none" if schedule else "-"
    rates = [entry["lr"] for entry in metrics]
    panels[2].plot(epochs, rates, linestyle=line, color=GREY, marker="o", markersize=4)
    titles = ("Loss", "Accuracy", "Learning rate" + (" (line: plan; points: epochs' ends)" if schedule else ""))
    for panel, title, unit in zip(panels, titles, ("loss (nats)", "accuracy (%)", "learning rate"), strict=True):
        panel.set_title(title, loc="left", fontsize=11)
        panel.set_ylabel(unit)
        panel.grid(alpha=0.3)
    panels[2].set_ylim(bottom=0)
    panels[2].set_xlabel("epochs done")
    panels[2].xaxis.set_major_locator(MaxNLocator(integer=True))
    return to_png(figure)

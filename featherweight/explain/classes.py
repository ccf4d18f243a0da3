"""Figures of a classifier's hits and misses by class, from its confusion matrix.

confusion: row i, column j: how many pictures of class i were called j.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from featherweight.explain.style import AMBER, BLUE, GREY, HEAT, WIDTH, Exhibit, new_figure, percent, plain, to_png

Matrix = Sequence[Sequence[int]]
MOST_LABELLED = 20  # from more classes on, a cell is too small for a number


def wilson_interval(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval (for z = 1.96) of the rate behind `hits` of `count` (Wilson 1927); (0, 1) where count is 0."""
    if count == 0:
        return 0.0, 1.0
    rate, spread = hits / count, z * z / count
    middle = (rate + spread / 2) / (1 + spread)
    reach = z / (1 + spread) * math.sqrt(rate * (1 - rate) / count + spread / (4 * count))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def mix_ups(confusion: Matrix, classes: Sequence[str], most: int = 10) -> list[tuple[str, str, int]]:
    """(true class, said class, how often), the most frequent errors first."""
    pairs = [
        (classes[i], classes[j], count)
        for i, row in enumerate(confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]


def confusion_matrix(confusion: Matrix, classes: Sequence[str]) -> Exhibit:
    """The confusion matrix as a figure: shares of each row as colour, counts as numbers."""
    counts = np.asarray(confusion)
    sums = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(sums, 1)
    size = len(classes)
    figure = new_figure(WIDTH, 5.5, grid_of_pictures=True)
    axes = figure.subplots()
    # The root of the share: with the diagonal near 90 % and errors of a few, these would otherwise all look alike.
    image = axes.imshow(np.sqrt(shares), cmap=HEAT, vmin=0, vmax=1)
    names = [plain(name) for name in classes]
    axes.set_xticks(range(size), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), names)
    axes.set(xlabel="class said by the network", ylabel="true class")
    axes.set_title(f"Confusion matrix ({counts.sum():,} pictures)", fontsize=11)
    if size <= MOST_LABELLED:
        for i in range(size):
            for j in range(size):
                colour = "black" if shares[i, j] > 0.45 else "white"
                weight = "bold" if i == j else "normal"
                axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=colour, fontsize=9, weight=weight)
    ticks = np.array([0, 0.01, 0.05, 0.2, 0.5, 1])
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03, ticks=np.sqrt(ticks))
    bar.ax.set_yticklabels([f"{100 * tick:.0f} %" for tick in ticks])
    bar.set_label("share of the true class's pictures")
    errors = mix_ups(confusion, classes)
    told = f"Most frequent: {errors[0][0]} called {errors[0][1]}, {errors[0][2]} times." if errors else "No errors."
    return Exhibit(
        name="confusion_matrix",
        title="Confusion matrix",
        caption="A row is a true class, a column what the network said; each number counts pictures. The bold "
        "diagonal is right, all else is wrong. Colours show the share of the row, on a scale stretched for small "
        f"shares so that errors can be seen beside hits. {told}",
        alt=f"A {size} by {size} grid of counts, true classes against predicted ones. {told}",
        png=to_png(figure, crop=True),
        data={"classes": list(classes), "confusion": counts.tolist(), "rows": "true class", "columns": "class said"},
        columns=["true ↓  said →", *classes],
        rows=[[name, *row] for name, row in zip(classes, counts.tolist(), strict=True)],
    )


def per_class(confusion: Matrix, classes: Sequence[str]) -> Exhibit:
    """Recall with its 95 % interval and precision of each class, the best first."""
    counts = np.asarray(confusion)
    figures = []
    for index, name in enumerate(classes):
        hits, of_class, said = int(counts[index, index]), int(counts[index].sum()), int(counts[:, index].sum())
        low, high = wilson_interval(hits, of_class)
        figures.append(
            {
                "class": name,
                "pictures": of_class,
                "right": hits,
                "said": said,
                "recall": hits / of_class if of_class else None,
                "recall_low": low,
                "recall_high": high,
                "precision": hits / said if said else None,
            }
        )
    figures.sort(key=lambda entry: -(entry["recall"] or 0))
    return Exhibit(
        name="per_class",
        title="Accuracy by class",
        caption="Bars: of a class's pictures, how many were recognised (recall); the thin lines are 95 % intervals "
        "(Wilson), so classes whose lines overlap may differ by chance alone. Diamonds: of the pictures given this "
        "name, how many deserved it (precision). A diamond left of its bar's end marks a name given too freely, one "
        "to its right a name given too seldom. The dashed line is the accuracy over all pictures.",
        alt=f"Horizontal bars of recall for {len(classes)} classes, from {figures[0]['class']} "
        f"({percent(figures[0]['recall'])}) down to {figures[-1]['class']} ({percent(figures[-1]['recall'])}).",
        png=_draw_bars(figures, int(np.trace(counts)) / max(int(counts.sum()), 1)),
        data={"classes": figures},
        columns=["class", "pictures", "recall", "95 % interval", "precision"],
        rows=[
            [
                entry["class"],
                entry["pictures"],
                percent(entry["recall"]),
                f"{percent(entry['recall_low'])} to {percent(entry['recall_high'])}",
                percent(entry["precision"]),
            ]
            for entry in figures
        ],
    )


def _draw_bars(figures: list[dict], accuracy: float) -> bytes:
    figure = new_figure(WIDTH, 1.4 + 0.33 * len(figures))
    axes = figure.subplots()
    places = np.arange(len(figures))[::-1]
    recalls = np.array([100 * (entry["recall"] or 0) for entry in figures])
    low = recalls - [100 * entry["recall_low"] for entry in figures]
    high = np.array([100 * entry["recall_high"] for entry in figures]) - recalls
    reach = np.clip([low, high], 0, None)
    axes.barh(places, recalls, height=0.62, color=BLUE, label="recall, with 95 % interval")
    axes.errorbar(recalls, places, xerr=reach, fmt="none", ecolor="black", elinewidth=1.2, capsize=3)
    known = [
        (place, 100 * e["precision"]) for place, e in zip(places, figures, strict=True) if e["precision"] is not None
    ]
    axes.plot(
        [value for _, value in known],
        [place for place, _ in known],
        "D",
        color=AMBER,
        markeredgecolor="black",
        markersize=6,
        label="precision",
    )
    axes.axvline(100 * accuracy, color=GREY, linestyle="--", linewidth=1, label=f"all pictures: {100 * accuracy:.2f} %")
    axes.set_yticks(places, [plain(entry["class"]) for entry in figures])
    axes.set(xlim=(0, 102), xlabel="% of pictures")
    axes.set_title("Accuracy by class", loc="left", fontsize=11)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return to_png(figure)

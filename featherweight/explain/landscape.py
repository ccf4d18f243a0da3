"""Accuracy against parameters: this network, the published runs, and a few figures of others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from featherweight.explain.style import BLUE, GREY, LIGHT, VERMILION, Exhibit, new_figure, plain, to_png
from featherweight.records import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARAMETER_LIMIT, LEAST_ACCURACY = 200_000, 0.85  # the assignment's


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network. accuracy: fraction of the test pictures; deviation over `runs` seeds, None for one run."""

    name: str
    parameters: int
    accuracy: float
    runs: int | None = 1  # None: not said
    deviation: float | None = None
    selected_on_test: bool | None = False  # if so, the figure is better than the network is; None: not said
    whose: Literal["this", "ours", "others"] = "others"
    source: str = ""


# On CIFAR-10's 10,000 test pictures, as published by their authors.
ANCHORS = (
    Point(
        name="cifar10-tiniest",
        parameters=97_530,
        accuracy=0.944,
        runs=5,
        selected_on_test=None,
        source="xvel/cifar10-tiniest, mean of 5 runs, picked how is not said; not held to the assignment's rules",
    ),
    Point(
        name="DenseNet-BC-40 (k=12)",
        parameters=176_122,
        accuracy=0.9357,
        runs=None,
        selected_on_test=True,
        source="osmr/imgclsmob, 6.43 % error; the test set served as validation set",
    ),
    Point(
        name="ResNet-20",
        parameters=272_474,
        accuracy=0.9403,
        runs=None,
        selected_on_test=True,
        source="osmr/imgclsmob, 5.97 % error; the test set served as validation set",
    ),
    Point(
        name="best public solution",
        parameters=96_436,
        accuracy=0.8936,
        runs=None,
        selected_on_test=True,
        source="the best public solution of this assignment that was found; best epoch picked on the test set",
    ),
)


def points_of(groups: Iterable[Group], dataset: str) -> list[Point]:
    """The published runs on `dataset`, one point for each recipe."""
    return [
        Point(
            name=group.recipe,
            parameters=group.shown.parameters,
            accuracy=group.mean,
            runs=group.count,
            deviation=group.deviation,
            selected_on_test=False,
            whose="ours",
            source=f"results/{group.recipe}*.json, {group.shown.selection}",
        )
        for group in groups
        if (group.shown.dataset or "cifar10") == dataset
    ]


def accuracy_against_parameters(points: Sequence[Point], dataset: str, *, assignment: bool) -> Exhibit:
    """The points, hollow where the state was picked on the test pictures or nothing is said of it.

    assignment: whether to draw its two bounds (they are CIFAR-10's).
    """
    ordered = sorted(points, key=lambda p: p.parameters)
    return Exhibit(
        name="accuracy_parameters",
        title="Accuracy against parameters",
        caption="Further up is more accurate, further left is smaller. Filled marks were measured without looking at "
        "the test pictures before the end; hollow ones had their best state picked on those very pictures, so their "
        "figures are too good by an unknown amount, or do not say how it was picked. Bars are standard deviations "
        "over seeds. Others' figures are as they published them; nothing here was measured again."
        + (" Grey: what the assignment asks for." if assignment else ""),
        alt="Scatter plot: "
        + "; ".join(f"{p.name} {p.parameters:,} parameters, {100 * p.accuracy:.2f} %" for p in ordered),
        png=to_png(_drawn(points, dataset, assignment=assignment)),
        data={
            "dataset": dataset,
            "points": [
                {
                    "name": p.name,
                    "parameters": p.parameters,
                    "accuracy": p.accuracy,
                    "deviation": p.deviation,
                    "runs": p.runs,
                    "selected_on_test": p.selected_on_test,
                    "whose": p.whose,
                    "source": p.source,
                }
                for p in ordered
            ],
        },
        columns=["network", "parameters", "test accuracy", "runs", "picked on the test set", "source"],
        rows=[
            [
                p.name,
                f"{p.parameters:,}",
                f"{100 * p.accuracy:.2f}" + (f" ± {100 * p.deviation:.2f}" if p.deviation is not None else "") + " %",
                "not said" if p.runs is None else p.runs,
                {True: "yes", False: "no", None: "not said"}[p.selected_on_test],
                p.source,
            ]
            for p in ordered
        ],
    )


def _drawn(points: Sequence[Point], dataset: str, *, assignment: bool) -> Figure:
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    figure = new_figure(height=5.2)
    axes = figure.subplots()
    axes.set_xscale("log")
    low, high = min(p.parameters for p in points) / 1.6, max(p.parameters for p in points) * 1.9
    floor = min([p.accuracy - (p.deviation or 0) for p in points] + ([LEAST_ACCURACY] if assignment else []))
    ceiling = max(p.accuracy + (p.deviation or 0) for p in points)
    room = max(ceiling - floor, 0.01)
    bounds = (100 * (floor - 0.18 * room), 100 * min(ceiling + 0.15 * room, 1.02))
    axes.set(xlim=(low, high), ylim=bounds)
    if assignment:
        edge = (PARAMETER_LIMIT, 100 * LEAST_ACCURACY)
        axes.fill_between([low, edge[0]], edge[1], bounds[1], color=LIGHT, alpha=0.45, linewidth=0, zorder=0)
        axes.plot([low, edge[0], edge[0]], [edge[1], edge[1], bounds[1]], color=GREY, linestyle="--", linewidth=1)
        axes.annotate(
            "asked for: < 200,000 parameters, ≥ 85 %",
            (low * 1.03, bounds[1]),
            xytext=(0, -5),
            textcoords="offset points",
            va="top",
            fontsize=8.5,
            color=GREY,
        )
    for point in points:
        _draw_point(axes, point)
    ticks = [n for n in _TICKS if low <= n <= high]
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value / 1e3:g} k" if value < 1e6 else f"{value / 1e6:g} M")
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(
        xlabel="trainable parameters (logarithmic)",
        ylabel=f"accuracy on the test pictures of {_NAMES.get(dataset, dataset)} (%)",
    )
    axes.set_title("Accuracy against parameters", loc="left", fontsize=11)
    axes.grid(alpha=0.3)
    _legend(axes, points)
    figure.draw_without_rendering()  # settles the layout, which the labels need
    _label(axes, points, assignment=assignment)
    return figure


_TICKS = [round(n * 10**power) for power in range(2, 9) for n in (1, 1.5, 2, 3, 5, 7)]
_LOOKS = {
    "this": (VERMILION, "*", 15, "this network"),
    "ours": (BLUE, "o", 8, "published here (mean over seeds)"),
    "others": (GREY, "s", 7, "others, as published"),
}


def _draw_point(axes: Axes, point: Point) -> None:
    colour, marker, size, _ = _LOOKS[point.whose]
    face = colour if point.selected_on_test is False else "none"
    bar = 100 * point.deviation if point.deviation else None
    axes.errorbar(
        point.parameters,
        100 * point.accuracy,
        yerr=bar,
        fmt=marker,
        markersize=size,
        color=colour,
        markerfacecolor=face,
        markeredgewidth=1.6,
        capsize=3,
        zorder=4 if point.whose == "this" else 3,
    )


def _legend(axes: Axes, points: Sequence[Point]) -> None:
    from matplotlib.lines import Line2D

    present = {point.whose for point in points}
    marks = [
        Line2D([], [], linestyle="", marker=marker, color=colour, markersize=min(size, 10), label=label)
        for whose, (colour, marker, size, label) in _LOOKS.items()
        if whose in present
    ]
    if any(point.selected_on_test is not False for point in points):
        hollow = Line2D([], [], linestyle="", marker="s", color=GREY, markerfacecolor="none", markersize=7)
        hollow.set_label("hollow: picked on the test set, or not said")
        marks.append(hollow)
    axes.figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False, fontsize=9)


_NAMES = {"cifar10": "CIFAR-10"}

# Of a label: how far from its mark, in points, and which of its own sides is there.
Box = Sequence[float]  # left, bottom, right, top, in pixels

_PLACES = (
    (9, 0, "left", "center"),
    (-9, 0, "right", "center"),
    (0, 10, "center", "bottom"),
    (0, -10, "center", "top"),
    (9, 9, "left", "bottom"),
    (-9, 9, "right", "bottom"),
    (9, -9, "left", "top"),
    (-9, -9, "right", "top"),
)


def _label(axes: Axes, points: Sequence[Point], *, assignment: bool) -> None:
    """Write each name beside its mark, at the first of eight places where it covers nothing, else the least."""
    inside = axes.get_window_extent()
    marks = [axes.transData.transform((p.parameters, 100 * p.accuracy)) for p in points]
    taken: list[Box] = [(x - 10, y - 10, x + 10, y + 10) for x, y in marks]
    lines: list[Box] = []
    if assignment:  # the two dashed lines, and the words at the top
        x, y = axes.transData.transform((PARAMETER_LIMIT, 100 * LEAST_ACCURACY))
        lines = [(x - 2, y, x + 2, inside.y1), (inside.x0, y - 2, x, y + 2), (inside.x0, inside.y1 - 26, x, inside.y1)]
    # This network's name finds its place first: the mean of its recipe often lies right beside it.
    for number in sorted(range(len(points)), key=lambda number: points[number].whose != "this"):
        point = points[number]
        others = taken[:number] + taken[number + 1 :] + lines
        text = f"{plain(point.name)}\n{100 * point.accuracy:.2f} %"
        best = None
        for dx, dy, ha, va in _PLACES:
            label = axes.annotate(
                text,
                (point.parameters, 100 * point.accuracy),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=8.5,
                weight="bold" if point.whose == "this" else "normal",
            )
            box = label.get_window_extent().extents
            covered = sum(_overlap(box, other) for other in others) + _outside(box, inside.extents)
            if best is None or covered < best[0]:
                if best is not None:
                    best[1].remove()
                best = (covered, label, box)
            else:
                label.remove()
            if covered == 0:
                break
        assert best is not None
        taken.append(best[2])


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _outside(box: Box, frame: Box) -> float:
    """The part of `box` that lies outside `frame`, in square pixels."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)

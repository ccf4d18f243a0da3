"""Is the network as often right as it is sure? The reliability diagram. Shapes: N pictures, K classes."""

from __future__ import annotations

from typing import Any

import torch

from featherweight.evaluation.metrics import CALIBRATION_BINS, expected_calibration_error
from featherweight.explain.style import BLUE, GREY, SKY, VERMILION, WIDTH, Exhibit, new_figure, percent, to_png


def reliability(outputs: torch.Tensor, labels: torch.Tensor, bins: int = CALIBRATION_BINS) -> list[dict[str, Any]]:
    """Equal bins of confidence, as the calibration error uses them: low, high, pictures, accuracy, confidence.

    outputs: [N, K], logits or log-probabilities; labels: int64 [N]. Bin m of M holds the pictures whose largest
    probability lies in ((m-1)/M, m/M]; accuracy and mean confidence are None where it holds none.
    """
    confidence, said = outputs.double().softmax(1).max(1)
    right = said == labels
    found = []
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = (confidence > low) & (confidence <= high)
        if number == 0:
            inside |= confidence <= low
        count = int(inside.sum())
        found.append(
            {
                "low": low,
                "high": high,
                "pictures": count,
                "accuracy": float(right[inside].double().mean()) if count else None,
                "confidence": float(confidence[inside].mean()) if count else None,
            }
        )
    return found


def reliability_diagram(outputs: torch.Tensor, labels: torch.Tensor) -> Exhibit:
    """The reliability diagram with the expected calibration error."""
    bins = reliability(outputs, labels)
    error = float(expected_calibration_error(outputs, labels))
    confidence, said = outputs.double().softmax(1).max(1)
    sure, right = float(confidence.mean()), float((said == labels).double().mean())
    if error < 0.01:
        verdict = "Confidence and accuracy agree closely."
    else:
        kind = "less sure than it may be" if sure < right else "surer than it should be"
        verdict = f"On the whole it is {kind}: mean confidence {percent(sure)}, accuracy {percent(right)}."
    return Exhibit(
        name="calibration",
        title="Calibration (reliability diagram)",
        caption="Pictures are sorted by the network's confidence into 15 equal bins. Upper panel: how many of each bin "
        "were right; on the dashed diagonal, confidence means what it says. Where the network is too modest, the light "
        "hatched end of the bar is what it is right beyond its confidence; where it is too sure, the hatched part "
        "above the bar is what is missing. Lower panel: how many pictures each bin holds: bins with few prove little. "
        f"Expected calibration error (Guo et al. 2017), the mean gap: {percent(error, 2)}. {verdict}",
        alt=f"Bars of accuracy over confidence beside the diagonal, with a histogram of confidence below. {verdict} "
        f"Expected calibration error {percent(error, 2)}.",
        png=_draw(bins, error, sure, right),
        data={"bins": bins, "expected_calibration_error": error, "mean_confidence": sure, "accuracy": right},
        columns=["confidence", "pictures", "mean confidence", "accuracy"],
        rows=[
            [
                f"{100 * entry['low']:.1f} to {100 * entry['high']:.1f} %",
                entry["pictures"],
                percent(entry["confidence"]),
                percent(entry["accuracy"]),
            ]
            for entry in bins
        ],
    )


def _draw(bins: list[dict[str, Any]], error: float, sure: float, right: float) -> bytes:
    figure = new_figure(WIDTH, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 1])
    width = 100 / len(bins)
    full = [entry for entry in bins if entry["pictures"]]
    middles = [100 * entry["low"] + width / 2 for entry in full]
    accuracy = [100 * entry["accuracy"] for entry in full]
    confidence = [100 * entry["confidence"] for entry in full]
    upper.bar(middles, accuracy, 0.94 * width, color=BLUE, label="accuracy of the bin")
    for wanted, colour, light, hatch, label in (
        (1, VERMILION, "#F6D5C2", "///", "too sure: accuracy missing"),
        (-1, "black", SKY, "\\\\\\", "too modest: accuracy in excess"),
    ):
        gaps = [max(0.0, wanted * (c - a)) for a, c in zip(accuracy, confidence, strict=True)]
        lower_ends = [min(a, c) for a, c in zip(accuracy, confidence, strict=True)]
        if any(gaps):
            some = [(x, gap, low) for x, gap, low in zip(middles, gaps, lower_ends, strict=True) if gap]
            places, heights, bottoms = zip(*some, strict=True)
            looks = {"facecolor": light, "edgecolor": colour, "hatch": hatch, "linewidth": 0.8}
            upper.bar(places, heights, 0.94 * width, bottom=bottoms, label=label, **looks)
    upper.plot([0, 100], [0, 100], color="black", linestyle="--", linewidth=1.2, zorder=3, label="as sure as right")
    upper.set(ylim=(0, 102), ylabel="accuracy (% of the bin)")
    upper.set_title(f"Calibration: expected error {percent(error, 2)}", loc="left", fontsize=11)
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    lower.bar(
        [100 * entry["low"] + width / 2 for entry in bins],
        [entry["pictures"] for entry in bins],
        0.94 * width,
        color=GREY,
    )
    top = 1.35 * max(entry["pictures"] for entry in bins)
    for value, colour, style, name in ((right, BLUE, "-", "accuracy"), (sure, VERMILION, "--", "mean confidence")):
        lower.axvline(100 * value, color=colour, linestyle=style, linewidth=1.5, label=f"{name} {percent(value)}")
    lower.legend(frameon=False, loc="upper left", fontsize=9)
    lower.set(xlim=(0, 100), ylim=(0, top), xlabel="confidence of the network (%)", ylabel="pictures")
    for panel in (upper, lower):
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
    return to_png(figure)

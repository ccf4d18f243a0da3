"""The verdict on a pipeline's holes, and the form all verdicts on a pipeline have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from featherweight.rules.audit_rules import AuditRules

UNREADABLE = "cannot be read from the output"


def verdict_on(rule: str, passed: bool, measured: str, required: str, where: str, advice: str) -> dict[str, Any]:
    return {
        "rule": rule,
        "passed": bool(passed),
        "measured": measured,
        "required": required,
        "where": where,
        "advice": "" if passed else advice,
    }


def listed(values: Any, digits: int = 4) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def judge_holes(train: dict[str, Any], rules: AuditRules) -> list[Callable[[], dict[str, Any] | None]]:
    if rules.holes == 0:
        return []
    holes, where = train["holes"], train["pipeline"]
    if holes is None or holes["draws"] == 0:
        return [
            lambda: verdict_on(
                "hole_rate", False, UNREADABLE, "holes", where, "let a plain 32×32 picture come out recognisably"
            )
        ]
    rate = lambda: _hole_rate(holes, where, rules)
    if holes["rate"] == 0:
        return [rate]
    stray = 0.06 if train["colour"]["changing"] > 0.01 else 0.02  # share of draws that may be misread
    sharp = train["by"] == "ramp"
    return [
        rate,
        lambda: _hole_count(holes, where, rules, stray),
        lambda: _hole_size(holes, where, rules, sharp, stray),
        lambda: _hole_place(holes, where, rules, stray),
        lambda: _hole_fill(holes, where, rules),
    ]


def _hole_rate(holes: dict[str, Any], where: str, rules: AuditRules) -> dict[str, Any]:
    rate, tolerance = holes["rate"], 0.1
    if rules.hole_p >= 0:
        tolerance = max(0.1, 4 * (rules.hole_p * (1 - rules.hole_p) / holes["draws"]) ** 0.5)
    passed = rate > 0.05 if rules.hole_p < 0 else abs(rate - rules.hole_p) <= tolerance
    required = "above 0.05" if rules.hole_p < 0 else f"{rules.hole_p:.2f} ± {tolerance:.2f}"
    return verdict_on(
        "hole_rate",
        passed,
        f"{rate:.3f} of the pictures",
        required,
        where,
        f"add CoarseDropout with {rules.holes} hole of {rules.hole_size}×{rules.hole_size}"
        if rate == 0
        else "set CoarseDropout's p",
    )


def _hole_count(holes: dict[str, Any], where: str, rules: AuditRules, stray: float) -> dict[str, Any]:
    total = sum(holes["counts"].values())
    right = holes["counts"].get(str(rules.holes), 0) / total
    counts = ", ".join(f"{key}: {value / total:.0%}" for key, value in holes["counts"].items())
    return verdict_on(
        "hole_count",
        right >= 1 - stray,
        counts,
        f"exactly {rules.holes}",
        where,
        f"set num_holes_range=({rules.holes}, {rules.holes}): albumentations 2 ignores max_holes and takes 1 to 2",
    )


def _hole_size(holes: dict[str, Any], where: str, rules: AuditRules, sharp: bool, stray: float) -> dict[str, Any]:
    side, slack = rules.hole_size, 0 if sharp else 2  # the texture picture shows a hole's edge less sharply
    fits = [
        wide - slack <= side <= most_wide + slack and high - slack <= side <= most_high + slack
        for wide, most_wide, high, most_high in holes["ranges"]
    ]
    share = sum(fits) / len(fits) if fits else 0.0
    seen = list(holes["sizes"])
    measured = ", ".join(seen[:3]) + (f" and {len(seen) - 3} other sizes" if len(seen) > 3 else "")
    if holes["irregular"] > 0.2:
        measured = f"{holes['irregular']:.0%} are no rectangles" + (f"; {seen[0]}" if seen else "")
    passed = share >= (1 - stray if sharp else 0.8) and holes["irregular"] <= (stray if sharp else 0.1)
    advice = (
        f"set hole_height_range=({side}, {side}) and hole_width_range=({side}, {side}): albumentations 2 ignores "
        "max_height and max_width"
    )
    if holes["irregular"] > 0.2:
        advice = "put one hole, and put it after shift, scale and turn: before them it is moved and turned along"
    elif any("1" in size.split("x") for size in seen[:3]):
        advice = f"a hole one pixel wide hides nothing: set width and height to {side}"
    return verdict_on("hole_size", passed, measured or "no hole is seen whole", f"{side}x{side}", where, advice)


def _hole_place(holes: dict[str, Any], where: str, rules: AuditRules, stray: float) -> dict[str, Any]:
    out = holes["sticking_out"]
    return verdict_on(
        "hole_place",
        out <= stray,
        f"{out:.0%} are cut by the edge",
        "fully inside",
        where,
        f"choose the hole's corner from 0 to 32 - {rules.hole_size}, on the picture as it leaves (no padding "
        "round it that is cut off afterwards)",
    )


def _hole_fill(holes: dict[str, Any], where: str, rules: AuditRules) -> dict[str, Any]:
    fill, spread = np.array(holes["fill"]), holes["fill_spread"]
    passed = bool(np.isfinite(fill).all() and np.abs(fill).max() <= rules.fill_tolerance) and spread <= 0.1
    measured = listed(fill, 3)
    if spread > 0.1:
        measured += f" ± {spread:.2f}"
    levels = tuple(round(255 * value) for value in rules.mean)
    mean, std = np.array(rules.mean), np.array(rules.std)
    advice = f"fill with the data set's mean: {levels} before normalisation, 0 after it"
    if np.abs(fill - (0 - mean) / std).max() < 0.06:
        advice = f"the hole is nearly black: a mean of 0–1 on pixels of 0–255, or the default fill of 0; fill={levels}"
    elif np.abs(fill - mean).max() < 0.02:
        advice = (
            "the raw mean was put in after normalisation, where the mean is 0: fill with 0, or fill before normalising"
        )
    elif spread > 0.1:
        advice = f"the hole is filled with noise or left-over picture: fill={levels} before normalisation, 0 after it"
    return verdict_on("hole_fill", passed, measured, f"0 ± {rules.fill_tolerance:g}", where, advice)

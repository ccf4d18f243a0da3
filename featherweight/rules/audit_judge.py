"""The verdict on a measured pipeline, rule by rule: measured, required, and how to mend it.

What is required is data: see audit_rules.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from featherweight.rules.audit_colour import name_statistics
from featherweight.rules.audit_judge_holes import UNREADABLE, judge_holes, listed, verdict_on
from featherweight.rules.audit_rules import AuditRules


def judge(figures: dict[str, Any], rules: AuditRules) -> dict[str, Any]:
    """passed, rules[] and notes[] from the figures of audit_worker.measure."""
    train, evaluation, workers = figures["train"], figures["evaluation"], figures["workers"]
    checks: list[Callable[[], dict[str, Any] | None]] = [
        lambda: _output(train),
        lambda: _range(train),
        lambda: _order(train),
        lambda: _statistics(train, rules),
        lambda: _augmented(train),
        lambda: _flip(train, rules),
        *_movements(train, rules),
        *judge_holes(train, rules),
        lambda: _workers(workers, train),
    ]
    if evaluation is not None:
        checks += [lambda: _same(train, evaluation), lambda: _still(evaluation)]
    verdicts = [verdict for check in checks if (verdict := check()) is not None]
    return {
        "passed": all(item["passed"] for item in verdicts),
        "rules": verdicts,
        "not_measured": _not_measured(figures),
        "notes": _notes(figures),
    }


# ---------------------------------------------------------------------------------------------- colours


def _output(train: dict[str, Any]) -> dict[str, Any]:
    shapes, finite = train["output"]["shapes"], train["output"]["finite"]
    passed = shapes == [[32, 32, 3]] and finite
    text = " or ".join("×".join(str(side) for side in (shape[2], shape[0], shape[1])) for shape in shapes)
    return verdict_on(
        "output",
        passed,
        text if finite else f"{text}, with values that are not numbers",
        "3×32×32",
        train["pipeline"],
        "let a 32×32 colour picture come out as a 32×32 colour picture of finite numbers",
    )


def _range(train: dict[str, Any]) -> dict[str, Any]:
    low, high = np.array(train["colour"]["low"]), np.array(train["colour"]["high"])
    known = bool(np.isfinite(low).all() and np.isfinite(high).all())
    passed = known and bool((low < -0.2).all() and (high > 0.2).all() and (low > -5).all() and (high < 5).all())
    advice = "normalise: (pixel / 255 - mean) / deviation"
    if known and high.max() > 50:
        advice = "pixels leave as 0–255: bring them to 0–1 and normalise, or let Normalize take max_pixel_value=255"
        if np.abs(low).max() > 0.5:
            advice = (
                "a mean and deviation of 0–1 are used on pixels of 0–255: divide by 255 first (max_pixel_value=255)"
            )
    elif known and low.min() > -0.05:
        advice = "pixels are brought to 0–1 and not normalised: subtract the mean and divide by the deviation"
    elif known and high.max() < 0.2:
        advice = "pixels are divided by 255 twice (or max_pixel_value is wrong): nothing is left of the picture"
    measured = f"black {low.min():.2f}, white {high.max():.2f}" if known else "one-colour pictures give no numbers"
    return verdict_on("range", passed, measured, "from <0 to >0", train["pipeline"], advice)


def _order(train: dict[str, Any]) -> dict[str, Any]:
    colour = train["colour"]
    order = colour["order"]
    if order is None or not np.abs(np.array(colour["matrix"])).max() > 0:
        name = "no channel follows the colours"
    elif colour["grey"]:
        name = "grey: three like channels"
    else:
        name = "".join("RGB"[index] for index in order)
    swapped = "swap the channels back: the picture is RGB already (leave out cv2.cvtColor, or use it once)"
    return verdict_on(
        "channel_order",
        name == "RGB",
        name,
        "RGB",
        train["pipeline"],
        swapped if name == "BGR" else "let red, green and blue come out as channels 0, 1 and 2",
    )


def _statistics(train: dict[str, Any], rules: AuditRules) -> dict[str, Any]:
    colour = train["colour"]
    mean, std = np.array(colour["mean"]), np.array(colour["std"])
    usable = bool(np.isfinite(mean).all() and np.isfinite(std).all()) and colour["linear"]
    slack = 4 * colour["error"]
    off = _away(mean, std, rules) if usable else float("inf")
    if usable and sorted(colour["order"]) == [0, 1, 2]:  # swapped channels are a rule of their own, not judged twice
        back = [colour["order"].index(channel) for channel in range(3)]
        if _away(mean[back], std[back], rules) < off:
            mean, std = mean[back], std[back]
            off = _away(mean, std, rules)
    name = name_statistics(mean, std) if usable and not slack else None
    together = name is not None and "together" in name and off > 0.0003
    required = f"mean ({listed(rules.mean)}) and deviation ({listed(rules.std)})"
    measured = f"{_short(mean)}/{_short(std)}" if usable else "does not follow the input linearly"
    advice = "take the training set's own mean and deviation, the same numbers for every picture"
    if name is not None:
        advice = f"normalise with {required}" if "none" in name else f"these are {name}; take {required}"
    elif usable:
        advice = f"take the training set's {required}"
    return verdict_on(
        "statistics",
        off <= rules.statistics_tolerance + slack and not together,
        measured,
        "training set",
        train["pipeline"],
        advice,
    )


def _away(mean: np.ndarray, std: np.ndarray, rules: AuditRules) -> float:
    return float(max(np.abs(mean - rules.mean).max(), np.abs(std - rules.std).max()))


def _short(values: Any) -> str:
    texts = (f"{value:.4f}".replace("0.", ".", 1).rstrip("0") for value in values)
    return " ".join("0" if text in (".", "-.") else text for text in texts)


# ---------------------------------------------------------------------------------------------- what moves


def _augmented(train: dict[str, Any]) -> dict[str, Any]:
    variety = train["variety"]
    draws, distinct, plain = variety["draws"], variety["distinct"], variety["plain"]
    changed = "unknown" if plain is None else f"{draws - plain}"
    measured = f"{changed}/{draws} not plain, {distinct} distinct"
    thrown = plain == draws
    advice = (
        "every output is the plain normalised picture: the augmented one is thrown away; return it"
        if thrown
        else "every output is the same: a generator is seeded anew for every picture; seed once, before training"
    )
    return verdict_on("augmented", not thrown and distinct > 1, measured, "varying", train["pipeline"], advice)


def _flip(train: dict[str, Any], rules: AuditRules) -> dict[str, Any]:
    geometry = train["geometry"]
    required = f"{rules.flip_p:.2f}"
    if not geometry["placed"]:
        return verdict_on(
            "flip", False, UNREADABLE, required, train["pipeline"], "let a plain 32×32 picture come out recognisably"
        )
    rate = geometry["flipped"]
    tolerance = max(0.1, 4 * (rules.flip_p * (1 - rules.flip_p) / geometry["placed"]) ** 0.5)
    measured = f"{rate:.3f}"
    if geometry["upturned"] > 0.02:
        measured += f"; {geometry['upturned']:.3f} top to bottom"
    advice = (
        "add a horizontal flip"
        if rate == 0
        else "every picture is mirrored: nothing is gained; set p"
        if rate == 1
        else "set the flip's p"
    ) + f" (HorizontalFlip(p={rules.flip_p:g}))"
    return verdict_on(
        "flip",
        abs(rate - rules.flip_p) <= tolerance,
        measured,
        f"{required} ± {tolerance:.2f}",
        train["pipeline"],
        advice,
    )


def _movements(train: dict[str, Any], rules: AuditRules) -> list[Callable[[], dict[str, Any] | None]]:
    geometry = train["geometry"]

    def movement(rule: str, keys: Sequence[str], unit: float, text: str, least: float) -> dict[str, Any]:
        advice = f"add {'a ' if rule != 'rotate' else 'a turn: '}ShiftScaleRotate with a {rule} limit above 0"
        if not geometry["placed"]:
            return verdict_on(rule, False, UNREADABLE, "present", train["pipeline"], advice)
        spans = [geometry[key] for key in keys]
        low, high = min(span["low"] for span in spans), max(span["high"] for span in spans)
        moved = max(span["moved"] for span in spans)
        there = high - low >= least and moved >= 0.05
        measured = f"{low * unit:{text}} … {high * unit:{text}} in {moved:.0%} of draws" if there else "none"
        return verdict_on(rule, there, measured, "present", train["pipeline"], advice)

    wanted = [
        ("shift", rules.shift, ("shift_x", "shift_y"), 1.0, "+.3f", 0.016),
        ("scale", rules.scale, ("scale",), 1.0, ".2f", 0.016),
        ("rotate", rules.rotate, ("angle",), 1.0, "+.1f", 1.2),
    ]
    return [lambda row=row: movement(row[0], *row[2:]) for row in wanted if row[1]]


# ---------------------------------------------------------------------------------------------- workers and evaluation


def _workers(workers: dict[str, Any] | None, train: dict[str, Any]) -> dict[str, Any] | None:
    if workers is None or train["variety"]["distinct"] == 1:
        return None
    alike, reseeded = workers["alike"], workers["reseeded"]
    if alike is None:
        return verdict_on(
            "workers",
            False,
            "a worker failed or hung",
            "different",
            train["pipeline"],
            "let the pipeline run in a forked worker process",
        )
    repeat = alike == 1.0
    measured = f"{alike:.0%} alike in two workers"
    if repeat and reseeded is not None and reseeded < 1.0:
        return verdict_on(
            "workers", True, f"{alike:.0%} alike; reseeded {reseeded:.0%}", "different", train["pipeline"], ""
        )
    return verdict_on(
        "workers",
        not repeat,
        measured,
        "different",
        train["pipeline"],
        "the generator is copied into every worker, or seeded alike in each: in worker_init_fn, seed it from the "
        "worker's number (torch.initial_seed())",
    )


def _same(train: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Any]:
    one, two = train["colour"], evaluation["colour"]
    difference = float("inf")
    slack = 0.02 + 8 * max(one["error"], two["error"]) / 0.2
    if np.isfinite([one["matrix"], two["matrix"]]).all():
        gap = np.array(one["matrix"]) - np.array(two["matrix"])
        offset = np.array(one["offset"]) - np.array(two["offset"])
        corners = np.array([[r, g, b] for r in (0, 1) for g in (0, 1) for b in (0, 1)])
        difference = float(np.abs(corners @ gap.T + offset).max())
    measured = f"outputs differ by up to {difference:.3f}"
    return verdict_on(
        "same_normalisation",
        difference <= slack,
        measured,
        f"at most {slack:.2f}",
        evaluation["pipeline"],
        f"evaluation has {_short(two['mean'])}/{_short(two['std'])}: use one mean, one deviation and one channel "
        "order in training and evaluation",
    )


def _still(evaluation: dict[str, Any]) -> dict[str, Any]:
    variety = evaluation["variety"]
    plain = variety["plain"] or 0
    measured = f"{variety['distinct']} distinct, {plain} of {variety['draws']} plain"
    advice = (
        "evaluation augments at random: leave only the normalisation in it"
        if variety["distinct"] > 1
        else "evaluation changes the picture: leave only the normalisation in it"
    )
    return verdict_on(
        "evaluation",
        variety["distinct"] == 1 and plain == variety["draws"],
        measured,
        "1, plain",
        evaluation["pipeline"],
        advice,
    )


def _notes(figures: dict[str, Any]) -> list[str]:
    train, workers = figures["train"], figures["workers"]
    colour, geometry, notes = train["colour"], train["geometry"], []
    if colour["changing"] > 0.01:
        notes.append(
            f"colours change from draw to draw in {colour['changing']:.0%} of the draws (jitter, greying or noise): "
            "reported, not judged"
        )
    if train["by"] == "texture":
        notes.append("flips, turns and holes were read from a grey texture, less sharply than from plain colours")
    if geometry["placed"] < 0.9 * geometry["draws"]:
        notes.append(
            f"{geometry['draws'] - geometry['placed']} of {geometry['draws']} draws could not be read "
            "(changed colours, or bent pictures) and are left out"
        )
    if geometry["placed"] and geometry["stretch"]["moved"] > 0.05:
        notes.append(
            f"pictures are stretched or sheared, by a ratio of up to {geometry['stretch']['high']:.2f} "
            "(albumentations 2 scales height and width apart)"
        )
    border = (train["holes"] or {}).get("border")
    if border is not None:
        notes.append(
            f"shifts and turns leave a border of the colour {', '.join(str(round(level)) for level in border)}"
        )
    if (
        workers is not None
        and workers["alike"] == 1.0
        and (workers["reseeded"] or 0) < 1.0
        and workers["reseeded"] is not None
    ):
        notes.append(
            "workers forked from one process repeat each other unless each reseeds the pipeline: in worker_init_fn "
            "call "
            "transform.set_random_seed(torch.initial_seed() % 2**32)"
        )
    return notes


def _not_measured(figures: dict[str, Any]) -> dict[str, str]:
    """Rules that nothing was found out about, and why."""
    missing = {}
    if figures["evaluation"] is None:
        missing |= dict.fromkeys(("same_normalisation", "evaluation"), "no --eval-transforms was given")
    if figures["train"]["variety"]["distinct"] == 1:
        missing["workers"] = "nothing varies"
    elif figures["workers"] is None:
        missing["workers"] = "no worker processes to compare"
    if (figures["train"]["holes"] or {}).get("rate") == 0:
        missing |= dict.fromkeys(("hole_count", "hole_size", "hole_place", "hole_fill"), "no hole was seen")
    return missing

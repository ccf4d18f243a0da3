"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math

from featherweight.config import ScheduleConfig


def rate(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """The learning rate of `step` (0 … steps-1) as a fraction of the peak.

    All but "constant" rise from `start` to 1 over the first `warmup` of the steps, then fall to `final`. "linear" does
    both in straight lines; "cosine" rises in a straight line and falls along half a cosine (Loshchilov & Hutter 2016,
    arXiv:1608.03983); "one_cycle" does both along half a cosine (Smith & Topin 2017, arXiv:1708.07120, in its smooth
    form). The last step is one short of `final`, the first is exactly `start`.
    """
    if schedule.name == "constant":
        return 1.0
    done = step / max(steps, 1)
    if done < schedule.warmup:
        risen = done / schedule.warmup
        if schedule.name == "one_cycle":
            risen = (1 - math.cos(math.pi * risen)) / 2
        return schedule.start + (1 - schedule.start) * risen
    fallen = (done - schedule.warmup) / (1 - schedule.warmup) if schedule.warmup < 1 else 0.0
    if schedule.name != "linear":
        fallen = (1 - math.cos(math.pi * fallen)) / 2
    return 1 + (schedule.final - 1) * fallen

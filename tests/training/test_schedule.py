"""Schedules against their definitions at the points that define them, and as pure functions of the step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.config import ScheduleConfig
from featherweight.training.schedule import rate

NAMES = ("one_cycle", "cosine", "linear", "constant")


@pytest.mark.parametrize("name", NAMES[:3])
def test_start_peak_and_end(name) -> None:
    schedule = ScheduleConfig(name=name, warmup=0.2, start=0.1, final=0.05)
    assert rate(schedule, 0, 1000) == pytest.approx(0.1)
    assert rate(schedule, 200, 1000) == pytest.approx(1.0)
    assert rate(schedule, 1000, 1000) == pytest.approx(0.05)


def test_half_way_down_and_half_way_up() -> None:
    linear = ScheduleConfig(name="linear", warmup=0.0, final=0.0)
    assert rate(linear, 250, 1000) == pytest.approx(0.75)
    cosine = ScheduleConfig(name="cosine", warmup=0.0, final=0.0)
    assert rate(cosine, 250, 1000) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    cycle = ScheduleConfig(name="one_cycle", warmup=0.5, start=0.0)
    assert rate(cycle, 125, 1000) == pytest.approx((1 - math.cos(math.pi / 4)) / 2)
    assert rate(ScheduleConfig(name="cosine", warmup=0.5, start=0.0), 125, 1000) == pytest.approx(0.25)


@given(
    st.sampled_from(NAMES),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(1, 500),
)
def test_always_between_its_ends_and_smooth(name, warmup: float, start: float, final: float, steps: int) -> None:
    schedule = ScheduleConfig(name=name, warmup=warmup, start=start, final=final)
    rates = [rate(schedule, step, steps) for step in range(steps)]
    assert all(min(start, final) - 1e-9 <= value <= 1 + 1e-9 for value in rates)
    peak = max(range(steps), key=rates.__getitem__)
    assert rates[:peak] == sorted(rates[:peak])
    assert all(a >= b - 1e-12 for a, b in zip(rates[peak:], rates[peak + 1 :], strict=False))


def test_one_cycle_falls_along_half_a_cosine() -> None:
    cycle = ScheduleConfig(name="one_cycle", warmup=0.0, final=0.0)
    assert rate(cycle, 250, 1000) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)

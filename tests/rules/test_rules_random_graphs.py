"""Arithmetic against measurement: on random networks the two agree unit by unit, in height and in width."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings

from featherweight.rules import axis
from featherweight.rules.graph import trace
from featherweight.rules.oracle import measure_axis
from featherweight.rules.receptive_field import receptive_field

sys.path.insert(0, str(Path(__file__).parent))
from random_networks import CHANNELS, RandomNetwork, Step, specifications

NATIVE = (1, CHANNELS, 36, 24)
EXAMPLES = 400  # some of them come twice: 300 different ones are wanted
compared: set[str] = set()


def compare(steps: list[Step]) -> bool | None:
    """Whether both agree; None where the network is too small or too large to be measured quickly."""
    network = RandomNetwork(steps)
    graph = trace(network, NATIVE)
    if graph.error is not None:
        return None
    reception = receptive_field(graph)
    figure = reception.figure
    if figure is None or max(figure.size) > 90 or max(figure.jump) > 8:
        return None
    alike = True
    for side in (0, 1):
        result = measure_axis(network, graph, reception.exits[0].source, side)
        if isinstance(result, str):
            return None
        alike &= result[0] == result[1]
    compared.add(repr(steps))
    return alike


pytestmark = pytest.mark.usefixtures("one_thread")


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=bool(os.environ.get("CI")),  # elsewhere every run tries graphs that none tried before
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(specifications())
def test_agree_on_random_graphs(steps: list[Step]) -> None:
    alike = compare(steps)
    assume(alike is not None)
    assert alike


def test_at_least_300_were_compared() -> None:
    assert len(compared) >= 300


def test_the_comparison_notices_the_common_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubling the jump at a stride-1 dilated layer, as public solutions do, must not pass."""
    right = axis.window
    steps: list[Step] = [("conv", (3, 3), (1, 1), (2, 2), (2, 2), 1), ("conv", (3, 3), (1, 1), (1, 1), (1, 1), 1)]
    assert compare(steps) is True

    def doubled(
        source: axis.AxisMap, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
    ) -> axis.AxisMap:
        return right(source, kernel, stride * dilation, padding, dilation)

    monkeypatch.setattr(axis, "window", doubled)
    assert compare(steps) is not True

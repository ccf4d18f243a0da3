"""Arithmetic against measurement on other people's networks, as timm builds them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from featherweight.rules.graph import trace
from featherweight.rules.oracle import verify
from featherweight.rules.receptive_field import receptive_field

sys.path.insert(0, str(Path(__file__).parent))
import timm_networks

PUBLISHED = {"resnet18": 435}  # Araujo et al. 2019, "Computing receptive fields of convolutional neural networks"


@pytest.mark.slow
@pytest.mark.parametrize("name", timm_networks.NAMES)
def test_arithmetic_and_measurement_agree(name: str) -> None:
    network, shape = timm_networks.create(name), (1, 3, 96, 96)
    figure = receptive_field(trace(network, shape)).figure
    measured = verify(network, shape)
    assert measured.agrees, measured
    assert figure is not None
    assert figure.size == measured.measured
    if name in PUBLISHED:
        assert figure.size == (PUBLISHED[name], PUBLISHED[name])

"""Arithmetic against measurement on torchvision's own networks, where torchvision is installed (the lock has none)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NAMES = [
    "googlenet",
    "resnet18",
    "mobilenet_v2",
    "densenet121",
    "efficientnet_b0",
    "regnet_y_400mf",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "squeezenet1_1",
    "mobilenet_v3_small",
]
PUBLISHED = {
    "resnet18": [435, 435]
}  # Araujo et al. 2019, "Computing receptive fields of convolutional neural networks"


@pytest.mark.slow
def test_arithmetic_and_measurement_agree_on_torchvisions_networks() -> None:
    program = Path(__file__).parent / "torchvision_check.py"
    done = subprocess.run([sys.executable, str(program), *NAMES], capture_output=True, text=True, timeout=600)
    if done.returncode == 77:
        pytest.skip("torchvision is not installed: its networks were not compared (timm's were)")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == NAMES
    for name, (field, measured, agrees) in found.items():
        assert agrees, name
        assert field == measured, name
        assert PUBLISHED.get(name, field) == field

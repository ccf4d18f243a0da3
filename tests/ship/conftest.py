"""Exporting takes seconds, so the published network is exported once for all tests of this folder."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def quick_onnx() -> bytes:
    """`feather_quick` in float32."""
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed: exports were not tested")
    from featherweight import weights
    from featherweight.ship.onnx_forms import to_onnx

    return to_onnx(*weights.load("feather_quick"))

"""Starting the page takes seconds, so one process serves all tests of this folder that do not end it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from demo_server import Running, odd_weights, serving


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a second network, with classes that need escaping, for pictures of another size."""
    return odd_weights(tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory, odd: Path) -> Iterator[Running]:
    """The page with two networks."""
    with serving(tmp_path_factory.mktemp("page") / "kept", "feather_quick", str(odd), "--port", "0") as running:
        yield running
        # After all that the tests did with it: neither telemetry nor anything else was looked up or connected to.
        reached = running.reached.read_text().splitlines()
        assert [line for line in reached if not line.endswith(" 127.0.0.1")] == []

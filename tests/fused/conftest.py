from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each piece of work is done whole and in pieces, whose borders and sums over pieces must be right. From a
    fixed seed: a ReLU's input within a rounding of 0 is let through by one and not by the other."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)

"""Maps and comparisons that the tests of fused operations share."""

from __future__ import annotations

import torch


def maps(*shape: int, seed: int = 0, kind: torch.dtype = torch.float32) -> torch.Tensor:
    """Numbers from the normal distribution, [N, C, H, W] in channels-last memory."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(kind).contiguous(memory_format=torch.channels_last)


def close(found: torch.Tensor | None, right: torch.Tensor | None, tolerance: float) -> None:
    """Largest difference against the largest value."""
    assert found is not None
    assert right is not None
    right = right.detach().double()
    assert float((found.detach().double() - right).abs().max()) <= tolerance * float(right.abs().max().clamp(min=1e-6))

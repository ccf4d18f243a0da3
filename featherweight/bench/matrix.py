"""This machine's matrix-product rate, the measure that a training step's arithmetic is held against."""

from __future__ import annotations

import time

import torch

from featherweight.bench.channel import Channel
from featherweight.bench.job import Job, start_torch, torch_facts
from featherweight.bench.phases import synchronise

SIDE = {"cpu": 2048, "mps": 2048}  # of the square matrices; 17 G operations a product
SIDE_CUDA = 8192  # so that a product takes milliseconds, not the microseconds of its launch
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Product:
    """One product of two square matrices, to be timed again and again. The result's memory is reused."""

    def __init__(self, device: torch.device, kind: torch.dtype, side: int) -> None:
        """kind: float32 is true float32, for TF32 is off by torch's default. The first product, done here, is not
        timed: it builds the kernel."""
        generator = torch.Generator().manual_seed(0)
        self._left, self._right = (torch.randn(side, side, generator=generator).to(device, kind) for _ in range(2))
        self._out = torch.matmul(self._left, self._right)
        self._device, self._operations = device, 2 * side**3
        synchronise(device)

    def rate(self, seconds: float) -> float:
        """Operations a second of the quickest of the products done in `seconds`, at least two."""
        best, products, ends = float("inf"), 0, time.perf_counter() + seconds
        while products < 2 or time.perf_counter() < ends:
            begun = time.perf_counter()
            torch.matmul(self._left, self._right, out=self._out)
            synchronise(self._device)
            best = min(best, time.perf_counter() - begun)
            products += 1
        return self._operations / best


def serve(job: Job, channel: Channel) -> None:
    """Say what torch is and runs on; then answer each command with both rates, in operations a second."""
    device = start_torch(job)
    side = SIDE.get(device.type, SIDE_CUDA)
    channel.send({**torch_facts(device), "size": side})
    products = {name: Product(device, kind, side) for name, kind in PRECISIONS.items()}
    while channel.receive() is not None:
        channel.send({"rates": {name: product.rate(job.seconds) for name, product in products.items()}})

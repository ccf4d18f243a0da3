"""Which arithmetic a run computes in."""

from __future__ import annotations

import dataclasses
import time
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from featherweight.config import TrainConfig
from featherweight.fused import tiles
from featherweight.fused.rewrite import fused


def resolve_precision(config: TrainConfig, device: torch.device) -> TrainConfig:
    """`config` with "auto" replaced by "bf16" where `device` measures faster with it, else by "fp32"."""
    if config.precision != "auto":
        return config
    with_fused = config.fused and config.channels_last and not config.compile  # as the engine puts them in
    return dataclasses.replace(config, precision="bf16" if _bf16_pays(device, with_fused) else "fp32")


def _bf16_pays(device: torch.device, with_fused: bool) -> bool:
    """Whether a layer of the usual size, forward and backward, runs faster in bf16; about 0.2 s on a CPU. with_fused:
    by this project's own operations where there are some, which need not gain what torch's do; with matrix tiles bf16
    was faster for every network tried (docs/LOG.md), so that no clock is asked there, which may be disturbed."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)  # Ampere on: tensor cores at twice TF32's rate
    if device.type != "cpu" or not _computes_in_bf16():
        return False
    if with_fused and tiles.available():
        return True
    layer = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pictures = torch.ones(64, 64, 16, 16).to(memory_format=torch.channels_last)

    def seconds(precision: str) -> float:
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        run = (fused(layer, kind) if with_fused else None) or layer
        times = []
        for _ in range(4):  # the first builds the kernel
            begun = time.perf_counter()
            with autocast(device, precision):
                run(pictures).float().sum().backward()
            times.append(time.perf_counter() - begun)
        return min(times[1:])

    with torch.random.fork_rng(devices=[]):
        return seconds("bf16") < 0.9 * seconds("fp32")


def _computes_in_bf16() -> bool:
    """Whether the processor has instructions for it. Without them bf16 never pays, whatever a disturbed clock says."""
    try:
        return any(found for name, found in torch.cpu.get_capabilities().items() if "bf16" in name)
    except (AttributeError, RuntimeError):  # an older torch, or a processor it does not know: measured
        return True


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """What a forward pass in `precision` ("fp32" or "bf16") runs under."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()

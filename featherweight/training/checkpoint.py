"""A complete, exact state of a run in one safetensors file: nothing is pickled, nothing is left out.

Tensors: `network.KEY`, `average.KEY`, `optimizer.INDEX.NAME` (INDEX counts the parameters group by group),
`random.cpu`, `random.DEVICE`, `sums` (the epoch's running loss, hits and count). Whole numbers and times: JSON in the
file's metadata, under `progress`. A checkpoint written on one device loads on another: only `random.DEVICE` is
particular to it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from featherweight.training.averaging import AveragedWeights
from featherweight.utils import UserError, write_atomic


@dataclass
class Progress:
    """How far a run has come: `step` of `epoch` is the next to do; the times are of all its sittings together."""

    epoch: int = 0
    step: int = 0
    train_seconds: float = 0.0
    wall_seconds: float = 0.0
    best_accuracy: float = -1.0
    finished: bool = False
    first_losses: list[float] = field(default_factory=list)  # of the first steps, for whoever repeats the run


def save_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedWeights | None,
    sums: torch.Tensor,
    progress: Progress,
) -> None:
    """Write the whole state, or leave the file that was there."""
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{key}": value for key, value in average.network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    tensors["random.cpu"] = torch.get_rng_state()
    if sums.is_cuda:
        tensors["random.cuda"] = torch.cuda.get_rng_state(sums.device)
    tensors["sums"] = sums
    # contiguous().clone(): safetensors refuses strides other than the plain ones, and tensors that share memory.
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    notes = {"progress": json.dumps(asdict(progress)), "average_steps": str(average.steps if average else 0)}
    write_atomic(path, save(plain, metadata=notes))


def load_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedWeights | None,
    sums: torch.Tensor,
) -> Progress:
    """Put the state of `path` into all the given parts and return how far the run had come.

    Raises UserError for a file that is missing, damaged, or another network's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            notes = file.metadata() or {}
        progress = Progress(**json.loads(notes["progress"]))
        network.load_state_dict(_under("network.", tensors))
        if average is not None:
            average.network.load_state_dict(_under("average.", tensors))
            average.steps = int(notes["average_steps"])
        _load_optimizer(optimizer, _under("optimizer.", tensors))
        torch.set_rng_state(tensors["random.cpu"])
        if sums.is_cuda and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], sums.device)
        sums.copy_(tensors["sums"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"cannot carry on from {path}: {reason}; start anew without --resume") from error
    return progress


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]  # rates come from the configuration and the step, not from the file
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    # The file holds plain strides; what has its parameter's shape gets its strides back, without which torch would take
    # all of a group's tensors one by one.
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

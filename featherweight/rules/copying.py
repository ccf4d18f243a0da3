"""The copy of a network that is run in its stead: on the CPU, in evaluation mode, whatever hangs on the original."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from featherweight.rules.nodes import flat
from featherweight.rules.wording import first_line
from featherweight.utils import UserError


def copy_network(network: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """A deep copy in evaluation mode on the CPU, unwrapped from torch.compile and DataParallel.

    Its numbers are in single precision, or in double where that is torch's default. Lazy layers get their parameters by
    a plain run on a picture of `input_shape`. Raises UserError when the network cannot be copied.
    """
    for wrapper in ("_orig_mod", "module"):
        inner = getattr(network, wrapper, None)
        if isinstance(inner, nn.Module) and type(network).__module__.startswith("torch."):
            network = inner
    network = _deep_copy(network)
    if any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()]):
        network = network.to_empty(device="cpu")
    precision = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    network = network.to(device="cpu", dtype=precision).eval()
    if any(map(is_lazy, [*network.parameters(), *network.buffers()])):
        # What goes wrong here goes wrong in the traced run as well, which tells it.
        with contextlib.suppress(Exception), torch.random.fork_rng(devices=[]), torch.no_grad():
            network(torch.rand(input_shape))
    return network


def _deep_copy(network: nn.Module) -> nn.Module:
    with contextlib.suppress(Exception):
        return copy.deepcopy(network, _replaced(network))
    try:
        return copy.deepcopy(network, _replaced(network) | _shared(network))
    except Exception as error:
        raise UserError(
            f"{type(network).__name__} cannot be copied ({first_line(error)}); keep only modules and tensors on it"
        ) from error


def _replaced(network: nn.Module) -> dict[int, Any]:
    """Tensors that deepcopy refuses, by identity, each with what is to stand in its place: results with a gradient
    history that modules keep (a map for Grad-CAM, weight_norm's weight) without it, lazy buffers anew."""
    replaced: dict[int, Any] = {}
    for module in network.modules():
        held = vars(module)
        for tensor in flat(
            [*held.values(), *(v for d in held.values() if isinstance(d, dict) for v in d.values())], torch.Tensor
        ):
            if isinstance(tensor, UninitializedBuffer):
                replaced[id(tensor)] = UninitializedBuffer()
            elif not is_lazy(tensor) and tensor.requires_grad and not tensor.is_leaf:
                replaced[id(tensor)] = tensor.detach()
    return replaced


def _shared(network: nn.Module) -> dict[int, Any]:
    """Attributes and hooks that nothing can copy (a lock, a generator, an open file), by identity, as they are."""
    replaced, shared = _replaced(network), {}
    own = set(vars(nn.Module()))
    for module in network.modules():
        held = vars(module)
        hooks = [hook for name in own if "hooks" in name for hook in (held.get(name) or {}).values()]
        for value in [*hooks, *(value for name, value in held.items() if name not in own)]:
            try:
                copy.deepcopy(value, dict(replaced))
            except Exception:
                shared[id(value)] = value
    return shared

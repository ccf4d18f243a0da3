"""Puts the fused operations into a network's training pass, the network itself left as it is.

The network is traced by torch.fx; every batch norm takes in the ReLU before it, or the ReLU, dropout and addition after
it, where nobody else reads what lies between. The rewritten pass shares the network's layers, so that weights, keys and
running statistics stay where they were.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import fx, nn

from featherweight.fused import depthwise, first, tiles, winograd
from featherweight.fused.build import library
from featherweight.fused.norm import LANES, FusedNorm

Layer = TypeVar("Layer", bound=nn.Module)


def fused(network: nn.Module, kind: torch.dtype = torch.float32) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """`network`'s pass in training mode with fused operations, for maps of `kind` in channels-last memory on a CPU:
    float32, or bfloat16 (the pictures themselves in float32), the pass to be run under autocast.

    None where there is nothing to gain: no C compiler, a network that torch.fx cannot trace, or none of its parts fits.
    """
    if library() is None:
        return None
    try:
        traced = fx.symbolic_trace(network)
    except Exception:  # a pass that depends on its data: fx names it in many ways
        return None
    graph = traced.graph
    replaced = sum(_fuse_first(traced, node, kind) for node in list(graph.nodes))
    for node in list(graph.nodes):
        norm, conv = _layer(traced, node, nn.BatchNorm2d), _layer(traced, node, nn.Conv2d)
        if norm is not None and norm.affine and not first.frozen(norm) and norm.num_features % LANES == 0:
            _fuse(traced, node, norm)
            replaced += 1
        elif conv is not None and (module := _convolution(conv, kind)) is not None:
            node.target = f"fused_{node.name}"
            traced.add_module(node.target, module)
            replaced += 1
    if not replaced:
        return None
    graph.lint()
    traced.recompile()
    return traced


def _convolution(conv: nn.Conv2d, kind: torch.dtype) -> nn.Module | None:
    """What does `conv` faster than torch for maps of that kind; None where nothing does."""
    if kind == torch.bfloat16 and tiles.fits(conv):
        return tiles.TileConv(conv)
    if kind == torch.float32 and winograd.fits(conv):
        return winograd.WinogradConv(conv)
    return depthwise.DepthwiseConv(conv) if depthwise.fits(conv, kind) else None


def _fuse_first(traced: fx.GraphModule, node: fx.Node, kind: torch.dtype) -> bool:
    """Replace `node` and the norm and ReLU behind it, if they are a frozen first layer that fits; whether they were."""
    conv, behind = _layer(traced, node, nn.Conv2d), _only_user(node)
    norm = None if conv is None or behind is None else _layer(traced, behind, nn.BatchNorm2d)
    last = None if norm is None or behind is None else _only_user(behind)
    if conv is None or norm is None or last is None or not _is_relu(traced, last) or not first.fits(conv, norm):
        return False
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.op != "placeholder":
        return False  # what stands before it would get no gradient
    name = f"fused_{node.name}"
    traced.add_module(name, first.FrozenFirst(conv, norm, kind))
    with traced.graph.inserting_after(last):
        new = traced.graph.call_module(name, (source,))
    last.replace_all_uses_with(new)
    traced.graph.eliminate_dead_code()
    return True


def _fuse(traced: fx.GraphModule, node: fx.Node, norm: nn.BatchNorm2d) -> None:
    """Replace `node`, a batch norm, and its fitting neighbours by one FusedNorm, together with a convolution by tiles
    before it."""
    source, last, dropout, residual = node.args[0], node, 0.0, None
    assert isinstance(source, fx.Node)
    relu_first = _is_relu(traced, source) and len(source.users) == 1
    if relu_first:
        source = source.args[0]
        assert isinstance(source, fx.Node)
    after = _only_user(last)
    relu_after = not relu_first and after is not None and _is_relu(traced, after)
    if relu_after and after is not None:
        last = after
    after = _only_user(last)
    drop = None if after is None else _layer(traced, after, nn.Dropout)
    if drop is not None and after is not None and 0 < drop.p < 1:
        last, dropout = after, drop.p
    after = _only_user(last)
    if after is not None and after.op == "call_function" and after.target in (operator.add, torch.add):
        others = [one for one in after.args if one is not last]
        if len(others) == 1 and isinstance(others[0], fx.Node) and not after.kwargs:
            last, residual = after, others[0]
    name = f"fused_{node.name}"
    alone = FusedNorm(norm, relu_first=relu_first, relu_after=relu_after, dropout=dropout)
    conv = _layer(traced, source, tiles.TileConv)
    if conv is not None and conv.conv.bias is None and len(source.users) == 1 and not _overwritten(traced, source):
        traced.add_module(name, tiles.TileConvNorm(conv.conv, alone))
        source = source.args[0]
    else:
        traced.add_module(name, alone)
    with traced.graph.inserting_after(last):
        new = traced.graph.call_module(name, (source, residual))
    last.replace_all_uses_with(new)
    traced.graph.eliminate_dead_code()


def _overwritten(traced: fx.GraphModule, conv: fx.Node) -> bool:
    """Whether a ReLU in place makes the map that `conv` reads another before the norm's neighbours are reached."""
    source = conv.args[0]
    readers = [_layer(traced, user, nn.ReLU) for user in source.users] if isinstance(source, fx.Node) else []
    return any(relu is not None and relu.inplace for relu in readers)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _layer(traced: fx.GraphModule, node: fx.Node, kind: type[Layer]) -> Layer | None:
    """The layer that `node` calls when it is exactly of `kind`: a subclass may do something else."""
    if node.op != "call_module":
        return None
    layer = traced.get_submodule(str(node.target))
    return layer if type(layer) is kind else None


def _is_relu(traced: fx.GraphModule, node: fx.Node) -> bool:
    return _layer(traced, node, nn.ReLU) is not None

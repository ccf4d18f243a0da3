"""What a network costs: parameters, multiply-adds, memory for activations.

Multiply-adds are counted as torch's own FlopCounterMode does (which counts two operations each): convolutions and
matrix products, nothing for norms, activations and pooling. Everything is for one picture of the traced size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from featherweight.rules.nodes import Constant, Graph, Node, Ref


@dataclass(frozen=True)
class Cost:
    """Totals. parameters: trainable, each counted once; bytes: all results kept (training), most alive at once."""

    parameters: int
    frozen_parameters: int
    multiply_adds: int
    activation_bytes: int
    peak_activation_bytes: int
    weight_bytes: int


def cost(graph: Graph) -> Cost:
    """The cost of a traced network."""
    parameters = list(graph.network.parameters())  # a shared parameter comes once
    trainable = sum(p.numel() for p in parameters if p.requires_grad) + sum(graph.hidden.values())
    stored = [*parameters, *graph.network.buffers()]
    return Cost(
        trainable,
        sum(p.numel() for p in parameters if not p.requires_grad),
        sum(multiply_adds(graph, node) for node in graph.nodes),
        sum(sum(node.bytes) for node in graph.nodes),
        peak_bytes(graph),
        sum(tensor.numel() * tensor.element_size() for tensor in stored),
    )


def count_parameters(network: nn.Module) -> int:
    """All trainable parameters, a shared one counted once."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def multiply_adds(graph: Graph, node: Node) -> int:
    """Multiply-adds of one operation."""

    def shape(name: str) -> tuple[int, ...]:
        value = node.args[name]
        return graph.shape(value) if isinstance(value, Ref) else value.shape if isinstance(value, Constant) else ()

    op, out = node.op.rstrip("_"), node.shapes[0]
    if op in ("convolution", "_convolution"):
        weight, source = shape("weight"), shape("input")
        kernel = len(weight) - 2
        # each unit of the map that is slid over meets the whole filter bank of its group
        places = source[-kernel:] if node.args["transposed"] else out[-kernel:]
        batch = math.prod(out[: -kernel - 1])
        return batch * math.prod(places) * math.prod(weight)
    if op in ("mm", "bmm", "mv", "_int_mm"):
        return math.prod(out) * shape("self")[-1]
    if op == "addmm":
        return math.prod(out) * shape("mat1")[-1]
    if op == "baddbmm":
        return math.prod(out) * shape("batch1")[-1]
    if op == "linear":
        return math.prod(out) * shape("weight")[-1]
    if op.startswith("_scaled_dot_product"):
        query, key, value = shape("query"), shape("key"), shape("value")
        return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return 0


def peak_bytes(graph: Graph) -> int:
    """The most bytes of results alive at once when each is dropped after its last reader; views keep what they view."""
    owner: dict[tuple[int, int], int] = {}  # tensor → the node that owns its memory
    for node in graph.nodes:
        first = next(iter(node.refs()), None)
        inherited = node.index if first is None else owner[(first.node, first.output)]
        for output, _ in enumerate(node.shapes):
            owner[(node.index, output)] = node.index if node.bytes[output] or first is None else inherited
    last = {node.index: node.index for node in graph.nodes}
    for node in graph.nodes:
        for ref in node.refs():
            last[owner[(ref.node, ref.output)]] = node.index
    for ref in graph.outputs:
        last[owner[(ref.node, ref.output)]] = len(graph.nodes)
    ends: dict[int, int] = {}
    alive = most = 0
    for node in graph.nodes:
        size = sum(node.bytes)
        alive += size
        ends[last[node.index]] = ends.get(last[node.index], 0) + size
        most = max(most, alive)
        alive -= ends.pop(node.index, 0)
    return most

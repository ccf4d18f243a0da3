"""The layer table: one row for each of torch's own layers that is called, and for each functional call that matters."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import nn

from featherweight.rules.cost import Cost, cost, multiply_adds
from featherweight.rules.findings import Convolution, convolutions
from featherweight.rules.nodes import Call, Graph, Node, Ref, is_atomic
from featherweight.rules.receptive_field import VIEWS, Field, Reception, receptive_field

# Layers that compute nothing of their own, and the logarithm of probabilities at the end: no rows.
_NO_ROW = {"Flatten", "Unflatten", "Identity", "LogSoftmax"}
# Functional calls by the name of the layer that would do the same.
_KINDS = {
    "relu": "ReLU",
    "hardtanh": "Hardtanh",
    "clamp_min": "ReLU",
    "clamp": "Hardtanh",
    "silu": "SiLU",
    "gelu": "GELU",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "hardswish": "Hardswish",
    "hardsigmoid": "Hardsigmoid",
    "mish": "Mish",
    "leaky_relu": "LeakyReLU",
    "elu": "ELU",
    "softplus": "Softplus",
    "prelu": "PReLU",
    "_prelu_kernel": "PReLU",
    "_softmax": "Softmax",
    "native_batch_norm": "BatchNorm2d",
    "_native_batch_norm_legit": "BatchNorm2d",
    "native_group_norm": "GroupNorm",
    "native_layer_norm": "LayerNorm",
    "avg_pool2d": "AvgPool2d",
    "_adaptive_avg_pool2d": "AdaptiveAvgPool2d",
    "max_pool2d_with_indices": "MaxPool2d",
    "adaptive_max_pool2d": "AdaptiveMaxPool2d",
    "fractional_max_pool2d": "FractionalMaxPool2d",
    "upsample_nearest2d": "Upsample",
    "upsample_bilinear2d": "Upsample",
    "upsample_bicubic2d": "Upsample",
    "mm": "Linear",
    "addmm": "Linear",
    "linear": "Linear",
    "bmm": "MatMul",
    "baddbmm": "MatMul",
    "cat": "Concat",
    "stack": "Concat",
    "im2col": "Unfold",
    "unfold": "Unfold",
    "pixel_shuffle": "PixelShuffle",
    "pixel_unshuffle": "PixelUnshuffle",
    "constant_pad_nd": "Pad",
    "reflection_pad2d": "Pad",
    "replication_pad2d": "Pad",
    "mean": "Mean",
    "amax": "Max",
    "amin": "Min",
    "topk": "TopK",
    "channel_shuffle": "ChannelShuffle",
    "grid_sampler_2d": "GridSample",
}
_JOINS = {
    "add": "Add",
    "sub": "Subtract",
    "mul": "Multiply",
    "maximum": "Maximum",
    "minimum": "Minimum",
    "div": "Divide",
    "max": "Max",
    "min": "Min",
}


@dataclass
class Layer:
    """One row. Shapes without the batch; kernel, stride, dilation, groups only where the layer has them."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    dilation: tuple[int, int] | None = None
    groups: int | None = None
    field: Field | None = None
    nodes: range = dataclasses.field(default_factory=lambda: range(0))
    through: Ref | None = None  # what a row without operations (dropout in evaluation) hands on
    inputs: list[int] = dataclasses.field(default_factory=list)  # the rows it reads

    def as_json(self) -> dict[str, Any]:
        """The row as the summary prints it; pairs that agree become one number."""
        return {
            "name": self.name,
            "kind": self.kind,
            "output_shape": list(self.output_shape),
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "activation_bytes": self.activation_bytes,
            "kernel": one(self.kernel),
            "stride": one(self.stride),
            "dilation": one(self.dilation),
            "groups": self.groups,
            "receptive_field": one(self.field.size) if self.field else None,
            "jump": one(self.field.jump) if self.field else None,
            "offset": one(self.field.offset) if self.field else None,
            "whole_map": list(self.field.wide) if self.field else [],
            "inputs": self.inputs,
        }


def one(pair: tuple[Any, Any] | None) -> Any:
    """[height, width], or one number where they agree; whole fractions as whole numbers, others as decimals."""
    if pair is None:
        return None
    numbers = [
        int(v) if isinstance(v, Fraction) and v.denominator == 1 else float(v) if isinstance(v, Fraction) else v
        for v in pair
    ]
    return numbers[0] if numbers[0] == numbers[1] else numbers


@dataclass
class Summary:
    """A network's rows, totals and receptive fields."""

    graph: Graph
    layers: list[Layer]
    cost: Cost
    reception: Reception


def summarise(graph: Graph) -> Summary:
    """The layer table of a traced network."""
    reception = receptive_field(graph)
    rows = _Rows(graph, reception)
    return Summary(graph, rows.build(), cost(graph), reception)


class _Rows:
    """Builds the rows in the order in which things ran."""

    def __init__(self, graph: Graph, reception: Reception) -> None:
        self.graph, self.reception = graph, reception
        self.convolutions = {conv.node: conv for conv in convolutions(graph)}
        self.sizes = {name: p.numel() for name, p in graph.network.named_parameters() if p.requires_grad} | graph.hidden
        self.names = {id(p): name for name, p in graph.network.named_parameters()}
        self.counted: set[str] = set()  # a parameter used twice belongs to the row that uses it first

    def build(self) -> list[Layer]:
        atomic = [call for call in self.graph.calls if self._has_row(call)]
        covered = {
            index
            for call in self.graph.calls
            if is_atomic(call.module) and call.module is not None
            for index in range(call.first, call.last)
        }
        items: list[tuple[tuple[int, int, int], Call | Node]] = [((call.first, 0, call.index), call) for call in atomic]
        items += [((node.index, 1, 0), node) for node in self.graph.nodes[1:] if node.index not in covered]
        rows: list[Layer] = []
        for _, item in sorted(items, key=lambda pair: pair[0]):
            row = self._call_row(item) if isinstance(item, Call) else self._node_row(item)
            if row is not None:
                rows.append(row)
        self._link(rows)
        return rows

    def _has_row(self, call: Call) -> bool:
        inside = (
            call.parent >= 0
            and self.graph.calls[call.parent].module is not None
            and (is_atomic(self.graph.calls[call.parent].module))
        )
        return (
            is_atomic(call.module)
            and call.output is not None
            and call.last >= 0
            and (call.kind not in _NO_ROW and not inside)
        )

    def _call_row(self, call: Call) -> Layer:
        assert call.output is not None
        nodes = range(call.first, call.last)
        names = (
            [] if call.module is None else [self.names[id(p)] for p in call.module.parameters() if id(p) in self.names]
        )
        if call.module is not None and not names:  # a layer kept outside the module tree, in a plain list
            names = [name for index in nodes for name in self._used(self.graph.nodes[index])]
        name = call.path or "dropout"
        return self._row(name, call.kind, call.output, nodes, names, call.module)

    def _node_row(self, node: Node) -> Layer | None:
        op = node.op.rstrip("_")
        names = [name for name in self._used(node) if name not in self.counted]
        kind = _KINDS.get(op)
        if op in _JOINS and len(node.refs()) > 1:
            kind = _JOINS[op]
        elif node.index in self.convolutions:
            kind = "ConvTranspose2d" if self.convolutions[node.index].transposed else "Conv2d"
        if kind is None and names:
            kind = "".join(word.capitalize() for word in re.split(r"[_\d]+", op))
        if kind is None or (op in VIEWS and not names and op != "unfold"):
            return None
        return self._row(self.graph.label(node.index), kind, Ref(node.index), range(node.index, node.index + 1), names)

    def _used(self, node: Node) -> list[str]:
        return [name for constant in node.constants() for name in constant.parameters]

    def _row(
        self, name: str, kind: str, output: Ref, nodes: range, names: list[str], module: nn.Module | None = None
    ) -> Layer:
        new = dict.fromkeys(n for n in names if n not in self.counted)
        self.counted |= set(new)
        inside = [self.graph.nodes[index] for index in nodes]
        row = Layer(
            name,
            kind,
            self.graph.shape(output)[1:],
            sum(self.sizes.get(n, 0) for n in new),
            sum(multiply_adds(self.graph, node) for node in inside),
            sum(sum(node.bytes) for node in inside),
            field=self.reception.of(output),
            nodes=nodes,
            through=None if nodes else output,
        )
        for node in inside:
            conv = self.convolutions.get(node.index)
            if conv is not None:
                _describe(row, conv)
                break
            if "kernel_size" in node.args:
                _describe_pool(row, node)
                break
        return row

    def _link(self, rows: list[Layer]) -> None:
        """Edges between rows, through the nodes that have none."""
        maker = {index: number for number, row in enumerate(rows) for index in row.nodes}
        for number, row in enumerate(rows):
            found: set[int] = set()
            waiting = [ref.node for index in row.nodes for ref in self.graph.nodes[index].refs()]
            waiting += [row.through.node] if row.through is not None else []
            seen: set[int] = set()
            while waiting:
                index = waiting.pop()
                if index in seen or index in row.nodes:
                    continue
                seen.add(index)
                if index in maker:
                    found.add(maker[index])
                else:
                    waiting.extend(ref.node for ref in self.graph.nodes[index].refs())
            row.inputs = sorted(found - {number})


def _describe(row: Layer, conv: Convolution) -> None:
    row.kernel, row.stride, row.dilation, row.groups = conv.kernel, conv.stride, conv.dilation, conv.groups


def _describe_pool(row: Layer, node: Node) -> None:
    kernel, stride, dilation = (node.args.get(key) for key in ("kernel_size", "stride", "dilation"))
    row.kernel = _two(kernel)
    row.stride = _two(stride) or row.kernel
    row.dilation = _two(dilation) or (1, 1)


def _two(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    return (value[0], value[-1]) if isinstance(value, list) and value else None

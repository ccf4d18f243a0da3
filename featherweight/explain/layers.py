"""Which layer of a network to look at: the last map before global pooling, by the traced graph, or one by name."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn

from featherweight.rules.graph import trace
from featherweight.rules.nodes import Call, Graph
from featherweight.rules.receptive_field import Field, field_of, receptive_field
from featherweight.utils import UserError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """A module whose output is a map. shape: [C, H, W] of that output for the picture it was found with."""

    name: str
    shape: tuple[int, int, int]


def find_layer(network: nn.Module, name: str | None = None, input_shape: Shape = (1, 3, 32, 32)) -> Layer:
    """The layer called `name`, or the last one with a map before the global pooling. input_shape: [N, C, H, W].

    Where the map that is pooled is made by a plain function (`F.relu(self.norm(x))`), the module that feeds it is
    taken. Raises UserError for a name that is no layer with a map, and for a network without any.
    """
    graph = trace(network, input_shape)
    layers = _with_maps(graph)
    if not layers:
        reason = f" (it stopped at: {graph.error})" if graph.error else ""
        raise UserError(f"{type(network).__name__} has no layer whose output is a map of rows and columns{reason}")
    if name is None:
        call = _before_pooling(graph, layers)
    elif name in layers:
        call = layers[name]
    else:
        near = difflib.get_close_matches(name, layers, n=3, cutoff=0.3) or list(layers)[-3:]
        raise UserError(f"no layer {name!r} with a map in {type(network).__name__}; try {', '.join(near)}")
    assert call.output is not None
    channels, height, width = graph.shape(call.output)[1:]
    return Layer(call.path, (channels, height, width))


def _with_maps(graph: Graph) -> dict[str, Call]:
    """The modules a hook can be put on, whose (last) output is [N, C, H, W] with more than one position."""
    known = dict(graph.network.named_modules())
    found: dict[str, Call] = {}
    for call in graph.calls:
        if call.path and call.path in known and call.module is not None and call.output is not None:
            shape = graph.shape(call.output)
            if len(shape) == 4 and math.prod(shape[2:]) > 1:
                found[call.path] = call
            else:
                found.pop(call.path, None)  # a layer used twice counts with its last output
    return found


def _before_pooling(graph: Graph, layers: dict[str, Call]) -> Call:
    """The last of `layers` on the way from the picture to the global pooling (to the output where there is none)."""
    by_output: dict[int, Call] = {}
    for call in layers.values():
        assert call.output is not None
        before = by_output.get(call.output.node)
        if before is None or len(call.path) < len(before.path):  # the block rather than its last member
            by_output[call.output.node] = call
    waiting = {exit_.source.node for exit_ in receptive_field(graph).exits} or {ref.node for ref in graph.outputs}
    seen: set[int] = set()
    while waiting:
        index = max(waiting)  # latest first: a node is looked at before what it reads
        waiting.discard(index)
        if index in by_output:
            return by_output[index]
        seen.add(index)
        waiting |= {ref.node for ref in graph.nodes[index].refs()} - seen
    return max(layers.values(), key=lambda call: call.last)


@dataclass(frozen=True)
class FirstFilters:
    """The kernels of the first convolution: weight float32 [O, I, h, w] on the CPU, and the layer's name."""

    name: str
    weight: torch.Tensor


def first_filters(network: nn.Module, input_shape: Shape = (1, 3, 32, 32)) -> FirstFilters:
    """The first convolution that the picture passes. Raises UserError where none is a torch.nn.Conv2d."""
    for call in trace(network, input_shape).calls:
        if isinstance(call.module, nn.Conv2d):
            weight = dict(network.named_modules())[call.path].weight
            assert isinstance(weight, torch.Tensor)
            return FirstFilters(call.path, weight.detach().to("cpu", torch.float32).clone())
    raise UserError(f"{type(network).__name__} has no Conv2d, so it has no filters to draw")


@dataclass(frozen=True)
class UnitField:
    """The theoretical receptive field of one unit. All pairs are (vertical, horizontal), in pixels of the picture.

    unit: row and column in the layer's map; centre: of its field, 0 is the middle of the first pixel; exact: whether
    every unit has a field of this size (not so where branches of different strides meet).
    """

    unit: tuple[int, int]
    size: tuple[int, int]
    jump: tuple[float, float]
    centre: tuple[float, float]
    exact: bool

    def edges(self) -> tuple[float, float, float, float]:
        """(top, bottom, left, right), half a pixel outside the outermost pixels' middles."""
        (y, x), (height, width) = self.centre, self.size
        return y - height / 2, y + height / 2, x - width / 2, x + width / 2


def unit_field(network: nn.Module, layer: str, input_shape: Shape) -> UnitField | None:
    """The field of the unit of `layer` nearest to the middle of a picture of `input_shape` [N, C, H, W].

    None where the layer's units have no limited field. Raises UserError when the network does not get as far as the
    layer on pictures of this size.
    """
    graph = trace(network, input_shape)
    call = _with_maps(graph).get(layer)
    if call is None or call.output is None:
        told = graph.error or "its output there is no map"
        raise UserError(f"the layer {layer} was not reached on a picture of {input_shape[2]}x{input_shape[3]}: {told}")
    known = receptive_field(graph).layouts[call.output.node][call.output.output]
    field = field_of(known)
    if field is None:
        return None
    units = graph.shape(call.output)[2:]
    (row, y), (column, x) = (_middle_unit(field, side, units[side], input_shape[2 + side]) for side in (0, 1))
    jump = (float(field.jump[0]), float(field.jump[1]))
    return UnitField((row, column), field.size, jump, (y, x), field.exact)


def _middle_unit(field: Field, side: int, units: int, length: int) -> tuple[int, float]:
    """The unit whose field's centre is nearest to the middle of the axis, and that centre."""
    jump, offset = field.jump[side], field.offset[side]
    if offset is None:  # not the same for all units: take the map as centred on the picture
        offset = Fraction(length - 1, 2) - jump * Fraction(units - 1, 2)
    centres = [offset + jump * unit for unit in range(units)]
    best = min(range(units), key=lambda unit: abs(centres[unit] - Fraction(length - 1, 2)))
    return best, float(centres[best])

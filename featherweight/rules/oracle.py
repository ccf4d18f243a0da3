"""Receptive fields measured, not calculated: which input pixels does the gradient of one unit reach?

The network's copy is made so that nothing can cancel: double precision, positive random weights, no biases, neutral
norms, and a small positive picture. Every path from the unit to a pixel then adds a positive number, so the support of
the gradient is the field. Pooling by maximum passes the gradient to one pixel of its window only; a picture that falls
steeply along both axes makes that the window's first pixel, one that rises its last, which are the ones that count.
Nothing here uses the arithmetic of `axis` except to choose the picture's size; where that choice were wrong, the
support would touch the picture's border or differ, and both are reported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from featherweight.rules.axis import AxisMap, Interval
from featherweight.rules.copying import copy_network
from featherweight.rules.findings import is_maximum
from featherweight.rules.graph import run_traced, trace
from featherweight.rules.nodes import Graph, Node, Ref, place_of
from featherweight.rules.receptive_field import VIEWS, Exit, receptive_field
from featherweight.rules.wording import first_line

LARGEST = 4096  # pixels along one side
MOST_UNITS = 12  # neighbouring units measured, to meet every phase


@dataclass(frozen=True)
class Measurement:
    """Fields (height, width) in pixels: by arithmetic and measured; None with a reason in `note` where not measured."""

    expected: tuple[int, int] | None
    measured: tuple[int, int] | None
    agrees: bool
    note: str = ""


def verify(network: nn.Module, input_shape: tuple[int, ...] = (1, 3, 32, 32)) -> Measurement:
    """Measure the field just before global pooling and compare it, unit by unit, with the arithmetic."""
    graph = trace(network, input_shape)
    reception = receptive_field(graph)
    if reception.figure is None or reception.deciding is None:
        return Measurement(None, None, False, "there is no map of limited field to measure")
    source = _before_views(graph, reception.deciding)
    layout = reception.layouts[source.node][source.output]
    wide = sorted(layout.wide) if layout is not None else []
    sizes: list[int] = []
    agrees, notes = True, []
    for side in (0, 1):
        result = measure_axis(network, graph, source, side)
        if isinstance(result, str):
            return Measurement(reception.figure.size, None, False, result)
        expected, measured = result
        if wide and expected != measured and all(map(_holds, measured, expected)):
            note = f"it is also reached through {', '.join(wide[:3])}, which the measurement cannot leave out"
            return Measurement(reception.figure.size, None, False, note)
        agrees &= expected == measured
        sizes.append(max((last - first + 1 for first, last in filter(None, measured)), default=0))
    expected_size = reception.figure.size
    if not reception.figure.exact:
        notes.append("branches with different jumps meet: the field differs from unit to unit")
    elif agrees and tuple(sizes) != expected_size:
        agrees = False
        notes.append("the field depends on the size of the picture")
    return Measurement(expected_size, (sizes[0], sizes[1]), agrees, "; ".join(notes))


def _before_views(graph: Graph, exit_: Exit) -> Ref:
    """The tensor that still has its rows and columns as dimensions, behind flattening, norms and the like."""
    ref = exit_.source
    while graph.nodes[ref.node].refs():
        node = graph.nodes[ref.node]
        if node.op not in VIEWS - {"select", "split", "unbind"} and not _left_out(node):
            break
        ref = node.refs()[0]
    return ref


def _left_out(node: Node) -> bool:
    """Whether a node is a norm that the measuring run leaves out; see _Neutral."""
    norms = ("native_group_norm", "native_layer_norm", "_fused_rms_norm")
    return node.op in norms or ("batch_norm" in node.op and bool(node.args.get("training")))


def _holds(outer: Interval, inner: Interval) -> bool:
    """Whether one field holds another."""
    return inner is None or (outer is not None and outer[0] <= inner[0] and outer[1] >= inner[1])


def measure_axis(
    network: nn.Module, graph: Graph, source: Ref, side: int
) -> tuple[list[Interval], list[Interval]] | str:
    """Fields of neighbouring units of `source` along height (side 0) or width (1): calculated, and measured.

    Returns a sentence instead where the network does not run on a picture large enough for a whole field.
    """
    native = graph.input_shape[2 + side]
    known = receptive_field(graph).layouts[source.node][source.output]
    if known is None:
        return "there is no map to measure"
    root = known.root(2 + side) if len(known.dims) == 4 else None
    if root is None:
        return "its map has no plain rows and columns"
    # The other side stays at its own size: rows and columns are independent, and a strip is quick.
    length = native * math.ceil((root.map.size + 2 * math.ceil(root.map.jump * root.map.period) + 2) / native)
    first = length
    answer: tuple[list[Interval], list[Interval]] | None = None
    while length <= LARGEST:
        answer_here = _measured_at(network, graph, source, side, length)
        if isinstance(answer_here, str):
            return answer if answer is not None else answer_here
        # Cropping followed by padding hides pixels from units that are not far enough from the border: a difference
        # counts only if it stays on a picture several times as large.
        tried = answer is not None
        answer = answer_here or answer
        if answer is not None and (answer[0] == answer[1] or (tried and length > 4 * first)):
            return answer
        length = native * math.ceil(length * 2 / native)
    return (
        answer or f"its field fits into no picture of up to {LARGEST} pixels: it is larger, or grows with the picture"
    )


def _measured_at(
    network: nn.Module, graph: Graph, source: Ref, side: int, length: int
) -> tuple[list[Interval], list[Interval]] | str | None:
    """Calculated and measured fields on a picture of `length` pixels; None where no unit's field fits into it."""
    place = place_of(graph, source.node)
    shape = list(graph.input_shape)
    shape[2 + side] = length
    large = trace(network, tuple(shape))
    found = _find(large, place)
    if found is None:
        return f"it does not run on a picture of {shape[2]}x{shape[3]} ({large.error})"
    layout = receptive_field(large).layouts[found][source.output]
    root = layout.root(2 + side) if layout is not None and len(layout.dims) == 4 else None
    if root is None:
        return "its map has no plain rows and columns"
    units = inner_units(root.map, root.size, length)
    if not units:
        return None
    measured = supports(network, large, Ref(found, source.output), side, units)
    if isinstance(measured, str):
        return measured
    expected = [root.map.at(unit) for unit in units]
    if not any(measured) and any(expected):
        return "its gradient is zero on the measuring picture: a constant inside it shuts an activation"
    return expected, measured


def _find(graph: Graph, place: Any) -> int | None:
    return next(
        (node.index for node in graph.nodes if node.op == place.op and place_of(graph, node.index) == place), None
    )


def inner_units(axis: AxisMap, size: int, length: int) -> list[int]:
    """Neighbouring units from the middle of the map, one period of them, whose fields lie inside the picture."""
    count = min(axis.period, MOST_UNITS)
    starts = sorted(range(size - count + 1), key=lambda start: abs(start + count / 2 - size / 2))
    for start in starts:
        fields = [axis.at(unit) for unit in range(start, start + count)]
        if all(field is None or (field[0] >= 1 and field[1] < length - 1) for field in fields):
            return list(range(start, start + count))
    return []


def supports(network: nn.Module, graph: Graph, source: Ref, side: int, units: list[int]) -> list[Interval] | str:
    """The first and last pixel along `side` that the gradient of each unit reaches, on a picture of graph's size."""
    choosing = any(is_maximum(node) or node.op in ("maximum", "fmax", "minimum", "fmin") for node in graph.nodes)
    copied = make_positive(copy_network(network, graph.input_shape))
    fields: list[Interval] = [None] * len(units)
    for direction in (1, -1) if choosing else (0,):
        picture = _ramp(graph, direction).requires_grad_()
        run = Graph(copied, graph.input_shape)
        with _Neutral():
            watched = run_traced(run, picture, (place_of(graph, source.node), source.output))
        if watched is None:
            return "the measuring run did not reach the same operation" + (f" ({run.error})" if run.error else "")
        if watched.dim() != 4:
            return "its map has no plain rows and columns"
        across = watched.sum(dim=(0, 1, 3 - side))  # all channels and places across: only this axis is asked about
        for number, unit in enumerate(units):
            try:
                (gradient,) = torch.autograd.grad(across[unit], picture, retain_graph=True, allow_unused=True)
            except RuntimeError as error:
                return f"its gradient cannot be taken: {first_line(error)}"
            if gradient is None:
                continue
            reached = gradient.abs().amax(dim=(0, 1, 3 - side)).nonzero().flatten().tolist()
            if reached:
                before = fields[number]
                fields[number] = (
                    min(reached[0], before[0] if before else reached[0]),
                    max(reached[-1], before[1] if before else reached[-1]),
                )
    return fields


def _ramp(graph: Graph, direction: int) -> torch.Tensor:
    """A small positive picture; direction 1: it falls steeply along both axes, -1: it rises, 0: it is even.

    Steep, so that whatever weights two windows have, the one that reaches a pixel further is the larger: each pixel is
    up to 32 times its neighbour. Small, so that what bends (sigmoid, SiLU, clipping at 6) is near its middle, where it
    has a slope. Both within the range of double precision, also where the network squares.
    """
    height, width = graph.input_shape[-2:]
    decades = 120.0 if any(node.op.startswith("pow") for node in graph.nodes) else 250.0
    step = min(math.log10(32.0), decades / (height + width))
    rows = torch.arange(height, dtype=torch.float64)[:, None]
    columns = torch.arange(width, dtype=torch.float64)[None, :]
    if direction < 0:
        rows, columns = height - 1 - rows, width - 1 - columns
    exponents = -step * abs(direction) * (rows + columns)
    return (1e-6 * 10.0**exponents).expand(graph.input_shape).clone()


def make_positive(network: nn.Module) -> nn.Module:
    """Change `network` in place into one whose every path counts positively."""
    network = network.double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                fan = parameter.numel() / parameter.shape[0]
                noise = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_((0.95 + 0.1 * noise) / fan)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.zero_()
            elif name.endswith("running_var"):
                buffer.fill_(1.0)
    return network


_NORMS = {
    F.layer_norm,
    F.group_norm,
    F.instance_norm,
    F.local_response_norm,
    torch.layer_norm,
    torch.group_norm,
    torch.instance_norm,
} | ({F.rms_norm} if hasattr(F, "rms_norm") else set())
_POOLS = {
    F.adaptive_avg_pool2d,
    F.adaptive_max_pool2d,
    F.avg_pool2d,
    F.max_pool2d,
    torch.mean,
    torch.Tensor.mean,
    torch.sum,
    torch.Tensor.sum,
    torch.amax,
    torch.Tensor.amax,
    torch.std,
    torch.Tensor.std,
    torch.var,
    torch.Tensor.var,
}


class _Neutral(TorchFunctionMode):
    """Leaves norms out, and cuts the gradient where a whole map becomes one number (squeeze-excite).

    Both reach the whole map; the field that is measured is the local one.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("input")
        if func in _NORMS:
            return tensor.clone()
        if func is F.batch_norm and (kwargs.get("training") or (len(args) > 5 and args[5])):
            return tensor.clone()
        result = func(*args, **kwargs)
        if (
            func in _POOLS
            and isinstance(tensor, torch.Tensor)
            and tensor.dim() == 4
            and isinstance(result, torch.Tensor)
            and max(tensor.shape[-2:]) > 1
        ):
            single = result.shape[-2:] == (1, 1) if result.dim() == 4 else result.dim() == 2
            kept = result.shape[:2] == tensor.shape[:2]
            return result.detach() if single and kept else result
        return result

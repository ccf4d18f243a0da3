"""What the rules look for in a graph: max-pooling under any name, convolutions by kind, separable pairs, chains."""

from __future__ import annotations

import math
from dataclasses import dataclass

from featherweight.rules.nodes import Constant, Graph, Node, Ref
from featherweight.rules.reader import Layouts
from featherweight.rules.receptive_field import VIEWS, extent

# Pooling layers that choose instead of averaging.
_MAX_POOLS = {
    "max_pool2d_with_indices",
    "max_pool2d",
    "max_pool1d",
    "max_pool1d_with_indices",
    "max_pool3d",
    "max_pool3d_with_indices",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "fractional_max_pool2d",
    "fractional_max_pool3d",
    "mkldnn_max_pool2d",
    "mkldnn_max_pool3d",
    "quantized_max_pool2d",
    "max_unpool2d",
}
# Reductions that choose. Minima too: -min(-x) is a maximum.
_CHOICES = {
    "max",
    "min",
    "amax",
    "amin",
    "aminmax",
    "topk",
    "sort",
    "argmax",
    "argmin",
    "kthvalue",
    "median",
    "nanmedian",
    "mode",
    "cummax",
    "cummin",
}
_PAIRWISE = {"maximum", "minimum", "fmax", "fmin", "max", "min"}


def is_maximum(node: Node) -> bool:
    """Whether an operation chooses among values instead of averaging them."""
    return node.op in _MAX_POOLS or node.op in _CHOICES


def max_pooling(graph: Graph, known: Layouts) -> list[int]:
    """Nodes that choose one of several positions: pooling layers, maxima over rows, columns or windows of them.

    Maxima over channels, and of two branches, are not pooling; maxima of shifted copies of one map are.
    """
    found, live = [], graph.live()
    for node in graph.nodes:
        if node.op in _MAX_POOLS:
            if not _trivial(graph, node):
                found.append(node.index)
        elif node.index not in live:  # `if x.max() > 1`, `assert x.min() >= 0`: looked at, not pooled
            continue
        elif node.op in _PAIRWISE and len(node.refs()) > 1:
            if _shifted_copies(graph, known, node):
                found.append(node.index)
        elif node.op in _CHOICES and _over_positions(graph, known, node):
            found.append(node.index)
    return found


def _trivial(graph: Graph, node: Node) -> bool:
    """A max-pooling with a window of one unit and no stride is nothing at all."""
    kernel, stride = node.args.get("kernel_size"), node.args.get("stride")
    return kernel is not None and set(_list(kernel)) == {1} and set(_list(stride or kernel)) == {1}


def _list(value: int | list[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def _over_positions(graph: Graph, known: Layouts, node: Node) -> bool:
    """Whether a reduction's dimensions hold positions: an axis, a part of one, or the inside of unfolded windows."""
    ref = node.refs()[0]
    layout = known[ref.node][ref.output]
    if layout is None:
        return False
    given = node.args.get("dim", -1 if node.op in ("topk", "sort") else None)
    rank = max(1, len(layout.dims))
    dims = range(len(layout.dims)) if given in (None, []) else [at % rank for at in _list(given)]
    if any(factor.root is not None and factor.size > 1 for at in dims for factor in layout.dims[at]):
        # What comes after the map is over (the class with the highest score) is no pooling of positions.
        return True
    return _unfolded(graph, known, ref, {at for at in dims if math.prod(f.size for f in layout.dims[at]) > 1})


def _unfolded(graph: Graph, known: Layouts, ref: Ref, dims: set[int]) -> bool:
    """Whether dimensions `dims` of a tensor hold the insides of windows that F.unfold or Tensor.unfold cut out."""
    inside = window_dims(graph)
    return bool(dims & inside.get((ref.node, ref.output), set()))


def window_dims(graph: Graph) -> dict[tuple[int, int], set[int]]:
    """For each tensor, the dimensions that hold insides of windows, followed through views and element-wise steps."""
    inside: dict[tuple[int, int], set[int]] = {}
    for node in graph.nodes[1:]:
        refs = node.refs()
        if not refs:
            continue
        ref = refs[0]
        shape, before = graph.shape(ref), inside.get((ref.node, ref.output), set())
        for output, after in enumerate(node.shapes):
            if node.op == "unfold":
                made = before | ({len(after) - 1} if node.args["size"] > 1 else set())
            elif node.op == "im2col":
                made = {len(after) - 2} if math.prod(_list(node.args["kernel_size"])) > 1 else set()
            elif node.op in ("stack", "cat") and _shifted_copies_of(graph, node):
                made = {(node.args.get("dim") or 0) % len(after)}
            elif not before:
                continue
            else:
                made = _moved(graph, node, shape, after, before)
            if made:
                inside[(node.index, output)] = made
    return inside


def _moved(graph: Graph, node: Node, shape: tuple[int, ...], after: tuple[int, ...], before: set[int]) -> set[int]:
    """Where window insides are after one more operation; an empty set when it is not known to keep them."""
    if node.op == "permute":
        return {new for new, old in enumerate(node.args["dims"]) if old % len(shape) in before}
    if node.op == "transpose":
        one, other = node.args["dim0"] % len(shape), node.args["dim1"] % len(shape)
        return {other if at == one else one if at == other else at for at in before}
    if node.op == "unsqueeze":
        at = node.args["dim"] % len(after)
        return {dim + (dim >= at) for dim in before}
    if node.op in VIEWS and shape != after:
        return _through_view(shape, after, before)
    if shape == after:
        return before
    if is_maximum(node) or node.op in ("mean", "sum"):
        gone = sorted(at % len(shape) for at in _list(node.args.get("dim") or 0))
        if len(shape) == len(after):
            return before - set(gone)
        return {at - sum(dim < at for dim in gone) for at in before if at not in gone}
    return set()


def _through_view(shape: tuple[int, ...], after: tuple[int, ...], before: set[int]) -> set[int]:
    """Dimensions of the new shape that share numbers with dimensions `before` of the old one, by their strides.

    Channels of F.unfold come as channel x window; splitting them apart leaves the window in the inner parts, and the
    outermost part is the channel where there is more than one part.
    """

    def spans(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
        strides = [math.prod(sizes[at + 1 :]) for at in range(len(sizes))]
        return [(stride, stride * size) for stride, size in zip(strides, sizes, strict=True)]

    old, new = spans(shape), spans(after)
    made: set[int] = set()
    for at in before:
        low, high = old[at]
        parts = [dim for dim, (start, end) in enumerate(new) if start < high and end > low and start != end]
        made.update(parts[1:] if len(parts) > 1 else parts)
    return made


def _shifted_copies(graph: Graph, known: Layouts, node: Node) -> bool:
    """Whether a maximum of two tensors compares shifted slices of one map."""
    origins = [_origin(graph, ref) for ref in node.refs()]
    maps = []
    for ref in node.refs():
        layout = known[ref.node][ref.output]
        axes = {} if layout is None else layout.axes()
        maps.append({name: root.map for name, root in axes.items()})
    same = origins[0][0] == origins[1][0] and (origins[0][1] or origins[1][1])
    return bool(same) and maps[0] != maps[1]


def _shifted_copies_of(graph: Graph, node: Node) -> bool:
    """Whether a stack holds shifted slices of one map, whose maximum would be a pooling."""
    origins = [_origin(graph, ref) for ref in node.refs()]
    return (
        node.op == "stack"
        and len(origins) > 1
        and len({origin for origin, _ in origins}) == 1
        and any(sliced for _, sliced in origins)
    )


def _origin(graph: Graph, ref: Ref) -> tuple[Ref, bool]:
    """The tensor behind views, slices, shifts and further maxima, and whether any of them cut or moved it."""
    sliced = False
    steps = VIEWS | {"roll", "constant_pad_nd", "maximum", "minimum", "fmax", "fmin", "max", "min"}
    while ref.node:
        node = graph.nodes[ref.node]
        if node.op not in steps or not node.refs():
            break
        sliced |= node.op in ("slice", "roll", "constant_pad_nd", "select", "unbind", "split")
        ref = node.refs()[0]
    return ref, sliced


@dataclass(frozen=True)
class Convolution:
    """One convolution of the graph, (height, width) each."""

    node: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    inputs: int
    outputs: int
    transposed: bool

    @property
    def dilated(self) -> bool:
        """Dilation where there is a kernel to spread: a dilated 1x1 is no dilation."""
        return any(d > 1 and k > 1 for d, k in zip(self.dilation, self.kernel, strict=True))

    @property
    def depthwise(self) -> bool:
        return self.groups == self.inputs > 1 and max(self.kernel) > 1 and not self.transposed


def convolutions(graph: Graph) -> list[Convolution]:
    """Every convolution, in the order they run."""
    found = []
    for node in graph.nodes:
        if node.op.strip("_") != "convolution" or not isinstance(node.args["input"], Ref):
            continue
        weight = node.args["weight"]
        kernel = weight.shape[2:] if isinstance(weight, Constant) else graph.shape(weight)[2:]
        kernel = (1, kernel[0]) if len(kernel) == 1 else (kernel[-2], kernel[-1])
        stride, dilation = node.args["stride"], node.args["dilation"]
        found.append(
            Convolution(
                node.index,
                kernel,
                (stride[0], stride[-1]),
                (dilation[0], dilation[-1]),
                node.args["groups"],
                graph.shape(node.args["input"])[-len(stride) - 1],
                node.shapes[0][-len(stride) - 1],
                node.args["transposed"],
            )
        )
    return found


def longest_chain(graph: Graph, chosen: set[int], within: set[int]) -> list[int]:
    """The most nodes of `chosen` that lie on one path through the nodes `within`, in order."""
    best: dict[int, list[int]] = {}
    for node in graph.nodes:
        if node.index in within:
            before = max((best.get(ref.node, []) for ref in node.refs()), key=len, default=[])
            best[node.index] = [*before, node.index] if node.index in chosen else before
    return max(best.values(), key=len, default=[])


def separable_pairs(graph: Graph, known: Layouts, within: set[int]) -> list[tuple[int, int]]:
    """(depthwise convolution, the 1x1 that mixes its channels), with only norms, activations and the like between,
    and pooling that leaves a map."""
    by_node = {conv.node: conv for conv in convolutions(graph)}
    readers = graph.consumers()
    pairs = []
    for conv in by_node.values():
        if not conv.depthwise or conv.node not in within:
            continue
        waiting, seen = list(readers[conv.node]), set()
        while waiting:
            index = waiting.pop()
            node = graph.nodes[index]
            if index in seen or index not in within:
                continue
            seen.add(index)
            if _mixes(graph, known, node, by_node.get(index)):
                pairs.append((conv.node, index))
                break
            smooths = "avg_pool" in node.op and extent(known[index][0])
            if index not in by_node and (smooths or not _reduces(node)) and not is_maximum(node):
                waiting.extend(readers[index])
    return pairs


def _mixes(graph: Graph, known: Layouts, node: Node, conv: Convolution | None) -> bool:
    """A 1x1 convolution over all channels, or a linear layer that leaves rows and columns alone."""
    if conv is not None:
        return conv.kernel == (1, 1) and conv.groups == 1 and not conv.transposed
    layout = known[node.index][0]
    return (
        node.op in ("mm", "addmm", "bmm", "baddbmm", "linear")
        and layout is not None
        and (layout.roots() == {"h", "w"} and bool(node.constants()))
    )


def _reduces(node: Node) -> bool:
    return node.op in ("mm", "addmm", "bmm", "baddbmm", "linear", "mean", "sum", "_adaptive_avg_pool2d", "avg_pool2d")

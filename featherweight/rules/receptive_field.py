"""The receptive field of every layer, and the one figure that decides: of one unit just before global pooling.

Fields are theoretical and follow the longest path: where branches meet, the field reaches from the first pixel of any
branch to the last pixel of any. Operations that reach the whole map (squeeze-excite, attention, norms over the map)
are named in `wide` and not counted in the figure, for every network with one of them would otherwise pass; a unit whose
*only* way to the picture leads through such an operation has no figure (None).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

from featherweight.rules import axis
from featherweight.rules.layout import Layout
from featherweight.rules.nodes import Graph, Node, Ref
from featherweight.rules.reader import Layouts
from featherweight.rules.spatial import layouts

Pair = tuple[int, int]

AVERAGES = {"avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "mean", "sum", "mkldnn_adaptive_avg_pool2d"}
VIEWS = {
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "flatten",
    "permute",
    "transpose",
    "t",
    "unsqueeze",
    "squeeze",
    "expand",
    "slice",
    "select",
    "alias",
    "clone",
    "contiguous",
    "_to_copy",
    "split",
    "split_with_sizes",
    "unbind",
    "chunk",
    "unfold",
    "lift_fresh",
}


@dataclass(frozen=True)
class Field:
    """The field of a map's units, (height, width) each. size and jump in pixels; offset: centre of the first unit's."""

    size: Pair
    jump: tuple[Fraction, Fraction]
    offset: tuple[Fraction | None, Fraction | None]
    exact: bool = True
    wide: tuple[str, ...] = ()


def field_of(layout: Layout | None) -> Field | None:
    """The field of a tensor's units, or None where it has no rows and columns left."""
    axes = {} if layout is None else layout.axes()
    if layout is None or set(axes) != {"h", "w"}:
        return None
    maps = (axes["h"].map, axes["w"].map)
    return Field(
        (maps[0].size, maps[1].size),
        (maps[0].jump, maps[1].jump),
        (maps[0].offset, maps[1].offset),
        maps[0].exact and maps[1].exact,
        tuple(sorted(layout.wide)),
    )


@dataclass(frozen=True)
class Exit:
    """Where the map ends: the node that turns rows and columns into none (or 1x1), and the map it reads.

    kind: "average" (pooling by mean), "maximum", or "other" (a linear layer over positions, a convolution, a choice of
    one position) or "none" (the output still is a map).
    """

    node: int
    source: Ref
    kind: str


@dataclass
class Reception:
    """The receptive fields of a graph. `figure`: just before global pooling; `with_pooling`: counting it in;
    `deciding`: the exit whose map has that field."""

    graph: Graph
    layouts: Layouts
    exits: list[Exit]
    figure: Field | None
    with_pooling: Pair | None
    wide: list[str] = field(default_factory=list)
    deciding: Exit | None = None

    def of(self, ref: Ref | None) -> Field | None:
        return None if ref is None else field_of(self.layouts[ref.node][ref.output])

    @property
    def number(self) -> int | None:
        """The smaller of height and width of the figure: a rule asks for a field of at least so much both ways."""
        return None if self.figure is None else min(self.figure.size)


def receptive_field(graph: Graph) -> Reception:
    """The receptive fields of a traced network."""
    known = layouts(graph)
    exits = find_exits(graph, known)
    found = [
        (exit_, fld) for exit_ in exits if (fld := field_of(known[exit_.source.node][exit_.source.output])) is not None
    ]
    if not found:
        return Reception(graph, known, exits, None, None, _wide(exits, known))
    deciding, figure = max(found, key=lambda pair: min(pair[1].size))
    return Reception(graph, known, exits, figure, _with_pooling(graph, known, deciding), _wide(exits, known), deciding)


def _wide(exits: list[Exit], known: Layouts) -> list[str]:
    names: set[str] = set()
    for exit_ in exits:
        layout = known[exit_.source.node][exit_.source.output]
        if layout is not None:
            names |= layout.wide
    return sorted(names)


def _with_pooling(graph: Graph, known: Layouts, exit_: Exit) -> Pair | None:
    layout = known[exit_.source.node][exit_.source.output]
    if exit_.kind == "none" or layout is None:
        return None
    axes = layout.axes()
    spans = pooling_window(graph.nodes[exit_.node])
    sizes = [
        axis.window(axes[name].map, spans[side][1] if spans else axes[name].size).size for side, name in enumerate("hw")
    ]
    return sizes[0], sizes[1]


def pooling_window(node: Node) -> tuple[Pair, Pair] | None:
    """(start, length) of a sliding pooling's first window in height and width; None where it takes what there is."""
    if node.op != "avg_pool2d":
        return None
    kernel, padding = _two(node.args["kernel_size"]), _two(node.args.get("padding") or 0)
    return (-padding[0], kernel[0]), (-padding[1], kernel[1])


def _two(value: int | list[int]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def uncovered(graph: Graph, node: int, source: Ref) -> int:
    """How many positions of the map that it reads an average pooling never looks at, or gives more than one answer for.

    0: it is global. A window larger than the map covers it; one that leaves more than one unit does not.
    """
    pool, shape, total = graph.nodes[node], graph.shape(source), positions(graph, source)
    spans = pooling_window(pool)
    if spans is None:
        rest = math.prod(pool.shapes[0][2:]) if "adaptive" in pool.op else 1
        return total - (math.prod(shape[-2:]) if rest == 1 else 0)
    seen = 1
    for (start, length), size in zip(spans, shape[-2:], strict=True):
        seen *= max(0, min(start + length, size) - max(start, 0))
    single = pool.shapes[0][-2:] == (1, 1)
    return total - (seen if single else 0)


def positions(graph: Graph, source: Ref) -> int:
    """Rows x columns of the map behind `source`, before any part of it was sliced off."""
    most = math.prod(graph.shape(source)[-2:])
    while graph.nodes[source.node].op in ("slice", "clone", "alias"):
        source = graph.nodes[source.node].refs()[0]
        most = max(most, math.prod(graph.shape(source)[-2:]))
    return most


def extent(layout: Layout | None) -> bool:
    """Whether a tensor still has more than one position."""
    return layout is not None and any(f.root is not None and f.size > 1 for dim in layout.dims for f in dim)


def find_exits(graph: Graph, known: Layouts) -> list[Exit]:
    """Walk back from the output to the last place where there is a map, through whatever comes after it.

    Maps that are handed out beside the classes' scores (for Grad-CAM, say) are no exits.
    """
    exits: list[Exit] = []
    seen: set[int] = set()
    waiting = [ref for ref in graph.outputs if not extent(known[ref.node][ref.output])] or list(graph.outputs)
    while waiting:
        ref = waiting.pop()
        if extent(known[ref.node][ref.output]):
            exits.append(Exit(ref.node, ref, "none"))
        elif ref.node not in seen and ref.node:
            seen.add(ref.node)
            found = _exit_at(graph, known, graph.nodes[ref.node])
            exits.extend(found)
            if not found:
                waiting.extend(graph.nodes[ref.node].refs())
    return sorted(set(exits), key=lambda exit_: exit_.node)


def _exit_at(graph: Graph, known: Layouts, node: Node) -> list[Exit]:
    """The exits of one node whose output has no extent."""
    maps = [ref for ref in node.refs() if extent(known[ref.node][ref.output])]
    if not maps and node.op in AVERAGES and _single(graph, known, node):
        return [Exit(node.index, node.refs()[0], "average")]  # pooling a map that has shrunk to 1x1 by itself
    if maps and node.op in VIEWS - {"select", "slice"}:
        return []
    return [_exit(graph, known, node, ref) for ref in maps]


def _single(graph: Graph, known: Layouts, node: Node) -> bool:
    """Whether a pooling reads a 1x1 map that no average made."""
    ref = node.refs()[0]
    if field_of(known[ref.node][ref.output]) is None or graph.shape(ref)[-2:] != (1, 1):
        return False
    waiting, seen, averaged = [ref.node], set(), False
    while waiting:
        index = waiting.pop()
        before = graph.nodes[index]
        if index in seen or not index:
            continue
        seen.add(index)
        maps = [r for r in before.refs() if extent(known[r.node][r.output])]
        if "weight" in before.args and math.prod(getattr(before.args["weight"], "shape", ())[2:]) > 1:
            return True  # a layer with a window comes after that average: the network has more to say about the map
        if maps and before.op in AVERAGES:
            averaged = True
            continue
        if not maps:
            waiting.extend(r.node for r in before.refs())
    return not averaged


def _exit(graph: Graph, known: Layouts, node: Node, source: Ref) -> Exit:
    from featherweight.rules.findings import is_maximum

    kind = "average" if node.op in AVERAGES else "maximum" if is_maximum(node) else "other"
    if kind != "other":  # `x.mean(3).mean(2)`: the map is what the first of the two reads
        while True:
            before = graph.nodes[source.node]
            layout = known[source.node][source.output]
            if layout is None or layout.roots() == {"h", "w"} or not (before.op in AVERAGES or before.op in VIEWS):
                break
            source = before.refs()[0]
    return Exit(node.index, source, kind)

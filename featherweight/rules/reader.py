"""One operation of a graph with the layouts of what it reads."""

from __future__ import annotations

from typing import Any

from featherweight.rules.layout import Layout, plain_dim
from featherweight.rules.nodes import Graph, Node, Ref

Layouts = list[list[Layout | None]]


class Reader:
    """One node with the layouts of what it reads."""

    def __init__(self, graph: Graph, node: Node, known: Layouts) -> None:
        self.graph, self.node, self.known = graph, node, known
        self.args = node.args
        self.shape = node.shapes[0]
        self.name = graph.label(node.index)

    def of(self, value: Any) -> Layout | None:
        return self.known[value.node][value.output] if isinstance(value, Ref) else None

    def main(self) -> Layout:
        """The layout of the first picture-dependent argument."""
        for ref in self.node.refs():
            layout = self.of(ref)
            if layout is not None:
                return layout
        raise LookupError(self.node.op)

    def all(self) -> list[Layout]:
        return [layout for layout in map(self.of, self.node.refs()) if layout is not None]

    def pair(self, key: str, default: int = 1) -> tuple[int, int]:
        """An argument given for height and width, once for both, or not at all."""
        value = self.args.get(key)
        value = [default] if value is None or value == [] else [value] if isinstance(value, int) else list(value)
        return value[-2] if len(value) > 1 else value[0], value[-1]


def everywhere(read: Reader) -> Layout:
    """An operation whose result depends on the whole map in a way that is not followed."""
    layouts = read.all()
    pooled = frozenset({read.name}).union(*(layout.pooled for layout in layouts))
    return Layout(tuple(plain_dim(size) for size in read.shape), pooled.union(*(x.wide for x in layouts)), pooled)

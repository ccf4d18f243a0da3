"""The records of a traced network: operations joined by what they read, and the module calls around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Ref:
    """Output number `output` of node number `node`."""

    node: int
    output: int = 0


@dataclass(frozen=True)
class Constant:
    """A tensor that does not depend on the picture. `parameters`: the names of the parameters it was made from."""

    shape: tuple[int, ...]
    parameters: tuple[str, ...] = ()


@dataclass
class Node:
    """One operation. `args` by the operation's own argument names, tensors replaced by Ref or Constant."""

    index: int
    op: str  # torch's own name for it, without name space and overload, e.g. "convolution"
    args: dict[str, Any]
    shapes: list[tuple[int, ...]]  # of its outputs; () for what is not a tensor
    bytes: list[int]  # of its outputs; 0 for a view or an in-place result
    module: str = ""  # path of the innermost module that ran it
    call: int = -1  # that module's call, an index into Graph.calls

    def refs(self) -> list[Ref]:
        """What it reads that depends on the picture."""
        return list(flat(self.args.values(), Ref))

    def constants(self) -> list[Constant]:
        return list(flat(self.args.values(), Constant))

    @property
    def mutates(self) -> bool:
        """Whether it writes over its first argument."""
        return self.op.endswith("_") and not self.op.endswith("__")


@dataclass
class Call:
    """One call of a module (or of functional dropout): nodes first … last-1 ran inside it."""

    index: int
    path: str
    kind: str  # the class's name
    module: nn.Module | None
    parent: int  # the call around it, -1 for none
    first: int
    input: Ref | None
    last: int = -1
    output: Ref | None = None
    leaf: bool = True  # no other module was called inside


@dataclass
class Graph:
    """A traced network. Node 0 is the picture. `error`: what the network raised, if it did not reach its end."""

    network: nn.Module  # the copy that ran
    input_shape: tuple[int, ...]
    nodes: list[Node] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outputs: list[Ref] = field(default_factory=list)
    hidden: dict[str, int] = field(default_factory=dict)  # trainable tensors used but not registered: name → numbers
    error: str | None = None

    def shape(self, ref: Ref) -> tuple[int, ...]:
        return self.nodes[ref.node].shapes[ref.output]

    def consumers(self) -> list[list[int]]:
        """For each node, the nodes that read it."""
        readers: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for ref in {ref.node for ref in node.refs()}:
                readers[ref].append(node.index)
        return readers

    def live(self) -> set[int]:
        """The nodes whose result reaches the output (all, where the network did not reach its end)."""
        if not self.outputs:
            return {node.index for node in self.nodes}
        reached: set[int] = set()
        waiting = [ref.node for ref in self.outputs]
        while waiting:
            index = waiting.pop()
            if index not in reached:
                reached.add(index)
                waiting.extend(ref.node for ref in self.nodes[index].refs())
        return reached

    def label(self, index: int) -> str:
        """A name for people: the module's path, or for a functional call the path of the module it was written in."""
        node = self.nodes[index]
        path = node.module or type(self.network).__name__
        if node.call >= 0 and is_atomic(self.calls[node.call].module):
            return path
        return f"{path}:{node.op.strip('_')}"


def flat(values: Any, kind: type) -> Iterator[Any]:
    for value in values:
        if isinstance(value, kind):
            yield value
        elif isinstance(value, list | tuple):
            yield from flat(value, kind)


def is_atomic(module: nn.Module | None) -> bool:
    """Whether a module is one of torch's own layers, to be shown as one row whatever it runs inside."""
    if module is None:
        return True
    if not type(module).__module__.startswith("torch.nn.modules"):
        return False
    return isinstance(module, nn.MultiheadAttention) or not any(True for _ in module.children())


@dataclass(frozen=True)
class Place:
    """An operation found again in another run of the network: the how-manieth of its name in which module call."""

    call: int
    op: str
    number: int


def place_of(graph: Graph, index: int) -> Place:
    """Where node `index` runs."""
    node = graph.nodes[index]
    same = [other for other in graph.nodes[:index] if (other.call, other.op) == (node.call, node.op)]
    return Place(node.call, node.op, len(same))

"""What each dimension of a tensor has to do with the picture: a channel, rows, columns, or parts and products of them.

A dimension is a list of factors, outermost first. `flatten` makes one dimension of the factors (rows, columns),
splitting rows of 32 into 16 x 2 makes two factors of one root; moving and merging them back gives the rows again.
That is enough to follow reshaped maps exactly: channel shuffles, space-to-depth, attention's tokens, windows cut
out by views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

from featherweight.rules.axis import AxisMap, repeat, union, window


@dataclass(frozen=True)
class Root:
    """A spatial axis of a map: "h" or "w", its number of units, their fields."""

    axis: str
    size: int
    map: AxisMap


@dataclass(frozen=True)
class Factor:
    """`size` steps of `stride` units along `root`; without a root, channels or batch."""

    size: int
    root: Root | None = None
    stride: int = 1

    @property
    def whole(self) -> bool:
        """Whether it is its root's complete axis."""
        return self.root is not None and self.stride == 1 and self.size == self.root.size

    def as_root(self) -> Root | None:
        """A part of an axis as an axis of its own; what the other parts hold is counted in."""
        if self.root is None or self.whole:
            return self.root
        if self.size * self.stride < self.root.size:  # positions within windows: each stands for all windows
            return None
        return Root(self.root.axis, self.size, window(self.root.map, self.stride, self.stride))


Dim = tuple[Factor, ...]


@dataclass(frozen=True)
class Layout:
    """A tensor's dimensions. `wide`: operations on the way that reach the whole map (their names), not in the fields.

    `pooled`: operations that took the map away (global pooling, flattening into a linear layer); meeting a map again
    (squeeze-excite) turns them into `wide`.
    """

    dims: tuple[Dim, ...]
    wide: frozenset[str] = frozenset()
    pooled: frozenset[str] = frozenset()

    def root(self, dim: int) -> Root | None:
        """The axis that dimension `dim` slides along, if it is one axis."""
        return dim_root(self.dims[dim])

    def axes(self) -> dict[str, Root]:
        """Each spatial axis still present, by "h" and "w"; as parts counted together where it is split."""
        found: dict[str, Root] = {}
        for dim in self.dims:
            for factor in dim:
                root = factor.as_root()
                if root is not None and (root.axis not in found or root.size > found[root.axis].size):
                    found[root.axis] = root
        return found

    def roots(self) -> set[str]:
        """The axes any part of which is present."""
        return {factor.root.axis for dim in self.dims for factor in dim if factor.root is not None}

    def sizes(self) -> tuple[int, ...]:
        return tuple(dim_size(dim) for dim in self.dims)

    def with_dims(self, dims: Sequence[Dim]) -> Layout:
        return replace(self, dims=tuple(dims))


def plain_dim(size: int) -> Dim:
    return () if size == 1 else (Factor(size),)


def root_dim(root: Root | None, size: int) -> Dim:
    """One dimension along one axis; an axis of a single unit keeps its field."""
    return plain_dim(size) if root is None else (Factor(size, replace(root, size=size)),)


def dim_size(dim: Dim) -> int:
    return math.prod(factor.size for factor in dim)


def dim_root(dim: Dim) -> Root | None:
    """The axis a dimension slides along; None for channels and for products such as rows x columns."""
    dim = merge([factor for factor in dim if factor.size > 1 or factor.root is not None])
    if not dim:
        return None
    first = dim[0].as_root()
    rest = dim[1:]
    if first is None or any(factor.root is not None for factor in rest):
        if len(dim) > 1 and sum(factor.size > 1 for factor in dim) == 1:  # an axis of one unit beside a real one
            return dim_root(tuple(factor for factor in dim if factor.size > 1))
        return None
    times = dim_size(rest)
    return first if times == 1 else Root(first.axis, first.size * times, repeat(first.map, times))


def merge(factors: Sequence[Factor]) -> Dim:
    """Neighbouring parts of one axis put together again."""
    merged: list[Factor] = []
    for factor in factors:
        last = merged[-1] if merged else None
        if last is not None and last.root is None and factor.root is None:
            merged[-1] = Factor(last.size * factor.size)
        elif (
            last is not None
            and last.root is not None
            and last.root == factor.root
            and (last.stride == factor.size * factor.stride)
        ):
            merged[-1] = Factor(last.size * factor.size, factor.root, factor.stride)
        else:
            merged.append(factor)
    return tuple(merged)


def reshape(dims: Sequence[Dim], shape: Sequence[int]) -> tuple[Dim, ...] | None:
    """The dimensions after a view to `shape`; None where a factor would be cut at no whole part."""
    # An axis of one unit stands in no stream of numbers; it is put into a dimension of one again, in order, below.
    single = [factor for dim in dims for factor in dim if factor.size == 1 and factor.root is not None]
    stream = [factor for dim in dims for factor in dim if factor.size > 1]
    result: list[Dim] = []
    for size in shape:
        dim: list[Factor] = []
        while size > 1:
            if not stream:
                return None
            factor = stream.pop(0)
            if size % factor.size == 0:
                dim.append(factor)
                size //= factor.size
            elif factor.size % size == 0:
                inner = factor.size // size
                dim.append(replace(factor, size=size, stride=factor.stride * inner))
                stream.insert(0, replace(factor, size=inner))
                size = 1
            else:
                return None
        result.append(merge(dim))
    return _place_single(result, single, len(dims))


def _place_single(result: list[Dim], single: list[Factor], rank: int) -> tuple[Dim, ...]:
    """Axes of one unit survive where the shape still has room for them at its end, as after `view(n, c, 1, 1)`."""
    if single and len(result) >= rank:
        at = len(result) - 1
        for factor in reversed(single):
            while at > 1 and result[at]:
                at -= 1
            if at > 1:
                result[at] = (factor,)
                at -= 1
    return tuple(result)


def join(layouts: Sequence[Layout], shape: Sequence[int]) -> Layout:
    """Tensors met element by element under broadcasting: fields are united, whole-map operations handed on."""
    wide: frozenset[str] = frozenset().union(*(layout.wide for layout in layouts))
    pooled: frozenset[str] = frozenset().union(*(layout.pooled for layout in layouts))
    dims: list[Dim] = []
    for back in range(len(shape), 0, -1):
        size = shape[len(shape) - back]
        found = [layout.dims[len(layout.dims) - back] for layout in layouts if len(layout.dims) >= back]
        fitting = [dim for dim in found if dim_size(dim) == size and dim]
        dims.append(reduce(_join_dim, fitting) if fitting else plain_dim(size))
    joined = Layout(tuple(dims), wide, pooled)
    for layout in layouts:  # a pooled vector meets a map
        if layout.pooled and joined.roots() and (not layout.roots() or _spread(layout, shape)):
            joined = replace(joined, wide=joined.wide | layout.pooled)
    return joined


def _spread(layout: Layout, shape: Sequence[int]) -> bool:
    """Whether an axis of one unit is repeated over a longer one."""
    pairs = zip(reversed(layout.dims), reversed(shape), strict=False)
    return any(size > 1 and dim_size(dim) == 1 and any(factor.root for factor in dim) for dim, size in pairs)


def _join_dim(one: Dim, other: Dim) -> Dim:
    if one == other or not any(factor.root for factor in other):
        return one
    if not any(factor.root for factor in one):
        return other
    if len(one) == len(other) and all(a.size == b.size for a, b in zip(one, other, strict=True)):
        return tuple(_join_factor(a, b) for a, b in zip(one, other, strict=True))
    root, second = dim_root(one), dim_root(other)
    if root is not None and second is not None:
        return (Factor(root.size, Root(root.axis, root.size, union(root.map, second.map, root.size))),)
    return one if root is not None or second is None else other


def _join_factor(one: Factor, other: Factor) -> Factor:
    if one.root is None or other.root is None:
        return one if other.root is None else other
    if one.whole and other.whole:
        return Factor(one.size, replace(one.root, map=union(one.root.map, other.root.map, one.size)))
    if one.stride == other.stride and one.root.size == other.root.size:
        return replace(one, root=replace(one.root, map=union(one.root.map, other.root.map, one.root.size)))
    left, right = one.as_root(), other.as_root()
    if left is None or right is None:
        return one if right is None else other
    return Factor(one.size, replace(left, map=union(left.map, right.map, one.size)))

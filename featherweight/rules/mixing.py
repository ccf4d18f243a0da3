"""Operations that sum over dimensions or mix them: reductions, matrix products, attention, norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from featherweight.rules.layout import Dim, Factor, Layout, dim_root, join, plain_dim, root_dim
from featherweight.rules.nodes import Ref
from featherweight.rules.reader import Reader, everywhere


def _reduction(read: Reader) -> Layout:
    layout = read.main()
    rank = len(layout.dims)
    given = read.args.get("dim", read.args.get("dims"))
    given = [given] if isinstance(given, int) else given
    gone = {d % rank for d in given} if given else set(range(rank))
    keep = len(read.shape) == rank
    dims = [() if at in gone else dim for at, dim in enumerate(layout.dims) if keep or at not in gone]
    return lose(read, layout, dims)


def lose(read: Reader, layout: Layout, dims: Sequence[Dim]) -> Layout:
    """The layout after dimensions were summed up. An axis with parts left counts them together (windows)."""
    left = {id(f.root): f.root for dim in dims for f in dim if f.root is not None}
    kept = [tuple(_widened(factor) for factor in dim) for dim in dims]
    gone = any(factor.root is not None and factor.root not in left.values() for dim in layout.dims for factor in dim)
    return Layout(tuple(kept), layout.wide, layout.pooled | ({read.name} if gone else set()))


def _widened(factor: Factor) -> Factor:
    root = factor.as_root()
    return factor if root is None or root is factor.root else Factor(factor.size, root)


def rank_pair(read: Reader) -> Layout | None:
    """max, min, sort …: with a dimension a reduction, with a second tensor element by element."""
    if isinstance(read.args.get("other"), Ref) or len(read.all()) > 1:
        return join(read.all(), read.shape)
    return _reduction(read)


def along(read: Reader) -> Layout:
    """softmax, sort, cumulative sums …: every unit along `dim` depends on all of them."""
    layout = read.main()
    at = read.args.get("dim", -1)
    spatial = at is not None and bool(layout.dims) and any(factor.root for factor in layout.dims[at])
    return replace(layout, wide=layout.wide | {read.name}) if spatial else layout


def fourier(read: Reader) -> Layout:
    """Fourier transforms: along `dim` every number depends on all units, and there may be another number of them."""
    layout = read.main()
    at = {dim % len(layout.dims) for dim in read.args["dim"]}
    dims = [root_dim(dim_root(dim), read.shape[i]) if i in at else dim for i, dim in enumerate(layout.dims)]
    spatial = any(factor.root for i in at for factor in layout.dims[i])
    return replace(layout.with_dims(dims), wide=layout.wide | ({read.name} if spatial else set()))


def product(read: Reader) -> Layout:
    """Matrix products: out[…, n, m] = sum over k of one[…, n, k] · other[…, k, m]."""
    names = {
        "mm": ("self", "mat2"),
        "bmm": ("self", "mat2"),
        "mv": ("self", "vec"),
        "addmm": ("mat1", "mat2"),
        "baddbmm": ("batch1", "batch2"),
        "linear": ("input", "weight"),
        "_int_mm": ("self", "mat2"),
    }
    one_key, other_key = names[read.node.op.rstrip("_")]
    one, other = read.of(read.args[one_key]), read.of(read.args[other_key])
    rank = len(read.shape)
    dims: list[Dim] = [plain_dim(size) for size in read.shape]
    summed: list[Dim] = []
    if one is not None:
        summed.append(one.dims[-1])
        dims[: len(one.dims) - 1] = one.dims[:-1]
    if other is not None and read.node.op != "linear":
        summed.append(other.dims[-2])
        dims[-1] = other.dims[-1]
        for at in range(rank - 2):
            if not dims[at] or not any(f.root for f in dims[at]):
                dims[at] = other.dims[at]
    layouts = [layout for layout in (*[one], other, read.of(read.args.get("self"))) if layout is not None]
    wide: frozenset[str] = frozenset().union(*(layout.wide for layout in layouts))
    pooled: frozenset[str] = frozenset().union(*(layout.pooled for layout in layouts))
    roots = [factor.root for dim in dims for factor in dim if factor.root is not None]
    if any(factor.root is not None for dim in summed for factor in dim):
        pooled = pooled | {read.name}
        wide = wide | {read.name} if roots else wide
    elif one is not None and other is not None and roots and pooled:
        wide = wide | pooled  # dynamic weights made from the whole map
    return Layout(tuple(dims), wide, pooled)


def attention(read: Reader) -> Layout | None:
    query, key, value = (read.of(read.args[name]) for name in ("query", "key", "value"))
    base = query or value
    if base is None:
        return everywhere(read)
    mixes = any(factor.root for layout in (key, value) if layout for factor in layout.dims[-2])
    dims = (*base.dims[:-1], plain_dim(read.shape[-1]))
    layouts = [layout for layout in (query, key, value) if layout is not None]
    wide = frozenset({read.name} if mixes else set()).union(*(layout.wide for layout in layouts))
    return Layout(dims, wide, base.pooled)


def norm(read: Reader) -> Layout:
    """Norms whose statistics span the map reach all of it; by convention the field counts the local path only."""
    op, layout = read.node.op, read.main()
    spans = "group_norm" in op
    if "batch_norm" in op:
        spans = bool(read.args.get("training") or read.args.get("use_input_stats"))
    if op in ("native_layer_norm", "_fused_rms_norm"):
        shape = read.args.get("normalized_shape") or []
        spans = any(factor.root for dim in layout.dims[len(layout.dims) - len(shape) :] for factor in dim)
    spans = spans and bool(layout.roots())
    return replace(layout, wide=layout.wide | {f"{read.name} (statistics over the map)"}) if spans else layout

"""Operations that move, cut and join parts of tensors without computing anything."""

from __future__ import annotations

from dataclasses import replace

from featherweight.rules import axis
from featherweight.rules.layout import Dim, Layout, dim_root, dim_size, join, plain_dim, reshape, root_dim
from featherweight.rules.nodes import Ref
from featherweight.rules.reader import Reader, everywhere
from featherweight.rules.windows import slide


def view(read: Reader) -> Layout:
    layout = read.main()
    dims = reshape(layout.dims, read.shape)
    return everywhere(read) if dims is None else layout.with_dims(dims)


def permute(read: Reader) -> Layout:
    layout = read.main()
    return layout.with_dims([layout.dims[dim] for dim in read.args["dims"]])


def transpose(read: Reader) -> Layout:
    layout = read.main()
    dims = list(layout.dims)
    one, other = read.args.get("dim0", 0), read.args.get("dim1", -1)
    if len(dims) > 1:
        dims[one], dims[other] = dims[other], dims[one]
    return layout.with_dims(dims)


def unsqueeze(read: Reader) -> Layout:
    layout = read.main()
    dims = list(layout.dims)
    at = read.args["dim"]
    dims.insert(at if at >= 0 else at + len(dims) + 1, ())
    return layout.with_dims(dims)


def squeeze(read: Reader) -> Layout:
    layout = read.main()
    given = read.args.get("dim")
    rank = len(layout.dims)
    wanted = range(rank) if given is None else [d % rank for d in ([given] if isinstance(given, int) else given)]
    return layout.with_dims([dim for at, dim in enumerate(layout.dims) if at not in wanted or dim_size(dim) != 1])


def expand(read: Reader) -> Layout:
    layout = read.main()
    dims: list[Dim] = [()] * (len(read.shape) - len(layout.dims)) + list(layout.dims)
    return layout.with_dims(
        [dim if dim_size(dim) == size else plain_dim(size) for dim, size in zip(dims, read.shape, strict=True)]
    )


def tile(read: Reader) -> Layout:
    layout = expand(read)
    lost = any(factor.root for dim in read.main().dims for factor in dim if factor.size > 1) and not layout.roots()
    return everywhere(read) if lost else layout


def take_slice(read: Reader) -> Layout:
    layout, args = read.main(), read.args
    at = args.get("dim", 0) % len(layout.dims)
    start, size = args.get("start") or 0, dim_size(layout.dims[at])
    start = max(0, start + size) if start < 0 else min(start, size)
    return _cut(layout, at, start, read.shape[at], args.get("step") or 1)


def _cut(layout: Layout, at: int, start: int, size: int, step: int = 1) -> Layout:
    dims = list(layout.dims)
    if size != dim_size(dims[at]) or start or step != 1:
        dims[at] = slide(dims[at], -start, size, step)
    return layout.with_dims(dims)


def select(read: Reader) -> Layout:
    layout = read.main()
    at = read.args["dim"] % len(layout.dims)
    lost = {read.name} if any(factor.root for factor in layout.dims[at]) else set()
    return replace(layout, dims=layout.dims[:at] + layout.dims[at + 1 :], pooled=layout.pooled | lost)


def split(read: Reader, output: int) -> Layout:
    layout = read.main()
    at = (read.args.get("dim") or 0) % len(layout.dims)
    if read.node.op == "unbind":
        lost = {read.name} if any(factor.root for factor in layout.dims[at]) else set()
        return replace(layout, dims=layout.dims[:at] + layout.dims[at + 1 :], pooled=layout.pooled | lost)
    start = sum(shape[at] for shape in read.node.shapes[:output])
    return _cut(layout, at, start, read.shape[at])


def cat(read: Reader) -> Layout:
    tensors = read.args["tensors"]
    if read.node.op == "stack":
        at = read.args["dim"] % len(read.shape)
        shape = [size for dim, size in enumerate(read.shape) if dim != at]
        made = join(read.all(), shape)
        return made.with_dims([*made.dims[:at], plain_dim(len(tensors)), *made.dims[at:]])
    at = (read.args.get("dim") or 0) % len(read.shape)
    sizes = [(read.graph.shape(t) if isinstance(t, Ref) else t.shape) for t in tensors]
    parts = [(read.of(t), sum(size[at] for size in sizes[:i] if len(size) > at)) for i, t in enumerate(tensors)]
    present = [(layout, start) for layout, start in parts if layout is not None and layout.dims]
    moved = []
    for layout, start in present:
        dims = list(layout.dims)
        if any(factor.root for factor in dims[at]):
            biggest = max(dim_size(other.dims[at]) for other, _ in present)
            if dim_size(dims[at]) < biggest:  # a rim glued on, as in circular padding: not followed
                continue
            dims[at] = slide(dims[at], start, read.shape[at], 1)
        else:
            dims[at] = plain_dim(read.shape[at])
        moved.append(layout.with_dims(dims))
    return join(moved, read.shape)


def copy(read: Reader) -> Layout | None:
    source = read.of(read.args["src"])
    return None if source is None else join([source], read.shape)


def write_view(read: Reader) -> Layout:
    """A tensor after a part of it was written: what it was, united with what was written where it was written."""
    old, new = read.of(read.args["self"]), read.of(read.args["source"])
    how = read.args["how"]
    if new is None:
        return old if old is not None else everywhere(read)
    if read.args["view"] == "slice":
        at = how.get("dim", 0) % len(read.shape)
        start, step = how.get("start") or 0, how.get("step") or 1
        start = max(0, start + read.shape[at]) if start < 0 else start
        dims = list(new.dims)
        root = dim_root(dims[at])
        if root is not None:
            if old is not None and root.size < read.shape[at] // 2 and step == 1:
                return old  # a rim written round a map that is already there
            made = axis.transposed(root.map, 1, step, -start)
            dims[at] = root_dim(replace(root, map=made), read.shape[at])
        else:
            dims[at] = plain_dim(read.shape[at])
        new = new.with_dims(dims)
    elif read.args["view"] == "select" and not any(f.root for f in (old.dims[how["dim"]] if old else ())):
        at = how["dim"] % len(read.shape)
        new = new.with_dims([*new.dims[:at], plain_dim(read.shape[at]), *new.dims[at:]])
    elif new.sizes() != read.shape:
        dims = reshape(new.dims, read.shape)
        new = everywhere(read) if dims is None else new.with_dims(dims)
    return join([layout for layout in (old, new) if layout is not None], read.shape)


def index(read: Reader) -> Layout:
    """Indexing by numbers: along channels nothing changes, along an axis it is not followed."""
    layout, args = read.main(), read.args
    picked = (
        [args["dim"] % len(layout.dims)]
        if isinstance(args.get("dim"), int)
        else [at for at, index in enumerate(args.get("indices") or []) if index is not None]
    )
    if (
        not picked
        or len(read.shape) != len(layout.dims)
        or any(factor.root for at in picked for factor in layout.dims[at])
    ):
        return everywhere(read)
    return layout.with_dims([plain_dim(read.shape[at]) if at in picked else dim for at, dim in enumerate(layout.dims)])

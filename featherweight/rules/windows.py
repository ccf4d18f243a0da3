"""Operations that slide windows over a map: convolution, pooling, interpolation, padding, unfolding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from featherweight.rules import axis
from featherweight.rules.layout import Dim, Factor, Layout, Root, dim_root, dim_size, plain_dim, root_dim
from featherweight.rules.nodes import Ref
from featherweight.rules.reader import Reader, everywhere


def sides(read: Reader, layout: Layout, make: Callable[[Root, int, int], axis.AxisMap]) -> Layout:
    """Replace the last two dimensions by what `make(root, side, new size)` says; side 0 is height, 1 width."""
    shape = read.shape
    lead = len(shape) - 2
    dims: list[Dim] = list(layout.dims[:lead])
    dims += [plain_dim(1)] * (lead - len(dims))
    if dim_size(dims[-1]) != shape[lead - 1]:
        dims[-1] = plain_dim(shape[lead - 1])
    wide, pooled = layout.wide, layout.pooled
    for side in (0, 1):
        dim, size = layout.dims[lead + side], shape[lead + side]
        root = dim_root(dim)
        if root is None and any(factor.root for factor in dim):
            wide = wide | {read.name}
        dims.append(root_dim(None if root is None else replace(root, map=make(root, side, size)), size))
    return Layout(tuple(dims), wide, pooled)


def convolution(read: Reader) -> Layout:
    layout = read.of(read.args["input"])
    if layout is None:
        return everywhere(read)
    kernel = read.args["weight"]
    shape = kernel.shape if not isinstance(kernel, Ref) else read.graph.shape(kernel)
    if len(shape) == 3:  # one-dimensional, along the last dimension
        kernels = (1, shape[-1])
        if layout.root(1) is not None or (layout.root(2) is None and any(f.root for f in layout.dims[2])):
            return everywhere(read)
    else:
        kernels = (shape[-2], shape[-1])
    stride, padding, dilation = read.pair("stride"), read.pair("padding", 0), read.pair("dilation")
    move = axis.transposed if read.args["transposed"] else axis.window
    if len(shape) == 3:
        root = layout.root(2)
        made = (
            None if root is None else replace(root, map=move(root.map, kernels[1], stride[1], padding[1], dilation[1]))
        )
        return layout.with_dims((layout.dims[0], plain_dim(read.shape[1]), root_dim(made, read.shape[2])))
    layout = layout.with_dims((layout.dims[0], plain_dim(read.shape[1]), *layout.dims[2:]))
    return sides(
        read,
        layout,
        lambda root, side, size: move(root.map, kernels[side], stride[side], padding[side], dilation[side]),
    )


def pooling(read: Reader) -> Layout:
    kernel, padding, dilation = read.pair("kernel_size"), read.pair("padding", 0), read.pair("dilation")
    stride = read.pair("stride") if read.args.get("stride") else kernel
    made = sides(
        read,
        read.main(),
        lambda root, side, size: axis.window(root.map, kernel[side], stride[side], padding[side], dilation[side]),
    )
    return _named_if_single(read, made)


def adaptive_pooling(read: Reader) -> Layout:
    made = sides(read, read.main(), lambda root, side, size: axis.adaptive(root.map, root.size, size))
    return _named_if_single(read, made)


def fractional_pooling(read: Reader) -> Layout:
    kernel = read.pair("kernel_size")

    def make(root: Root, side: int, size: int) -> axis.AxisMap:  # the places are drawn at random around this ratio
        step = Fraction(root.size - kernel[side], max(1, size - 1))
        made = root.map.gather(
            step.denominator, step.numerator, lambda i: range(int(i * step // 1), int(i * step // 1) + kernel[side])
        )
        return replace(made, exact=False)

    return sides(read, read.main(), make)


def _named_if_single(read: Reader, layout: Layout) -> Layout:
    """A pooling to 1x1: if it is multiplied onto a map again (squeeze-excite) it is reported by its name."""
    single = len(read.shape) > 2 and read.shape[-2:] == (1, 1)
    return replace(layout, pooled=layout.pooled | {read.name}) if single else layout


def interpolation(reach: int) -> Callable[[Reader], Layout]:
    def act(read: Reader) -> Layout:
        layout, args = read.main(), read.args
        scales = args.get("scale_factors") or [args.get("scales_h"), args.get("scales_w")]
        if "scales" in args or len(read.shape) != 4 or "aa" in read.node.op:
            return everywhere(read)
        if layout.pooled and layout.sizes()[-2:] == (1, 1):  # a pooled vector spread over a map
            return Layout((*layout.dims[:2], *(plain_dim(size) for size in read.shape[2:])), layout.wide, layout.pooled)
        corners = bool(args.get("align_corners"))

        def make(root: Root, side: int, size: int) -> axis.AxisMap:
            if corners:
                ratio = Fraction(root.size - 1, max(1, size - 1))
            elif scales[side]:
                ratio = 1 / Fraction(float(scales[side] or 1.0)).limit_denominator(1000)
            else:
                ratio = Fraction(root.size, size)
            return axis.interpolate(root.map, ratio, reach, corners)

        return sides(read, layout, make)

    return act


def pad(read: Reader) -> Layout:
    layout, pad = read.main(), list(read.args.get("pad") or read.args.get("padding") or [])
    dims = list(layout.dims)
    for back in range(len(pad) // 2):
        dim = len(dims) - 1 - back
        dims[dim] = slide(dims[dim], pad[2 * back], read.shape[dim], 1)
    return layout.with_dims(dims)


def slide(dim: Dim, before: int, size: int, step: int) -> Dim:
    """A dimension with `before` units put before it (negative: cut away), then every `step`-th taken, `size` in all"""
    root = dim_root(dim)
    if root is None:
        return plain_dim(size) if not any(f.root for f in dim) or size != dim_size(dim) else dim
    return root_dim(replace(root, map=axis.window(root.map, 1, step, before)), size)


def unfold(read: Reader) -> Layout:
    """Tensor.unfold: windows of `size` every `step` along one dimension, their insides in a new last one."""
    layout, at = read.main(), read.args["dimension"] % len(read.main().dims)
    size, step = read.args["size"], read.args["step"]
    root = layout.root(at)
    dims = list(layout.dims)
    if root is None:
        dims[at] = plain_dim(read.shape[at])
        return layout.with_dims([*dims, plain_dim(size)])
    if size == step and size * read.shape[at] == root.size:  # windows side by side: a plain split
        dims[at] = (Factor(read.shape[at], root, step),)
        return layout.with_dims([*dims, (Factor(size, root),)])
    dims[at] = root_dim(replace(root, map=axis.window(root.map, size, step)), read.shape[at])
    return layout.with_dims([*dims, plain_dim(size)])


def im2col(read: Reader) -> Layout:
    """F.unfold: the windows' insides join the channels, their places become one dimension of rows x columns."""
    layout = read.main()
    kernel, dilation = read.pair("kernel_size"), read.pair("dilation")
    padding, stride = read.pair("padding", 0), read.pair("stride")
    places: list[Factor] = []
    for side, dim in enumerate(layout.dims[-2:]):
        root, length = dim_root(dim), dim_size(dim)
        size = (length + 2 * padding[side] - dilation[side] * (kernel[side] - 1) - 1) // stride[side] + 1
        made = (
            None
            if root is None
            else Root(root.axis, size, axis.window(root.map, kernel[side], stride[side], padding[side], dilation[side]))
        )
        places.append(Factor(size, made))
    return layout.with_dims([*layout.dims[:-3], plain_dim(read.shape[-2]), tuple(places)])


def pixel_shuffle(read: Reader) -> Layout:
    factor = read.args["upscale_factor"]
    layout = read.main()
    layout = layout.with_dims((*layout.dims[:-3], plain_dim(read.shape[-3]), *layout.dims[-2:]))
    return sides(read, layout, lambda root, side, size: axis.repeat(root.map, factor))


def pixel_unshuffle(read: Reader) -> Layout:
    factor = read.args["downscale_factor"]
    layout = read.main()
    layout = layout.with_dims((*layout.dims[:-3], plain_dim(read.shape[-3]), *layout.dims[-2:]))
    return sides(read, layout, lambda root, side, size: axis.window(root.map, factor, factor))


def roll(read: Reader) -> Layout:
    """Rolled round: inside the map a shift; the few units that wrap round are taken as if the map went on."""
    layout = read.main()
    dims = list(layout.dims)
    for shift, at in zip(read.args["shifts"], read.args["dims"], strict=False):
        size = dim_size(dims[at])
        dims[at] = slide(dims[at], shift if shift <= size // 2 else shift - size, size, 1)
    return layout.with_dims(dims) if read.args["dims"] else everywhere(read)

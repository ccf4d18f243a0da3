"""What each operation does to the layout of a tensor: the arithmetic of receptive fields, operation by operation.

Operations are torch's own reduced set (aten), as the tracer records them. One that is not listed here and keeps the
shape acts element by element; one that is not listed and changes it is reported as reaching the whole map: never
guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from featherweight.rules import axis
from featherweight.rules.layout import Layout, Root, join, plain_dim, root_dim
from featherweight.rules.mixing import along, attention, fourier, norm, product, rank_pair
from featherweight.rules.nodes import Graph
from featherweight.rules.reader import Layouts, Reader, everywhere
from featherweight.rules.shaping import (
    cat,
    copy,
    expand,
    index,
    permute,
    select,
    split,
    squeeze,
    take_slice,
    tile,
    transpose,
    unsqueeze,
    view,
    write_view,
)
from featherweight.rules.windows import (
    adaptive_pooling,
    convolution,
    fractional_pooling,
    im2col,
    interpolation,
    pad,
    pixel_shuffle,
    pixel_unshuffle,
    pooling,
    roll,
    unfold,
)


def layouts(graph: Graph) -> Layouts:
    """The layout of every output of every node; the picture is [N, C, H, W]. None for outputs that hold no map."""
    batch, channels, *sides = graph.input_shape
    axes = [Root(name, size, axis.identity()) for name, size in zip("hw", sides, strict=False)]
    known: Layouts = [[Layout((plain_dim(batch), plain_dim(channels), *(root_dim(root, root.size) for root in axes)))]]
    for node in graph.nodes[1:]:
        known.append(_layouts_of(Reader(graph, node, known)))
    return known


def _layouts_of(read: Reader) -> list[Layout | None]:
    node = read.node
    if not read.all():
        return [None for _ in node.shapes]
    results: list[Layout | None] = []
    for output, shape in enumerate(node.shapes):
        read.shape = shape
        layout = _one_layout(read, output)
        if layout is not None and layout.sizes() != shape:
            layout = everywhere(read)
        results.append(layout)
    return results


def _one_layout(read: Reader, output: int) -> Layout | None:
    op = read.node.op if read.node.op in OPERATIONS else read.node.op.rstrip("_")
    if op in MANY_OUTPUTS:
        return MANY_OUTPUTS[op](read, output)
    if op in OPERATIONS and (output == 0 or op in _REDUCTIONS):
        return OPERATIONS[op](read)
    layouts = read.all()
    if op.startswith(("grid_sampler", "affine_grid")):
        return everywhere(read)
    if any(layout.sizes() == read.shape for layout in layouts) or _broadcasts(layouts, read.shape):
        return join(layouts, read.shape)
    return everywhere(read) if output == 0 else None


def _broadcasts(layouts: Sequence[Layout], shape: Sequence[int]) -> bool:
    return all(
        len(layout.dims) <= len(shape)
        and all(have in (1, want) for have, want in zip(reversed(layout.sizes()), reversed(shape), strict=False))
        for layout in layouts
    )


_REDUCTIONS = {
    "max",
    "min",
    "mean",
    "sum",
    "amax",
    "amin",
    "prod",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "norm",
    "linalg_vector_norm",
    "logsumexp",
    "any",
    "all",
    "argmax",
    "argmin",
    "median",
    "nanmedian",
    "mode",
    "kthvalue",
    "aminmax",
    "nansum",
    "count_nonzero",
}


OPERATIONS: dict[str, Callable[[Reader], Layout | None]] = {
    "convolution": convolution,
    "_convolution": convolution,
    **dict.fromkeys(["avg_pool2d", "max_pool2d_with_indices", "max_pool2d", "mkldnn_max_pool2d"], pooling),
    **dict.fromkeys(
        ["_adaptive_avg_pool2d", "adaptive_avg_pool2d", "mkldnn_adaptive_avg_pool2d", "adaptive_max_pool2d"],
        adaptive_pooling,
    ),
    "fractional_max_pool2d": fractional_pooling,
    "upsample_nearest2d": interpolation(0),
    "_upsample_nearest_exact2d": everywhere,
    "upsample_bilinear2d": interpolation(1),
    "upsample_bicubic2d": interpolation(2),
    **dict.fromkeys(
        ["constant_pad_nd", "reflection_pad2d", "replication_pad2d", "reflection_pad1d", "replication_pad1d"], pad
    ),
    **dict.fromkeys(["view", "_unsafe_view", "reshape", "_reshape_alias", "flatten"], view),
    "permute": permute,
    "transpose": transpose,
    "t": transpose,
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "expand": expand,
    "repeat": tile,
    "slice": take_slice,
    "select": select,
    "unfold": unfold,
    "im2col": im2col,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "roll": roll,
    "cat": cat,
    "stack": cat,
    "copy": copy,
    "write_view": write_view,
    **dict.fromkeys(_REDUCTIONS, rank_pair),
    **dict.fromkeys(
        [
            "_softmax",
            "_log_softmax",
            "softmax",
            "log_softmax",
            "cumsum",
            "cumprod",
            "logcumsumexp",
            "sort",
            "argsort",
            "flip",
            "cummax",
            "cummin",
        ],
        along,
    ),
    **dict.fromkeys(["_fft_r2c", "_fft_c2r", "_fft_c2c"], fourier),
    **dict.fromkeys(["mm", "bmm", "mv", "addmm", "baddbmm", "linear", "_int_mm"], product),
    **dict.fromkeys(
        [
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_attention_math",
            "_scaled_dot_product_fused_attention_overrideable",
        ],
        attention,
    ),
    **dict.fromkeys(
        [
            "native_batch_norm",
            "_native_batch_norm_legit",
            "cudnn_batch_norm",
            "batch_norm",
            "native_group_norm",
            "native_layer_norm",
            "_fused_rms_norm",
        ],
        norm,
    ),
    **dict.fromkeys(["index", "index_select"], index),
}


MANY_OUTPUTS: dict[str, Callable[[Reader, int], Layout]] = dict.fromkeys(
    ["split", "split_with_sizes", "chunk", "unbind", "unsafe_split", "unsafe_chunk", "tensor_split"], split
)

"""Batch norms in an ONNX graph, folded into the convolution that follows.

torch's exporter folds a norm into the convolution before it. Where an activation stands between (convolution, ReLU,
norm, as in the first text's network) the norm can go forward instead: it is a line a·x + b for each channel, and so is
what a convolution takes from it, provided that the convolution pads nothing, since its zeros come after the norm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto


def fold_norms_forward(model: ModelProto) -> int:
    """Fold, in place, every norm whose one user is a convolution without padding; how many there were."""
    from onnx import numpy_helper

    graph, folded = model.graph, 0
    constants = {one.name: one for one in graph.initializer}
    outputs = {one.name for one in graph.output}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        users = [node for node in graph.node if norm.output[0] in node.input]
        known = all(name in constants for name in norm.input[1:])
        if not known or norm.output[0] in outputs or len(users) != 1 or not _takes(users[0], norm.output[0], constants):
            continue
        (conv,) = users
        scale, shift, mean, variance = (_array(constants[name]) for name in norm.input[1:])
        epsilon = next((one.f for one in norm.attribute if one.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(variance + epsilon)
        groups = next((one.i for one in conv.attribute if one.name == "group"), 1)
        weight = _array(constants[conv.input[1]])
        bias = _array(constants[conv.input[2]]) if len(conv.input) > 2 else np.zeros(len(weight))
        weight, bias = folded_line(weight, bias, factor, shift - mean * factor, groups)
        names = [f"{norm.output[0]}_{part}" for part in ("weight", "bias")]
        for name, values in zip(names, (weight, bias), strict=True):
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        del conv.input[:]
        conv.input.extend([norm.input[0], *names])
        graph.node.remove(norm)
        folded += 1
    used = {name for node in graph.node for name in node.input}
    for name, constant in constants.items():
        if name not in used:
            graph.initializer.remove(constant)
    return folded


def folded_line(
    weight: np.ndarray, bias: np.ndarray, factor: np.ndarray, offset: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weight [O, I/groups, kh, kw] and bias [O] of the convolution that takes x [I channels] where the given one took
    factor [I] · x + offset [I]."""
    outputs, inputs = weight.shape[:2]
    first = np.arange(outputs) // (outputs // groups) * inputs  # of each output's input channels
    channels = first[:, None] + np.arange(inputs)
    return (
        weight * factor[channels][:, :, None, None],
        bias + (weight * offset[channels][:, :, None, None]).sum((1, 2, 3)),
    )


def _takes(node: NodeProto, name: str, constants: dict[str, TensorProto]) -> bool:
    """Whether `node` is a convolution of `name` with constant weights, and pads nothing."""
    if node.op_type != "Conv" or node.input[0] != name or any(one not in constants for one in node.input[1:]):
        return False
    set_to = {one.name: one for one in node.attribute}
    pads = not any(set_to["pads"].ints) if "pads" in set_to else True
    return pads and ("auto_pad" not in set_to or set_to["auto_pad"].s in (b"NOTSET", b"VALID"))


def _array(constant: TensorProto) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(constant).astype(np.float64)

"""A norm folded into the convolution after it: the same line, where nothing is padded, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from featherweight.ship.onnx_fold import fold_norms_forward, folded_line

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed: exports were not tested")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed: exports were not tested")


@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(4, 6, 1), (4, 6, 2), (6, 6, 6), (3, 9, 3)])
def test_the_folded_line_is_the_norm_and_the_convolution(inputs: int, outputs: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(groups)
    x = torch.randn(2, inputs, 7, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(outputs, inputs // groups, 3, 2, generator=generator, dtype=torch.float64)
    bias, factor, offset = (
        torch.randn(count, generator=generator, dtype=torch.float64) for count in (outputs, inputs, inputs)
    )
    right = F.conv2d(x * factor[:, None, None] + offset[:, None, None], weight, bias, groups=groups)
    kernel, line = folded_line(weight.numpy(), bias.numpy(), factor.numpy(), offset.numpy(), groups)
    found = F.conv2d(x, torch.from_numpy(kernel), torch.from_numpy(line), groups=groups)
    torch.testing.assert_close(found, right)


def graph(*, pads: int, twice: bool = False, shown: bool = False):  # type: ignore[no-untyped-def]
    """ReLU → norm → convolution; `twice`: the norm has a second user; `shown`: it is an output of the graph."""
    helper, numpy_helper, floats = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
    generator = np.random.default_rng(0)
    shapes = {"scale": (4,), "shift": (4,), "mean": (4,), "variance": (4,), "weight": (5, 4, 3, 3)}
    values = {name: generator.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node(
            "BatchNormalization", ["r", "scale", "shift", "mean", "variance"], ["n"], epsilon=1e-3
        ),
        helper.make_node("Conv", ["n", "weight"], ["y"], pads=[pads] * 4),
    ]  # fmt: skip
    outputs = {"y": [2, 5, 4 + 2 * pads, 4 + 2 * pads]}
    if twice:
        nodes.append(helper.make_node("Neg", ["n"], ["z"]))
        outputs["z"] = [2, 4, 6, 6]
    if shown:
        outputs["n"] = [2, 4, 6, 6]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", floats, [2, 4, 6, 6])],
        [helper.make_tensor_value_info(name, floats, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def outputs(model) -> list[np.ndarray]:  # type: ignore[no-untyped-def]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.random.default_rng(1).normal(size=(2, 4, 6, 6)).astype(np.float32)})


def test_a_norm_goes_forward_where_nothing_is_padded() -> None:
    model = graph(pads=0)
    right = outputs(model)
    assert fold_norms_forward(model) == 1
    assert [node.op_type for node in model.graph.node] == ["Relu", "Conv"]
    assert len(model.graph.initializer) == 2  # the folded weight and bias; what is used no more is gone
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(outputs(model)[0], right[0], rtol=1e-5, atol=1e-5)


def test_the_first_texts_network_keeps_the_one_norm_before_padding() -> None:
    from test_onnx_forms import card_of, random_network

    from featherweight.ship.onnx_forms import to_onnx

    kinds = [
        node.op_type
        for node in onnx.load_from_string(
            to_onnx(random_network("separable_100k"), card_of("separable_100k"))
        ).graph.node
    ]
    assert kinds.count("BatchNormalization") == 1
    assert kinds.count("Conv") == 21


@pytest.mark.parametrize("options", [{"pads": 1}, {"pads": 0, "twice": True}, {"pads": 0, "shown": True}])
def test_it_stays_where_it_would_be_missed(options: dict) -> None:
    model = graph(**options)
    assert fold_norms_forward(model) == 0
    assert model.SerializeToString() == graph(**options).SerializeToString()

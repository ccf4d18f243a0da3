"""A trained network as ONNX: raw pixels in, probabilities out, in float32 or with 8-bit weights and activations.

Input `pixels`, uint8 [batch, S, S, 3]: red, green, blue from 0 to 255, as picture libraries hold them (NHWC), so
nothing is left to be got wrong outside. Output `probabilities`, float32 [batch, C]. Normalisation and softmax are
inside; the batch is any number. The metadata says `name`, `form`, `classes` and `card`, the last two as JSON.
"""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from featherweight.ship.onnx_fold import fold_norms_forward
from featherweight.utils import UserError
from featherweight.weights import Card

if TYPE_CHECKING:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader

OPSET = 20  # with the exporter's IR version, 10: onnxruntime from 1.18 on
CALIBRATION_IMAGES = 1000
# The layers whose inputs and weights become 8 bits wide; pooling and softmax stay in float32, where they cost nothing.
QUANTISED = ("Conv", "Gemm", "MatMul", "Add", "Relu")


def require_packages() -> None:
    """UserError unless the extra `onnx` is installed."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {', '.join(missing)}: pip install {' '.join(missing)}")


class _FromPixels(nn.Module):
    """uint8 [N, S, S, 3] → probabilities [N, C]: the network between its normalisation and the softmax."""

    scale: torch.Tensor
    bias: torch.Tensor

    def __init__(self, network: nn.Module, card: Card) -> None:
        super().__init__()
        self.network = network
        std, mean = torch.tensor(card.std, dtype=torch.float64), torch.tensor(card.mean, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * std)).float())  # (x / 255 - mean) / std as one line,
        self.register_buffer("bias", (-mean / std).float())  # not folded into the convolution: its padding is zeros

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = pixels.float() * self.scale + self.bias
        return self.network(x.permute(0, 3, 1, 2)).float().softmax(1)  # of log-probabilities: the same again


def to_onnx(network: nn.Module, card: Card) -> bytes:
    """`network` in float32 as an ONNX file's bytes. The network is left as it is; its batch norms are folded into the
    convolution before or after them where that changes nothing but rounding. Raises UserError where the extra `onnx` is
    not installed."""
    require_packages()
    module = _FromPixels(copy.deepcopy(network).cpu(), card).eval()
    side = card.input_size
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)  # of two: a batch of one would be taken for a constant
    with _quiet():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["pixels"],
            output_names=["probabilities"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
        )
    assert program is not None  # of dynamo=True; None is the older exporter's
    model = program.model_proto
    fold_norms_forward(model)
    return _finish(model, card, "fp32")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the two remarks torch's exporter makes on itself: on torchvision's absence and on its own pytrees."""

    def said(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    registration.addFilter(said)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        registration.removeFilter(said)


def to_int8(model: bytes, images: np.ndarray, card: Card) -> bytes:
    """The float32 `model` with weights and activations of 8 bits, calibrated on `images` (uint8 [N, S, S, 3]), which
    should be training pictures.

    Static quantisation (Jacob et al. 2017, arXiv:1712.05877), one scale per output channel of each weight, min-max
    calibration. The weights use 7 of their 8 bits: processors without VNNI add two products in 16 bits, where
    2 · 255 · 63 = 32,130 stays below 32,767; with all 8 bits such a sum could be cut off there and not here. Raises
    ValueError without images, UserError where the extra `onnx` is not installed.
    """
    require_packages()
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not len(images):
        raise ValueError("int8 needs pictures to be calibrated on")
    with tempfile.TemporaryDirectory() as folder, _without_advice():
        plain, prepared, result = (Path(folder, name) for name in ("plain.onnx", "prepared.onnx", "int8.onnx"))
        plain.write_bytes(model)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        nodes = list(onnx.load(prepared).graph.node)
        before = next(index for index, node in enumerate(nodes) if node.op_type == "Conv")
        quantization.quantize_static(
            str(prepared),
            str(result),
            _reader(images),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_exclude=[node.name for node in nodes[:before]],  # the normalisation
        )
        return _finish(onnx.load(result), card, "int8")


@contextmanager
def _without_advice() -> Iterator[None]:
    """Without onnxruntime's advice, given at every quantisation, to prepare the model, which is done."""

    def said(record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(said)
    try:
        yield
    finally:
        root.removeFilter(said)


def _reader(images: np.ndarray) -> CalibrationDataReader:
    """Calibration pictures as onnxruntime asks for them: a hundred at a time, then None."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter([images[start : start + 100] for start in range(0, len(images), 100)])

        def get_next(self) -> dict[str, Any] | None:  # type: ignore[override] - None is how it ends
            batch = next(self._batches, None)
            return None if batch is None else {"pixels": batch}

    return Reader()


def _finish(model: onnx.ModelProto, card: Card, form: str) -> bytes:
    """The model's bytes, without what the exporter noted of this machine (paths, stack traces), with the card."""
    import onnx

    graph = model.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]
    graph.name, model.doc_string = card.name, ""
    model.producer_name, model.producer_version = "featherweight", _version()
    onnx.helper.set_model_props(
        model,
        {
            "name": card.name,
            "form": form,
            "classes": json.dumps(list(card.classes), ensure_ascii=False),
            "card": json.dumps(card.to_dict(), ensure_ascii=False),
        },
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("featherweight")
    except PackageNotFoundError:
        return ""

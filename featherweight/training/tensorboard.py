"""A run for TensorBoard: figures of each epoch, sample pictures, the network's graph.

The package tensorboard is an extra and imported only when a log is opened. The graph is built from the traced network
of `rules`, not by torch's own `add_graph`: that runs the network in its present mode, which moves the batch norms'
statistics and torch's random state, and rests on torch.jit, which is on its way out.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from featherweight.rules.graph import trace
from featherweight.rules.layers import summarise
from featherweight.utils import UserError

# A training run's figures → the charts they share in TensorBoard.
TAGS = {
    "train_loss": "loss/training",
    "val_loss": "loss/validation",
    "train_accuracy": "accuracy/training",
    "val_accuracy": "accuracy/validation",
    "lr": "schedule/learning rate",
    "images_per_second": "speed/pictures per second",
    "seconds": "speed/seconds per epoch",
}
MOST_PICTURES = 64


class TensorBoardLog:
    """Event files in a folder, for `tensorboard --logdir FOLDER`.

    with TensorBoardLog(run / "tensorboard") as log:
        log.graph(network, example)
        log.pictures(batch, step=0, mean=mean, std=std)
        log.epoch(figures, step=figures["epoch"] + 1)
    """

    def __init__(self, folder: Path | str, *, first_step: int = 0) -> None:
        """first_step: for a run that is carried on, the first step that will be logged anew: what an interrupted
        sitting left of it and of later ones is hidden. Raises UserError where tensorboard is not installed or the
        folder cannot be written."""
        self.folder = Path(folder)
        writer = _writer_class()
        with self._telling():
            self._writer = writer(str(self.folder), purge_step=first_step or None)

    def epoch(self, figures: Mapping[str, Any], step: int) -> None:
        """Every number in `figures` as a scalar; those of a training run side by side in shared charts.

        What is no number (text, None, true and false) is left out, the counter "epoch" too, for it is the axis.
        """
        with self._telling():
            for name, value in figures.items():
                if name != "epoch" and isinstance(value, int | float) and not isinstance(value, bool):
                    self._writer.add_scalar(TAGS.get(name, name), float(value), step)
            self._writer.flush()

    def pictures(
        self,
        batch: torch.Tensor,
        step: int,
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        tag: str = "pictures",
    ) -> None:
        """The first pictures of a batch (64 at most) as one sheet.

        batch: uint8 [N, H, W, 3] as held in memory, or floating-point [N, 3, H, W] normalised by `mean` and `std` (by
        default: values in 0 … 1). Raises ValueError for anything else.
        """
        sheet = _sheet(_to_bytes(batch[:MOST_PICTURES], mean, std))
        with self._telling():
            self._writer.add_image(tag, sheet.numpy(), step, dataformats="HWC")
            self._writer.flush()

    def graph(self, network: nn.Module, example: torch.Tensor) -> None:
        """The network's layers and how they are joined. example: pictures [N, C, H, W]; only their shape is used.

        A copy of the network runs once on the CPU: the network itself and torch's random state stay as they are.
        """
        definition = graph_definition(network, tuple(example.shape))
        with self._telling():
            self._writer.file_writer.add_event(_protocol().Event(graph_def=definition.SerializeToString()))
            self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the files."""
        with self._telling():
            self._writer.close()

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _telling(self) -> Any:
        """A full disk or a folder that cannot be written becomes one line."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write TensorBoard's files in {self.folder}: {error.strerror or error}; "
                "free some space, choose another folder, or leave --tensorboard out"
            ) from error


def _writer_class() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own imports warn of things that are not ours to mend
            from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "TensorBoard's files need the package tensorboard, which is not installed; run pip install "
            "tensorboard, or leave --tensorboard out"
        ) from error
    return SummaryWriter


def graph_definition(network: nn.Module, input_shape: tuple[int, ...]) -> Any:
    """The network's layer table as a GraphDef: a node for each row, named by its module's path, with its shape.

    Needs tensorboard. Raises UserError when the network does not run on pictures of this shape [N, C, H, W].
    """
    proto = _protocol()

    def attributes(shape: Sequence[int], **told: Any) -> dict[str, Any]:
        sizes = proto.Shape(dim=[proto.Shape.Dim(size=size) for size in (-1, *shape)])  # -1: any batch
        found = {"_output_shapes": proto.Value(list=proto.Value.ListValue(shape=[sizes]))}
        return found | {key: proto.Value(s=str(value).encode()) for key, value in told.items() if value is not None}

    graph = trace(network, input_shape)
    if graph.error:
        raise UserError(f"the network does not run on pictures of {list(input_shape)}: {graph.error}")
    rows = summarise(graph).layers
    names = _node_names([row.name for row in rows])
    nodes = [proto.Node(name="picture", op="Input", attr=attributes(input_shape[1:]))]
    for row, name in zip(rows, names, strict=True):
        told = {
            "parameters": row.parameters,
            "multiply_adds": row.multiply_adds,
            "kernel": row.kernel,
            "stride": row.stride,
            "dilation": row.dilation,
            "groups": row.groups,
        }
        read = [names[index] for index in row.inputs]
        if not read or any(ref.node == 0 for index in row.nodes for ref in graph.nodes[index].refs()):
            read = ["picture", *read]
        nodes.append(proto.Node(name=name, op=row.kind, input=read, attr=attributes(row.output_shape, **told)))
    last = [names[index] for index in _unread(rows)]
    nodes.append(proto.Node(name="scores", op="Output", input=last, attr=attributes(graph.shape(graph.outputs[0])[1:])))
    return proto.Graph(node=nodes, versions=proto.Versions(producer=22))


def _protocol() -> Any:
    """TensorBoard's own message types. (They are made at import time, where no type checker sees them.)"""
    from importlib import import_module
    from types import SimpleNamespace

    kinds = {
        "Event": ("event_pb2", "Event"),
        "Value": ("attr_value_pb2", "AttrValue"),
        "Graph": ("graph_pb2", "GraphDef"),
        "Node": ("node_def_pb2", "NodeDef"),
        "Shape": ("tensor_shape_pb2", "TensorShapeProto"),
        "Versions": ("versions_pb2", "VersionDef"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {
            name: getattr(import_module(f"tensorboard.compat.proto.{module}"), kind)
            for name, (module, kind) in kinds.items()
        }
    return SimpleNamespace(**found)


def _node_names(paths: Sequence[str]) -> list[str]:
    """Module paths as TensorBoard's names, which nest at slashes; a second use of one gets a number."""
    names: list[str] = []
    for path in paths:
        name = path.replace(".", "/").replace(":", "/")
        number, tried = 1, name
        while tried in names or any(other.startswith(f"{tried}/") for other in names):  # a scope is no node
            number += 1
            tried = f"{name}_{number}"
        names.append(tried)
    return names


def _unread(rows: Sequence[Any]) -> list[int]:
    """The rows that no other row reads: what the output is made of."""
    read = {index for row in rows for index in row.inputs}
    return [number for number in range(len(rows)) if number not in read]


def _to_bytes(batch: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Pictures as uint8 [N, H, W, 3] on the CPU."""
    if batch.ndim == 4 and len(batch) and batch.dtype == torch.uint8 and batch.shape[3] == 3:
        return batch.detach().cpu()
    if batch.ndim == 4 and len(batch) and batch.is_floating_point() and batch.shape[1] == 3:
        values = batch.detach().cpu().double().permute(0, 2, 3, 1)
        pixels = values * torch.tensor(std, dtype=torch.float64) + torch.tensor(mean, dtype=torch.float64)
        return (pixels.nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8)
    raise ValueError(
        f"pictures must be uint8 [N, H, W, 3] or floating-point [N, 3, H, W], not {batch.dtype} {list(batch.shape)}"
    )


def _sheet(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures [N, H, W, 3] side by side on one sheet, about as many across as down, with white lines between."""
    count, height, width, _ = pictures.shape
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    sheet = torch.full((down * (height + 1) - 1, across * (width + 1) - 1, 3), 255, dtype=torch.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // across * (height + 1), number % across * (width + 1)
        sheet[top : top + height, left : left + width] = picture
    return sheet

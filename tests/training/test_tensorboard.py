"""What TensorBoard's own reader finds in the files: scalars, pictures, graph."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from featherweight import models
from featherweight.training.tensorboard import TensorBoardLog, graph_definition
from featherweight.utils import UserError

pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")


def read(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        reader = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
        reader.Reload()
    return reader


def test_scalars(tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path / "log") as log:
        for epoch in range(3):
            figures = {
                "epoch": epoch,
                "train_loss": 2.0 - epoch,
                "val_accuracy": 0.25 * epoch,
                "note": "text",
                "own": 7,
            }
            log.epoch({**figures, "none": None, "flag": True}, step=epoch + 1)
    reader = read(tmp_path / "log")
    assert sorted(reader.Tags()["scalars"]) == ["accuracy/validation", "loss/training", "own"]
    loss = reader.Scalars("loss/training")
    assert [(event.step, event.value) for event in loss] == [(1, 2.0), (2, 1.0), (3, 0.0)]
    assert [event.value for event in reader.Scalars("own")] == [7.0] * 3


def test_figures_are_there_while_the_run_goes_on(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path)
    log.epoch({"train_loss": 1.5}, step=1)
    assert read(tmp_path).Scalars("loss/training")[0].value == 1.5
    log.close()


def test_a_run_that_is_carried_on_hides_what_it_does_again(tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path) as log:
        for step in (1, 2, 3):
            log.epoch({"lr": 1.0}, step=step)
    with TensorBoardLog(tmp_path, first_step=3) as log:
        log.epoch({"lr": 2.0}, step=3)
    events = read(tmp_path).Scalars("schedule/learning rate")
    assert [(event.step, event.value) for event in events] == [(1, 1.0), (2, 1.0), (3, 2.0)]


@pytest.mark.parametrize("kind", ["bytes", "normalised"])
def test_pictures_come_back_pixel_by_pixel(kind: str, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (5, 6, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    batch = images
    if kind == "normalised":
        batch = ((images.double() / 255 - torch.tensor(mean)) / torch.tensor(std)).float().permute(0, 3, 1, 2)
    with TensorBoardLog(tmp_path) as log:
        log.pictures(batch, 4, mean=mean, std=std)
    (event,) = read(tmp_path).Images("pictures")
    assert event.step == 4
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        sheet = np.asarray(image.convert("RGB"))
    assert sheet.shape == (2 * 7 - 1, 3 * 8 - 1, 3)
    for number in range(5):
        top, left = number // 3 * 7, number % 3 * 8
        assert np.array_equal(sheet[top : top + 6, left : left + 7], images[number].numpy())
    assert (sheet[6] == 255).all()


def test_other_tensors_are_no_pictures(tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path) as log:
        for batch in (torch.zeros(2, 3, 4), torch.zeros(2, 1, 4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.int64)):
            with pytest.raises(ValueError, match="pictures must be"):
                log.pictures(batch, 0)


def test_the_graph_is_the_layer_table(tmp_path: Path) -> None:
    network = models.build("feather_quick").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    with TensorBoardLog(tmp_path) as log:
        log.graph(network, torch.zeros(2, 3, 32, 32))
    assert network.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    nodes = {node.name: node for node in read(tmp_path).Graph().node}
    assert len(nodes) == len(read(tmp_path).Graph().node)  # names are unique
    convolutions = [node for node in nodes.values() if node.op == "Conv2d"]
    assert len(convolutions) == sum(isinstance(module, nn.Conv2d) for module in network.modules())
    name, convolution = next(pair for pair in network.named_modules() if isinstance(pair[1], nn.Conv2d))
    first = nodes[name.replace(".", "/")]
    assert list(first.input) == ["picture"]
    _, *shape = convolution(torch.zeros(1, 3, 32, 32)).shape
    assert [dim.size for dim in first.attr["_output_shapes"].list.shape[0].dim] == [-1, *shape]
    assert int(first.attr["parameters"].s) == 3 * shape[0] * 9
    assert sum(int(node.attr["parameters"].s) for node in nodes.values() if "parameters" in node.attr) == 176_746
    assert all(name in nodes for node in nodes.values() for name in node.input)
    reached, waiting = set(), ["scores"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += nodes[name].input
    assert "picture" in reached
    assert reached == set(nodes)


class Twice(nn.Module):
    """One layer used twice, and the picture read again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.conv(self.conv(x)) + x).mean(dim=(2, 3))


def test_a_layer_used_twice_has_two_nodes() -> None:
    nodes = {node.name: list(node.input) for node in graph_definition(Twice(), (1, 3, 8, 8)).node}
    assert nodes["conv"] == ["picture"]
    assert nodes["conv_2"] == ["conv"]
    joined = next(inputs for name, inputs in nodes.items() if "add" in name)
    assert sorted(joined) == ["conv_2", "picture"]


def test_a_network_that_does_not_run_is_one_line(tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path) as log, pytest.raises(UserError, match="does not run on pictures"):
        log.graph(nn.Conv2d(5, 3, 3), torch.zeros(1, 3, 8, 8))


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"pip install tensorboard,"):
        TensorBoardLog(tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write TensorBoard's files"):
        TensorBoardLog(tmp_path / "file")


def test_no_warnings_in_a_fresh_process(tmp_path: Path) -> None:
    code = (
        "import torch; from featherweight.training.tensorboard import TensorBoardLog\n"
        f"with TensorBoardLog({str(tmp_path)!r}) as log:\n"
        "    log.epoch({'lr': 1.0}, 1); log.pictures(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), 1)\n"
        "    log.graph(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3)), torch.zeros(1, 3, 8, 8))\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""

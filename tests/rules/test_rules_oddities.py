"""Networks with something odd about them that is no slip, and folders with odd files: judged all the same."""

from __future__ import annotations

import csv
import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from featherweight.cli import main
from featherweight.rules.graph import trace
from featherweight.rules.load import targets_of
from featherweight.rules.oracle import verify
from featherweight.rules.receptive_field import receptive_field
from featherweight.rules.stranger import run_file, summary
from featherweight.utils import UserError

HOMEWORK = Path(__file__).resolve().parent.parent / "homework" / "networks"


class Headed(nn.Module):
    """A stem, `middle` on its map, global average pooling, a linear head."""

    def __init__(self, middle: Callable[[torch.Tensor], torch.Tensor], stem: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = stem or nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)
        self.middle: Callable[[torch.Tensor], torch.Tensor] = middle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle(self.stem(x)).mean((2, 3)))


def test_lazy_batch_norm_is_given_its_buffers() -> None:
    stem = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.LazyConv2d(8, 3, stride=2))
    network = Headed(nn.Identity(), stem)
    result = summary(network, (1, 3, 32, 32), True)
    assert (result["receptive_field"], result["verify"]["measured"]) == (5, 5)
    assert result["parameters"] == (3 * 9 * 8 + 8) + 16 + (8 * 9 * 8 + 8) + 90
    assert isinstance(stem[1].running_mean, nn.parameter.UninitializedBuffer)  # the network itself is left as it was


def test_what_cannot_be_copied_is_shared() -> None:
    network = Headed(nn.Identity())
    lock, counted = threading.Lock(), (n for n in range(3))
    network.lock, network.batches, network._hidden = lock, counted, [lock]  # type: ignore[assignment]
    network.register_forward_hook(lambda module, inputs, output: None)
    assert summary(network, (1, 3, 32, 32))["receptive_field"] == 3
    assert network.lock is lock
    assert next(counted) == 0


@dataclass
class Scores:
    logits: torch.Tensor
    note: str = ""


class Wrapped(Headed):
    def forward(self, x: torch.Tensor) -> Scores:  # type: ignore[override]
        return Scores(super().forward(x))


class Tracked(Headed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(super().forward(x).detach().numpy().copy())


class Counted(Headed):
    def forward(self, x: torch.Tensor) -> int:  # type: ignore[override]
        return 3


class OnGpu(Headed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("Torch not compiled with CUDA enabled")


def test_a_dataclass_is_an_output() -> None:
    assert summary(Wrapped(nn.Identity()), (1, 3, 32, 32), True)["verify"]["measured"] == 3


@pytest.mark.parametrize(("kind", "told"), [(Tracked, "numpy"), (Counted, "is a int"), (OnGpu, ".to(device)")])
def test_what_is_wrong_with_an_output_is_told(kind: type[Headed], told: str) -> None:
    with pytest.raises(UserError, match="does not run on a picture of 3x32x32") as caught:
        summary(kind(nn.Identity()), (1, 3, 32, 32))
    assert told in str(caught.value)
    assert "--input-size" not in str(caught.value)


def test_double_precision_by_default() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        network = Headed(lambda x: x + torch.zeros(1))
        assert summary(network, (1, 3, 32, 32), True)["verify"]["measured"] == 3
    finally:
        torch.set_default_dtype(torch.float32)


NORMS = [
    nn.GroupNorm(2, 8),
    nn.InstanceNorm2d(8, affine=True),
    nn.BatchNorm2d(8, track_running_stats=False),
    lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2),
]


@pytest.mark.parametrize("norm", NORMS, ids=["group", "instance", "batch", "layer"])
def test_the_field_before_a_last_norm_is_measured(norm: Callable[[torch.Tensor], torch.Tensor]) -> None:
    result = verify(Headed(norm))
    assert (result.expected, result.measured, result.agrees) == ((3, 3), (3, 3), True)


MIXERS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda x: x.cumsum(2),
    lambda x: x + torch.fft.irfft2(torch.fft.rfft2(x) * 2, s=x.shape[-2:]),
]


@pytest.mark.parametrize("mixer", MIXERS, ids=["cumulative", "fourier"])
def test_what_reaches_the_whole_map_is_named_and_no_disagreement(mixer: Callable[[torch.Tensor], torch.Tensor]) -> None:
    network = Headed(mixer)
    reception = receptive_field(trace(network))
    assert reception.number == 3
    assert reception.wide
    assert [exit_.kind for exit_ in reception.exits] == ["average"]
    result = verify(network)
    assert result.agrees or (result.measured is None and "also reached through" in result.note)


def test_the_summary_says_of_which_map_the_field_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", str(HOMEWORK / "slip_flattened.py")]) == 0
    assert "which is no global pooling" in capsys.readouterr().out
    assert main(["summary", "feather_quick"]) == 0
    assert "pixels just before global pooling (" in capsys.readouterr().out


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "nets_of_mine"
    folder.mkdir()
    (folder / "parts_of_mine.py").write_text("WIDTH = 8\n")
    lines = ["import parts_of_mine", "from .parts_of_mine import WIDTH", "from nets_of_mine import parts_of_mine as p"]
    (folder / "net.py").write_text("\n".join([*lines, "found = (parts_of_mine.WIDTH, WIDTH, p.WIDTH)"]))
    assert run_file(folder / "net.py").found == (8, 8, 8)


def test_odd_file_names_take_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (b"line\nend.py", b"no\xfftext.py", b"with space.py"):
        shutil.copy(HOMEWORK / "sound_dilated.py", tmp_path / os.fsdecode(name))
    assert main(["check", str(tmp_path), "--csv", str(tmp_path / "out.csv")]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["PASS"] * 3
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 3


def test_a_file_that_deletes_the_folder_one_is_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(HOMEWORK / "sound_dilated.py", here / "a.py")
    (here / "b.py").write_text(f"import shutil\nshutil.rmtree({str(here)!r})\n")
    shutil.copy(HOMEWORK / "sound_dilated.py", here / "c.py")
    monkeypatch.chdir(here)
    assert main(["check", "."]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["PASS", "ERROR", "ERROR"]
    assert "it cannot be read: No such file or directory" in lines[2]


def test_a_whole_disk_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featherweight.rules.load.MOST_FILES", 3)
    (tmp_path / "venv" / "site-packages").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "venv" / "site-packages" / f"{number}.py").write_text("")
    for number in range(3):
        (tmp_path / f"{number}.py").write_text("")
    assert len(targets_of(str(tmp_path))) == 3
    ran = tmp_path / "ran"
    (tmp_path / "more.py").write_text(f"open({str(ran)!r}, 'w')")
    assert main(["check", str(tmp_path)]) == 2
    assert "holds 4 .py files, and checking it would run every one" in capsys.readouterr().err
    assert not ran.exists()

"""tools/publish.py: what it publishes, and that it refuses before it writes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from featherweight import config
from featherweight.utils import UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, publishing into a folder of the test's own, where older files lie."""
    spec = importlib.util.spec_from_file_location("publish", ROOT / "tools" / "publish.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    for name in ("results/feather_quick.json", "weights/feather_quick.json", "weights/feather_quick.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("older")
    older = json.loads((ROOT / "results" / "feather_quick.json").read_text()) | {"commit": "older"}
    (tmp_path / "results" / "feather_quick.json").write_text(json.dumps(older))
    return module


def make_run(folder: Path, **changes: Any) -> Path:
    """A finished run as its folder holds it; changes: of its record."""
    folder.mkdir()
    for suffix in ("json", "safetensors"):
        shutil.copy(ROOT / "weights" / f"feather_quick.{suffix}", folder / f"model.{suffix}")
    record = json.loads((ROOT / "results" / "feather_quick.json").read_text())
    (folder / "result.json").write_text(json.dumps(record | changes))
    return folder


def test_the_record_and_seed_0s_weights_are_published(program: ModuleType, tmp_path: Path) -> None:
    assert program.publish(make_run(tmp_path / "run")) == "feather_quick"
    for name in ("results/feather_quick.json", "weights/feather_quick.json", "weights/feather_quick.safetensors"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipe": "feather_quick+epochs=5"}, "is no recipe"),
        ({"commit": "abc+changes"}, "uncommitted code"),
        ({"commit": ""}, "uncommitted code"),
        ({"selection": "first epoch with a validation accuracy of 0.8, or the last"}, "was selected"),
        ({"test_images": 9_000}, "not on all"),
        ({"config": {"epochs": 5}}, "is not that of the recipe"),
        ({"config": {"dropout": False}}, "its dropout is not that of the recipe"),
        ({"device": "cuda NVIDIA H200"}, "is of a cpu, the run of a cuda"),
        ({"extras": {"carried_on": [{"epoch": 2, "step": 0, "changed": {}}]}}, "carried on otherwise"),
        ({"extras": {"test_pictures_among_training": 3}}, "3 of its test pictures were trained on"),
        ({"weights_sha256": "0" * 64}, "is not what the record was written for"),
        ({"weights_sha256": "0" * 64, "seed": 1, "config": {"seed": 1}}, "is not what the record was written for"),
    ],
)
def test_what_is_refused_leaves_what_was_there(
    program: ModuleType, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    run = make_run(tmp_path / "run")
    record = json.loads((run / "result.json").read_text())
    changes = changes | {"config": record["config"] | changes.get("config", {})}
    (run / "result.json").write_text(json.dumps(record | changes))
    with pytest.raises(UserError, match=words):
        program.publish(run)
    files = [path for place in ("results", "weights") for path in (tmp_path / place).iterdir()]
    assert len(files) == 3
    assert all("older" in path.read_text() for path in files)


def test_large_weights_are_refused_before_older_ones_are_replaced(program: ModuleType, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "model.safetensors").write_bytes(bytes(1_000_000))
    record = json.loads((run / "result.json").read_text())
    digest = hashlib.sha256(bytes(1_000_000)).hexdigest()
    (run / "result.json").write_text(json.dumps(record | {"weights_sha256": digest}))
    with pytest.raises(UserError, match="1 MB or more"):
        program.publish(run)
    assert (tmp_path / "weights" / "feather_quick.safetensors").read_text() == "older"


def test_of_the_teacher_the_record_alone(program: ModuleType, tmp_path: Path) -> None:
    settings = config.to_dict(config.resolve("teacher", {}))
    run = make_run(tmp_path / "run", recipe="teacher", model="teacher", config=settings)
    assert program.publish(run) == "teacher"
    assert json.loads((tmp_path / "results" / "teacher.json").read_text())["weights"] == ""
    assert not (tmp_path / "weights" / "teacher.safetensors").exists()


def test_a_run_that_is_none_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "publish.py"), str(tmp_path / "nosuch")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)

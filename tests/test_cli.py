"""The command's manners: quick help, one-line complaints, exit codes."""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from featherweight import cli

ROOT = Path(__file__).resolve().parent.parent


def featherweight(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "featherweight", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_help_is_quick_and_does_not_import_torch() -> None:
    code = "import sys; from featherweight.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    assert min(_processor_seconds("--help") for _ in range(3)) < 0.5


def _processor_seconds(*arguments: str) -> float:
    """Of the command alone, so that a busy machine does not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    featherweight(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["trian"],
        ["train", "--nonsense"],
        ["train", "--recipe", "no_such"],
        ["train", "--epochs", "many"],
        ["train", "--set", "epochs"],
        ["train", "--model", "resnet50"],
        ["train", "--device", "tpu", "--dataset", "digits"],
        ["train", "--device", "cpu:x", "--dataset", "digits"],
        ["predict", "feather_quick", "x.png", "--csv", "/dev/null/x.csv"],
        ["check", "feather_quick", "--csv", "/dev/null/x.csv"],
        ["train", "--resume", "--out", "no/such/run"],
        ["eval", "no/such/weights.safetensors"],
        ["summary", "no_such_network"],
        ["check", "no/such/file.py:Net"],
        ["train", "--recipe", 300 * "x" + ".toml"],
        ["check", "feather_quick", "--csv", 300 * "x"],
        ["export", "feather_quick", "--out", "\udcff.onnx"],
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(arguments: list[str], tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = featherweight(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_failure_that_no_command_foresaw_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from featherweight.commands import models

    def locked(args: object) -> int:
        raise PermissionError(13, "Permission denied", "/locked/x.json")

    monkeypatch.setattr(models, "run", locked)
    assert cli.main(["models"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "featherweight models: '/locked/x.json': Permission denied; check the path, who may read and write it, and "
        "the disk"
    ]


@pytest.mark.parametrize(("left", "usable"), [(None, False), ("exit 1", False), ("exit 0", True)])
def test_an_environment_without_pip_is_made_anew(tmp_path: Path, left: str | None, usable: bool) -> None:
    spec = importlib.util.spec_from_file_location("setup_venv", ROOT / "tools" / "setup_venv.py")
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    python = tmp_path / "python"
    if left is not None:
        python.write_text(f"#!/bin/sh\n{left}\n")
        python.chmod(0o755)
    assert program._has_pip(python) == usable


def test_output_that_is_not_utf8_costs_a_question_mark() -> None:
    command = [sys.executable, "-m", "featherweight", "summary", "feather_200k"]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"?" in done.stdout


def test_every_command_is_there_and_has_its_help() -> None:
    for name in cli.COMMANDS:
        done = featherweight(name, "--help")
        assert done.returncode == 0, done.stderr
        assert "--json" in done.stdout or name == "serve", f"{name} reports nothing as JSON"

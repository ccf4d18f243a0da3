"""The command's manners: quick help, one-line complaints, exit codes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from featherweight import cli


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

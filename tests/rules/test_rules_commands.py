"""The commands from outside: exit codes, JSON, strangers' files that misbehave, rule sets as data."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from featherweight.cli import main
from featherweight.rules.load import Sandbox, targets_of
from featherweight.rules.rulesets import load_rule_set, rule_set_names
from featherweight.utils import UserError

HOMEWORK = Path(__file__).resolve().parent.parent / "homework"
SOUND = (HOMEWORK / "networks" / "sound_strided.py").read_text()

# file → its content, and a part of the one line that it must give
STRANGERS = {
    "raises": ("raise ValueError('no luck')", "ValueError: no luck"),
    "hangs": ("while True: pass", "time limit"),
    "forks": ("import os, time\nos.fork()\nwhile True: time.sleep(1)", "time limit"),
    "eats": ("import torch\nkept = [torch.ones(1 << 26) for _ in range(1000)]", "more memory"),
    "eats_later": (
        "import torch\nclass Net(torch.nn.Module):\n def forward(self, x):\n  return torch.ones(1 << 32)",
        "more memory",
    ),
    "no_class": ("x = 1", "no torch.nn.Module class"),
    "needs": (
        "from torch import nn\nclass Net(nn.Module):\n def __init__(self, classes): pass",
        "needs arguments (classes)",
    ),
    "exits": ("import sys\nsys.exit(0)", "ends the program"),
    "exits_hard": ("import os\nos._exit(0)", "without an answer"),
    "killed": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    "no_python": ("this is no python", "is not Python: invalid syntax, line 1"),
    "not_text": ("\x00\x01", "is not Python"),
    "bad_forward": (
        "from torch import nn\nclass Net(nn.Module):\n def forward(self, x): return x @ x.T @ x[0]",
        "does not run",
    ),
    "no_method": ("from torch import nn\nclass Net(nn.Module): pass", "does not run"),
    "recurses": ("from torch import nn\nclass Net(nn.Module):\n def __init__(self): self.__init__()", "RecursionError"),
}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(time_limit=20, memory_limit=512) as made:
        yield made


REQUEST = {"task": "check", "rules": "assignment"}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_file_that_misbehaves_is_one_clear_line(name: str, sandbox: Sandbox, tmp_path: Path) -> None:
    content, reason = STRANGERS[name]
    path = tmp_path / f"{name}.py"
    path.write_text(content)
    limited = sandbox.time_limit
    sandbox.time_limit = 3 if "time limit" in reason else limited
    try:
        answer = sandbox.ask(targets_of(str(path))[0], REQUEST)
    finally:
        sandbox.time_limit = limited
    line = answer.get("error") or answer["results"][0]["error"]
    assert reason in line
    assert "\n" not in line
    good = tmp_path / "good.py"
    good.write_text(SOUND)
    assert sandbox.ask(targets_of(f"{good}:Net")[0], REQUEST)["results"][0]["passed"]


def test_noise_is_kept_out_and_names_are_found(sandbox: Sandbox, tmp_path: Path) -> None:
    noisy = tmp_path / "noisy.py"
    noisy.write_text(
        "import sys\nfor i in range(20000): print('x' * 99); print('y', file=sys.stderr)\n"
        + SOUND
        + "\ndef factory(): return Net()\nmade = Net()\nwrong = 3\ndef odd(): return 3\n"
    )
    for name in ("Net", "factory", "made"):
        assert sandbox.ask(targets_of(f"{noisy}:{name}")[0], REQUEST)["results"][0]["passed"]
    for name, reason in {
        "wrong": "neither",
        "odd": "gives a int",
        "Other": "has no Other; it has Net",
        "block": "needs arguments (i, o)",
    }.items():
        assert reason in sandbox.ask(targets_of(f"{noisy}:{name}")[0], REQUEST)["error"]


def test_a_file_of_many_gives_each_whole_network(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "two.py"
    path.write_text(
        SOUND.replace("class Net", "class Part(nn.Identity): pass\nclass First")
        + ("\nclass Second(First):\n def __init__(self):\n  super().__init__()\n  self.part = Part()\n")
    )
    found = sandbox.ask(targets_of(str(path))[0], REQUEST)["results"]
    assert [result["name"] for result in found] == ["First", "Second"]


def test_nothing_is_left_running(tmp_path: Path) -> None:
    path = tmp_path / "leaves.py"
    path.write_text(
        f"import os, time\nif os.fork() == 0:\n open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        " time.sleep(600)\ntime.sleep(0.5)\n" + SOUND.partition('"""\n\n')[2]
    )
    with Sandbox(20, 512) as sandbox:
        sandbox.ask(targets_of(str(path))[0], REQUEST)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(50):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("a process that the file started outlived the check")


def test_a_folder_is_checked_line_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sound_strided", "slip_max_module"):
        shutil.copy(HOMEWORK / "networks" / f"{name}.py", tmp_path)
    (tmp_path / "broken.py").write_text("1 +")
    assert main(["check", str(tmp_path), "--csv", str(tmp_path / "out.csv")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ERROR", "FAIL", "PASS"]
    assert "no_max_pooling (1)" in lines[1]
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["passed"] for row in rows] == ["", "no", "yes"]
    assert rows[1]["failed"] == "no_max_pooling"
    assert rows[2]["receptive_field"] == "69"


def test_one_file_as_json_and_its_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = HOMEWORK / "networks" / "sound_strided.py"
    record = HOMEWORK / "records" / "slip_training_set.json"
    assert main(["check", f"{sound}:Net", "--json", "--verify"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] is True
    assert result["verify"] == {"expected": 69, "measured": 69, "agrees": True, "note": ""}
    assert {"rule", "passed", "measured", "required", "where"} <= set(result["rules"][0])
    assert main(["check", f"{sound}:Net", "--json", "--record", str(record)]) == 1
    assert [r["rule"] for r in json.loads(capsys.readouterr().out)["rules"] if not r["passed"]] == ["accuracy"]
    assert main(["check", f"{sound}:Nothing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


WRONG = [
    ["check", "no_such_network"],
    ["check", "no/such/file.py"],
    ["check", "feather_quick", "--rules", "nothing"],
    ["check", "feather_quick", "--record", "absent.json"],
    ["check", ".", "--record", __file__],
    ["summary", "no_such_network"],
    ["summary", "separable_100k", "--input-size", "8"],
    ["models", "--rules", "absent.toml"],
]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_input_is_one_line_and_exit_2(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_summary_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "separable_100k", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["parameters"], result["receptive_field"], len(result["layers"])) == (99_968, 31, 51)
    assert result["multiply_adds"] == 31_536_384
    conv = result["layers"][24]
    assert {key: conv[key] for key in ("kind", "output_shape", "kernel", "stride", "dilation", "groups", "jump")} == {
        "kind": "Conv2d",
        "output_shape": [16, 22, 22],
        "kernel": 3,
        "stride": 1,
        "dilation": 2,
        "groups": 1,
        "jump": 1,
    }


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("name", ["dilated_160k", "c1c2c3c4_dilated"])
def test_the_table_fits_the_terminal(
    name: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["summary", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    head = next(number for number, line in enumerate(lines) if "───" in line)
    rows = lines[head + 1 : next(number for number, line in enumerate(lines) if line.startswith("parameters"))]
    assert all(len(line.split()) >= 5 for line in rows if line.strip())  # no cell takes a second line
    if name == "dilated_160k":
        assert "159,552" in "\n".join(lines)
        assert "receptive field  101 pixels just before global pooling (117 with it)" in lines


def test_models_lists_every_network(capsys: pytest.CaptureFixture[str]) -> None:
    from featherweight import models

    assert main(["models", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(listed) == models.names()
    assert listed["dilated_160k"]["receptive_field"] == 101
    assert listed["dilated_160k"]["rules_failed"] == ["blocks", "global_pooling"]
    assert listed["feather_quick"]["rules_passed"] is True


def test_rule_sets_are_shipped_and_valid() -> None:
    assert rule_set_names()[0] == "assignment"
    assert len(rule_set_names()) >= 4
    for name in rule_set_names():
        assert load_rule_set(name).name == name


BAD_SETS = {
    "[parameter]\nfewer_than = 3": "no rule",
    "[parameters]\nfewer = 3": "no setting",
    "[parameters]\nfewer_than = true": "type int",
    "[parameters]": "needs fewer_than",
    "x = ": "not valid TOML",
    "name = 'empty'": "no rule in it",
    "input = [3]\n[dilated]": "input must be",
    "parameters = 200000": r"must be a table, written \[parameters\]",
    "[parameters]\nfewer_than = 0": "must be 1 or more",
    "[accuracy]\nat_least = 85\ntest_images = 10\ntrain_images_at_most = 50": "a fraction from 0 to 1; got 85",
    '[blocks]\nconvolution_blocks = ["c1", "c1"]\noutput = "o"': "a list of names",
}


@pytest.mark.parametrize("text", BAD_SETS)
def test_a_bad_rule_set_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=BAD_SETS[text]):
        load_rule_set(str(path))


def test_own_limits_decide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[receptive_field]\nmore_than = 30\n[parameters]\nfewer_than = 99_968\n")
    assert main(["check", "separable_100k", "--rules", str(path), "--json"]) == 1
    rules = {rule["rule"]: rule["passed"] for rule in json.loads(capsys.readouterr().out)["rules"]}
    assert rules == {"receptive_field": True, "parameters": False}


def test_the_help_says_that_checking_runs_the_file() -> None:
    words = [sys.executable, "-m", "featherweight", "check", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"})
    assert "Checking a file RUNS it" in done.stdout

"""`featherweight audit` as people call it: the report, the exit codes, and files that misbehave."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featherweight import cli
from featherweight.rules.audit_probe import adapt, resolve
from featherweight.rules.audit_rules import AuditRules, read_audit_rules
from featherweight.utils import UserError

FOLDER = Path(__file__).resolve().parent.parent / "homework" / "pipelines"

BAD = {
    "raises": ("raise RuntimeError('no data here')", "RuntimeError: no data here"),
    "exits": ("import sys; print('bye'); sys.exit(3)", "SystemExit: 3"),
    "dies": ("import os; print('my last words', flush=True); os._exit(7)", "exit code 7"),
    "hangs": ("import time; time.sleep(60)", "not done within"),
    "eats": ("hoard = bytearray(3 << 30)", "MiB of memory"),
    "reads": ("input('which file? ')", "EOFError"),
    "nameless": ("other = len", "has no 'train_transforms'"),
    "not_callable": ("train_transforms = 3", "takes no picture"),
    "wrong_thing": ("def train_transforms(image):\n    return 'a picture'", "gives no picture back"),
    "raises_later": ("def train_transforms(image):\n    raise ValueError('not this one')", "ValueError: not this one"),
    "needs_arguments": (
        "class train_transforms:\n    def __init__(self, size): pass",
        "must be made without arguments",
    ),
    "a_pair": ("def train_transforms():\n    return (len, len)", "name one pipeline"),
    "syntax": ("def (", "SyntaxError"),
}


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["audit", "--draws", "160", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_and_exit_2(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, expected = BAD[name]
    file = tmp_path / "homework.py"
    file.write_text("print('noise ' * 1000)\n" + content + "\n")
    limit = "3" if name == "hangs" else "300"
    code, out, err = _run(capsys, f"{file}:train_transforms", "--json", "--time-limit", limit, "--memory-limit", "1024")
    assert code == 2
    assert out == ""
    assert expected in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("pipeline", ["nothing.py:x", "nothing", "nothing.py", "batched:no_such_recipe"])
def test_a_pipeline_that_is_not_there(pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, pipeline)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1


def test_json_is_one_object_whatever_the_file_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "noisy.py").write_text(
        f"import sys\nsys.path.insert(0, {str(FOLDER)!r})\nprint('noise')\nfrom sound_callable import *\n"
    )
    code, out, _ = _run(
        capsys,
        f"{tmp_path / 'noisy.py'}:train_transforms",
        "--eval-transforms",
        f"{FOLDER / 'sound_callable.py'}:test_transforms",
        "--json",
    )
    report: dict[str, Any] = json.loads(out)
    assert (code, report["passed"]) == (0, True)
    assert all({"rule", "passed", "measured", "required", "where", "advice"} == set(item) for item in report["rules"])
    assert {
        "flip",
        "shift",
        "scale",
        "rotate",
        "hole_count",
        "hole_fill",
        "workers",
        "same_normalisation",
        "evaluation",
    } <= {item["rule"] for item in report["rules"]}
    assert report["not_measured"] == {}


def test_people_get_a_line_a_rule_in_80_columns() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "featherweight",
            "audit",
            f"{FOLDER / 'hole_black.py'}:train_transforms",
            "--eval-transforms",
            f"{FOLDER / 'sound_callable.py'}:test_transforms",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    table = [line for line in lines if " PASS " in line or " FAIL " in line]
    assert len(table) == 17
    assert all(len(line.rstrip()) <= 80 for line in table)
    assert [line.split()[0] for line in table if " FAIL " in line] == ["hole_fill"]
    assert any(line.startswith("hole_fill: the hole is nearly black") for line in lines)
    start = next(number for number, line in enumerate(lines) if " PASS " in line)
    assert all(" PASS " in line or " FAIL " in line for line in lines[start : start + 17])  # no row takes a second line


@pytest.mark.parametrize("engine", ["albumentations", "batched:feather_quick"])
def test_our_own_engines_pass(engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, engine, "--json")
    report = json.loads(out)
    assert [item for item in report["rules"] if not item["passed"]] == []
    assert (code, err) == (0, "")
    assert "workers" in report["not_measured"]


def test_a_rule_set_changes_what_is_required(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = tmp_path / "mine.toml"
    rules.write_text("[augmentation]\nflip_p = 0.9\nhole_size = 8\nhole_p = 0.5\n")
    code, out, _ = _run(capsys, f"{FOLDER / 'sound_callable.py'}:train_transforms", "--rules", str(rules), "--json")
    failed = {item["rule"] for item in json.loads(out)["rules"] if not item["passed"]}
    assert (code, failed) == (1, {"flip", "hole_size"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[augmentation]\nfilp_p = 1\n", "unknown key 'filp_p'"),
        ("[augmentation]\nflip_p = 'half'\n", "must be of the kind"),
        ("[augmentation]\nmean = [1, 2]\n", "three numbers"),
        ("[augm", "not valid TOML"),
    ],
)
def test_a_wrong_rule_set_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(UserError, match=expected):
        read_audit_rules(str(tmp_path / "wrong.toml"))


def test_shipped_rule_sets_can_be_named() -> None:
    assert read_audit_rules("assignment") == AuditRules()
    with pytest.raises(UserError, match="no rule set"):
        read_audit_rules("nonsense")


@pytest.mark.cifar10
def test_required_statistics_come_from_the_data_where_asked(
    cifar10_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = _run(
        capsys, f"{FOLDER / 'sound_callable.py'}:train_transforms", "--data-dir", str(cifar10_dir), "--json"
    )
    assert code == 0
    assert json.loads(out)["passed"] is True


def test_help_says_that_the_file_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["audit", "--help"])
    assert "Auditing RUNS the file" in capsys.readouterr().out


def _plain(image: Any) -> np.ndarray:
    return np.asarray(image)[:, ::-1] / 255.0


class _Keyword:
    def __call__(self, *, image: np.ndarray) -> dict[str, Any]:
        return {"image": _plain(image).transpose(2, 0, 1)[None]}


class _Picture:
    def __call__(self, img: Any) -> Any:
        return img.transpose(0)  # PIL's own mirror; arrays and tensors have no such axis order


class _Tensor:
    def __call__(self, x: Any) -> Any:
        return x.float().flip(2) / 255  # neither arrays nor PIL pictures have float()


@pytest.mark.parametrize(
    ("target", "convention"),
    [
        (_Keyword(), "image="),
        (_Picture(), "PIL"),
        (_Tensor(), "tensor"),
        (lambda array: array[:, ::-1] / 255.0, "array"),
        (lambda image: _plain(image), "image="),
    ],
)
def test_every_way_of_calling_is_found(target: Any, convention: str) -> None:
    pipeline = adapt(target, "x")
    assert pipeline.convention == convention
    shown = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    top = 1.0 if convention == "PIL" else 255.0
    assert pipeline.call(shown) * top == pytest.approx(shown[:, ::-1].astype(float), abs=1e-4)


def test_factories_and_classes_are_made_and_callables_kept() -> None:
    keyword = _Keyword()
    assert resolve(keyword, "x") is keyword
    assert isinstance(resolve(_Keyword, "x"), _Keyword)
    assert resolve(lambda: keyword, "x") is keyword

    def takes_a_picture(image: Any) -> Any:
        return image

    assert resolve(takes_a_picture, "x") is takes_a_picture

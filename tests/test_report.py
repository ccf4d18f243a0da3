"""The README's tables: what they say, and that nothing outside the markers moves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from featherweight import report
from featherweight.cli import main
from featherweight.records import Record, group_by_recipe
from featherweight.utils import UserError


def record(**changes: Any) -> Record:
    base: dict[str, Any] = {
        "recipe": "quick",
        "model": "feather_quick",
        "parameters": 151_234,
        "multiply_adds": 11_432_100,
        "receptive_field": 61,
        "rules_passed": True,
        "seed": 0,
        "epochs": 12,
        "train_images": 50_000,
        "test_images": 10_000,
        "test_accuracy": 0.8531,
        "test_loss": 0.4512,
        "selection": "none: last epoch",
        "wall_seconds": 9_000,
        "train_seconds": 87.4,
        "device": "cpu Some Processor",
        "threads": 2,
        "torch": "2.13.0",
        "commit": "abcdef0123456789",
        "data_sha256": "a" * 64,
        "weights": "",
        "weights_sha256": "b" * 64,
        "command": "featherweight train --recipe quick",
    }
    return Record(**{**base, **changes})


PUBLISHED = {
    "quick": record(),
    "quick-seed1": record(seed=1, test_accuracy=0.8502),
    "quick-seed2": record(seed=2, test_accuracy=0.8544),
    "big": record(
        recipe="big",
        model="big",
        seed=4,
        test_accuracy=0.9499,
        rules_passed=False,
        train_seconds=6_725,
        receptive_field=[61, 45],
        command=None,
        device="cuda Some GPU",
    ),
    "digits": record(recipe="digits", dataset="digits", test_images=355, test_accuracy=0.99),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, one in PUBLISHED.items():
        one.write(tmp_path / "results" / f"{name}.json")
    (tmp_path / "README.md").write_text("# Title\n<!-- report:results -->\nstale\n<!-- /report:results -->\nEnd.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cells(table: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in table.splitlines()
        if line.startswith("|")
    ]


def test_the_results_table_cell_by_cell() -> None:
    table = report.tables(PUBLISHED)["results"]
    heading, _, *rows = cells(table)
    assert heading == [
        "network",
        "parameters",
        "multiply-adds",
        "receptive field",
        "rules met",
        "test accuracy",
        "epochs",
        "training time",
        "hardware",
        "command",
    ]
    assert rows == [  # CIFAR-10 before other data, the most accurate first
        [
            "big",
            "151,234",
            "11.4 M",
            "61 × 45",
            "no",
            "94.99 % (1 seed)",
            "12",
            "1 h 52 min",
            "cuda Some GPU",
            "`featherweight train --recipe big`",
        ],
        # mean of 85.31, 85.02, 85.44 is 85.2567; deviation sqrt((0.0533² + 0.2367² + 0.1833²) / 2) = 0.21502
        [
            "feather_quick, recipe quick",
            "151,234",
            "11.4 M",
            "61",
            "all",
            "85.26 ± 0.22 % (3 seeds)",
            "12",
            "87 s",
            "cpu Some Processor, 2 threads",
            "`featherweight train --recipe quick`",
        ],
        [
            "feather_quick, on digits",
            "151,234",
            "11.4 M",
            "61",
            "all",
            "99.00 % (1 seed)",
            "12",
            "87 s",
            "cpu Some Processor, 2 threads",
            "`featherweight train --recipe quick`",
        ],
    ]
    assert "cifar10: 10,000, digits: 355" in table
    assert table.endswith("nothing was selected.")


def test_selection_on_something_is_told() -> None:
    table = report.tables({"quick": record(selection="best epoch on the test set")})["results"]
    assert table.endswith("except for these: quick: best epoch on the test set.")


def test_the_runs_table_has_every_run() -> None:
    _, _, *rows = cells(report.tables(PUBLISHED)["runs"])
    order = ("big", "quick", "quick-seed1", "quick-seed2", "digits")
    assert [row[0] for row in rows] == [f"`results/{name}.json`" for name in order]
    assert rows[2][1:5] == ["1", "85.02 %", "0.4512", "87 s"]
    assert rows[0][7] == "abcdef0123"


def test_the_recipes_table_has_every_recipe() -> None:
    from featherweight.config import read_recipe, recipe_names

    _, _, *rows = cells(report.tables({})["recipes"])
    assert [row[0] for row in rows] == recipe_names()
    for name, row in zip(recipe_names(), rows, strict=True):
        assert row[1] == read_recipe(name).settings["model"]


def test_no_runs_are_said_to_be_none() -> None:
    assert report.tables({})["results"] == "No runs are published yet."


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (87.4, "87 s"),
        (119.4, "119 s"),
        (119.6, "2 min 0 s"),
        (252, "4 min 12 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (6725, "1 h 52 min"),
        (7199.9, "2 h 0 min"),
    ],
)
def test_times(seconds: float, text: str) -> None:
    assert report.format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999_999, "999,999"), (1_234_567, "1.23 M"), (44_712_345, "44.7 M"), (1_814_073_344, "1,814 M")],
)
def test_counts(count: int, text: str) -> None:
    assert report.format_count(count) == text


def test_the_accuracy_is_not_flattered() -> None:
    """84.94 % is not 85 %."""
    (group,) = group_by_recipe({"quick": record(test_accuracy=0.8494)})
    assert report.format_accuracy(group) == "84.94 % (1 seed)"


def test_hostile_text_cannot_leave_its_cell() -> None:
    nasty = record(device="cpu a|b <b>x</b> `c` <!-- /report:results -->", command="run `x` | tee")
    table = report.tables({"quick": nasty})["results"]
    _, _, row = cells(table)
    assert len(row) == 10
    assert "<b>" not in re.sub(r"\\<", "", row[8])
    text = "<!-- report:results -->\n<!-- /report:results -->\n"
    once = report.fill(text, {"results": table})
    assert report.fill(once, {"results": table}) == once


def test_only_the_inside_of_the_markers_changes() -> None:
    text = (
        "\ufeff# A  \r\n\x0b tail\u2028\n```\n<!-- report:results -->\n```\n"
        "  <!--report:results-->  \nold\n```\nold\n<!-- /report:results -->\nno newline at the end"
    )
    filled = report.fill(text, {"results": "NEW"})
    assert filled == text.replace("old\n```\nold\n", "\nNEW\n\n")
    assert report.fill(filled, {"results": "NEW"}) == filled


def test_the_line_ending_of_the_marker_is_kept() -> None:
    text = "a\r\n<!-- report:results -->\r\nx\r\n<!-- /report:results -->\r\n"
    assert report.fill(text, {"results": "1\n2"}) == (
        "a\r\n<!-- report:results -->\r\n\r\n1\r\n2\r\n\r\n<!-- /report:results -->\r\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "holds no place"),
        ("```\n<!-- report:results -->\n<!-- /report:results -->\n```", "holds no place"),
        ("<!-- report:results -->", "line 1: <!-- report:results --> is never closed"),
        ("<!-- report:nothing -->", "line 1: there is no table 'nothing'"),
        ("<!-- report: -->", "line 1: there is no table ''"),
        ("a\n<!-- /report:results -->", "line 2: .* no results is open"),
        ("<!-- report:results -->\n<!-- report:results -->", "line 2: .* is still open from line 1"),
        ("<!-- report:results -->\n<!-- /report:runs -->", "line 2: .* is still open from line 1"),
        ("<!-- report:results -->\n<!-- /report:results -->\n<!-- /report:results -->", "line 3"),
    ],
)
def test_markers_out_of_order(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        report.fill(text, {"results": "x", "runs": "y"}, "README.md")


def test_the_command_writes_once_and_then_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--check"]) == 1
    assert "stale" in (place / "README.md").read_text()  # --check wrote nothing
    assert main(["report"]) == 0
    written = (place / "README.md").read_text()
    assert written.startswith("# Title\n<!-- report:results -->\n\n| network")
    assert written.endswith("<!-- /report:results -->\nEnd.\n")
    assert "85.26 ± 0.22 %" in written
    stamp = (place / "README.md").stat().st_mtime_ns
    assert main(["report"]) == 0
    assert main(["report", "--check"]) == 0
    assert (place / "README.md").stat().st_mtime_ns == stamp
    record(test_accuracy=0.8561).write(place / "results" / "quick.json")
    assert main(["report", "--check"]) == 1
    capsys.readouterr()
    assert main(["report", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["differs"], told["written"], told["records"]) == (True, True, 5)
    quick = told["recipes"][1]
    assert quick["accuracy_mean"] == pytest.approx((0.8561 + 0.8502 + 0.8544) / 3)
    assert (quick["seeds"], quick["accuracy_minimum"]) == ([0, 1, 2], 0.8502)


@pytest.mark.parametrize("break_it", ["readme gone", "readme binary", "results gone", "record broken"])
def test_bad_input_is_one_line_and_leaves_the_readme(
    place: Path, capsys: pytest.CaptureFixture[str], break_it: str
) -> None:
    readme = place / "README.md"
    before = readme.read_bytes()
    if break_it == "readme gone":
        readme.unlink()
    elif break_it == "readme binary":
        readme.write_bytes(before := b"\xff\xfe")
    elif break_it == "results gone":
        (place / "results").rename(place / "elsewhere")
    else:
        (place / "results" / "big.json").write_text("{")
    assert main(["report"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not readme.exists() or readme.read_bytes() == before

"""The README's parts beside the runs: by class, on shifted inputs, speed; a plain sentence where there is nothing."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from featherweight import weights
from featherweight.cli import main
from featherweight.commands import report as command
from featherweight.evaluation import tables
from featherweight.evaluation.shifts import NOISE_SEED, SHIFTS
from featherweight.records import RESULTS, Record, group_by_recipe, load_all
from featherweight.report import sort_groups
from featherweight.ship.onnx_table import onnx_table
from featherweight.utils import UserError

ROOT = Path(__file__).resolve().parent.parent
PER_CLASS = {"airplane": 0.9, "bird": 0.705, "cat": None}


def record(**changes: Any) -> Record:
    base: dict[str, Any] = {
        "recipe": "quick", "model": "quick", "parameters": 1000, "multiply_adds": 2000, "receptive_field": 61,
        "rules_passed": True, "seed": 0, "epochs": 1, "train_images": 50_000, "test_images": 10_000,
        "test_accuracy": 0.8, "test_loss": 0.5, "selection": "none: last epoch", "wall_seconds": 2, "train_seconds": 1,
        "device": "cpu x", "threads": 2, "torch": "2", "commit": "", "data_sha256": "a" * 64,
        "weights": "weights/quick.safetensors", "weights_sha256": "b" * 64, "dataset": "cifar10",
        "per_class": PER_CLASS, "calibration_error": 0.0321,
    }  # fmt: skip
    return Record(**{**base, **changes})


def shifted(**changes: Any) -> dict[str, Any]:
    """As the command writes it, in what is read of it. Means: 0.6, 0.5, 0.7, 0.4; of the four 0.55."""
    means = {"blur": 0.6, "noise": 0.5, "jpeg": 0.7, "contrast": 0.4}
    steps = (0.1, 0.05, 0.0, -0.05, -0.1)
    found = [
        {
            "shift": shift.name,
            "strengths": list(shift.strengths),
            "accuracy": [means[shift.name] + step for step in steps],
        }
        for shift in SHIFTS
    ]
    base = {
        "kind": "shifted", "name": "quick", "weights_sha256": "b" * 64, "images": 10_000, "split": "test",
        "clean": {"accuracy": 0.8}, "shifts": found, "noise_seed": NOISE_SEED,
        "command": "featherweight eval quick --shifted",
    }  # fmt: skip
    return {**base, **changes}


def groups_of(*records: Record) -> list[Any]:
    named = {one.recipe if one.weights else f"{one.recipe}-seed{one.seed}": one for one in records}
    return sort_groups(group_by_recipe(named))


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]


@pytest.fixture
def bench_outputs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hand-made outputs of `featherweight bench` that its own tests use."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "bench")
    return importlib.import_module("bench_outputs")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    record().write(tmp_path / "results" / "quick.json")
    for name in ("shifted", "bench"):
        (tmp_path / "results" / name).mkdir()
    text = "".join(f"<!-- report:{name} -->\n<!-- /report:{name} -->\n" for name in ("shifted", "classes", "speed"))
    (tmp_path / "README.md").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------------------------- on shifted inputs


def test_the_shifted_table_cell_by_cell() -> None:
    big = record(recipe="big", model="big", test_accuracy=0.9, weights_sha256="c" * 64)
    unpublished = record(recipe="seeds", model="seeds", weights="", seed=3)
    values = {"quick": shifted(), "big": shifted(weights_sha256="d" * 64)}
    table = tables.shifted_table(groups_of(record(), big, unpublished), values)
    heading, _, *found = rows(table)
    assert heading == ["network", "clean", "blur", "noise", "JPEG", "contrast", "mean of the four"]
    assert found == [["quick", "80.00 %", "60.00 %", "50.00 %", "70.00 %", "40.00 %", "55.00 %"]]
    assert "all 10,000 test pictures" in table
    assert "0.5, 0.75, 1, 1.25, 1.5" in table
    assert table.endswith("Not measured yet with the weights published here: big.")  # measured with others only


def test_what_was_not_measured_is_a_plain_sentence() -> None:
    assert tables.shifted_table([], {}) == "Not measured yet."
    assert tables.shifted_table(groups_of(record()), {}) == (
        "Not measured yet (no measurement of these weights in `results/shifted/`: quick)."
    )
    assert "|" not in tables.shifted_table(groups_of(record()), {"quick": shifted(weights_sha256="0" * 64)})


def test_all_measured_leaves_nothing_open() -> None:
    assert "Not measured" not in tables.shifted_table(groups_of(record()), {"quick": shifted()})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "speed"}, "no measurement on shifted inputs"),
        ({"weights_sha256": None}, "weights_sha256"),
        ({"images": 0}, "images"),
        ({"split": "val"}, "not measured on the test pictures"),
        ({"command": "a\nb"}, "command"),
        ({"clean": {"accuracy": 1.5}}, "clean holds no accuracy"),
        ({"shifts": None}, "shifts"),
        ({"shifts": [1, 2, 3, 4]}, "shifts"),
        ({"shifts": shifted()["shifts"][:3]}, "not those of this version"),
        ({"noise_seed": 7}, "not those of this version"),
    ],
)
def test_a_measurement_that_is_none_names_its_file(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    (tmp_path / "quick.json").write_text(json.dumps(shifted(**changes)))
    with pytest.raises(UserError, match=words) as caught:
        tables.read_shifted(tmp_path)
    assert str(tmp_path / "quick.json") in str(caught.value)
    assert "featherweight eval quick --shifted" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"), [("strengths", [1, 2, 3, 4, 5]), ("accuracy", [0.5] * 4), ("accuracy", [0.5] * 4 + [True])]
)
def test_strengths_and_accuracies_must_fit(tmp_path: Path, key: str, value: list) -> None:
    values = copy.deepcopy(shifted())
    values["shifts"][1][key] = value
    (tmp_path / "quick.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="strength"):
        tables.read_shifted(tmp_path)


# ---------------------------------------------------------------------------------------------------------- by class


def test_the_classes_table_cell_by_cell() -> None:
    other = record(recipe="digits", model="net", dataset="digits", per_class={"0": 1.0, "1": 0.5}, test_accuracy=0.99)
    silent = record(recipe="old", model="old", per_class=None)
    text = tables.classes_table(groups_of(record(), other, silent))
    first, second, caption = text.split("\n\n")
    assert rows(first)[0] == ["network", "airplane", "bird", "cat", "calibration error"]
    assert rows(first)[2:] == [["quick", "90.0", "70.5", "–", "3.21 %"]]
    assert rows(second)[0] == ["network", "0", "1", "calibration error"]
    assert rows(second)[2:] == [["net, on digits", "100.0", "50.0", "3.21 %"]]
    assert caption.endswith("No such figures are recorded for old.")
    assert tables.classes_table([]) == "No published record holds figures by class."


# ------------------------------------------------------------------------------------------------------------- speed


def test_speed_has_a_table_for_each_output_with_its_command(tmp_path: Path, bench_outputs: Any) -> None:
    assert command.speed_block(tmp_path / "nowhere") == "Not measured yet."
    outputs = {
        "a": bench_outputs.predict_output(),
        "b": bench_outputs.time_output(),
        "z": bench_outputs.speed_output(),
    }
    for name, output in outputs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(output))
    text = command.speed_block(tmp_path)
    places = [text.index(f"`{outputs[name]['command']}`") for name in ("z", "b", "a")]
    assert places == sorted(places)  # training, time to accuracy, inference, whatever the files' names
    assert text.count("\n| ---") + text.count("\n|---") == 3
    assert "**4.50 (4.00–5.00)**" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "JSON"), ("[]", "JSON object"), ('{"kind": "dance"}', "no output"), ('{"kind": ["speed"]}', "no output")],
)
def test_a_broken_bench_output_names_its_file(
    place: Path, capsys: pytest.CaptureFixture[str], content: str, words: str
) -> None:
    (place / "results" / "bench" / "x.json").write_text(content)
    before = (place / "README.md").read_text()
    assert main(["report"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "x.json" in err
    assert words in err
    assert err.count("\n") == 1
    assert (place / "README.md").read_text() == before


def test_a_bench_output_cannot_leave_its_markers(
    place: Path, bench_outputs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    output = bench_outputs.time_output()
    output["command"] = "x\n<!-- /report:speed -->\ny"
    (place / "results" / "bench" / "x.json").write_text(json.dumps(output))
    assert main(["report"]) == 2
    assert "x.json: holds a comment" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- exported


def _exported(form: str, **other: Any) -> dict[str, Any]:
    parity = {"images": 10_000, "agreeing": 9_985, "accuracy": 0.8519, "lost_points": 0.16, "max_difference": 0.0512}
    times = {"torch": {"ms": 2.0, "torch_ratio": 1.0}, form: {"ms": 0.5, "torch_ratio": 4.0}}
    onnx = {"form": form, "bytes": 175_123, "parity": parity, "latency": {"batch_1": times}, "device": "cpu x"}
    return {"name": "quick", "onnx": onnx | other}


@pytest.mark.parametrize("turned", [False, True])
def test_an_exported_networks_row_says_what_its_card_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turned: bool
) -> None:
    assert onnx_table(tmp_path) == "Not exported yet."
    for form in ("int8", "fp32"):
        (tmp_path / f"quick.{form}.json").write_text(json.dumps(_exported(form)))
    listed = sorted(tmp_path.glob("*.json"), reverse=turned)  # a file system lists them in an order of its own
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(listed))
    text = onnx_table(tmp_path)
    assert text.index("| quick | fp32") < text.index("| quick | int8")
    row = "| 175,123 | 85.19 % | 0.16 | 9,985 of 10,000 | 5.1e-02 | 0.50 ms (4.0x) |"
    assert f"| quick | int8 {row}" in text
    assert f"| quick | fp32 {row}" in text
    assert text.count("`featherweight export quick --int8`") == 1
    assert "on cpu x." in text


@pytest.mark.parametrize("other", [{"parity": {}}, {"latency": []}, {"latency": {"batch_1": {}}}, {"bytes": "many"}])
def test_a_broken_card_of_an_exported_network_names_its_file(tmp_path: Path, other: dict[str, Any]) -> None:
    broken = _exported("int8", **other)
    (tmp_path / "x.json").write_text(json.dumps(broken))
    with pytest.raises(UserError, match=r"x\.json: this is no card of an exported network"):
        onnx_table(tmp_path)


# -------------------------------------------------------------------------------------------------------- the command


def test_the_command_fills_every_part_and_then_agrees(place: Path, bench_outputs: Any) -> None:
    assert main(["report"]) == 0
    assert (place / "README.md").read_text().count("Not measured yet") == 2
    (place / "results" / "shifted" / "quick.json").write_text(json.dumps(shifted()))
    (place / "results" / "bench" / "train.json").write_text(json.dumps(bench_outputs.speed_output()))
    assert main(["report", "--check"]) == 1
    assert main(["report"]) == 0
    assert main(["report", "--check"]) == 0
    text = (place / "README.md").read_text()
    for word in ("| quick | 80.00 % |", "| quick | 90.0 |", "`featherweight bench --model separable_100k`"):
        assert word in text
    assert "Not measured yet" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--figures", "--check"], "ask for one of them"),
        (["--photo", "x.png"], "--photo belongs to --figures"),
        (["--data-dir", "x"], "--data-dir belongs to --figures"),
        (["--figures", "--network", "nowhere"], "no weights"),
    ],
)
def test_bad_options_are_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["report", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert not (place / "docs").exists()


# ---------------------------------------------------------------------------------------------------- what is published


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "results" / "shifted").glob("*.json")))
def test_a_kept_measurement_is_of_the_published_weights(name: str) -> None:
    values = tables.read_shifted(ROOT / "results" / "shifted")[name]
    published = load_all(RESULTS)[name]
    again = f"run `featherweight eval {name} --shifted --out results/shifted/{name}.json`"
    assert values["weights_sha256"] == published.weights_sha256, again
    assert published.test_accuracy is not None
    assert abs(values["clean"]["accuracy"] - published.test_accuracy) * published.test_images < 2.5
    assert values["images"] == published.test_images
    for shift in values["shifts"]:
        assert len(set(shift["pictures_sha256"])) == 5


def test_every_shifted_picture_was_the_same_for_every_network() -> None:
    found = tables.read_shifted(ROOT / "results" / "shifted").values()
    digests = {json.dumps([shift["pictures_sha256"] for shift in values["shifts"]]) for values in found}
    assert len(digests) == 1


def test_the_figures_are_of_the_published_weights() -> None:
    listed = json.loads((ROOT / "docs" / "figures" / "figures.json").read_text(encoding="utf-8"))
    card = weights.read_card(ROOT / "weights" / f"{listed['network']}.json")
    assert listed["weights_sha256"] == card.weights_sha256, "run `featherweight report --figures`"
    assert len(listed["figures"]) >= 5
    for entry in listed["figures"]:
        assert (ROOT / "docs" / "figures" / entry["file"]).stat().st_size < 150_000

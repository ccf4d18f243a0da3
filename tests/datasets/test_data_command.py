"""`featherweight data`: its report, its exit codes, and that standard output holds one JSON object and nothing else."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from featherweight import datasets
from featherweight.cli import main
from featherweight.commands import data


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No copy of CIFAR-10 is found unless --data-dir names it, and no source but the test's own."""
    (tmp_path / "above" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "above" / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("FEATHERWEIGHT_DATA", "FEATHERWEIGHT_MIRRORS"):
        monkeypatch.delenv(name, raising=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict, str]:
    code = main(["data", "--json", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


def test_no_copy_is_one_line_and_exit_code_2(capsys) -> None:
    code, report, err = run(capsys)
    assert (code, report) == (2, {})
    assert err.count("\n") == 1
    assert "--dataset digits" in err
    code, _, err = run(capsys, "--dataset", "mnist")
    assert (code, err) == (2, "featherweight data: unknown data set 'mnist'; choose cifar10 or digits\n")
    code, _, err = run(capsys, "--mirror", "http://a.test")
    assert code == 2
    assert "--fetch" in err


def test_digits_pass_every_check(capsys) -> None:
    pytest.importorskip("sklearn")
    code, report, _ = run(capsys, "--dataset", "digits", "--verify", "--statistics")
    assert code == 0
    assert report["passed"]
    assert report["problems"] == []
    assert [report["verification"][key]["images"] for key in ("train_all", "train", "validation", "test")] == [
        1442,
        1302,
        140,
        355,
    ]
    assert report["statistics"]["mean"] == pytest.approx(datasets.STATISTICS["digits"].mean, abs=1e-12)
    assert main(["data", "--dataset", "digits", "--verify", "--statistics"]) == 0
    assert "all checks passed" in capsys.readouterr().out


def test_other_statistics_and_digests_fail(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setitem(datasets.STATISTICS, "digits", datasets.STATISTICS["cifar10"])
    code, report, _ = run(capsys, "--dataset", "digits", "--statistics")
    assert code == 1
    assert not report["passed"]
    assert "mean and deviation differ" in report["problems"][0]
    monkeypatch.setitem(datasets.DIGESTS["digits"], "validation", "0" * 64)
    code, report, _ = run(capsys, "--dataset", "digits", "--verify")
    assert code == 1
    assert "digest of validation" in report["problems"][0]


@pytest.mark.cifar10
def test_the_real_data_set_passes_every_check(capsys, cifar10_dir: Path) -> None:
    code, report, _ = run(capsys, "--data-dir", cifar10_dir.resolve(), "--verify", "--statistics")
    assert code == 0
    assert report["passed"]
    assert report["form"] in ("batches", "unpacked", "parquet")
    sets = report["verification"]
    assert {key: sets[key]["images"] for key in ("train_all", "train", "validation", "test")} == {
        "train_all": 50_000,
        "train": 45_000,
        "validation": 5_000,
        "test": 10_000,
    }
    assert sets["validation"]["per_class"] == [500] * 10
    assert (sets["repeated_in_train"], sets["repeated_in_test"], sets["in_train_and_test"]) == (0, 0, 0)
    assert report["statistics"]["std"] == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-5)


def test_a_damaged_copy_fails_the_check_and_names_each_file(capsys, small, tmp_path: Path) -> None:
    small.write_batches(tmp_path)  # not the official files, as far as the command knows
    code, report, err = run(capsys, "--data-dir", tmp_path, "--verify", "--statistics")
    assert code == 1
    assert err == ""
    assert not report["passed"]
    assert len(report["problems"]) == 7  # six batches and batches.meta; readme.html is not needed
    named = {file["name"]: file["problem"] for file in report["verification"]["files"]}
    assert named["data_batch_1"] == "checksum differs from the published file's"
    assert named["data_batch_5"] == "No such file or directory"


def test_fetching_from_a_mirror_and_mending(capsys, small, server, behave, tmp_path: Path) -> None:
    server.paths["/m/cifar-10-python.tar.gz"] = behave(small.tar)
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    options = ["--json", "--fetch", "--data-dir", str(tmp_path / "d"), "--mirror", f"{server.address}/m/"]
    args = parser.parse_args(options)
    folder = tmp_path / "d" / "cifar-10-batches-py"

    def run_small() -> tuple[int, str, str]:
        code = data.run(args, small.archive)
        out, err = capsys.readouterr()
        return code, json.loads(out)["path"], err

    code, path, err = run_small()
    assert (code, path) == (0, str(folder))
    assert "fetching CIFAR-10 from mirror" in err
    code, path, err = run_small()
    assert (code, path) == (0, str(folder))
    assert "nothing to fetch" in err
    assert len(server.seen) == 1
    (folder / "test_batch").write_bytes(b"damage")
    code, path, err = run_small()
    assert (code, path) == (0, str(folder))
    assert "is damaged" in err
    assert (folder / "test_batch").read_bytes() == small.files["test_batch"]

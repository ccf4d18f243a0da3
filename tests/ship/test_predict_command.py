"""`featherweight predict` and `featherweight.load`: any picture, any folder, and the same classes as `eval`."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ship_pictures import PHOTOGRAPHS, PICTURES, SCENES, bad_files, gradient

import featherweight
from featherweight import cli, datasets, weights
from featherweight.ship.predictor import read_picture
from featherweight.utils import UserError


def predict(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]], list[str]]:
    code = cli.main(["predict", "feather_quick", *arguments, "--json"])
    told = capsys.readouterr()
    return code, json.loads(told.out), told.err.splitlines()


def test_load_in_five_lines() -> None:
    network, card = weights.load("feather_quick")
    pixels = torch.from_numpy(read_picture(PICTURES / "chelsea.jpg", 32)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(value)[:, None, None] for value in (card.mean, card.std))
    with torch.inference_mode():
        expected = network((pixels - mean) / std).softmax(1)[0]
    found = featherweight.load("feather_quick").predict(PICTURES / "chelsea.jpg")
    assert found.label == card.classes[int(expected.argmax())]
    assert found.confidence == found.top[0][1] == pytest.approx(float(expected.max()), abs=1e-5)
    several = featherweight.load("feather_quick").predict([PICTURES / "chelsea.jpg", gradient(50, 50)], top=10)
    assert dict(several[0].top) == pytest.approx(dict(zip(card.classes, expected.tolist(), strict=True)), abs=1e-5)
    assert sum(share for _, share in several[1].top) == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match=r"missing\.png cannot be read"):
        featherweight.load("feather_quick").predict("missing.png")
    with pytest.raises(ValueError, match="top"):
        featherweight.load("feather_quick").predict(gradient(9, 9), top=0)
    with pytest.raises(UserError, match="no weights"):
        featherweight.load("no_such_weights")


def test_importing_the_package_does_not_import_torch_or_numpy() -> None:
    code = "import sys, featherweight; featherweight.load; sys.exit(bool({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("network", "least"), [("feather_quick", 3), ("feather_200k", 6)])
def test_photographs_and_scenes_that_are_no_cifar_images(
    network: str, least: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten photographs, eight drawn scenes: each is answered, and far more of them rightly than chance allows.

    Of ten pictures, chance names one rightly, and has the right class among the three best of 7 of them once in 94
    times; one that always says "bird" is right in one class only. Free photographs of the other five classes were not
    found, so these are drawn. (docs/LOG.md has what the published networks and several drafts got.)
    """
    for name, draw in SCENES.items():
        draw().save(tmp_path / f"{name}.png")
    for name in PHOTOGRAPHS:
        (tmp_path / f"{name}.jpg").write_bytes((PICTURES / f"{name}.jpg").read_bytes())
    assert cli.main(["predict", network, str(tmp_path), "--json"]) == 0
    told = capsys.readouterr()
    rows = {Path(row["path"]).stem: row for row in json.loads(told.out)}
    assert told.err == ""
    assert {name for name, row in rows.items() if row["error"] is None} == {*PHOTOGRAPHS, *SCENES}
    right = [name for name, kind in PHOTOGRAPHS.items() if rows[name]["label"] == kind]
    assert len(right) >= least, right
    assert len({PHOTOGRAPHS[name] for name in right}) >= 3, right
    near = [name for name, kind in PHOTOGRAPHS.items() if kind in [one["label"] for one in rows[name]["top"]]]
    assert len(near) >= 7, near
    assert sum(rows[name]["label"] == name for name in SCENES) >= 6


def test_bad_files_stop_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = bad_files(tmp_path)
    odd = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"))
    (tmp_path / "folder.png").mkdir()
    good = {"good.png": gradient(80, 60), "folder.png/inner.png": gradient(40, 90)}
    for name, image in good.items():
        image.save(tmp_path / name)
    gradient(32, 32).save(odd)
    code, told, errors = predict(capsys, str(tmp_path))
    assert code == 2
    assert sum(row["error"] is not None for row in told) == len(said)
    assert len(errors) == len(said) + 1  # one line each, and how many there were
    rows = {os.path.relpath(row["path"], tmp_path): row for row in told}
    assert set(rows) == {*said, *good, "caf\\xe9.png"}
    for name, words in said.items():
        assert words in rows[name]["error"]
        assert rows[name]["label"] is None
        assert sum(f"/{name} " in line and words in line for line in errors) == 1
    network = featherweight.load("feather_quick")
    for name, image in good.items():
        alone = network.predict(image)
        assert (rows[name]["label"], rows[name]["error"]) == (alone.label, None)
        assert rows[name]["confidence"] == pytest.approx(alone.confidence, abs=1e-6)
        assert [entry["label"] for entry in rows[name]["top"]] == [label for label, _ in alone.top]


def test_csv_holds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gradient(50, 40).save(tmp_path / "a,b.png")
    (tmp_path / "z.png").write_bytes(b"")
    code, told, _ = predict(capsys, str(tmp_path), "--csv", str(tmp_path / "out.csv"), "--top", "2")
    assert code == 2
    text = (tmp_path / "out.csv").read_text()
    good, bad = csv.DictReader(io.StringIO(text))
    assert good["path"] == told[0]["path"] == str(tmp_path / "a,b.png")
    assert float(good["confidence"]) == told[0]["confidence"]
    assert good["label_2"] == told[0]["top"][1]["label"]
    assert (bad["label"], bad["error"]) == ("", "is empty (0 bytes); get it anew")
    assert cli.main(["predict", "feather_quick", str(tmp_path), "--csv", "-", "--top", "2"]) == 2
    assert capsys.readouterr().out == text


def test_a_picture_on_standard_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "featherweight", "predict", "feather_quick", "-", "--json"]
    content = (PICTURES / "chelsea.jpg").read_bytes()
    done = subprocess.run(command, input=content, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["path"], row["label"]) == ("-", featherweight.load("feather_quick").predict(content).label)


def test_the_table_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(PICTURES / "chelsea.jpg")
    assert cli.main(["predict", "feather_quick", path, "--top", "2"]) == 0
    told = capsys.readouterr().out
    first, second = featherweight.load("feather_quick").predict(path, top=2).top
    assert f" {first[0]} " in told
    assert f"{second[0]} {100 * second[1]:.1f}" in told
    code, found, _ = predict(capsys, path, path, "--top", "99", "--device", "cpu")
    assert (code, len(found), len(found[0]["top"])) == (0, 2, 10)
    for wrong in (["--top", "0"], ["--device", "tpu"], ["--json", "--csv", "-"], ["--csv", str(tmp_path)]):
        try:
            code = cli.main(["predict", "feather_quick", path, *wrong])
        except SystemExit as stopped:
            code = stopped.code
        told = capsys.readouterr()
        assert code == 2, wrong
        assert len(told.err.splitlines()) == 1
        assert "Traceback" not in told.err
    assert list(tmp_path.iterdir()) == []


def test_a_card_of_an_impossible_size_is_refused() -> None:
    import dataclasses

    from featherweight.ship.classifier import Classifier

    network, card = weights.load("feather_quick")
    with pytest.raises(UserError, match="input_size"):
        Classifier(network, dataclasses.replace(card, input_size=10**6))


@pytest.mark.cifar10
def test_predict_agrees_with_eval_on_test_pictures(
    cifar10_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """600 test pictures saved as PNG (over two batches): the class of each is `evaluate`'s, and so is its share."""
    from featherweight.evaluation import evaluate

    pictures = datasets.load_test("cifar10", cifar10_dir).subset(range(0, 10_000, 17)[:600])
    for index, image in enumerate(pictures.images.numpy()):
        Image.fromarray(image).save(tmp_path / f"{index:04}.png", compress_level=0)
    network, card = weights.load("feather_quick")
    expected = evaluate(network, pictures, mean=card.mean, std=card.std, device="cpu").logits.softmax(1).numpy()
    code, told, _ = predict(capsys, str(tmp_path), "--device", "cpu")
    assert code == 0
    assert [row["label"] for row in told] == [card.classes[one] for one in expected.argmax(1)]
    found = np.array([row["confidence"] for row in told])
    np.testing.assert_allclose(found, expected.max(1), atol=1e-5)

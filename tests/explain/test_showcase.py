"""The README's figures: what they are drawn from, what their list says, and how the README shows them."""

from __future__ import annotations

import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from featherweight import weights
from featherweight.cli import main
from featherweight.explain import figure_list, gallery, showcase
from featherweight.explain.photo import photo_attribution
from featherweight.records import Record
from featherweight.utils import UserError, sha256_bytes

ON_DIGITS = ["confusion_matrix", "calibration", "photo_attribution", "receptive_field"]  # no other run to compare with


@pytest.fixture(scope="module")
def network(untrained_digits: Path) -> Path:
    return untrained_digits / "model.safetensors"


@pytest.fixture(scope="module")
def folder(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's README, results and figures, the figures as the command draws them."""
    place = tmp_path_factory.mktemp("checkout")
    photo = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(photo).save(place / "photo.png")
    (place / "results").mkdir()
    (place / "README.md").write_text("<!-- report:figures -->\n<!-- /report:figures -->\n")
    at = ["--readme", str(place / "README.md"), "--results", str(place / "results")]
    figures = ["--figures", "--network", str(network), "--photo", str(place / "photo.png"), "--device", "cpu"]
    assert main(["report", *at, *figures]) == 0
    return place


def listed(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "docs" / "figures" / "figures.json").read_text(encoding="utf-8"))


def test_the_command_draws_lists_and_fills_in(folder: Path, network: Path) -> None:
    found, figures = listed(folder), folder / "docs" / "figures"
    assert [entry["file"] for entry in found["figures"]] == [f"{name}.png" for name in ON_DIGITS]
    assert {path.name for path in figures.iterdir()} == {"figures.json", *(f"{name}.png" for name in ON_DIGITS)}
    assert found["weights_sha256"] == weights.read_card(network.with_suffix(".json")).weights_sha256
    assert found["command"] == "featherweight report --figures --network model.safetensors --photo photo.png"
    for entry in found["figures"]:
        content = (figures / entry["file"]).read_bytes()
        assert sha256_bytes(content) == entry["sha256"]
        with Image.open(io.BytesIO(content)) as image:
            assert 600 <= image.width <= 1000
    readme = (folder / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r'^<img src="docs/figures/(\w+)\.png" width="640" alt="([^"]+)">$', readme, re.MULTILINE)
    assert [name for name, _ in shown] == ON_DIGITS
    assert [html.unescape(alt) for _, alt in shown] == [entry["alt"] for entry in found["figures"]]
    assert f"`{found['command']}`" in readme
    assert "on all 355 test pictures" in readme


def test_no_figure_shows_a_picture_of_the_data_set() -> None:
    """Committed are figures of counts and of the photograph, none of the gallery's that show pictures of the set."""
    assert set(showcase.CAPTIONS) == {"accuracy_parameters", *ON_DIGITS}
    assert set(showcase.OF_THE_GALLERY) == {"confusion_matrix", "calibration", "receptive_field"}


def test_the_field_is_drawn_on_the_photograph(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, original = [], gallery.receptive_field_figure
    monkeypatch.setattr(
        gallery, "receptive_field_figure", lambda picture, *rest: drawn.append(picture) or original(picture, *rest)
    )
    photo = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    showcase.draw(str(network), lambda side, _: np.resize(photo, (side, side, 3)), [])
    (picture,) = drawn
    margin = (len(picture) - 32) // 2
    assert margin > 0
    assert np.array_equal(picture[margin:-margin, margin:-margin], photo)
    assert np.array_equal(picture[margin - 1, margin:-margin], photo[0])  # and its mirror image around it


def test_the_photographs_likeliest_classes_are_the_networks_own(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    original = showcase.photo_attribution
    monkeypatch.setattr(
        showcase,
        "photo_attribution",
        lambda *parts, **named: asked.update(parts=parts, **named) or original(*parts, **named),
    )
    small = np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    large = np.zeros((256, 256, 3), np.uint8)
    showcase.draw(str(network), lambda side, _: {32: small, 256: large}[side], [])
    photo, picture, top, cams, pixels = asked["parts"]
    assert photo is large
    assert picture is small
    built, card = weights.load(network)
    batch = (torch.from_numpy(small).float() / 255 - torch.tensor(card.mean)) / torch.tensor(card.std)
    known = built(batch.permute(2, 0, 1)[None])[0].softmax(0).sort(descending=True)
    assert [name for name, _ in top] == [card.classes[int(place)] for place in known.indices[:3]]
    assert [share for _, share in top] == pytest.approx(known.values[:3].tolist(), abs=1e-5)
    assert cams.shape == pixels.shape == (3, 32, 32)
    assert float(cams.min()) >= 0
    assert not torch.allclose(pixels[0], pixels[1])
    assert asked["completeness_error"] < 0.1


def test_the_photographs_figure_tells_where_and_what() -> None:
    maps = torch.zeros(2, 32, 32)
    maps[0, :8, :8], maps[1, 24:, 24:] = 1.0, 1.0
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    exhibit = photo_attribution(
        photo, photo[::2, ::2], [("cat", 0.75), ("$dog$", 0.125)], maps, -maps, layer="c4", completeness_error=0.01
    )
    assert "cat (75.0 %), $dog$ (12.5 %)" in exhibit.alt
    assert "cat: upper left (100 %); $dog$: lower right (100 %)" in exhibit.alt
    assert exhibit.rows[0] == ["cat", "75.0 %", "upper left (100 %)", "nowhere"]
    json.dumps(exhibit.data, allow_nan=False)
    with Image.open(io.BytesIO(exhibit.png)) as image:
        assert 600 <= image.width <= 1000


def test_compacting_changes_no_colour_visibly() -> None:
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    values[0, 0], values[0, 1] = 0, 255
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    small = figure_list.compact(file.getvalue())
    assert len(small) < len(file.getvalue())
    with Image.open(io.BytesIO(small)) as image:
        back = np.asarray(image)
    assert np.abs(back.astype(int) - values).max() == 2
    assert back[0, 0].tolist() == [0, 0, 0]
    assert back[0, 1].tolist() == [255, 255, 255]


def test_figures_of_older_weights_are_told(folder: Path) -> None:
    figures, digest = folder / "docs" / "figures", listed(folder)["weights_sha256"]

    def told(published: str) -> str:
        record = Record(
            recipe="little", model="little", parameters=1, multiply_adds=1, receptive_field=61, rules_passed=True,
            seed=0, epochs=1, train_images=1, test_images=1, test_accuracy=0.5, test_loss=1, selection="none",
            wall_seconds=1, train_seconds=1, device="cpu x", threads=1, torch="2", commit="", data_sha256="a" * 64,
            weights="w", weights_sha256=published,
        )  # fmt: skip
        text = figure_list.markdown(figures, "docs/figures", {"little": record})
        assert "draw the figures anew" in text  # this run was not there when they were drawn
        return text

    assert "Other weights are published by now" in told("b" * 64)
    assert "Other weights" not in told(digest)
    assert "Other runs are published by now" in told(digest)
    assert "draw the figures anew" not in figure_list.markdown(figures, "docs/figures", {})
    assert "not drawn yet" in figure_list.markdown(folder / "nowhere", "x", {}).lower()


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        ("figure gone", "calibration.png: missing"),
        ("figure changed", "calibration.png: missing, or not the figure"),
        ("list cut", "figures.json: not a list of figures"),
        ("list empty", "figures.json: this is no list"),
        ("two lines", "figures.json: this is no list"),
    ],
)
def test_broken_figures_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], break_it: str, words: str
) -> None:
    figures = tmp_path / "docs" / "figures"
    figures.mkdir(parents=True)
    for path in (folder / "docs" / "figures").iterdir():
        (figures / path.name).write_bytes(path.read_bytes())
    (tmp_path / "README.md").write_text(before := "<!-- report:figures -->\n<!-- /report:figures -->\n")
    (tmp_path / "results").mkdir()
    at = ["report", "--readme", str(tmp_path / "README.md"), "--results", str(tmp_path / "results")]
    if break_it == "figure gone":
        (figures / "calibration.png").unlink()
    elif break_it == "figure changed":
        (figures / "calibration.png").write_bytes((figures / "confusion_matrix.png").read_bytes())
    else:
        found = listed(folder)
        found["figures"][0]["caption"] = "one\n<!-- /report:figures -->"
        text = {"list cut": "{", "list empty": "{}", "two lines": json.dumps(found)}[break_it]
        (figures / "figures.json").write_text(text)
    assert main(at) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert (tmp_path / "README.md").read_text() == before


def test_a_photograph_that_is_none_is_one_line(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("<!-- report:figures -->\n<!-- /report:figures -->\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    at = ["report", "--readme", str(tmp_path / "README.md"), "--results", str(tmp_path / "results")]
    for photo, words in (("text.png", "text.png"), ("nowhere.png", "nowhere.png")):
        arguments = ["--figures", "--network", str(network), "--photo", str(tmp_path / photo), "--device", "cpu"]
        assert main([*at, *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert words in err
        assert err.count("\n") == 1
    assert not (tmp_path / "docs").exists()


def test_a_bad_name_raises_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights"):
        showcase.draw(str(tmp_path / "nothing.safetensors"), lambda side, _: np.zeros((side, side, 3), np.uint8), [])

"""What the page shows of a picture, without the page: numbers, colours, words."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from torch import nn

from featherweight import weights
from featherweight.demo import markup
from featherweight.demo.examples import SCENES, write_examples
from featherweight.demo.look import SHOWN, STRENGTH, Looker, colours, lay_over
from featherweight.ship.classifier import Classifier, load
from featherweight.ship.predictor import PictureError, read_picture
from featherweight.weights import Card

CAT = Path(__file__).parent.parent / "ship" / "pictures" / "chelsea.jpg"


@pytest.fixture(scope="module")
def quick() -> Looker:
    return Looker("feather_quick", load("feather_quick"))


def test_colours_are_viridis() -> None:
    share = np.linspace(0, 1, 1001)
    wanted = 255 * np.asarray(colormaps["viridis"](share))[:, :3]
    assert np.abs(colours(share) - wanted).max() < 7
    assert colours(np.zeros((2, 3))).shape == (2, 3, 3)


def test_the_overlay_lays_the_map_over_the_grey_picture() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = (255, 0, 0)
    heat = np.zeros((8, 8), np.float32)
    heat[0, 0] = 5
    found = lay_over(picture, heat).astype(float)
    low, high = (255 * np.array(colormaps["viridis"](end)[:3]) for end in (0.0, 1.0))
    assert found[63, 63] == pytest.approx(STRENGTH * low + (1 - STRENGTH) * 0.299 * 255, abs=1)
    assert found[63, 0] == pytest.approx(STRENGTH * low, abs=1)
    assert found[0, 0] == pytest.approx(STRENGTH * high, abs=1)
    assert (lay_over(picture, np.zeros((8, 8))) == lay_over(picture, np.zeros((3, 3)))).all()  # nothing: no division


def test_look_says_what_predict_says(quick: Looker) -> None:
    seen = quick.look(CAT)
    assert seen.top == load("feather_quick").predict(CAT, top=5).top
    assert seen.others == 5
    assert (seen.given == read_picture(CAT, 32)).all()
    assert seen.overlay is not None
    assert seen.overlay.shape == (round(300 / 451 * SHOWN), SHOWN, 3)  # unsqueezed
    assert re.fullmatch(r"[a-z ]+ \(\d+ %\)", seen.strongest)
    with pytest.raises(PictureError, match="text, not a picture"):
        quick.look(b"Dear diary,\n")


class _Corner(nn.Module):
    """Its one map is the red channel; class 1 speaks for what is red, class 0 for the opposite."""

    def __init__(self) -> None:
        super().__init__()
        self.red = nn.Conv2d(3, 1, 1, bias=False)
        self.red.weight = nn.Parameter(torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        red = self.red(pictures).mean((2, 3))
        return torch.cat([-red, red], 1)


class _Flat(nn.Module):
    """No map anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3 * 16 * 16, 2)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.out(pictures.flatten(1))


def _looker(network: nn.Module, classes: tuple[str, ...]) -> Looker:
    card = Card(
        name="own", model="own", classes=classes, mean=(0, 0, 0), std=(1, 1, 1), input_size=16, dataset="x", recipe="x"
    )
    return Looker("own", Classifier(network, card))


def test_the_overlay_is_bright_where_the_class_is() -> None:
    pixels = np.zeros((48, 48, 3), np.uint8)
    pixels[:16, 32:, 0] = 255
    seen = _looker(_Corner(), ("dull", "red")).look(_png(pixels))
    assert [name for name, _ in seen.top] == ["red", "dull"]
    assert seen.others == 0
    assert seen.strongest.startswith("upper right")
    assert seen.overlay is not None
    bright, dark = seen.overlay[40, -40].astype(int), seen.overlay[-40, 40].astype(int)
    assert bright[1] > dark[1] + 80  # viridis ends in yellow and begins in purple


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def test_a_network_without_a_map_still_has_its_classes() -> None:
    looker = _looker(_Flat(), ("a", "b"))
    seen = looker.look(CAT)
    assert seen.overlay is None
    assert "no layer" in seen.strongest
    told = markup.result(looker, seen)
    assert "No Grad-CAM" in told
    assert told.count("<img") == 1


def test_names_from_outside_are_text_and_nothing_else() -> None:
    classes = ("<img src=x onerror=alert(1)>", '"&amp;')
    looker = _looker(_Corner(), classes)
    told = markup.result(looker, looker.look(CAT)) + markup.about(looker) + markup.problem("<script>1</script> is text")
    assert "<img src=x" not in told
    assert "<script>" not in told
    assert "&lt;img src=x onerror=alert(1)&gt;" in told
    assert "&quot;&amp;amp;" in told
    assert told.count("<li") == 2


@pytest.mark.parametrize(
    ("share", "words"), [(0, "0.0 %"), (0.0004, "&lt; 0.1 %"), (0.5, "50.0 %"), (0.9996, "&gt; 99.9 %"), (1, "100.0 %")]
)
def test_shares_never_claim_certainty(share: float, words: str) -> None:
    assert f">{words}<" in markup._bar("x", share)


def test_examples_are_sound_and_named_rightly(tmp_path: Path, quick: Looker) -> None:
    found = write_examples(tmp_path)
    assert [path.stem for path in found] == ["cat", *SCENES]
    assert sum(path.stat().st_size for path in found) < 200_000
    for path in found:
        assert quick.look(path).top[0][0] == path.stem


def test_about_tells_size_accuracy_and_limits(quick: Looker) -> None:
    card = weights.load("feather_quick")[1]
    told = markup.about(quick)
    assert f"{card.parameters:,} parameters" in told
    assert card.test_accuracy is not None
    assert f"{100 * card.test_accuracy:.2f} %" in told
    assert all(name in told for name in card.classes)

"""The page in a real Chromium, with a network and without one: what a person sees, and that nothing goes outside."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from demo_browser import NO_NETWORK, Browser, find_chromium
from demo_server import ODD_CLASSES, Running
from PIL import Image

from featherweight.ship.classifier import load
from featherweight.ship.predictor import read_picture

if importlib.util.find_spec("gradio") is None:  # not imported here: that takes seconds
    pytest.skip("the extra demo is NOT INSTALLED: the page was not tested", allow_module_level=True)
if find_chromium() is None:
    pytest.skip("NO CHROMIUM on this machine: the page was not tested in a browser", allow_module_level=True)

CAT = Path(__file__).parent.parent / "ship" / "pictures" / "chelsea.jpg"
FIELD = "#picture input[type=file]"
SHOWN = "document.querySelector('#picture img')?.naturalWidth > 0"
TOO_LARGE = (20 << 20) + 1  # bytes


@pytest.fixture(scope="module", params=[(), (NO_NETWORK,)], ids=["network", "offline"])
def browser(
    request: pytest.FixtureRequest, page: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    chromium = Browser(tmp_path_factory.mktemp("profile"), *request.param)
    chromium.resize(1280, 900)
    yield chromium
    chromium.close()


@pytest.fixture
def fresh(browser: Browser, page: Running) -> Browser:
    """The page as it is first seen; what was asked for and complained of is counted from here."""
    browser.addresses.clear()
    browser.complaints.clear()
    browser.open(page.url)
    browser.wait(f"document.querySelector({json.dumps(FIELD)}) !== null && document.querySelector('.fw-waiting')")
    return browser


def quiet(browser: Browser, page: Running) -> None:
    """Nothing went outside, nothing was tried and refused by the policy, no script failed."""
    assert len(browser.addresses) > 10  # the log is not empty
    assert browser.outside(page.url) == []
    # gradio asks how far an upload has come, and ends the camera's stream, even when that was over before: its own 404
    late = re.compile(r"status of 404 .*/gradio_api/(upload_progress\?|stream/\w+/close)")
    assert [one for one in browser.complaints if not late.search(one)] == []


def picture_in(browser: Browser, selector: str) -> np.ndarray:
    """The pixels of a picture that the page holds in itself."""
    source = browser.wait(f"document.querySelector({json.dumps(selector)})?.src")
    kind, _, data = source.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def bars(browser: Browser) -> list[tuple[str, float, float]]:
    """Name, stated percentage and drawn percentage of each bar."""
    script = """[...document.querySelectorAll('.fw-bars li')].map(one => [one.querySelector('.fw-name').innerText,
        parseFloat(one.querySelector('.fw-share').innerText), 100 * one.querySelector('.fw-fill').clientWidth
        / one.querySelector('.fw-track').clientWidth])"""
    return [tuple(row) for row in browser.run(script)]


def test_an_upload_shows_label_bars_and_overlay(fresh: Browser, page: Running) -> None:
    fresh.choose_files(FIELD, [CAT])
    fresh.wait("document.querySelector('.fw-overlay img')?.naturalWidth > 0")
    fresh.wait(SHOWN)
    wanted = load("feather_quick").predict(CAT, top=5)
    assert fresh.text(".fw-said strong") == wanted.label == "cat"
    assert fresh.text(".fw-said span") == f"{100 * wanted.confidence:.1f} % sure"
    found = bars(fresh)
    assert [name for name, _, _ in found] == [*(name for name, _ in wanted.top), "5 other classes"]
    rest = 1 - sum(share for _, share in wanted.top)
    for (_, stated, drawn), share in zip(found, [*(share for _, share in wanted.top), rest], strict=True):
        assert stated == pytest.approx(100 * share, abs=0.06)
        assert drawn == pytest.approx(100 * share, abs=1)
    assert (picture_in(fresh, ".fw-given img") == read_picture(CAT, 32)).all()
    overlay = picture_in(fresh, ".fw-overlay img")
    assert overlay.shape == (213, 320, 3)  # unsqueezed, unlike what was given
    assert overlay.astype(int).std(axis=(0, 1)).min() > 5  # not one flat colour
    assert "speaks for “cat”" in fresh.text(".fw-overlay")
    quiet(fresh, page)


def test_another_network_judges_the_picture_at_hand(fresh: Browser, page: Running, odd: Path) -> None:
    fresh.choose_files(FIELD, [CAT])
    fresh.wait("document.querySelector('.fw-said strong')?.innerText == 'cat'")
    fresh.click("#network input")
    fresh.wait("document.querySelectorAll('[role=option]').length == 2")
    fresh.click("[role=option][aria-label=odd], [role=option]:nth-of-type(2)")
    fresh.wait("document.querySelectorAll('.fw-bars li').length == 3")
    wanted = load(odd).predict(CAT)
    assert fresh.text(".fw-said strong") == wanted.label
    assert [name for name, _, _ in bars(fresh)] == [name for name, _ in wanted.top]
    assert {name for name, _, _ in bars(fresh)} == set(ODD_CLASSES)  # as text: neither markup nor a template
    assert fresh.run("document.querySelectorAll('#result b, #about b').length") == 0
    assert (picture_in(fresh, ".fw-given img") == read_picture(CAT, 48)).all()
    fresh.wait("document.querySelector('#about').innerText.includes('no test accuracy recorded')")
    quiet(fresh, page)


def test_an_example_is_one_click_away(fresh: Browser, page: Running) -> None:
    fresh.wait("[...document.querySelectorAll('#examples img')].filter(one => one.naturalWidth > 0).length == 4")
    fresh.click("#examples button:nth-of-type(3)")
    fresh.wait("document.querySelector('.fw-said strong')?.innerText == 'ship'")
    fresh.wait(SHOWN)
    fresh.click("#picture button[aria-label='Remove Image']")
    fresh.wait("document.querySelector('.fw-waiting') && !document.querySelector('.fw-said')")
    quiet(fresh, page)


def test_what_is_no_picture_gets_a_message_and_the_next_one_works(
    fresh: Browser, page: Running, tmp_path: Path
) -> None:
    said_before = len(page.errors.read_text())  # other tests, of what a page of ours never sends, have their say there
    contents = {
        "text.png": (b"Dear diary,\ntoday I drew nothing.\n", "text.png is text, not a picture."),
        "cut.jpg": (CAT.read_bytes()[:9000], "cut.jpg is damaged or incomplete"),
        "bomb.png": (bomb(20_000), "bomb.png has over 100 million pixels"),
        "<b>bold.gif": (bytes(range(256)), "<b>bold.gif is not a picture of a kind that is read here"),
    }
    fresh.choose_files(FIELD, [CAT])  # what comes after a sound one must not be read in another way
    fresh.wait("document.querySelector('.fw-said strong')?.innerText == 'cat'")
    for name, (content, words) in contents.items():
        (tmp_path / name).write_bytes(content)
        fresh.choose_files(FIELD, [tmp_path / name])
        fresh.wait(f"document.querySelector('.fw-problem')?.innerText.includes({json.dumps(words)})")
        fresh.wait(f"!document.querySelector('#picture img') && document.querySelector({json.dumps(FIELD)}) !== null")
        assert fresh.run("document.querySelector('.fw-problem').getAttribute('role')") == "alert"
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(TOO_LARGE)
    fresh.choose_files(FIELD, [tmp_path / "large.png"])
    fresh.wait("document.body.innerText.includes('exceed the maximum allowed size of 20')")
    # A kind that no browser draws is still read, and then shown as what was read of it.
    with Image.open(CAT) as image:
        image.save(tmp_path / "cat.tif")
        wide = image.width
    for name, shown in {"cat.tif": 320, CAT: wide}.items():
        fresh.choose_files(FIELD, [tmp_path / name])
        fresh.wait(f"document.querySelector('#picture img')?.naturalWidth == {shown}")
        fresh.wait("document.querySelector('.fw-said strong')?.innerText == 'cat'")
    quiet(fresh, page)
    assert "Traceback" not in page.errors.read_text()[said_before:]


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that unfolds into `side` x `side` pixels."""
    file = io.BytesIO()
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        Image.new("1", (side, side)).save(file, format="PNG")
    finally:
        Image.MAX_IMAGE_PIXELS = before
    return file.getvalue()


def test_the_camera_gives_a_picture(fresh: Browser, page: Running) -> None:
    fresh.click("#picture button[aria-label='Capture from camera']")
    fresh.wait(
        "document.querySelector('#picture video')?.videoWidth > 0 || "
        "document.querySelector('#picture [title=\"grant webcam access\"], #picture .access, #picture video') !== null"
    )
    if not fresh.run("document.querySelector('#picture video')?.videoWidth > 0"):
        fresh.click("#picture [title='grant webcam access']")
        fresh.wait("document.querySelector('#picture video')?.videoWidth > 0")
    fresh.click("#picture button[aria-label='capture photo']")
    fresh.wait("document.querySelector('.fw-overlay img')?.naturalWidth > 0")
    fresh.wait(SHOWN)
    quiet(fresh, page)


def test_the_page_fits_a_narrow_screen(fresh: Browser, page: Running) -> None:
    fresh.resize(420, 900)
    try:
        fresh.choose_files(FIELD, [CAT])
        fresh.wait("document.querySelector('.fw-overlay img')?.naturalWidth > 0")
        assert fresh.run("document.documentElement.scrollWidth") <= 420
        cut = "[...document.querySelectorAll('.fw-name, .fw-share')].filter(one => one.scrollWidth > one.clientWidth)"
        assert fresh.run(f"{cut}.map(one => one.innerText)") == []
        quiet(fresh, page)
    finally:
        fresh.resize(1280, 900)


def test_a_request_outside_would_be_seen_and_is_stopped(fresh: Browser, page: Running) -> None:
    """What `quiet` relies on: the log has it, and the policy forbids it."""
    fresh.run("fetch('http://outside.example/x').catch(() => 0)")
    fresh.run(
        "new Promise(done => { const i = new Image(); i.onerror = done; i.src = 'http://outside.example/i.png' })"
    )
    assert fresh.outside(page.url) == ["http://outside.example/i.png"]
    for directive in ("img-src", "connect-src"):
        assert any("Content Security Policy" in one and directive in one for one in fresh.complaints)

"""The report: one file that needs nothing from outside and says in words what its pictures show."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from featherweight.explain.page import page
from featherweight.explain.style import Exhibit

VOID = {"meta", "link", "img", "br", "hr"}


class Reader(HTMLParser):
    """Collects tags and text, and checks that every tag that is opened is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.words.setdefault(self.open[-1], []).append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def exhibit(name: str, title: str = "A title") -> Exhibit:
    image = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(image, format="PNG")
    return Exhibit(
        name=name,
        title=title,
        caption="A caption with <angles> & more.",
        alt='What "one" sees.',
        png=image.getvalue(),
        data={},
        columns=["network", "parameters", "accuracy"],
        rows=[["a & b", 150186, "85.28 %"], ["c", 3, "–"]],
    )


@pytest.fixture(scope="module")
def text() -> str:
    facts = [("network", "<script>alert(1)</script>"), ("parameters", 5)]
    return page(
        "A </title><b> network",
        facts,
        [exhibit("one"), exhibit("two", "Another & one")],
        skipped=[("curves", "no <metrics>")],
        notes=["Take care & look."],
    )


def test_nothing_comes_from_outside(text: str) -> None:
    reader = Reader(text)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in reader.tags}
    for tag, attributes in reader.tags:
        for key in ("src", "href", "srcset", "action", "data", "poster", "background", "style"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:", "#")), (tag, key, value)
        assert not any(key.startswith("on") for key in attributes), tag
    assert not re.search(r"url\(|@import|https?:|//[a-z]", text.replace("data:image/png;base64", ""))


def test_the_pictures_are_inside_and_have_words(text: str) -> None:
    images = Reader(text).all("img")
    assert len(images) == 2
    for image in images:
        kind, _, content = (image["src"] or "").partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as picture:
            assert picture.size == (4, 3)
        assert image["alt"] == 'What "one" sees.'


def test_what_is_text_stays_text(text: str) -> None:
    reader = Reader(text)
    assert not reader.all("b")
    assert reader.words["title"] == ["A </title><b> network"]
    assert "<script>alert(1)</script>" in reader.words["dd"]
    assert reader.words["figcaption"][0] == "A caption with <angles> & more."
    assert "curves: no <metrics>" in reader.words["li"]
    assert reader.words["p"] == ["Take care & look."]


def test_structure(text: str) -> None:
    reader = Reader(text)
    assert reader.all("html")[0]["lang"] == "en"
    viewport = [meta for meta in reader.all("meta") if meta.get("name") == "viewport"]
    assert viewport[0]["content"] == "width=device-width, initial-scale=1"
    assert len(reader.all("h1")) == 1
    assert reader.words["h2"] == ["1. A title", "2. Another & one", "Not drawn"]
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert ids == ["one", "two"]
    assert [link["href"] for link in reader.all("a")] == ["#one", "#two"]


def test_the_numbers_are_tables_with_headings(text: str) -> None:
    reader = Reader(text)
    assert len(reader.all("table")) == 2
    scopes = [heading["scope"] for heading in reader.all("th")]
    assert scopes == ["col", "col", "col", "row", "row"] * 2
    assert reader.words["td"][:4] == ["150,186", "85.28 %", "3", "–"]
    assert [cell.get("class") for cell in reader.all("td")][:4] == ["n", "n", "n", None]

"""Figures that a README shows, in a folder beside `figures.json`, which says of each what it is and of which weights.

The README is filled from that list, so its words and the figures cannot drift apart.
"""

from __future__ import annotations

import html
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight.records import Record, read_json_object
from featherweight.utils import UserError, sha256_bytes, sha256_file, write_together

if TYPE_CHECKING:
    from featherweight.explain.showcase import Showcase

LIST = "figures.json"
COMMAND = "featherweight report --figures"
MAX_BYTES = 1 << 20  # of the list: it holds a few kilobytes
COLOUR_STEP = 5  # levels of 255, which it divides
SHOWN_WIDTH = 640  # pixels in the README; the files are larger, for sharp screens


def write(folder: Path, showcase: Showcase, about: Mapping[str, Any]) -> Path:
    """The figures as PNG into `folder`, together with the list of them; returns the list's path.

    about: the `command` that drew them, and what else is worth keeping. Raises UserError when they cannot be written.
    """
    entries, files = [], {}
    for exhibit, caption in showcase.figures:
        file, png = folder / f"{exhibit.name}.png", compact(exhibit.png)
        files[file] = png
        words = {"title": exhibit.title, "caption": caption, "alt": exhibit.alt}
        entries.append({"file": file.name, "sha256": sha256_bytes(png), **words})
    card = showcase.card
    listed = {**about, "network": card.name, "weights_sha256": card.weights_sha256, "figures": entries}
    write_together({**files, folder / LIST: (json.dumps(listed, indent=2, ensure_ascii=False) + "\n").encode()})
    return folder / LIST


def runs_of(records: Mapping[str, Record]) -> dict[str, float | None]:
    """What a figure of all published runs is drawn from, for the list: each one's name and test accuracy."""
    return {name: record.test_accuracy for name, record in sorted(records.items())}


def compact(png: bytes) -> bytes:
    """The PNG in about half its bytes: without transparency, and in even steps of colour.

    Every value goes to the nearest multiple of `COLOUR_STEP`: black and white stay, none changes by more than 2 of 255.
    """
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        values = np.asarray(image.convert("RGB"), np.int32)
    stepped = ((values + COLOUR_STEP // 2) // COLOUR_STEP * COLOUR_STEP).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(stepped).save(file, "PNG", optimize=True)
    return file.getvalue()


def markdown(folder: Path, place: str, records: Mapping[str, Record]) -> str:
    """The figures listed in `folder`, each with its caption, for a README that reaches the folder as `place`.

    Says so where there are none yet, or where they are not of the weights published now. Raises UserError, naming the
    file, for a list that is none and for a figure that is missing or another one.
    """
    path = folder / LIST
    if not path.exists():
        return f"Not drawn yet; `{COMMAND}` draws them."
    listed = read_json_object(path, limit=MAX_BYTES, what="list of figures")
    texts = [listed.get(key) for key in ("command", "network", "weights_sha256")]
    figures = listed.get("figures")
    if not all(map(_is_text, texts)) or not isinstance(figures, list) or not all(map(_is_figure, figures)):
        raise UserError(f"{path}: this is no list of figures; draw them anew with `{COMMAND}`")
    command, network, digest = map(str, texts)
    parts = []
    for entry in figures:
        file = folder / Path(entry["file"]).name
        if not file.is_file() or sha256_file(file) != entry["sha256"]:
            raise UserError(f"{file}: missing, or not the figure that {LIST} lists; draw them anew with `{COMMAND}`")
        source, alt = html.escape(f"{place}/{file.name}"), html.escape(entry["alt"])
        parts += [f'<img src="{source}" width="{SHOWN_WIDTH}" alt="{alt}">', html.escape(entry["caption"], quote=False)]
    about = f"Drawn by `{command}` from the weights of {network} with the SHA-256 `{digest[:16]}…`."
    published = records.get(network)
    if published is not None and published.weights_sha256 != digest:
        about += " Other weights are published by now: draw the figures anew."
    elif listed.get("runs") != runs_of(records):
        about += " Other runs are published by now: draw the figures anew."
    return "\n\n".join([*parts, about])


def _is_figure(entry: Any) -> bool:
    return isinstance(entry, dict) and all(_is_text(entry.get(key)) for key in ("file", "alt", "caption", "sha256"))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()

"""What the tests of fetching share: sources on the small server, and what a whole copy is."""

from __future__ import annotations

from pathlib import Path

from featherweight.datasets import cifar10, fetch
from featherweight.datasets.cifar10 import Copy
from featherweight.datasets.download import Patience
from featherweight.datasets.fetch import Source

QUICK = Patience(timeout=5.0, attempts=3, pause=0.01)
ARCHIVE = "/cifar-10-python.tar.gz"

# Run as a program of its own: the orders (archive and sources) in a file, and the folder to fetch into.
OTHER_PROCESS = """
import sys, pickle
from pathlib import Path
from featherweight.datasets import fetch
archive, sources = pickle.load(open(sys.argv[1], "rb"))
copy = fetch.fetch(Path(sys.argv[2]), sources, archive=archive)
print(copy.folder)
"""


def archive_at(server, *paths: str) -> list[Source]:
    return [Source(label=path, form="archive", urls=(server.address + path,)) for path in paths]


def get(server, small, folder: Path) -> Copy:
    """Fetch the small archive from its usual path."""
    return fetch.fetch(folder, archive_at(server, ARCHIVE), archive=small.archive, patience=QUICK)


def check_whole(folder: Path, small, copy: Copy) -> None:
    """Everything is in place, nothing is left over, and it reads as it must."""
    assert copy == Copy(folder / small.archive.folder, "batches")
    for name, content in small.files.items():
        assert (copy.folder / name).read_bytes() == content
    assert {path.name for path in folder.iterdir()} == {small.archive.folder, ".featherweight-fetch.lock"}
    assert cifar10.read(copy, "train", small.archive).digest() == small.archive.digests["train"]

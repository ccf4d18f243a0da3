"""Where pictures come from: finding, fetching and verifying data sets, and the splits of their training pictures.

    train, validation = split_train(load_train("cifar10"))
    test = load_test("cifar10")  # read only when asked for

CIFAR-10 is looked for in the folder given, $FEATHERWEIGHT_DATA, ./data, ../shared/data and the user's cache folder, in
this order; each may be the folder around `cifar-10-batches-py` or that folder itself. Otherwise it is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from featherweight.datasets import cifar10, digits
from featherweight.datasets import fetch as fetching
from featherweight.datasets.cifar10 import Archive, Copy, Split
from featherweight.datasets.pictures import PictureSet, Statistics, measure_statistics, split_train
from featherweight.terminal import note
from featherweight.utils import UserError, cache_folder

__all__ = [
    "CLASSES",
    "DIGESTS",
    "NAMES",
    "STATISTICS",
    "PictureSet",
    "Statistics",
    "cache_folder",
    "check_name",
    "fetch_into",
    "load_test",
    "load_train",
    "locate",
    "measure_statistics",
    "obtain",
    "split_train",
]

NAMES = ("cifar10", "digits")
CLASSES = {"cifar10": cifar10.CLASSES, "digits": digits.CLASSES}

# Of all training pictures' own pixels (50,000 and 1,442); `featherweight data --statistics` measures them anew.
STATISTICS = {
    "cifar10": Statistics(
        mean=(0.49139967861519607, 0.48215840839460783, 0.44653091444546567),
        std=(0.24703223246328201, 0.24348512800005553, 0.2615878417279645),
    ),
    "digits": Statistics(
        mean=(0.30571735900063907, 0.30571735900063907, 0.30571735900063907),
        std=(0.32365451770910664, 0.32365451770910664, 0.32365451770910664),
    ),
}

# `PictureSet.digest` of every set: all training pictures, the two parts `split_train` makes of them, the test pictures.
DIGESTS = {
    "cifar10": {
        "train_all": cifar10.CIFAR10.digests["train"],
        "train": "1ab27f8c0b502225d1bd0d77d8dd603eff64b4404895e211ce1f87c78b62dbd5",
        "validation": "ad474be4536eed1537576b649012654b3ab35a6fc5cb2c445e36c7c17c07615a",
        "test": cifar10.CIFAR10.digests["test"],
    },
    "digits": {
        "train_all": "54ff5eeeafe8ef75d56e41d06d4b163ad4a6b8d5ce1745f2870090251a1ec308",
        "train": "482dad6f5bd815d8bc44a6692a3d089a207f6b0a0aa3dd42856372d64a2ee4d0",
        "validation": "4e98a44bb10ef1e6ad3d30f7705530031d0a5f975ea773eb8ffa54d4bc1318a8",
        "test": "44435224da203d2d969f83118a4d707ee31075cadbcc67ed2b9a00946bc1da09",
    },
}

_CHOICES = (
    "give its folder with --data-dir or $FEATHERWEIGHT_DATA, an address to fetch it from in "
    f"${fetching.MIRRORS}, or choose --dataset digits, which needs no network"
)


def load_train(name: str, data_dir: Path | None = None, *, fetch: bool = True) -> PictureSet:
    """All training pictures of the data set `name` (CIFAR-10: 50,000; digits: 1,442), verified, in canonical order.

    fetch: whether CIFAR-10 may be downloaded where no copy is found. Raises UserError for an unknown name, a damaged
    copy, or when there is none.
    """
    return _load(name, "train", data_dir, fetch)


def load_test(name: str, data_dir: Path | None = None, *, fetch: bool = True) -> PictureSet:
    """All test pictures (CIFAR-10: 10,000; digits: 355), as `load_train`."""
    return _load(name, "test", data_dir, fetch)


def _load(name: str, split: Split, data_dir: Path | None, fetch: bool) -> PictureSet:
    check_name(name)
    if name == "digits":
        return digits.load()[0 if split == "train" else 1]
    return cifar10.read(obtain(data_dir, fetch=fetch), split)


def check_name(name: str) -> None:
    """UserError, with the choices, unless `name` is that of a data set."""
    if name not in NAMES:
        raise UserError(f"unknown data set {name!r}; choose {' or '.join(NAMES)}")


def places(data_dir: Path | None = None) -> list[Path]:
    """The folders where CIFAR-10 is looked for, in order."""
    environment = os.environ.get("FEATHERWEIGHT_DATA")
    named = [Path(place) for place in (data_dir, environment) if place]
    return [*named, Path("data"), Path("..", "shared", "data"), cache_folder()]


def locate(data_dir: Path | None = None, archive: Archive = cifar10.CIFAR10) -> Copy | None:
    """The first copy of CIFAR-10 found, unread and unverified; None where there is none.

    Says so on standard error when `data_dir` was given and holds none, but another place does.
    """
    for place in places(data_dir):
        copy = cifar10.recognise(place, archive)
        if copy:
            if data_dir is not None and place != Path(data_dir):
                note(f"no CIFAR-10 in {data_dir}; using {copy.folder}")
            return copy
    return None


def obtain(
    data_dir: Path | None = None,
    *,
    fetch: bool = True,
    mirrors: Sequence[str] = (),
    archive: Archive = cifar10.CIFAR10,
    sources: Sequence[fetching.Source] | None = None,
) -> Copy:
    """The first copy of CIFAR-10 found; otherwise one fetched into `data_dir`, or into the cache folder.

    mirrors: addresses to fetch from first; sources: used instead of all others. Raises UserError, one line with the
    choices, where there is no copy and none can be had.
    """
    copy = locate(data_dir, archive)
    if copy:
        return copy
    looked = ", ".join(str(place) for place in places(data_dir))
    if not fetch:
        raise UserError(f"CIFAR-10 was not found in {looked}; fetch it with 'featherweight data --fetch', {_CHOICES}")
    sources = fetching.default_sources(mirrors) if sources is None else sources
    target = Path(data_dir) if data_dir else cache_folder()
    return fetch_into(target, sources, archive, f"was not found in {looked}, and")


def fetch_into(
    folder: Path, sources: Sequence[fetching.Source], archive: Archive = cifar10.CIFAR10, before: str = ""
) -> Copy:
    """`fetch.fetch`, whose error is completed to the one line with the choices."""
    try:
        return fetching.fetch(folder, sources, archive=archive)
    except UserError as error:
        raise UserError(f"CIFAR-10 {before} could not be fetched into {folder}: {error}; {_CHOICES}") from error

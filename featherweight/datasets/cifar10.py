"""CIFAR-10: what its official files must be, and how the copies of it are recognised and read.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. 50,000 training and 10,000 test
pictures of 32x32 pixels, ten classes, equally many of each.

Three forms are read: the official Python batches (each file's SHA-256 matched before a byte of it is interpreted), the
two parquet files of the model hub's copy, and the unpacked form that fetching the latter leaves behind. The last two
are verified by the digest of all their pictures and labels, which the official batches gave.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from featherweight.datasets.pictures import Part, PictureSet, assemble, make_part
from featherweight.datasets.unpickle import read_pickle
from featherweight.utils import UserError, sha256_bytes

Split = Literal["train", "test"]
Form = Literal["batches", "parquet", "unpacked"]
SPLITS: tuple[Split, Split] = ("train", "test")

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32  # pixels
PLANE = SIDE * SIDE  # bytes of one colour of one picture; the batches store red, green, blue one after the other


@dataclass(frozen=True)
class Pin:
    """A file that must be exactly this: name inside its folder, size in bytes, SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Everything that is expected of a copy of the data set; the tests put small ones in its place."""

    file: Pin  # the .tar.gz
    folder: str  # the folder inside it
    train: tuple[Pin, ...]
    test: tuple[Pin, ...]
    others: tuple[Pin, ...]  # allowed in the archive and kept, but nothing is read from them
    digests: dict[Split, str]  # `pictures.digest_of` of each split
    classes: tuple[str, ...] = CLASSES

    def pins(self, split: Split) -> tuple[Pin, ...]:
        """The batches of one split."""
        return self.train if split == "train" else self.test

    @property
    def members(self) -> tuple[Pin, ...]:
        """Every file the archive may hold."""
        return (*self.train, *self.test, *self.others)


# The MD5 sums published beside the data set were matched by the files these SHA-256 sums were taken from. The archive's
# own sum is the one other projects pin (its MD5, c58f30108f718f92721af3b95e74349a, is the published one).
CIFAR10 = Archive(
    file=Pin("cifar-10-python.tar.gz", 170_498_071, "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"),
    folder="cifar-10-batches-py",
    train=(
        Pin("data_batch_1", 31_035_704, "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd"),
        Pin("data_batch_2", 31_035_320, "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8"),
        Pin("data_batch_3", 31_035_999, "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9"),
        Pin("data_batch_4", 31_035_696, "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b"),
        Pin("data_batch_5", 31_035_623, "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154"),
    ),
    test=(Pin("test_batch", 31_035_526, "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831"),),
    others=(
        Pin("batches.meta", 158, "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb"),
        Pin("readme.html", 88, "4d1c3fb199d6a183ae03f5162b469d7bc04edf2fad9547bd5f224271d52f98e5"),
    ),
    digests={
        "train": "ab38fe1c1699a2415da621a9ab962636282c7b06a6f497a39538e0fab14a1da4",
        "test": "f5197b78b1b3850c3d66c4c640631997324a7cd5e58ee1476e56efc1b9939d82",
    },
)

PARQUET = {"train": "train-00000-of-00001.parquet", "test": "test-00000-of-00001.parquet"}
HUB_FOLDER = "plain_text"  # where the model hub's copy keeps them
UNPACKED = "cifar10-unpacked"  # folder of train.safetensors and test.safetensors


@dataclass(frozen=True)
class Copy:
    """A copy of CIFAR-10 on this machine: the folder that holds its files, and their form."""

    folder: Path
    form: Form

    def files(self, split: Split, archive: Archive = CIFAR10) -> list[Path]:
        """The files that hold `split`."""
        if self.form == "batches":
            return [self.folder / pin.name for pin in archive.pins(split)]
        return [self.folder / (PARQUET[split] if self.form == "parquet" else f"{split}.safetensors")]

    def around(self, archive: Archive = CIFAR10) -> Path:
        """The folder to fetch into so that what is fetched is found in this copy's stead."""
        own = {"batches": archive.folder, "unpacked": UNPACKED, "parquet": HUB_FOLDER}[self.form]
        return self.folder.parent if self.folder.name == own else self.folder


def recognise(place: Path, archive: Archive = CIFAR10) -> Copy | None:
    """The copy at `place`, which may be the folder around it or that folder itself; None where there is none.

    A folder of the right name counts as found even when files are missing in it: reading it then says which.
    """
    if os.path.isdir(place / archive.folder):  # os.path: a folder that may not be looked into holds no copy
        return Copy(place / archive.folder, "batches")
    if any(os.path.isfile(place / pin.name) for pin in (*archive.train, *archive.test)):
        return Copy(place, "batches")
    for folder in (place / UNPACKED, place):
        if any(os.path.isfile(folder / f"{split}.safetensors") for split in SPLITS) and folder.name == UNPACKED:
            return Copy(folder, "unpacked")
    for folder in (place, place / HUB_FOLDER):
        if any(os.path.isfile(folder / name) for name in PARQUET.values()):
            return Copy(folder, "parquet")
    return None


def read(copy: Copy, split: Split, archive: Archive = CIFAR10) -> PictureSet:
    """The pictures of `split`, verified, in canonical order. Raises UserError naming the file that is not right."""
    if copy.form == "batches":
        return read_batches(copy.folder, archive.pins(split), archive.classes)
    from featherweight.datasets.parquet import read_parquet, read_unpacked

    file = copy.files(split, archive)[0]
    reader = read_parquet if copy.form == "parquet" else read_unpacked
    pictures = reader(file, archive.classes)
    return expect_digest(pictures, split, file, archive)


def expect_digest(pictures: PictureSet, split: Split, file: Path, archive: Archive) -> PictureSet:
    """`pictures`, if they are those of `split`; UserError naming `file` otherwise."""
    from featherweight.datasets.pictures import digest_of

    if digest_of(pictures.hashes, pictures.labels.numpy()) != archive.digests[split]:
        raise UserError(f"{file} does not hold CIFAR-10's {split} pictures (digest differs); {_REMEDY}")
    return pictures


def read_batches(folder: Path, pins: tuple[Pin, ...], classes: tuple[str, ...] = CLASSES) -> PictureSet:
    """The pictures of the batches `pins` in `folder`, in canonical order.

    Two at a time: hashing a whole file releases Python's lock, so the second core has work. Each of the two keeps one
    buffer for all its files, because fresh memory costs as much time as reading does. Raises UserError for a missing
    file, a wrong checksum or content that is not a batch.
    """
    workers = 2
    buffers = [bytearray(max(pin.size for pin in pins)) for _ in range(workers)]
    with ThreadPoolExecutor(max_workers=workers) as pool:  # list.pop and list.append are atomic: a buffer has one user

        def work(pin: Pin) -> Part:
            buffer = buffers.pop()
            try:
                return _read_batch(folder / pin.name, pin, buffer, len(classes))
            finally:
                buffers.append(buffer)

        parts = list(pool.map(work, pins))
    return assemble(parts, classes)


_REMEDY = "delete it and run 'featherweight data --fetch', or choose another copy with --data-dir"


def read_pinned(file: Path, pin: Pin, buffer: bytearray) -> memoryview:
    """The bytes of `file`, in `buffer` (at least as long as the pin says), after they matched `pin`; else UserError."""
    try:
        with open(file, "rb", buffering=0) as stream:
            found = os.fstat(stream.fileno()).st_size
            if found != pin.size:  # before reading: a wrong file may be huge
                raise UserError(f"{file} is damaged or incomplete: {found:,} bytes instead of {pin.size:,}; {_REMEDY}")
            content = memoryview(buffer)[: pin.size]
            at = 0
            while at < pin.size and (got := stream.readinto(content[at:])):
                at += got
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing; {_REMEDY}") from error
    except OSError as error:
        raise UserError(
            f"cannot read {file}: {error.strerror or error}; mend it or choose another copy with --data-dir"
        ) from error
    if at != pin.size or sha256_bytes(content) != pin.sha256:
        raise UserError(f"{file} is damaged: its SHA-256 is not the published file's; {_REMEDY}")
    return content


def _read_batch(file: Path, pin: Pin, buffer: bytearray, classes: int) -> Part:
    batch = read_pickle(read_pinned(file, pin, buffer), file)
    data, labels = (batch.get("data"), batch.get("labels")) if isinstance(batch, dict) else (None, None)
    if not (
        isinstance(data, np.ndarray)
        and data.ndim == 2
        and data.shape[1] == 3 * PLANE
        and isinstance(labels, list)
        and len(labels) == len(data)
        and all(type(label) is int and 0 <= label < classes for label in labels)
    ):
        raise UserError(f"{file} is not a CIFAR-10 batch (rows of {3 * PLANE} bytes and one label for each); {_REMEDY}")
    planes = data.reshape(-1, 3, PLANE)
    images = np.empty((len(planes), PLANE, 3), np.uint8)
    for colour in range(3):  # four times quicker than one transposing copy
        images[:, :, colour] = planes[:, colour]
    return make_part(images.reshape(-1, SIDE, SIDE, 3), np.array(labels))


@dataclass(frozen=True)
class FileCheck:
    """What verification found of one file; `problem` is empty when all is well."""

    file: Path
    sha256: str
    problem: str


def check_files(copy: Copy, archive: Archive = CIFAR10) -> list[FileCheck]:
    """Each file of `copy`: its SHA-256, and what is wrong with it.

    Batches are held against their published checksums; the other forms have none for their files (their pictures are
    verified as a whole on reading), so there only absence is a problem.
    """
    pins = {copy.folder / pin.name: pin for pin in archive.members} if copy.form == "batches" else {}
    optional = {copy.folder / pin.name for pin in archive.others}
    files = list(pins) or [file for split in SPLITS for file in copy.files(split, archive)]
    checks = []
    for file in files:
        if file in optional and not file.exists():
            continue
        sha256, problem = "", ""
        try:
            with open(file, "rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            problem = error.strerror or str(error)
        if not problem and file in pins and sha256 != pins[file].sha256:
            problem = "checksum differs from the published file's"
        checks.append(FileCheck(file, sha256, problem))
    return checks

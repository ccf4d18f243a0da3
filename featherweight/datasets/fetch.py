"""Fetching CIFAR-10: sources in turn, one process at a time, everything verified before it is put in its place.

The official server is slow (40 to 60 minutes for 170 MB), so mirrors come first, then the model hub's parquet copy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from featherweight.datasets import cifar10, parquet
from featherweight.datasets.cifar10 import CIFAR10, SPLITS, Archive, Copy, Split
from featherweight.datasets.download import Patience, SourceError, cannot_write, check_address, download
from featherweight.terminal import Progress, note
from featherweight.utils import UserError, sha256_bytes, sha256_file

MIRRORS = "FEATHERWEIGHT_MIRRORS"  # addresses, separated by spaces
_HUB = "https://huggingface.co/datasets/uoft-cs/cifar10/resolve/main/plain_text"
_OFFICIAL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
_PARQUET_LARGEST = 200_000_000  # bytes; the larger of the two has 120 MB


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a copy can be had: the archive at one address, or the parquet files of both splits at two."""

    label: str
    form: Literal["archive", "parquet"]
    urls: tuple[str, ...]  # archive: (url,); parquet: (train, test)


def default_sources(mirrors: Sequence[str] = ()) -> tuple[Source, ...]:
    """`mirrors`, then those of $FEATHERWEIGHT_MIRRORS, the model hub, the official server.

    A mirror is the address of the archive, or of the folder that holds it under its own name. Raises UserError for one
    that is not an http or https address.
    """
    own = []
    for url in (*mirrors, *os.environ.get(MIRRORS, "").split()):
        check_address(url)
        address = url if url.endswith(".tar.gz") else f"{url.rstrip('/')}/{CIFAR10.file.name}"
        own.append(Source(label=f"mirror {url}", form="archive", urls=(address,)))
    hub = Source(label="the model hub", form="parquet", urls=tuple(f"{_HUB}/{cifar10.PARQUET[s]}" for s in SPLITS))
    return (*own, hub, Source(label="the official server", form="archive", urls=(_OFFICIAL,)))


def fetch(
    folder: Path,
    sources: Sequence[Source] | None = None,
    *,
    archive: Archive = CIFAR10,
    patience: Patience | None = None,
) -> Copy:
    """Make sure a sound copy stands in `folder`, and return it.

    Of several processes one fetches and the others wait for it. A damaged copy in `folder` is replaced; damaged batches
    by the archive only, as they would hide any other form. Raises UserError in one line when `folder` cannot be
    written, has too little space, or when no source delivers (naming each reason).
    """
    sources = default_sources() if sources is None else sources
    patience = patience or Patience()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    with _alone_in(folder):
        present = cifar10.recognise(folder, archive)
        if present and is_sound(present, archive):
            return present
        if present and present.form == "batches":
            sources = [source for source in sources if source.form == "archive"]
        _expect_space(folder, archive)
        reasons = []
        for source in sources:
            note(f"fetching CIFAR-10 from {source.label} into {folder}")
            try:
                take = _take_archive if source.form == "archive" else _take_parquet
                return take(source, folder, archive, patience)
            except SourceError as error:
                note(f"  {source.label}: {error}")
                reasons.append(f"{source.label}: {error}")
    raise UserError("; ".join(reasons) or "no sources are known")


def is_sound(copy: Copy, archive: Archive = CIFAR10) -> bool:
    """Whether both splits of `copy` are what they must be (about 1 s)."""
    if copy.form == "batches":
        return not any(check.problem for check in cifar10.check_files(copy, archive))
    try:
        for split in SPLITS:
            cifar10.read(copy, split, archive)
    except UserError:
        return False
    return True


def _take_archive(source: Source, folder: Path, archive: Archive, patience: Patience) -> Copy:
    part = folder / f".{archive.file.name}.part"
    while True:
        resumed = download(source.urls[0], part, largest=archive.file.size, exact=True, patience=patience)
        if sha256_file(part) == archive.file.sha256:
            break
        part.unlink()
        if not resumed:
            raise SourceError("what it sends is not CIFAR-10's archive (checksum differs)")
        note("  the parts do not fit together; starting over")  # the first part came from somewhere else
    staging = _staging_folder(folder)
    try:
        unpack(part, staging, archive)
        target = folder / archive.folder
        if cifar10.recognise(folder, archive) == Copy(folder, "batches"):
            target = folder  # the folder is itself the one of the batches: mend them in place
        _place(staging, target)
    except SourceError:
        part.unlink(missing_ok=True)  # else the next source would find it complete
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    part.unlink(missing_ok=True)
    return Copy(target, "batches")


def unpack(file: Path, folder: Path, archive: Archive) -> None:
    """Write the members of the archive `file` into `folder`, each verified in memory before it is written.

    Only the known names are accepted, each once, of its known size, and all must be there: no member decides where
    anything is written. Raises SourceError for anything else.
    """
    expected = {f"{archive.folder}/{pin.name}": pin for pin in archive.members}
    try:
        with tarfile.open(file, "r|gz") as members, Progress("unpacking", len(expected), "files") as progress:
            for member in members:
                if member.isdir() and member.name.rstrip("/") == archive.folder:
                    continue
                pin = expected.pop(member.name, None)
                if pin is None or not member.isreg() or member.size != pin.size:
                    raise SourceError(f"its archive holds {member.name[:100]!r}, which does not belong there")
                stream = members.extractfile(member)
                content = stream.read() if stream else b""
                if sha256_bytes(content) != pin.sha256:
                    raise SourceError(f"{member.name} in its archive is damaged")
                try:
                    (folder / pin.name).write_bytes(content)
                except OSError as error:
                    raise cannot_write(folder / pin.name, error) from error
                progress.step()
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        raise SourceError(f"its archive cannot be read ({error})") from error
    if expected:
        raise SourceError(f"its archive lacks {', '.join(sorted(expected))}")


def _take_parquet(source: Source, folder: Path, archive: Archive, patience: Patience) -> Copy:
    if not parquet.available():
        raise SourceError("passed over, because it needs pyarrow (pip install pyarrow)")
    target = folder / cifar10.UNPACKED
    staging = _staging_folder(folder)
    try:
        for split, url in zip(SPLITS, source.urls, strict=True):
            _take_split(url, split, folder, staging, archive, patience)
        _place(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for split in SPLITS:
        _parquet_part(folder, split).unlink(missing_ok=True)
    return Copy(target, "unpacked")


def _parquet_part(folder: Path, split: Split) -> Path:
    return folder / f".cifar10-{split}.parquet.part"


def _take_split(url: str, split: Split, folder: Path, staging: Path, archive: Archive, patience: Patience) -> None:
    part = _parquet_part(folder, split)
    while True:
        resumed = download(url, part, largest=_PARQUET_LARGEST, exact=False, patience=patience)
        try:
            pictures = cifar10.expect_digest(parquet.read_parquet(part, archive.classes), split, part, archive)
            break
        except UserError as error:
            part.unlink(missing_ok=True)
            if not resumed:
                raise SourceError(f"what it sends is not CIFAR-10's {split} pictures") from error
            note("  the parts do not fit together; starting over")
    parquet.write_unpacked(staging / f"{split}.safetensors", pictures)


def _staging_folder(folder: Path) -> Path:
    """A new folder to put things together in. Those that a killed process left behind go; the lock is ours."""
    for stale in folder.glob(".cifar10-*"):
        if stale.is_dir():
            shutil.rmtree(stale, ignore_errors=True)
    try:
        return Path(tempfile.mkdtemp(prefix=".cifar10-", dir=folder))
    except OSError as error:
        raise cannot_write(folder, error) from error


def _place(staging: Path, target: Path) -> None:
    """Move the verified files of `staging` to `target`: the folder in one step if it is new, else file by file."""
    try:
        os.chmod(staging, 0o755)  # mkdtemp makes folders private
        if not target.exists():
            os.replace(staging, target)
            return
        for file in staging.iterdir():
            os.replace(file, target / file.name)
    except OSError as error:
        raise cannot_write(target, error) from error


def _expect_space(folder: Path, archive: Archive) -> None:
    """UserError before the first byte where the disk cannot hold the download and what is made of it."""
    part = folder / f".{archive.file.name}.part"
    there = part.stat().st_size if part.is_file() else 0
    needed = archive.file.size - there + sum(pin.size for pin in archive.members)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"too little space in {folder}: {free / 1e6:,.0f} MB free, {needed / 1e6:,.0f} MB needed; free "
            "some or choose another folder with --data-dir"
        )


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`; wait where another process holds it. It is released even if this process is killed."""
    path = folder / ".featherweight-fetch.lock"
    try:
        file = open(path, "a+b")  # noqa: SIM115 (closed below, apart from errors of opening)
    except OSError as error:
        raise cannot_write(path, error) from error
    with file:
        if not _lock(file, wait=False):
            note(f"another process is fetching into {folder}; waiting for it")
            _lock(file, wait=True)
        yield


def _lock(file: IO[bytes], *, wait: bool) -> bool:
    """Take the lock of an open file, given back by closing it; False where another holds it and `wait` is not set."""
    if os.name == "nt":  # pragma: no cover
        import msvcrt

        while True:
            try:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
                return True
            except OSError:
                if not wait:
                    return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:  # some network file systems know no locks: then each process fetches for itself
        note(f"{file.name} cannot be locked ({error.strerror}); going on without")
    return True

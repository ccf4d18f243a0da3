"""Small helpers every room may use: the bad-input error, atomic writes, hashes, seeds and the choice of device.

Nothing here imports torch before a function that needs it is called: `featherweight --help` must stay quick.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class UserError(Exception):
    """Bad input from outside, told in one line: what is wrong, where, what to do. The command exits with 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


def write_atomic(path: Path | str, content: bytes | str) -> None:
    """Write a file whole or not at all: into a temporary neighbour, flushed, then renamed over `path`.

    Raises UserError when the folder cannot be written, the disk is full, or `path` is a device, pipe or folder, which
    no file shall replace; whatever `path` held before is kept.
    """
    path = Path(path)
    _expect_free_or_plain(path)
    data = content.encode() if isinstance(content, str) else content
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files private; published files should not be
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def require_place(path: Path | str | None) -> None:
    """Raises UserError where `write_atomic` could not write `path`, so that it is told before long work, not after.

    Folders that are not there yet are no hindrance: the nearest one that is, is tried. None: nothing is to be written.
    """
    if path is None:
        return
    path = Path(path)
    _expect_free_or_plain(path)
    folder = path.absolute().parent
    while not os.path.exists(folder):
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {folder}: {error.strerror or error}; free some space or choose another folder"
        ) from error


def _expect_free_or_plain(path: Path) -> None:
    """UserError unless `path` is a plain file, or nothing yet under a name that a file can have."""
    try:
        path.name.encode()  # one that is no UTF-8 could not be told in JSON
        plain = stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # too long a name, a folder that is not ours to look into, a NUL byte
        reason = getattr(error, "strerror", None) or "the name is none for a file"
        raise UserError(f"cannot write {ascii(str(path))[1:-1]}: {reason}; choose another name") from error
    if not plain:
        raise UserError(f"cannot write {path}: it is there and no plain file; choose another name")


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files that belong together: all beside their places first, then rename each.

    A full disk leaves every older file as it was. Raises UserError when one cannot be written.
    """
    for path in contents:
        _expect_free_or_plain(path)
    staged = {path.with_name(f".{path.name}.new"): path for path in contents}
    try:
        for temporary, path in staged.items():
            write_atomic(temporary, contents[path])
        for temporary, path in staged.items():
            os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename2 or error.filename}: {error.strerror}; choose another folder"
        ) from error
    finally:
        for temporary in staged:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def cache_folder() -> Path:
    """The user's folder for data that can be had again: $XDG_CACHE_HOME/featherweight or ~/.cache/featherweight."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # a relative one is to be ignored, says the XDG specification
        return Path(base) / "featherweight"
    return Path(os.path.expanduser("~")) / ".cache" / "featherweight"


def sha256_bytes(data: bytes | memoryview) -> str:
    """The SHA-256 of `data`, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several whole numbers (seed, epoch, step …): near-by parts give unrelated streams."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & (2**63 - 1)


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators alike."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the global generator is what libraries draw from
    torch.manual_seed(seed)


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` takes cuda, then mps, then cpu.

    Raises UserError when the device asked for is not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = name.split(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in there:
        raise UserError(f"unknown device {name!r}; choose auto, cpu, cuda or mps")
    if not there[kind]:
        raise UserError(f"device {name!r} is not available on this machine; choose --device auto or --device cpu")
    count, number = torch.cuda.device_count() if kind == "cuda" else 1, name[len(kind) + 1 :]
    if name != kind and not (number.isdecimal() and int(number) < count):
        raise UserError(f"there is no device {name!r} here; its number must lie between 0 and {count - 1}")
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """`cpu`, `cuda` or `mps`, a space, then the hardware's own name."""
    if device.type == "cuda":
        import torch

        return f"cuda {torch.cuda.get_device_name(device)}"
    if device.type == "mps":
        return f"mps {platform.machine()}"
    return f"cpu {_processor_name()}"


def _processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()

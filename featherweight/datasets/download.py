"""One file from one address: resumed where it stopped, bounded in size, with progress on standard error."""

from __future__ import annotations

import contextlib
import errno
import http.client
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from featherweight.terminal import Progress, note
from featherweight.utils import UserError

BLOCK = 1 << 18  # bytes read at a time
_HOPELESS = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)  # no use asking again


class SourceError(Exception):
    """A source did not deliver; the next one is to be tried. Its message says why."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long one source is borne with."""

    timeout: float = 30.0  # seconds without an answer or a byte before a connection counts as dropped
    attempts: int = 4  # attempts in a row that bring no new byte before the source is given up
    pause: float = 1.0  # seconds before trying again, doubled with every attempt in a row that failed


def check_address(url: str) -> str:
    """`url`, if it is an http or https address; UserError otherwise."""
    if not re.match(r"https?://[^/\s]+", url):
        raise UserError(f"{url!r} is not an address to download from; give one that begins with http:// or https://")
    return url


def download(url: str, part: Path, *, largest: int, exact: bool, patience: Patience) -> bool:
    """Fetch `url` into `part`, going on from the bytes `part` already holds. Returns whether it went on from some.

    largest: the number of bytes the file has (exact) or may have at most. A server that ignores the request for the
    rest sends the file from its beginning, and so it is written. Raises SourceError when the source does not deliver,
    UserError when `part` cannot be written; what arrived so far stays in `part`.
    """
    resumed = _size(part) > 0
    failures = 0
    while True:
        before = _size(part)
        if exact and before == largest:
            return resumed
        try:
            if _attempt(url, part, before, largest, exact, patience):
                return resumed
            reason = "connection dropped"
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            error.close()
            if error.code == 416 and before:  # nothing follows our part: it is the whole file, or not a part of it
                if error.headers.get("Content-Range", "").strip() == f"bytes */{before}" and not exact:
                    return resumed
                _remove(part)
                resumed = False
            elif error.code < 500 and error.code not in (408, 429):
                raise SourceError(reason) from error
        except UnicodeError as error:  # an address that no request can hold
            raise SourceError(f"no address: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            reason = str(cause) or type(cause).__name__
            if isinstance(cause, socket.gaierror) or getattr(cause, "errno", None) in _HOPELESS:
                raise SourceError(reason) from error
        failures = 0 if _size(part) > before else failures + 1
        if failures >= patience.attempts:
            raise SourceError(reason)
        note(f"  {reason} after {_size(part):,} bytes; trying again")
        time.sleep(patience.pause * 2**failures)


def _attempt(url: str, part: Path, have: int, largest: int, exact: bool, patience: Patience) -> bool:
    """One connection. Returns whether the file is complete now."""
    headers = {"User-Agent": "featherweight", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(check_address(url), headers=headers)
    with urllib.request.urlopen(request, timeout=patience.timeout) as answer:
        if answer.status == 206:
            begins = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
            if not begins or int(begins[1]) != have:
                _remove(part)
                raise http.client.HTTPException("the server sent another part than asked for")
        else:
            have = 0
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else None
        if total is not None and (total > largest or (exact and total != largest)):
            raise SourceError(f"it offers {total:,} bytes where {'' if exact else 'at most '}{largest:,} are expected")
        with (
            _writing(part, "ab" if have else "wb") as write,
            Progress("downloading", total, "bytes", done=have) as shown,
        ):
            while block := answer.read(BLOCK):
                have += len(block)
                if have > largest:
                    raise SourceError(f"it sends more than {largest:,} bytes")
                write(block)
                shown.to(have)
    return have == total if total is not None else not exact or have == largest


@contextlib.contextmanager
def _writing(part: Path, mode: str) -> Iterator[Callable[[bytes], None]]:
    """A function that appends to `part`; its failures become UserError, unlike those of the network around it."""
    try:
        file = open(part, mode, buffering=0)  # noqa: SIM115 (closed below, apart from the network's errors)
    except OSError as error:
        raise cannot_write(part, error) from error

    def write(block: bytes) -> None:
        rest = memoryview(block)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            raise cannot_write(part, error) from error

    with file:
        yield write


def cannot_write(path: Path, error: OSError) -> UserError:
    """The one line for a full disk or a folder that cannot be written."""
    return UserError(
        f"cannot write {path}: {error.strerror or error}; free some space or choose another folder with --data-dir"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()

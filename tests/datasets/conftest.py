"""A small CIFAR-10 of 40 and 10 pictures, in the official files' own form, and a server on the loopback address."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from featherweight.datasets.cifar10 import Archive, Pin


def python2_batch(data: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 and numpy 1 pickled it with protocol 2, instruction by instruction."""

    def text(word: bytes) -> bytes:
        return b"U" + bytes([len(word)]) + word

    def number(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    pixels = data.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85q\x05"
        + text(b"b")
        + b"\x87R"
        + b"(K\x01"
        + number(data.shape[0])
        + number(data.shape[1])
        + b"\x86"
        + b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R"
        + b"(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89T"
        + struct.pack("<i", len(pixels))
        + pixels
        + b"tb"
    )
    return (
        b"\x80\x02}q\x01("
        + text(b"batch_label")
        + text(b"training batch 1 of 2")
        + text(b"labels")
        + b"]r\x02\x00\x00\x00("
        + b"".join(map(number, labels))
        + b"e"
        + text(b"data")
        + array
        + text(b"filenames")
        + b"]("
        + text(b"a.png")
        + text(b"b.png")
        + b"eu."
    )


def naive_digest(images: np.ndarray, labels: list[int]) -> str:
    """The digest by its definition, without the package: SHA-256 of the sorted records."""
    records = sorted(
        hashlib.blake2b(image.tobytes(), digest_size=16).digest() + label.to_bytes(8, "little")
        for image, label in zip(images, labels, strict=True)
    )
    return hashlib.sha256(b"".join(records)).hexdigest()


@dataclass
class Small:
    """The small data set: its files, what is expected of them, and its pictures as arrays."""

    archive: Archive
    files: dict[str, bytes]
    tar: bytes
    images: dict[str, np.ndarray]  # [N, 32, 32, 3]
    labels: dict[str, list[int]]

    def write_batches(self, folder: Path) -> Path:
        """The batches below `folder`, as unpacking the archive would leave them."""
        target = folder / self.archive.folder
        target.mkdir(parents=True)
        for name, content in self.files.items():
            (target / name).write_bytes(content)
        return target


def tar_of(members: dict[str, bytes]) -> bytes:
    """A .tar.gz of plain files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def pin(name: str, content: bytes) -> Pin:
    """What is expected of a file that holds `content`."""
    return Pin(name, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture(scope="session")
def small() -> Small:
    """40 training pictures in two batches and 10 test pictures, four and one of each class."""
    random = np.random.default_rng(7)
    files, images, labels = {}, {"train": [], "test": []}, {"train": [], "test": []}
    batches = (("data_batch_1", "train", 20), ("data_batch_2", "train", 20), ("test_batch", "test", 10))
    for name, split, count in batches:
        pictures = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        own = [int(label) for label in random.permutation(count) % 10]
        files[name] = python2_batch(pictures.transpose(0, 3, 1, 2).reshape(count, 3072), own)
        images[split].append(pictures)
        labels[split] += own
    files["batches.meta"] = b"not read"
    arrays = {split: np.concatenate(parts) for split, parts in images.items()}
    tar = tar_of({f"cifar-10-batches-py/{name}": content for name, content in files.items()})
    archive = Archive(
        file=pin("cifar-10-python.tar.gz", tar),
        folder="cifar-10-batches-py",
        train=(pin("data_batch_1", files["data_batch_1"]), pin("data_batch_2", files["data_batch_2"])),
        test=(pin("test_batch", files["test_batch"]),),
        others=(pin("batches.meta", files["batches.meta"]),),
        digests={
            "train": naive_digest(arrays["train"], labels["train"]),
            "test": naive_digest(arrays["test"], labels["test"]),
        },
    )
    return Small(archive, files, tar, arrays, labels)


@dataclass
class Behaviour:
    """How the server answers for one path."""

    content: bytes = b""
    drops: int = 0  # so many connections break off half-way through what they send
    ignores_range: bool = False
    status: int = 200  # anything else is answered at once
    errors: int = 0  # so many requests are first answered 503
    delay: float = 0.0  # seconds before the first byte


@dataclass
class Server:
    """The server's address, how it behaves, and the requests it saw as (path, Range or "")."""

    address: str
    paths: dict[str, Behaviour] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            server.seen.append((self.path, asked))
            how = server.paths.get(self.path, Behaviour(status=404))
            if how.errors:
                how.errors -= 1
                self.send_error(503)
                return
            if how.status != 200:
                self.send_error(how.status)
                return
            if how.delay:
                threading.Event().wait(how.delay)
            start = 0 if how.ignores_range or not asked else int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(how.content) > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(how.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            rest = how.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(how.content) - 1}/{len(how.content)}")
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            if how.drops:
                how.drops -= 1
                rest = rest[: len(rest) // 2]
            self.wfile.write(rest)

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    """A small HTTP server on 127.0.0.1 that behaves as it is told."""
    described = Server("")
    running = ThreadingHTTPServer(("127.0.0.1", 0), _handler(described))
    described.address = f"http://127.0.0.1:{running.server_port}"
    thread = threading.Thread(target=lambda: running.serve_forever(poll_interval=0.02))
    thread.start()
    yield described
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def behave() -> type[Behaviour]:
    """The server's behaviours, for tests to make."""
    return Behaviour


@pytest.fixture
def make_tar() -> Callable[[dict[str, bytes]], bytes]:
    """`tar_of`, for tests."""
    return tar_of


@pytest.fixture
def make_pin() -> Callable[[str, bytes], Pin]:
    """`pin`, for tests."""
    return pin


@pytest.fixture
def make_batch() -> Callable[[np.ndarray, list[int]], bytes]:
    """`python2_batch`, for tests."""
    return python2_batch


@pytest.fixture
def digest_by_definition() -> Callable[[np.ndarray, list[int]], str]:
    """`naive_digest`, for tests."""
    return naive_digest

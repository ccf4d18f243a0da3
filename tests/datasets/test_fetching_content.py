"""What a source sends is not what it should be: hostile archives whose checksum is the expected one, and parquet."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path

import pytest
import torch
from fetching_tools import ARCHIVE, QUICK, archive_at, check_whole

from featherweight.datasets import cifar10, fetch
from featherweight.datasets.cifar10 import Copy
from featherweight.datasets.fetch import Source
from featherweight.utils import UserError


def _with_member(info: tarfile.TarInfo, content: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _hostile(kind: str, small) -> bytes:
    info = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    if kind in ("upwards", "absolute", "stranger"):
        info.name = {
            "upwards": "../owned",
            "absolute": "/tmp/featherweight-owned",
            "stranger": "cifar-10-batches-py/x",
        }[kind]
        info.size = 5
        return _with_member(info, b"owned")
    if kind in ("symlink", "hardlink", "device"):
        info.type = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}[kind]
        info.linkname = "/etc/passwd"
        return _with_member(info)
    if kind == "bomb":
        info.size = 50_000_000
        return _with_member(info, bytes(info.size))
    if kind == "other content":
        info.size = len(small.files["data_batch_1"])
        return _with_member(info, bytes(info.size))
    return {"not gzip": b"hello" * 100, "cut": small.tar[: len(small.tar) // 2], "empty": gzip_of_nothing()}[kind]


def gzip_of_nothing() -> bytes:
    stream = io.BytesIO()
    tarfile.open(fileobj=stream, mode="w:gz").close()
    return stream.getvalue()


@pytest.mark.parametrize(
    "kind",
    [
        "upwards",
        "absolute",
        "stranger",
        "symlink",
        "hardlink",
        "device",
        "bomb",
        "other content",
        "not gzip",
        "cut",
        "empty",
    ],
)
def test_a_hostile_archive_places_nothing(kind: str, server, behave, small, make_pin, tmp_path: Path) -> None:
    content = _hostile(kind, small)
    server.paths["/bad.tar.gz"] = behave(content)
    archive = dataclasses.replace(small.archive, file=make_pin("cifar-10-python.tar.gz", content))
    folder = tmp_path / "data"
    with pytest.raises(UserError, match=r"its archive|in its archive"):
        fetch.fetch(folder, archive_at(server, "/bad.tar.gz"), archive=archive, patience=QUICK)
    assert {path.name for path in folder.iterdir()} == {".featherweight-fetch.lock"}
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    assert not Path("/tmp/featherweight-owned").exists()


# ---- parquet ----


@pytest.fixture
def hub(server, behave, small):
    """The small set as two parquet files on the server, and their source."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq
    from PIL import Image

    for split in cifar10.SPLITS:
        rows = []
        for image in small.images[split]:
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "PNG")
            rows.append({"bytes": stream.getvalue(), "path": None})
        stream = io.BytesIO()
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"img": pa.array(rows, type=kind), "label": pa.array(small.labels[split], pa.int64())})
        pq.write_table(table, stream)
        server.paths[f"/{split}.parquet"] = behave(stream.getvalue())
    urls = tuple(f"{server.address}/{split}.parquet" for split in cifar10.SPLITS)
    return Source(label="hub", form="parquet", urls=urls)


def test_the_parquet_copy_becomes_the_unpacked_form(server, hub, small, tmp_path: Path) -> None:
    server.paths["/train.parquet"].drops = 1
    copy = fetch.fetch(tmp_path, [hub], archive=small.archive, patience=QUICK)
    assert copy == Copy(tmp_path / cifar10.UNPACKED, "unpacked") == cifar10.recognise(tmp_path, small.archive)
    assert {path.name for path in tmp_path.iterdir()} == {cifar10.UNPACKED, ".featherweight-fetch.lock"}
    batches = Copy(small.write_batches(tmp_path / "b"), "batches")
    for split in cifar10.SPLITS:
        one, other = cifar10.read(copy, split, small.archive), cifar10.read(batches, split, small.archive)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    seen = len(server.seen)
    assert fetch.fetch(tmp_path, [hub], archive=small.archive, patience=QUICK) == copy
    assert len(server.seen) == seen


def test_a_complete_part_of_unknown_length_is_not_fetched_again(server, hub, small, tmp_path: Path) -> None:
    (tmp_path / ".cifar10-train.parquet.part").write_bytes(server.paths["/train.parquet"].content)
    copy = fetch.fetch(tmp_path, [hub], archive=small.archive, patience=QUICK)
    assert len(cifar10.read(copy, "train", small.archive)) == 40
    size = len(server.paths["/train.parquet"].content)
    assert [asked for path, asked in server.seen if path == "/train.parquet"] == [f"bytes={size}-"]


def test_parquet_with_other_pictures_gives_way_to_the_archive(server, behave, hub, small, tmp_path, capfd) -> None:
    server.paths["/train.parquet"].content, server.paths["/test.parquet"].content = (
        server.paths["/test.parquet"].content,
        server.paths["/train.parquet"].content,
    )
    server.paths[ARCHIVE] = behave(small.tar)
    copy = fetch.fetch(tmp_path, [hub, *archive_at(server, ARCHIVE)], archive=small.archive, patience=QUICK)
    check_whole(tmp_path, small, copy)
    assert "hub: what it sends is not CIFAR-10's train pictures" in capfd.readouterr().err


def test_without_pyarrow_parquet_is_passed_over_before_a_byte(server, hub, small, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("featherweight.datasets.parquet.available", lambda: False)
    with pytest.raises(UserError, match=r"pip install pyarrow"):
        fetch.fetch(tmp_path, [hub], archive=small.archive, patience=QUICK)
    assert server.seen == []

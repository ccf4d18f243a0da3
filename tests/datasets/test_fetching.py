"""Fetching from a small server on the loopback address that drops, lies, refuses and forgets."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from featherweight import datasets
from featherweight.datasets import cifar10, download, fetch
from featherweight.datasets.cifar10 import Copy
from featherweight.datasets.download import Patience
from featherweight.datasets.fetch import Source
from featherweight.utils import UserError

QUICK = Patience(timeout=5.0, attempts=3, pause=0.01)
ARCHIVE = "/cifar-10-python.tar.gz"


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


def test_a_plain_download(server, behave, small, tmp_path: Path, capfd) -> None:
    server.paths[ARCHIVE] = behave(small.tar)
    folder = tmp_path / "new" / "folder"
    check_whole(folder, small, fetch.fetch(folder, archive_at(server, ARCHIVE), archive=small.archive, patience=QUICK))
    out, err = capfd.readouterr()
    assert out == ""
    assert "100 %" in err
    assert "MB/s" in err
    again = fetch.fetch(folder, archive_at(server, ARCHIVE), archive=small.archive, patience=QUICK)
    check_whole(folder, small, again)
    assert len(server.seen) == 1  # a sound copy is not fetched again


def test_a_dropped_connection_is_resumed_where_it_broke(server, behave, small, tmp_path: Path) -> None:
    server.paths[ARCHIVE] = behave(small.tar, drops=2)
    copy = get(server, small, tmp_path)
    check_whole(tmp_path, small, copy)
    half = len(small.tar) // 2
    three_quarters = half + (len(small.tar) - half) // 2
    assert [asked for _, asked in server.seen] == ["", f"bytes={half}-", f"bytes={three_quarters}-"]


def test_the_part_left_by_an_earlier_run_is_used(server, behave, small, tmp_path: Path) -> None:
    server.paths[ARCHIVE] = behave(small.tar)
    (tmp_path / f".{small.archive.file.name}.part").write_bytes(small.tar[:1000])
    check_whole(tmp_path, small, get(server, small, tmp_path))
    assert [asked for _, asked in server.seen] == ["bytes=1000-"]


@pytest.mark.parametrize("left", [b"something else" * 100, b"x" * 10**6])
def test_a_part_that_does_not_fit_is_started_over(server, behave, small, tmp_path: Path, left: bytes) -> None:
    server.paths[ARCHIVE] = behave(small.tar)
    (tmp_path / f".{small.archive.file.name}.part").write_bytes(left)
    check_whole(tmp_path, small, get(server, small, tmp_path))
    assert server.seen[-1][1] == ""


def test_a_server_that_ignores_the_range(server, behave, small, tmp_path: Path) -> None:
    server.paths[ARCHIVE] = behave(small.tar, drops=1, ignores_range=True)
    check_whole(tmp_path, small, get(server, small, tmp_path))
    assert len(server.seen) == 2


def test_a_server_that_is_busy_for_a_moment(server, behave, small, tmp_path: Path) -> None:
    server.paths[ARCHIVE] = behave(small.tar, errors=2)
    check_whole(tmp_path, small, get(server, small, tmp_path))
    assert len(server.seen) == 3


def test_a_404_a_lie_a_stub_and_a_dead_end_then_a_good_source(server, behave, small, tmp_path: Path, capfd) -> None:
    lie = bytearray(small.tar)
    lie[len(lie) // 2] ^= 1
    server.paths |= {
        "/lie.tar.gz": behave(bytes(lie)),
        "/stub.tar.gz": behave(b"<html>moved</html>"),
        "/gone.tar.gz": behave(status=410),
        "/drops.tar.gz": behave(small.tar, drops=99, ignores_range=True),
        ARCHIVE: behave(small.tar),
    }
    closed = Source(label="closed", form="archive", urls=("http://127.0.0.1:9/x.tar.gz",))  # no one listens there
    paths = ("/none.tar.gz", "/gone.tar.gz", "/stub.tar.gz", "/lie.tar.gz", "/drops.tar.gz", ARCHIVE)
    sources = [closed, *archive_at(server, *paths)]
    check_whole(tmp_path, small, fetch.fetch(tmp_path, sources, archive=small.archive, patience=QUICK))
    err = capfd.readouterr().err
    for reason in (
        "/none.tar.gz: the server answers 404",
        "/gone.tar.gz: the server answers 410",
        "checksum differs",
        f"offers 18 bytes where {len(small.tar):,} are expected",
        "closed: ",
        "connection dropped",
    ):
        assert reason in err
    assert server.seen[0] == ("/none.tar.gz", "")
    assert [path for path, _ in server.seen].count("/none.tar.gz") == 1  # a 404 is not asked twice


def test_no_source_left_is_one_line_with_each_reason(server, behave, small, tmp_path: Path) -> None:
    server.paths["/lie.tar.gz"] = behave(bytes(len(small.tar)))
    with pytest.raises(UserError) as caught:
        datasets.fetch_into(tmp_path, archive_at(server, "/none.tar.gz", "/lie.tar.gz"), small.archive)
    for part in ("404", "checksum differs", "--dataset digits", "FEATHERWEIGHT_MIRRORS"):
        assert part in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {".featherweight-fetch.lock"}


_OTHER_PROCESS = """
import sys, pickle
from pathlib import Path
from featherweight.datasets import fetch
archive, sources = pickle.load(open(sys.argv[1], "rb"))
copy = fetch.fetch(Path(sys.argv[2]), sources, archive=archive)
print(copy.folder)
"""


def test_two_processes_at_once_fetch_once(server, behave, small, tmp_path: Path) -> None:
    import pickle

    server.paths[ARCHIVE] = behave(small.tar, delay=1.5)
    orders, folder = tmp_path / "orders", tmp_path / "data"
    orders.write_bytes(pickle.dumps((small.archive, archive_at(server, ARCHIVE))))
    both = [
        subprocess.Popen(
            [sys.executable, "-c", _OTHER_PROCESS, orders, folder],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert {out.strip() for out, _ in answers} == {str(folder / small.archive.folder)}
    assert len(server.seen) == 1
    check_whole(folder, small, Copy(folder / small.archive.folder, "batches"))


def test_a_killed_fetch_leaves_no_lock_and_no_half_copy(server, behave, small, tmp_path: Path) -> None:
    import pickle

    server.paths[ARCHIVE] = behave(small.tar, delay=30)
    orders, folder = tmp_path / "orders", tmp_path / "data"
    orders.write_bytes(pickle.dumps((small.archive, archive_at(server, ARCHIVE))))
    command = [sys.executable, "-c", _OTHER_PROCESS, orders, folder]
    process = subprocess.Popen(command, text=True, stderr=subprocess.PIPE)
    assert process.stderr
    assert "fetching" in process.stderr.readline()  # the lock is held by now
    process.kill()
    process.communicate()
    assert cifar10.recognise(folder, small.archive) is None
    (folder / ".cifar10-left-by-a-killed-process").mkdir()
    server.paths["/quick.tar.gz"] = behave(small.tar)
    copy = fetch.fetch(folder, archive_at(server, "/quick.tar.gz"), archive=small.archive, patience=QUICK)
    check_whole(folder, small, copy)


def test_a_damaged_copy_is_replaced(server, behave, small, tmp_path: Path) -> None:
    folder = small.write_batches(tmp_path)
    (folder / "data_batch_1").write_bytes(b"damage")
    (folder / "test_batch").unlink()
    (folder / "mine.txt").write_text("kept")
    server.paths[ARCHIVE] = behave(small.tar)
    parquet = Source(label="hub", form="parquet", urls=(server.address + "/a", server.address + "/b"))
    sources = [parquet, *archive_at(server, ARCHIVE)]  # only the archive can mend batches
    check_whole(tmp_path, small, fetch.fetch(tmp_path, sources, archive=small.archive, patience=QUICK))
    assert [path for path, _ in server.seen] == [ARCHIVE]
    assert (folder / "mine.txt").read_text() == "kept"
    (folder / "data_batch_1").write_bytes(b"damage")
    inner = fetch.fetch(folder, sources, archive=small.archive, patience=QUICK)  # named by its own folder
    assert inner == Copy(folder, "batches")
    assert not any(check.problem for check in cifar10.check_files(inner, small.archive))


# ---- archives that are not what they should be, although their checksum is the expected one ----


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
    with pytest.raises(UserError, match=r"pip install 'featherweight\[parquet\]'"):
        fetch.fetch(tmp_path, [hub], archive=small.archive, patience=QUICK)
    assert server.seen == []


# ---- folders and disks ----


def test_too_little_space_is_said_before_the_first_byte(server, behave, small, tmp_path: Path) -> None:
    server.paths[ARCHIVE] = behave(small.tar)
    huge = dataclasses.replace(small.archive, file=dataclasses.replace(small.archive.file, size=10**18))
    with pytest.raises(UserError, match="too little space"):
        fetch.fetch(tmp_path, archive_at(server, ARCHIVE), archive=huge, patience=QUICK)
    assert server.seen == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of files are POSIX's")
def test_a_disk_that_fills_up_is_one_line_and_no_other_source_is_tried(server, behave, small, tmp_path: Path) -> None:
    import pickle

    server.paths[ARCHIVE] = behave(small.tar)
    orders, folder = tmp_path / "orders", tmp_path / "data"
    orders.write_bytes(pickle.dumps((small.archive, archive_at(server, ARCHIVE, "/second.tar.gz"))))
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n" + _OTHER_PROCESS
    command = [sys.executable, "-B", "-c", limited, orders, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("featherweight.utils.UserError: cannot write")
    assert "choose another folder with --data-dir" in last
    assert [path for path, _ in server.seen] == [ARCHIVE]
    assert cifar10.recognise(folder, small.archive) is None


@pytest.mark.parametrize("place", ["/proc/featherweight", "a-file/below"])
def test_a_folder_that_cannot_be_made_is_one_line(place: str, small, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*choose another folder with --data-dir"):
        fetch.fetch(tmp_path / place, [], archive=small.archive)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_line(small, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="cannot write"):
        fetch.fetch(tmp_path, [], archive=small.archive)


# ---- sources and progress ----


def test_mirrors_come_first_then_the_hub_then_the_official_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATHERWEIGHT_MIRRORS", "http://b.test/x.tar.gz https://c.test/")
    sources = fetch.default_sources(["http://a.test/data"])
    assert [source.urls[0] for source in sources[:3]] == [
        "http://a.test/data/cifar-10-python.tar.gz",
        "http://b.test/x.tar.gz",
        "https://c.test/cifar-10-python.tar.gz",
    ]
    assert [source.form for source in sources] == ["archive", "archive", "archive", "parquet", "archive"]
    for wrong in ("file:///etc/passwd", "ftp://a.test/x", "a.test", ""):
        with pytest.raises(UserError, match="is not an address"):
            fetch.default_sources([wrong])


def test_obtaining_fetches_into_the_folder_given(server, behave, small, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FEATHERWEIGHT_DATA", raising=False)
    server.paths[ARCHIVE] = behave(small.tar)
    sources = archive_at(server, ARCHIVE)
    copy = datasets.obtain(tmp_path / "given", archive=small.archive, sources=sources)
    check_whole(tmp_path / "given", small, copy)
    copy = datasets.obtain(archive=small.archive, sources=sources)
    check_whole(tmp_path / "cache" / "featherweight", small, copy)


def test_progress_tells_amount_rate_and_time_left() -> None:
    assert download.describe(12_000_000, 170_500_000, 1.5e6) == "12.0 of 170.5 MB (7 %), 1.50 MB/s, 1:45 left"
    assert download.describe(5_000_000, None, 2e6) == "5.0 MB, 2.00 MB/s"
    assert download.describe(10, 10, 0.0).startswith("0.0 of 0.0 MB (100 %)")


def test_the_fixture_agrees_with_the_official_layout(small) -> None:
    """The small archive's checksum is its own, so that a mistake in the fixture cannot hide one in the package."""
    assert hashlib.sha256(small.tar).hexdigest() == small.archive.file.sha256
    assert {p.name for p in cifar10.CIFAR10.members} >= set(small.files) - {"data_batch_3"}

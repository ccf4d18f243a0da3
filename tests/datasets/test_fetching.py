"""Fetching from a small server on the loopback address that drops, refuses and forgets; from which sources."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from fetching_tools import ARCHIVE, QUICK, archive_at, check_whole, get

from featherweight import datasets, terminal
from featherweight.datasets import cifar10, download, fetch
from featherweight.datasets.fetch import Source
from featherweight.utils import UserError


def test_a_plain_download(server, behave, small, tmp_path: Path, capfd) -> None:
    server.paths[ARCHIVE] = behave(small.tar)
    folder = tmp_path / "new" / "folder"
    check_whole(folder, small, fetch.fetch(folder, archive_at(server, ARCHIVE), archive=small.archive, patience=QUICK))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("fetching CIFAR-10 from")
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


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/donn\u00e9es/x.tar.gz", "http://a..b/x.tar.gz"])
def test_an_address_that_is_none_is_passed_over(url: str, tmp_path: Path) -> None:
    with pytest.raises(download.SourceError, match="no address"):
        download.download(url, tmp_path / "part", largest=10, exact=True, patience=QUICK)


def test_no_source_left_is_one_line_with_each_reason(server, behave, small, tmp_path: Path) -> None:
    server.paths["/lie.tar.gz"] = behave(bytes(len(small.tar)))
    with pytest.raises(UserError) as caught:
        datasets.fetch_into(tmp_path, archive_at(server, "/none.tar.gz", "/lie.tar.gz"), small.archive)
    for part in ("404", "checksum differs", "--dataset digits", "FEATHERWEIGHT_MIRRORS"):
        assert part in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {".featherweight-fetch.lock"}


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


def test_progress_tells_amount_rate_and_time_left(
    server, behave, small, tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(download, "BLOCK", len(small.tar) // 4)
    server.paths[ARCHIVE] = behave(small.tar)
    get(server, small, tmp_path)
    out, err = capfd.readouterr()
    assert out == ""
    size = f"{len(small.tar) / 1e6:.1f}"
    for share in (24, 49, 74):  # the last line, of all of it, would be too late to be of use
        assert re.search(rf"downloading: [\d.]+ of {size} MB \(({share}|{share + 1}) %\), [\d.]+ MB/s, \d+ s left", err)
    assert re.search(r"unpacking: 3 of 4 files, [\d,.]+/s, \d+ s left", err)


def test_the_fixture_agrees_with_the_official_layout(small) -> None:
    """The small archive's checksum is its own, so that a mistake in the fixture cannot hide one in the package."""
    assert hashlib.sha256(small.tar).hexdigest() == small.archive.file.sha256
    assert {p.name for p in cifar10.CIFAR10.members} >= set(small.files) - {"data_batch_3"}

"""Where a copy is fetched to: folders and disks that refuse, damaged copies, several processes at once."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from fetching_tools import ARCHIVE, OTHER_PROCESS, QUICK, archive_at, check_whole

from featherweight.datasets import cifar10, fetch
from featherweight.datasets.cifar10 import Copy
from featherweight.datasets.fetch import Source
from featherweight.utils import UserError


def test_two_processes_at_once_fetch_once(server, behave, small, tmp_path: Path) -> None:
    server.paths[ARCHIVE] = behave(small.tar, delay=1.5)
    orders, folder = tmp_path / "orders", tmp_path / "data"
    orders.write_bytes(pickle.dumps((small.archive, archive_at(server, ARCHIVE))))
    both = [
        subprocess.Popen(
            [sys.executable, "-c", OTHER_PROCESS, orders, folder],
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
    server.paths[ARCHIVE] = behave(small.tar, delay=30)
    orders, folder = tmp_path / "orders", tmp_path / "data"
    orders.write_bytes(pickle.dumps((small.archive, archive_at(server, ARCHIVE))))
    command = [sys.executable, "-c", OTHER_PROCESS, orders, folder]
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


def test_too_little_space_is_said_before_the_first_byte(server, behave, small, tmp_path: Path) -> None:
    server.paths[ARCHIVE] = behave(small.tar)
    huge = dataclasses.replace(small.archive, file=dataclasses.replace(small.archive.file, size=10**18))
    with pytest.raises(UserError, match="too little space"):
        fetch.fetch(tmp_path, archive_at(server, ARCHIVE), archive=huge, patience=QUICK)
    assert server.seen == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of files are POSIX's")
def test_a_disk_that_fills_up_is_one_line_and_no_other_source_is_tried(server, behave, small, tmp_path: Path) -> None:
    server.paths[ARCHIVE] = behave(small.tar)
    orders, folder = tmp_path / "orders", tmp_path / "data"
    orders.write_bytes(pickle.dumps((small.archive, archive_at(server, ARCHIVE, "/second.tar.gz"))))
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n" + OTHER_PROCESS
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

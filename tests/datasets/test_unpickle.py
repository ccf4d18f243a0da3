"""The reader of pickles: equal to Python's own on honest files, closed to everything else."""

from __future__ import annotations

import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.datasets.unpickle import read_pickle
from featherweight.utils import UserError


def test_an_honest_batch_reads_as_python_reads_it(make_batch) -> None:
    data = np.random.default_rng(0).integers(0, 256, (300, 7), dtype=np.uint8)
    content = make_batch(data, [3, 1, 4])
    read, oracle = read_pickle(content, "x"), pickle.loads(content, encoding="bytes")
    assert set(read) == {key.decode() for key in oracle}
    assert np.array_equal(read["data"], oracle[b"data"])
    assert np.array_equal(read["data"], data)
    assert read["data"].dtype == np.uint8
    assert (read["labels"], read["filenames"]) == (oracle[b"labels"], oracle[b"filenames"])


@pytest.mark.cifar10
def test_an_official_file_reads_as_python_reads_it(cifar10_dir: Path) -> None:
    content = (cifar10_dir / "cifar-10-batches-py" / "data_batch_1").read_bytes()
    read, oracle = read_pickle(content, "x"), pickle.loads(content, encoding="bytes")
    assert np.array_equal(read["data"], oracle[b"data"])
    assert read["labels"] == oracle[b"labels"]


class _Evil:
    def __init__(self, call, arguments) -> None:
        self.plan = (call, arguments)

    def __reduce__(self):
        return self.plan


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "call",
    [
        (os.system, ("touch owned",)),
        (eval, ("open('owned', 'w')",)),
        (subprocess.call, (["touch", "owned"],)),
        (np.load, ("owned",)),
    ],
)
def test_calls_are_refused_and_nothing_runs(call, protocol: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"refused to read some\.file"):
        read_pickle(pickle.dumps({"data": _Evil(*call)}, protocol=protocol), "some.file")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02(.",
        b"\x80\x02}",
        b"\x80\x02}u.",
        b"\x80\x02K\x01e.",
        b"\x80\x02\x87.",
        b"\x80\x02t.",
        b"\x80\x02R.",
        b"\x80\x02b.",
        b"\x80\x02}.extra",
        b"\x80\x02T\xff\xff\xff\xff.",
        b"\x80\x02T\xff\xff\xff\x7fabc.",
        b"\x80\x02U\xffabc.",
        b"\x80\x04}.",
        b"\x80\x02cnumpy\nload\n.",
        b"\x80\x02cnumpy\ndtype\n.",
        b"\x80\x02cnumpy" + b"x" * 300,
        b"\x80\x02cos\nsystem\nU\x02id\x85R.",
        b"\x80\x02cnumpy\ndtype\nU\x01OK\x00K\x01\x87R.",
        b"\x80\x02cnumpy\nndarray\n)R.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}b.",
        b"\x80\x02]q\x00h\x00.",  # looking a value up again: no official file does, and it is how small files grow huge
        b"\x80\x02" + b"(" * 50_000,
        b"\x80\x02(](](](eeee.",
        b"\x80\x02}((]U\x01ae.",
    ],
)
def test_malformed_and_hostile_programs_end_in_one_line(content: bytes) -> None:
    with pytest.raises(UserError, match="refused to read x"):
        read_pickle(content, "x")


@pytest.mark.parametrize(
    ("change", "to"),
    [
        (b"U\x02u1", b"U\x02O8"),  # an array of objects
        (b"K\x04K\x03\x86", b"K\x04K\x04\x86"),  # a shape that needs more bytes than there are
        (b"K\x04K\x03\x86", b"J\xff\xff\xff\xffK\x03\x86"),  # a negative side
        (b"U\x01|N", b"U\x01|K\x01"),  # a sub-array type
        (b"\x89T", b"\x88T"),  # column order
    ],
)
def test_arrays_of_another_make_are_refused(change: bytes, to: bytes, make_batch) -> None:
    content = make_batch(np.arange(12, dtype=np.uint8).reshape(4, 3), [1])
    assert change in content
    with pytest.raises(UserError, match="refused"):
        read_pickle(content.replace(change, to, 1), "x")


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_no_damage_escapes_as_another_error(data: st.DataObject) -> None:
    value = {"k": [1, 300, (None, True)], "l": 70_000}
    content = bytearray(pickle.dumps(value, protocol=2).replace(b"X\x01\x00\x00\x00", b"U\x01"))  # Python 2's str
    assert read_pickle(bytes(content), "x") == value
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_pickle(bytes(content), "x")
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either outcome is right, no other error is)

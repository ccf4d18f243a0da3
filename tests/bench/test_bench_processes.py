"""The contenders' processes: they answer, wait without using a processor, tell their memory, and leave nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from featherweight.bench import machine
from featherweight.bench.contender import WATCH, Contender
from featherweight.bench.job import Job
from featherweight.utils import UserError

OVERRIDES = {"data.name": "digits", "batch_size": 64, "augment.workers": 2}

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc: did not run")


def processor_seconds(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def wait_until_gone(leader: int, seconds: float = 20.0) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if not machine.session(leader):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_out_of_turn_a_contender_and_its_workers_use_no_processor() -> None:
    job = Job(kind="plain", overrides=OVERRIDES, device="cpu", seconds=0.2, workers=2)
    with Contender("plain", job) as plain:
        plain.ready(watch=WATCH)
        turn = plain.ask({"do": "turn"}, watch=WATCH)
        assert turn["images"] % 64 == 0
        assert turn["images"] > 0
        assert 0 < turn["seconds"] < 60
        assert 200e6 < plain.peak_memory < 4e9
        shares = plain.ask({"do": "profile"})["shares"]
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["backward"] > 0.1
        leader = plain._process.pid
        family = machine.session(leader)
        assert len(family) >= 3, family  # the loop and its two workers
        time.sleep(1.0)  # the workers fill their queues
        before = processor_seconds(family)
        time.sleep(1.0)
        assert processor_seconds(family) - before <= 0.03
    assert wait_until_gone(leader, 5)


def test_a_child_that_cannot_says_why_and_one_that_dies_is_told_of() -> None:
    tpu, matrix = Job(kind="matrix", device="tpu"), Job(kind="matrix", device="cpu")
    with Contender("one", tpu) as first, Contender("two", matrix) as second:
        os.kill(second._process.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="bench, two: its process ended unasked, by signal 9"):
            second.ready()
        with pytest.raises(UserError, match="bench, one: unknown device 'tpu'"):
            first.ready()
        with pytest.raises(UserError, match="ended unasked, with exit code 1"):
            first.ask({"do": "turn"})


def test_a_child_outlives_neither_its_parent_nor_a_signal_to_it(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from featherweight.bench.contender import Contender\n"
        "from featherweight.bench.job import Job\n"
        "Contender._send = lambda self, message: None\n"  # it waits for its job as it would for a turn
        "child = Contender('matrix', Job(kind='matrix', device='cpu'))\n"
        "print(child._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert wait_until_gone(int(done.stdout))


def test_memory_that_a_family_shares_is_counted_once() -> None:
    code = (
        "import os, sys, time\n"
        "print('begun', flush=True); sys.stdin.readline()\n"
        "shared = bytearray(os.urandom(1 << 20)) * 100\n"  # 100 MiB, all touched
        "if os.fork() == 0:\n"
        "    own = bytearray(os.urandom(1 << 20)) * 40\n"
        "    print('there', flush=True); time.sleep(60)\n"
        "sys.stdin.readline(); os._exit(0)\n"
    )
    pipe, command = subprocess.PIPE, [sys.executable, "-c", code]
    process = subprocess.Popen(command, start_new_session=True, text=True, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()
        before = machine.tree_memory(process.pid)
        process.stdin.write("go\n")
        process.stdin.flush()
        process.stdout.readline()
        grown = (machine.tree_memory(process.pid) - before) / 2**20
        assert 135 < grown < 165, grown  # 100 + 40 and a few, not 240
        assert len(machine.session(process.pid)) == 2
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_the_peak_is_kept_when_the_memory_is_given_back() -> None:
    code = (
        "from featherweight.bench.machine import own_peak\n"
        "before = own_peak(); held = bytearray(b'x' * (150 << 20)); del held\n"
        "print(own_peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) > 140 << 20


def test_the_time_of_others_is_what_is_neither_ours_nor_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([{"busy": 1000, "stolen": 10, "all": 5000}, {"busy": 1800, "stolen": 60, "all": 6000}])
    own = iter([1.0, 6.0])
    monkeypatch.setattr(machine, "_processor_ticks", lambda: next(ticks))
    monkeypatch.setattr(machine, "_own_seconds", lambda: next(own))
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    found = machine.Idleness().found()
    assert found["others_share"] == pytest.approx(0.3)  # (800 - 5 s x 100) of 1000
    assert found["stolen_share"] == pytest.approx(0.05)
    assert found["load_before"] is not None

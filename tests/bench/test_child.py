"""A contender's process does not outlive the bench that started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

STARTER = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-m", "featherweight.bench.child"]).pid, flush=True)
time.sleep(600)
"""


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as file:  # one that is dead but not yet asked about counts as dead
        return file.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here: not seen whether a process is alive")
def test_a_child_leaves_when_its_parent_is_killed() -> None:
    """Its commands stay open here, so that it cannot leave because they end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", STARTER], **pipes, text=True) as starter:  # type: ignore[call-overload]
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        assert _alive(child)
        time.sleep(2)  # for the child to look who its parent is
        assert _alive(child)
        starter.kill()
        deadline = time.monotonic() + 30
        while _alive(child) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not _alive(child)

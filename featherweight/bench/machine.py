"""The machine under the measurement: what it is, how idle it was, and what a family of processes holds of its memory.

Linux tells all of this in /proc; elsewhere what is not known is left out (None) or is the main process's alone.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(facts: dict[str, Any]) -> dict[str, Any]:
    """The machine, from what a child's torch says of itself (`device`, `threads`, `torch`) and from the system."""
    return {
        "device": facts["device"],
        "processor": facts["processor"],
        "cores": cores(),
        "threads": facts["threads"],
        "torch": facts["torch"],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


class Idleness:
    """How busy the machine was besides us, from `start` (when made) to `found`, when our children are gone.

    load_before, load_after: the system's one-minute load average (after: our own work is in it). others_share: the
    share of all processors' time that other processes used; stolen_share: that the machine's host gave to other guests.
    """

    def __init__(self) -> None:
        self._load, self._before, self._own = _load(), _processor_ticks(), _own_seconds()

    def found(self) -> dict[str, float | None]:
        after, before = _processor_ticks(), self._before
        shares: dict[str, float | None] = {"others_share": None, "stolen_share": None}
        if after is not None and before is not None and after["all"] > before["all"]:
            every = after["all"] - before["all"]
            own = (_own_seconds() - self._own) * os.sysconf("SC_CLK_TCK")
            shares["others_share"] = round(max(0.0, (after["busy"] - before["busy"] - own) / every), 4)
            shares["stolen_share"] = round((after["stolen"] - before["stolen"]) / every, 4)
        return {"load_before": self._load, "load_after": _load(), **shares}


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _own_seconds() -> float:
    """Processor seconds of this process and of its children that have ended, with theirs."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _processor_ticks() -> dict[str, int] | None:
    try:
        numbers = [int(word) for word in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:]]
        user, nice, system, idle, waiting, interrupts, soft, stolen = numbers[:8]
    except (OSError, ValueError):
        return None
    busy = user + nice + system + interrupts + soft
    return {"busy": busy, "stolen": stolen, "all": busy + idle + waiting + stolen}


def own_peak() -> int:
    """The most bytes of memory this process has held (resident), by the system's own count."""
    try:
        return _status(os.getpid())["VmHWM"]
    except (OSError, KeyError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def tree_memory(leader: int) -> int:
    """Bytes now held by the session that process `leader` leads: itself and its workers. 0 where that is not told.

    Memory of a process's own and memory shared within the family (a fork's unchanged pages, shared buffers) is counted
    once, by the system's proportional shares; files (the libraries' code) are counted in full for the leader, and for
    the workers as what they do not share with anyone: other contenders that map the same libraries change nothing.
    """
    total = 0
    for pid in session(leader):
        try:
            shares = _kilobytes((_PROC / str(pid) / "smaps_rollup").read_text())
            files = _status(pid)["RssFile"] if pid == leader else shares["Pss_File"]
            total += shares["Pss_Anon"] + shares["Pss_Shmem"] + files
        except (OSError, KeyError):  # it has just ended, or the system does not tell
            continue
    return total


def session(leader: int) -> list[int]:
    """The processes of the session that `leader` leads."""
    found = []
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if entry.name.isdigit():
            try:  # pid (name) state parent group session …; the name may hold anything
                rest = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(rest[3]) == leader:
                found.append(int(entry.name))
    return found


def _status(pid: int) -> dict[str, int]:
    return _kilobytes((_PROC / str(pid) / "status").read_text())


def _kilobytes(text: str) -> dict[str, int]:
    """name → bytes, from lines such as `VmHWM:  1234 kB`."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB":
            found[words[0].rstrip(":")] = int(words[1]) * 1024
    return found

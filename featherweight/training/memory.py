"""How the process holds on to memory while it trains."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# glibc's malloc.h: parameters of mallopt
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step instead of giving it back to the system.

    A step's maps are tens of megabytes each; by default every one above 32 MB is fresh memory, paid for with a page
    fault every 4 KiB, which is dear on virtual machines. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)  # everything from the heap, ...
    libc.mallopt(M_TRIM_THRESHOLD, -1)  # ... which never shrinks ...
    libc.mallopt(M_TOP_PAD, 64 << 20)  # ... and grows by 64 MiB at a time


@contextmanager
def long_lived_objects() -> Iterator[None]:
    """Spare the objects that are there now every search for unreachable ones: a step makes hundreds of objects, so that
    Python searches again and again, and an imported torch has some 180,000 that stay."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

"""Compiles the C of this folder with the machine's own compiler, once, and loads it.

The library is kept in the user's cache folder under the hash of everything that decides it: source, compiler, flags and
processor. Nothing is compiled at import; a machine without a C compiler trains with torch's own operations instead.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight.utils import cache_folder

if TYPE_CHECKING:
    import torch

SOURCES = ("norm.c", "norm_bf16.c", "depthwise.c", "depthwise_bf16.c", "first.c", "first_bf16.c")
SOURCES += ("winograd.c", "tiles.c")
HEADERS = ("space.h", "element.h", "tiles.h")
# -march=native: vectors as wide as this processor has. No -ffast-math: not-a-number must stay so.
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
FLAGS += ["-fopenmp", "-shared", "-fPIC", "-w"]
COMPILE_SECONDS = 120


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where there is no C compiler that can make them."""
    compiler = _compiler()
    if compiler is None:
        return None
    sources = [Path(__file__).parent / name for name in SOURCES]
    command = [compiler, *FLAGS, *_openmp()]
    name = f"fused-{_fingerprint(sources, command)}.so"
    for folder in (cache_folder(), None):
        if folder is not None and (folder / name).is_file():
            try:
                return ctypes.CDLL(str(folder / name))
            except OSError:
                (folder / name).unlink(missing_ok=True)  # half a file, or another system's
        try:
            return _compile([*command, *map(str, sources), "-lm"], folder, name)
        except OSError:
            continue  # a cache that cannot be written: compile for this process alone
        except subprocess.SubprocessError:
            return None
    return None


def functions() -> ctypes.CDLL:
    """The compiled functions, where it is known that they are there."""
    found = library()
    assert found is not None, "fused operations are put in only where the library is there"
    return found


def function(name: str, kind: torch.dtype) -> Any:
    """The compiled function of that name for maps of float32 or bfloat16. Raises TypeError for any other kind."""
    import torch

    if kind not in (torch.float32, torch.bfloat16):
        raise TypeError(f"fused operations take float32 or bfloat16, not {kind}")
    return getattr(functions(), name if kind == torch.float32 else f"{name}_bf16")


def require(x: torch.Tensor, *values: torch.Tensor | None) -> None:
    """Raises TypeError unless the map `x` is on the CPU, and the layer's `values` are there in float32, as the compiled
    functions read and write them."""
    import torch

    if x.device.type != "cpu":
        raise TypeError(f"fused operations take maps on the CPU, not on {x.device}")
    for value in values:
        if value is not None and (value.dtype != torch.float32 or value.device.type != "cpu"):
            raise TypeError(
                f"fused operations take parameters of float32 on the CPU, not {value.dtype} on {value.device}"
            )


def at(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's values begin, for a compiled function; nowhere for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def done(code: int) -> None:
    """Raises MemoryError when a compiled function says that it had no memory for its sums."""
    if code:
        raise MemoryError("no memory for the working space of a fused operation")


def _compile(command: list[str], folder: Path | None, name: str) -> ctypes.CDLL:
    """Compile beside the final place, then rename: another process never sees half a library."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as place:
        made = Path(place) / name
        subprocess.run([*command, "-o", str(made)], check=True, capture_output=True, timeout=COMPILE_SECONDS)
        if folder is None:
            return ctypes.CDLL(str(made))  # stays mapped when the file goes
        os.replace(made, folder / name)
    return ctypes.CDLL(str(folder / name))


def _compiler() -> str | None:
    chosen = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    return shutil.which(chosen) if chosen and sys.platform != "win32" else None


def _openmp() -> list[str]:
    """Link the OpenMP library that torch has loaded: two of them would mean two sets of threads in each other's way."""
    import torch

    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return [str(found[0])] if found else []


def _fingerprint(sources: list[Path], command: list[str]) -> str:
    """A hash of all that decides what the compiler makes."""
    version = subprocess.run([command[0], "-dumpfullversion"], capture_output=True, check=False).stdout
    headers = [Path(__file__).parent / name for name in HEADERS]
    parts = [
        *(path.read_bytes() for path in [*sources, *headers]),
        repr([*FLAGS, *_openmp()]).encode(),
        version,
        _processor(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> bytes:
    """What this processor can do, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
        return next(line for line in lines if line.startswith((b"flags", b"Features")))
    except (OSError, StopIteration):
        return platform.processor().encode()

"""Writes requirements.lock and requirements-cuda.lock from pyproject.toml: every version pinned, every file's hash.

    .venv/bin/python tools/lock.py        (needs the package `uv`, which the lock does not hold)

torch is one version in two builds: the registry's, which on Linux wants the CUDA libraries, and the CPU-only one, which
must not drag gigabytes of them in. So the CUDA libraries have a file of their own, installed only beside a torch that
asks for them (tools/setup_venv.py). Both builds' hashes stand under torch.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "2.13.0"
CPU_BUILD_SHA256 = [
    "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
]  # torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl
EXTRAS = ["dev", "digits", "parquet", "zoo", "onnx", "tensorboard", "demo"]
CUDA = re.compile(r"^(nvidia-|cuda-|triton==)")
HEADER = "# Written by tools/lock.py from pyproject.toml; change that, not this.\n"


def main() -> None:
    constraint = ROOT / "build" / "torch.txt"
    constraint.parent.mkdir(exist_ok=True)
    constraint.write_text(f"torch=={TORCH}\n")
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--universal", "--generate-hashes"]
    command += ["--python-version", "3.11", "--no-annotate", "--no-header", "-q", "-c", str(constraint)]
    command += [word for extra in EXTRAS for word in ("--extra", extra)]
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    # One entry a package: its pin and the indented hashes under it.
    entries = [entry for entry in re.split(r"\n(?=\S)", text.strip()) if entry]
    # torchvision imports only beside the very torch build it was made for, and the CPU-only one has none: the tests put
    # an empty module in its place, and no command needs it.
    entries = [entry for entry in entries if not entry.startswith("torchvision==")]
    plain = [_with_cpu_build(entry) for entry in entries if not CUDA.match(entry)]
    cuda = [entry for entry in entries if CUDA.match(entry)]
    (ROOT / "requirements.lock").write_text(HEADER + "\n".join(plain) + "\n")
    (ROOT / "requirements-cuda.lock").write_text(HEADER + "\n".join(cuda) + "\n")


def _with_cpu_build(entry: str) -> str:
    if not entry.startswith("torch=="):
        return entry
    return entry + "".join(f" \\\n    --hash=sha256:{value}" for value in CPU_BUILD_SHA256)


if __name__ == "__main__":
    main()

"""Makes .venv with the pinned requirements and this package in it. Needs Python 3.11 or later and nothing else.

python3 tools/setup_venv.py .venv
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ASKS_FOR_CUDA = (
    "from importlib.metadata import requires; import sys;"
    "sys.exit(0 if any(r.startswith(('nvidia', 'cuda')) for r in requires('torch') or []) else 1)"
)


def main(folder: str) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is run by whatever Python there is
        return _stop(f"Python {sys.version.split()[0]} is too old; run make PYTHON=… with Python 3.11 or later")
    venv = ROOT / folder
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    print(f"setting up {folder} (once; a few minutes) …", file=sys.stderr, flush=True)
    if not _has_pip(python) and _failed([sys.executable, "-m", "venv", "--clear", str(venv)]):  # none, or half made
        return _stop("could not make a virtual environment; install Python's venv module (Debian: python3-venv)")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    locked = [*pip, "--require-hashes", "--no-deps", "-r"]
    if _failed([*locked, "requirements.lock"]):
        return _stop("could not install the pinned requirements; is the package registry within reach, and disk free?")
    wants_cuda = not subprocess.run([str(python), "-c", ASKS_FOR_CUDA], check=False).returncode
    if wants_cuda and _failed([*locked, "requirements-cuda.lock"]):
        return _stop("could not install torch's CUDA libraries; is the package registry within reach, and disk free?")
    if _failed([*pip, "--no-deps", "--no-build-isolation", "--editable", "."]):
        return _stop("could not install the package itself")
    (venv / ".ready").touch()
    return 0


def _has_pip(python: Path) -> bool:
    asked = [str(python), "-m", "pip", "--version"]
    return python.exists() and subprocess.run(asked, capture_output=True, check=False).returncode == 0


def _failed(command: list[str]) -> bool:
    return subprocess.run(command, cwd=ROOT, check=False).returncode != 0


def _stop(reason: str) -> int:
    print(f"set-up: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ".venv"))

"""Networks from anyone's file: which file, which class, and the separate process that runs it. No torch here.

`path/to/file.py:NAME` names a class, a function without arguments or a finished network; `path/to/file.py` its `Net` or
its own classes; a folder every file in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from featherweight.utils import UserError

TIME_LIMIT = 60.0  # seconds for one file
MEMORY_LIMIT = 2048  # MB for one file, on top of what torch itself takes
MOST_FILES = 500  # in a folder: a home folder or a whole disk given by a slip is not run
_PASSED_OVER = (".", "__", "site-packages", "node_modules")  # how the names of files and folders begin that are none


START = "import sys; sys.path.append(sys.argv.pop()); from featherweight.rules.worker import main; main()"


@dataclass(frozen=True)
class Target:
    """What one argument means: a file (its full path, for a file may change the folder one is in) and perhaps a name in
    it; `text` as the user wrote it."""

    text: str
    path: Path
    name: str | None = None


def looks_like_file(text: str) -> bool:
    """Whether an argument names a file or folder and not a registered network."""
    path, _, _ = split(text)
    return os.sep in text or text.endswith(".py") or ".py:" in text or path.exists()


def split(text: str) -> tuple[Path, str | None, bool]:
    """(path, name or None, whether there was a colon)."""
    head, colon, tail = text.rpartition(":")
    if colon and head and os.sep not in tail and not Path(text).exists():
        return Path(head), tail or None, True
    return Path(text), None, False


def targets_of(text: str) -> list[Target]:
    """The files that an argument names; for a folder each .py file in it and below, sorted, hidden ones left out.

    Raises UserError where there is no such file or folder, or no Python file in it.
    """
    path, name, colon = split(text)
    if colon and name is None:
        raise UserError(f"{text} ends in a colon; write {path}:CLASS or {path}")
    if path.is_dir():
        if name is not None:
            raise UserError(f"{path} is a folder; {path}:{name} needs the path of a file")
        files = sorted(
            file
            for file in path.rglob("*.py")
            if file.is_file() and not any(part.startswith(_PASSED_OVER) for part in file.relative_to(path).parts)
        )
        if len(files) > MOST_FILES:
            raise UserError(
                f"{path} holds {len(files)} .py files, and checking it would run every one (at most {MOST_FILES}); "
                "give the folder that holds the networks"
            )
        if not files:
            raise UserError(f"there is no .py file in {path}; give the folder that holds them")
        return [Target(str(file), file.resolve()) for file in files]
    if not path.is_file():
        raise UserError(f"there is no file {path}; give path/to/file.py:CLASS or the name of a network")
    return [Target(text, path.resolve(), name)]


class Sandbox:
    """A context that answers requests about strangers' files in a process of its own, started at the first one."""

    def __init__(self, time_limit: float = TIME_LIMIT, memory_limit: int = MEMORY_LIMIT) -> None:
        self.time_limit, self.memory_limit = time_limit, memory_limit
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.process is not None:
            if self.process.stdin:
                self.process.stdin.close()
            self.process.terminate()
            self.process.wait()
            if self.process.stdout:
                self.process.stdout.close()
            self.process = None

    def ask(self, target: Target, request: dict[str, Any]) -> dict[str, Any]:
        """The answer about one file: {"results": [...]} or {"error": one line}. Never raises for what the file does."""
        request = {
            **request,
            "path": str(target.path),
            "name": target.name,
            "time_limit": self.time_limit,
            "memory_limit": self.memory_limit,
        }
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        with contextlib.suppress(ValueError):
            return json.loads(line)
        self.close()
        return {"error": "the process that checks files ended by itself; is there memory left?"}

    def _started(self) -> subprocess.Popen[str]:
        if self.process is None:
            if sys.platform == "win32":
                raise UserError("checking a file needs fork and resource limits: run it on Linux or macOS")
            quiet = {
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
            }
            self.process = subprocess.Popen(
                # -P: the folder it is called in holds strangers' files, whose names must not stand for Python's own.
                [sys.executable, "-P", "-W", "ignore", "-c", START, str(Path(__file__).resolve().parents[2])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **quiet},
                start_new_session=True,
            )
        return self.process

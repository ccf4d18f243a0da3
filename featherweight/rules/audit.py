"""Auditing an augmentation pipeline: run it in a process of its own, measure what comes out, judge that by rule.

The file's source is never read for an answer. Auditing **runs** the file: with a time limit, a memory limit where the
system has one, no standard input, and its noise caught.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from featherweight.rules.audit_judge import judge
from featherweight.rules.audit_rules import AuditRules
from featherweight.rules.wording import one_line
from featherweight.terminal import Progress
from featherweight.utils import UserError

DRAWS = 400  # a fair coin then comes within 0.1 of a half 99.99 times in 100
FEWEST, MOST = 100, 20_000
TIME_LIMIT = 120.0  # seconds
MEMORY_LIMIT = 4096  # MiB


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a pipeline comes from: a file and a name in it, or a function of this package that makes one."""

    where: str  # for messages and reports
    path: Path | None = None
    name: str
    module: str | None = None  # dotted name, instead of a path
    arguments: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As it goes to the other process."""
        if self.module is not None:
            return {
                "kind": "made",
                "where": self.where,
                "module": self.module,
                "name": self.name,
                "arguments": self.arguments,
            }
        return {"kind": "file", "where": self.where, "path": str(self.path), "name": self.name}


def parse_source(text: str) -> Source:
    """`path/to/file.py:NAME` -> Source. Raises UserError when it is not of that form or the file is not there."""
    path, _, name = text.rpartition(":")
    if not path or not name.isidentifier():
        raise UserError(f"{text!r} names no pipeline; give path/to/file.py:NAME")
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{path}: no such file; give path/to/file.py:NAME")
    return Source(where=f"{file.name}:{name}", path=file.resolve(), name=name)


def audit(
    train: Source,
    evaluation: Source | None = None,
    *,
    rules: AuditRules | None = None,
    draws: int = DRAWS,
    time_limit: float = TIME_LIMIT,
    memory_limit: int = MEMORY_LIMIT,
    workers: bool = True,
) -> dict[str, Any]:
    """Measure and judge a training pipeline, and an evaluation pipeline beside it when given.

    draws: calls on the main probe picture; time_limit in seconds, memory_limit in MiB; workers: whether the pipeline is
    meant to run in several worker processes. Returns passed, pipeline, rules[] (rule, passed, measured, required,
    where, advice), not_measured {rule: why}, notes[] and measurements. Raises UserError when the file cannot be run or
    gives no pictures.
    """
    if not FEWEST <= draws <= MOST:
        raise UserError(f"--draws {draws} is out of range; choose {FEWEST} to {MOST}")
    spec = {
        "train": train.plain(),
        "evaluation": None if evaluation is None else evaluation.plain(),
        "draws": draws,
        "memory_bytes": memory_limit << 20,
        "workers": workers,
    }
    figures = run_apart(spec, train.where, time_limit)
    verdict = judge(figures, rules or AuditRules())
    if not workers:
        verdict["not_measured"]["workers"] = "this engine seeds every batch anew: no worker has a stream of its own"
    return {"pipeline": train.where, **verdict, "measurements": figures}


def run_apart(spec: dict[str, Any], where: str, time_limit: float) -> dict[str, Any]:
    """Run audit_worker.py on `spec` in its own process group, which is ended whole afterwards. Raises UserError."""
    if time_limit <= 0:
        raise UserError(f"--time-limit {time_limit:g} is out of range; give seconds above 0")
    with tempfile.TemporaryDirectory(prefix="featherweight-audit-") as folder:
        spec_file, result_file = Path(folder) / "spec.json", Path(folder) / "result.json"
        count_file = Path(folder) / "count"
        spec_file.write_text(json.dumps(spec | {"progress": str(count_file)}))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "featherweight.rules.audit_worker", str(spec_file), str(result_file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )
        tail = bytearray()
        listener = threading.Thread(target=_listen, args=(process.stdout, tail), daemon=True)
        listener.start()
        try:
            code = _wait(process, time_limit, count_file, 2 * spec["draws"])
        finally:
            _end_group(process)
        listener.join(1.0)
        if process.stdout is not None:
            process.stdout.close()
        if code is None:
            raise UserError(
                f"{where} was not done within {time_limit:g} s and was stopped; the file must only define "
                "the pipeline (guard training code by if __name__ == '__main__'), or raise --time-limit"
            )
        try:
            result = json.loads(result_file.read_text())
        except (OSError, ValueError):
            how = f"was killed by signal {-code}" if code < 0 else f"left with exit code {code}"
            raise UserError(
                f"{where}: the file {how} before its pipeline could be measured{_last_words(tail)}"
            ) from None
    if "error" in result:
        raise UserError(result["error"])
    return result["result"]


def _wait(process: subprocess.Popen[bytes], time_limit: float, count_file: Path, total: int) -> int | None:
    """The exit code, None where the process is not done in time; meanwhile tell what it counts in `count_file`."""
    deadline = time.monotonic() + time_limit
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress("loading", None, ""))  # its time is no measure of what comes after
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(min(0.2, left))
            count = 0
            with contextlib.suppress(OSError, ValueError):  # not there yet, or half written
                count = min(int(count_file.read_text()), total)
            if count and progress.total is None:
                stack.close()
                progress = stack.enter_context(Progress("measuring", total, "steps", done=count))
            progress.to(count)
    return process.poll()


def _listen(pipe: IO[bytes], tail: bytearray) -> None:
    """Take the noise as it comes and keep its last 4 kB, so that a file that prints for ever fills nothing."""
    with contextlib.suppress(OSError, ValueError):
        while block := os.read(pipe.fileno(), 1 << 16):
            tail += block
            del tail[:-4096]


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment() -> dict[str, str]:
    package = str(Path(__file__).resolve().parents[2])
    known = os.environ.get("PYTHONPATH")
    return os.environ | {
        "PYTHONPATH": package + (os.pathsep + known if known else ""),
        "PYTHONIOENCODING": "utf-8",
        "NO_ALBUMENTATIONS_UPDATE": "1",  # or its import asks the network for a newer version
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENCV_FOR_THREADS_NUM": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "MPLBACKEND": "Agg",
    }


def _last_words(tail: bytearray) -> str:
    said = [line for line in tail.decode(errors="replace").split("\n") if line.strip()]
    return f"; it said last: {one_line(said[-1], 160)}" if said else ""

"""The parent's side of a child process: start it, give it its turns, watch its memory, end it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import featherweight
from featherweight.bench.job import Job
from featherweight.bench.machine import tree_memory
from featherweight.utils import UserError

WATCH = 0.1  # seconds between looks at the memory of a child that is watched, a few ms each: never in a timed turn
LEAVE_SECONDS = 20.0  # how long a child may take to end its workers and leave


class Contender:
    """One child process. Use it in a `with` statement, or call `close`: it and its workers are gone afterwards.

    `facts` is what the child said of itself once it was ready; `peak_memory` the most bytes it and its workers were
    seen to hold together.
    """

    def __init__(self, name: str, job: Job, *, say: Callable[[str], None] | None = None) -> None:
        """Start the child on its job; `ready` waits for it. say: is told what the child says on the way."""
        self.name, self.peak_memory = name, 0
        self.facts: dict[str, Any] = {}
        self._say = say
        self._buffer = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        place = str(Path(featherweight.__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [place, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "featherweight.bench.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the parent, which then closes the pipes
        )
        self._send(dataclasses.asdict(job))

    def ready(self, *, watch: float = 0.0) -> Contender:
        """Wait for the child's facts; watch: as for `ask`. Raises UserError when it cannot do its job."""
        self.facts = self._answer(watch)
        return self

    def ask(self, command: dict[str, Any], *, watch: float = 0.0) -> dict[str, Any]:
        """Send a command and wait for its answer; watch: seconds between looks at the memory meanwhile, 0 for none.
        Raises UserError when the child reports a problem or dies."""
        self._send(command)
        return self._answer(watch)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        # A child that is no more: its last words are read instead, by `_answer`.
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _answer(self, watch: float) -> dict[str, Any]:
        while True:
            answer = json.loads(self._line(watch))
            if "say" in answer:
                if self._say:
                    self._say(answer["say"])
                continue
            if "problem" in answer:
                raise UserError(f"bench, {self.name}: {answer['problem']}")
            self.peak_memory = max(self.peak_memory, answer.pop("peak_rss", 0))
            return answer

    def _line(self, watch: float) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            if watch > 0 and os.name == "posix" and not select.select([pipe], [], [], watch)[0]:
                self.peak_memory = max(self.peak_memory, tree_memory(self._process.pid))
                continue
            block = os.read(pipe, 65536)
            if not block:
                raise self._died()
            self._buffer += block
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _died(self) -> UserError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVE_SECONDS)
        code = self._process.returncode
        how = f"by signal {-code} (out of memory?)" if code is not None and code < 0 else f"with exit code {code}"
        self._errors.seek(0)
        last = (self._errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        return UserError(f"bench, {self.name}: its process ended unasked, {how}: {last[:200]}")

    def dismiss(self) -> None:
        """Tell the child that there are no more commands, without waiting until it is gone: several leave together."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def close(self) -> None:
        """End the child, by closing its pipe and, if it does not leave, by a signal to it and its workers."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(LEAVE_SECONDS)
        except BaseException as error:  # also a second Ctrl-C: the child must not stay behind
            with contextlib.suppress(ProcessLookupError):
                if os.name == "posix":
                    os.killpg(self._process.pid, signal.SIGKILL)  # its own session: it and its workers alone
                else:
                    self._process.kill()
            self._process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            self._errors.close()

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

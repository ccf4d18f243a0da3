"""The process that runs strangers' files: it imports torch once, then forks a child with limits for each request.

Speaks JSON lines: a request on standard input, an answer on standard output. The child's own output goes nowhere
but into a short tail that is quoted when it dies without an answer. Limits guard against accidents (endless loops,
memory, noise, exits); they are no prison for a file that means harm, which is why the help says that checking a
file runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import signal
import sys
import time
import traceback
from typing import Any, NoReturn

from featherweight.rules.wording import one_line

_MEGABYTE = 1 << 20
_LARGEST_ANSWER = 64 * _MEGABYTE
_TAIL = 2000  # bytes of the child's own output kept
_running: list[int] = []  # the child of the moment


def main() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGTERM, _leave)
    import torch

    torch.set_num_threads(1)
    from featherweight.rules import stranger

    while line := sys.stdin.readline():
        request = json.loads(line)
        print(json.dumps(serve(request, stranger.answer)), flush=True)


def _leave(number: int, frame: Any) -> NoReturn:
    for child in _running:
        _kill(child)
    os._exit(1)


def serve(request: dict[str, Any], answer: Any) -> dict[str, Any]:
    """Fork, let the child answer within its limits, and say in one line why there is no answer if there is none."""
    result_read, result_write = os.pipe()
    noise_read, noise_write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(result_read)
        os.close(noise_read)
        _child(request, answer, result_write, noise_write)
    _running.append(child)
    os.close(result_write)
    os.close(noise_write)
    try:
        status, result, noise = _await(child, result_read, noise_read, float(request["time_limit"]))
    finally:
        _kill(child)
        _running.remove(child)
        os.close(result_read)
        os.close(noise_read)
    return _verdict_of(request, status, result, noise)


def _verdict_of(request: dict[str, Any], status: int | None, result: bytes, noise: bytes) -> dict[str, Any]:
    if status is None:
        return {
            "error": f"it was stopped after the time limit of {request['time_limit']:g} s (--time-limit); "
            "keep training and downloads under if __name__ == '__main__'"
        }
    with contextlib.suppress(ValueError):
        data = json.loads(result)
        if isinstance(data, dict) and ("error" in data or isinstance(data.get("results"), list)):
            return data
    code = os.waitstatus_to_exitcode(status)
    said = noise.decode(errors="replace").strip().splitlines()
    last = f"; its last line: {one_line(said[-1], 120)}" if said else ""
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", perhaps for want of memory (--memory-limit)" if name in ("SIGKILL", "SIGABRT", "SIGSEGV") else ""
        return {"error": f"its process was ended by {name}{hint}{last}"}
    return {"error": f"its process ended without an answer (exit code {code}){last}"}


def _await(child: int, result_read: int, noise_read: int, limit: float) -> tuple[int | None, bytes, bytes]:
    """The child's exit status (None: out of time), its answer and the end of its noise."""
    deadline = time.monotonic() + limit
    kept = {result_read: b"", noise_read: b""}
    os.set_blocking(result_read, False)
    os.set_blocking(noise_read, False)
    with selectors.DefaultSelector() as selector:
        for pipe in kept:
            selector.register(pipe, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(timeout=0.05):
                if not _drain(key.fd, kept, noise_read):
                    selector.unregister(key.fd)
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                for pipe in kept:
                    _drain(pipe, kept, noise_read)
                return status, kept[result_read], kept[noise_read]
            if time.monotonic() > deadline or len(kept[result_read]) > _LARGEST_ANSWER:
                _kill(child)
                os.waitpid(child, 0)
                return None, b"", kept[noise_read]
            if not selector.get_map():
                time.sleep(0.02)


def _drain(pipe: int, kept: dict[int, bytes], noise: int) -> bool:
    """Read what is there, at most 16 blocks; False at the pipe's end."""
    for _ in range(16):
        try:
            block = os.read(pipe, 1 << 16)
        except BlockingIOError:
            return True
        if not block:
            return False
        kept[pipe] = (kept[pipe] + block)[-_TAIL:] if pipe == noise else kept[pipe] + block
    return True


def _kill(child: int) -> None:
    """End the child and whatever it started in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
        return
    with contextlib.suppress(ChildProcessError, ProcessLookupError):  # it has not made its session yet, or is gone
        done, _ = os.waitpid(child, os.WNOHANG)
        if not done:
            os.kill(child, signal.SIGKILL)


def _child(request: dict[str, Any], answer: Any, result: int, noise: int) -> NoReturn:
    """In the child: set limits, silence it, answer, end at once."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(noise, 1)
        os.dup2(noise, 2)
        sys.stdin = open(0)  # noqa: SIM115
        set_limits(float(request["time_limit"]), int(request["memory_limit"]))
        sys.dont_write_bytecode = True
        data = _answer_or_memory(request, answer)
        _write_all(result, json.dumps(data).encode())
        code = 0
    except BaseException:
        traceback.print_exc()
        with contextlib.suppress(Exception):
            sys.stderr.flush()
    finally:
        os._exit(code)


def _answer_or_memory(request: dict[str, Any], answer: Any) -> dict[str, Any]:
    from featherweight.rules.stranger import is_memory
    from featherweight.rules.wording import first_line

    try:
        data = answer(request)
    except BaseException as error:
        if is_memory(error):
            return {"error": f"it needs more memory than the limit of {request['memory_limit']} MB (--memory-limit)"}
        return {"error": f"checking it raises {first_line(error)}"}
    for result in data.get("results", []):
        if is_memory(RuntimeError(result.get("error", ""))):
            result["error"] = f"it needs more memory than the limit of {request['memory_limit']} MB (--memory-limit)"
    return data


def _write_all(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]


def set_limits(seconds: float, megabytes: int) -> None:
    """Limits of this process: memory on top of what it has now, processor time, file size, no core file."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm") as file:
        have = int(file.read().split()[0]) * resource.getpagesize()
        most = have + megabytes * _MEGABYTE
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with contextlib.suppress(OSError, ValueError):
        cpu = int(seconds) + 5
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (256 * _MEGABYTE, 256 * _MEGABYTE))


if __name__ == "__main__":
    main()

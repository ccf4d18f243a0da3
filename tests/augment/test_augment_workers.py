"""Worker processes of the albumentations engine: same results, no repetition, and a clean end whatever happens."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from augment_pictures import MEAN, STD, random_pictures

from featherweight.augment import AlbumentationsLoader
from featherweight.augment.workers import _Workers
from featherweight.config import AugmentConfig
from featherweight.utils import UserError

IMAGES = torch.from_numpy(random_pictures(40))
SPEC = AugmentConfig(workers=2)
posix = pytest.mark.skipif(os.name != "posix", reason="signals and /proc as on POSIX systems")


def loader(workers: int, **more) -> AlbumentationsLoader:
    return AlbumentationsLoader(SPEC, IMAGES, MEAN, STD, batch_size=8, seed=9, workers=workers, **more)


def pids(made: AlbumentationsLoader) -> list[int]:
    assert made._workers
    return [process.pid for process in made._workers._processes]


def alive(pid: int) -> bool:
    """Whether a process is there; one that has ended but was not collected (a zombie) counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], seconds: float = 15) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_any_number_of_workers_gives_the_same_and_none_repeats_another() -> None:
    same = [torch.arange(8)] * 7  # the same pictures in every batch, so that only chance tells batches apart
    order = [*torch.arange(40).flip(0).split(8), torch.arange(3)]
    with loader(0) as alone:
        expected = [list(alone.epoch(same, epoch=0)), list(alone.epoch(order, epoch=1))]
    assert not any(torch.equal(a, b) for i, a in enumerate(expected[0]) for b in expected[0][:i])
    for workers in (1, 2):
        with loader(workers) as made:
            assert len(set(pids(made))) == workers
            got = [list(made.epoch(same, epoch=0)), list(made.epoch(order, epoch=1))]
            started = made.epoch(order, epoch=1)  # abandoned half-way, with batches still on their way …
            next(started)
            resumed = list(made.epoch(order, epoch=1, first_step=2))  # … which must not be taken for these
            with pytest.raises(UserError, match="another epoch was started"):
                next(started)
        for ours, theirs in zip([*got, resumed], [*expected, expected[1][2:]], strict=True):
            assert len(ours) == len(theirs)
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
            assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in ours)


@posix
def test_one_thread_little_memory_and_no_copy_of_the_pictures() -> None:
    images = torch.zeros(20_000, 32, 32, 3, dtype=torch.uint8)  # 60 MB
    with AlbumentationsLoader(SPEC, images, MEAN, STD, batch_size=8, seed=0, workers=1) as made:
        list(made.epoch([torch.arange(8)] * 2, epoch=0))
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pids(made)[0]}/status").read_text().splitlines())
        own = int(status["RssAnon"].split()[0]) / 1024
        maps = Path(f"/proc/{pids(made)[0]}/maps").read_text()
    assert own < 150, "MB of its own: more than its libraries, so a copy of the pictures, or torch"
    assert "libtorch" not in maps
    assert int(status["Threads"]) <= 3  # its own, and what OpenBLAS or OpenCV keep asleep on two cores


def test_early_stop_and_an_exception_in_the_parent_end_the_workers() -> None:
    seen: list[int] = []
    with loader(1) as made:
        seen += pids(made)
        for _ in made.epoch([torch.arange(8)] * 50, epoch=0):
            break

    def fail_in_the_middle() -> None:
        with loader(2) as made:
            seen.extend(pids(made))
            next(made.epoch([torch.arange(8)] * 50, epoch=0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    made = loader(2)  # closed before the workers have even started
    seen += pids(made)
    made.close()
    made.close()
    with pytest.raises(UserError, match="closed"):
        next(made.epoch([torch.arange(8)], epoch=0))
    made = loader(1)  # never closed, only forgotten
    seen += pids(made)
    del made
    assert not any(map(alive, seen)), "a worker, or a zombie, is left"
    assert multiprocessing.active_children() == []


@posix
def test_a_worker_that_dies_is_a_clear_error() -> None:
    with loader(2) as made:
        others = pids(made)
        steps = made.epoch([torch.arange(8)] * 500, epoch=0)
        next(steps)
        os.kill(others[1], signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(UserError, match=r"worker 1 ended unasked, by signal 9 .*augment\.workers = 0") as caught:
            list(steps)
        assert time.monotonic() - began < 5
        assert "\n" not in str(caught.value)
        assert not any(map(alive, others))


def test_an_error_in_a_worker_is_a_clear_error(capfd: pytest.CaptureFixture[str]) -> None:
    spec = AugmentConfig(border="nowhere")  # type: ignore[arg-type]  # past the checks, to make the worker itself fail
    workers = _Workers(spec, MEAN, IMAGES.numpy(), 8, 1)
    with pytest.raises(UserError, match="failed in a worker: KeyError: 'nowhere'"):
        list(workers.run([(torch.arange(8).numpy(), 0)]))
    workers.close()
    assert capfd.readouterr().err == ""


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where the tests run in the background
import torch  # unguarded by `if __name__ == "__main__"`: workers must not run this script again
from featherweight.augment import AlbumentationsLoader
from featherweight.config import AugmentConfig
images = torch.zeros(64, 32, 32, 3, dtype=torch.uint8)
try:
    with AlbumentationsLoader(AugmentConfig(), images, (.5,) * 3, (.2,) * 3, batch_size=64, seed=0) as made:
        print("pids", *[process.pid for process in made._workers._processes], flush=True)
        steps = made.epoch([torch.arange(64)] * 3_000, epoch=0)
        if sys.argv[1] == "running":
            next(steps)
            print("running", flush=True)
        for _ in steps:
            pass
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""


def start_script(folder: Path, moment: str) -> tuple[subprocess.Popen[str], list[int]]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).resolve().parents[2])
    started = subprocess.Popen(
        [sys.executable, str(script), moment],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert started.stdout
    word, *numbers = started.stdout.readline().split()
    assert word == "pids", started.communicate()
    if moment == "running":
        assert started.stdout.readline() == "running\n"
    return started, [int(number) for number in numbers]


@posix
@pytest.mark.parametrize("moment", ["starting", "running"])
def test_ctrl_c_ends_everything_quietly(moment: str, tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to the whole group: the parent answers it, the workers stay silent and are gone after."""
    started, workers = start_script(tmp_path, moment)
    os.killpg(started.pid, signal.SIGINT)
    out, errors = started.communicate(timeout=20)
    assert (out, errors, started.returncode) == ("interrupted\n", "", 130)
    assert not any(map(alive, workers))


@posix
def test_workers_follow_a_parent_that_was_killed(tmp_path: Path) -> None:
    started, workers = start_script(tmp_path, "running")
    os.killpg(started.pid, signal.SIGTERM)  # the parent's to answer: it dies of it here, having no handler
    started.communicate(timeout=20)
    assert started.returncode == -signal.SIGTERM

    def running(pid: int) -> bool:  # not alive(): collecting orphans is the system's business
        line = Path(f"/proc/{pid}/cmdline")
        return line.exists() and line.read_bytes() != b""

    assert wait_until(lambda: not any(map(running, workers))), "workers outlived their parent"


@posix
def test_a_terminate_signal_is_left_to_the_parent() -> None:
    with loader(1) as made:
        for _ in range(25):  # all the while it starts …
            for kind in (signal.SIGTERM, signal.SIGINT):
                os.kill(pids(made)[0], kind)
            time.sleep(0.04)
        steps = made.epoch([torch.arange(8)] * 20, epoch=0)
        first = next(steps)
        copy = first.clone()
        for kind in (signal.SIGTERM, signal.SIGINT):  # … and while it works
            os.kill(pids(made)[0], kind)
        assert len(list(steps)) == 19
        assert torch.equal(first, copy), "a later batch was written over one already handed out"

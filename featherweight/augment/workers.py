"""Batches from the albumentations engine, in order, computed by worker processes or in this one.

- A batch depends on (seed, epoch, step) alone: the number of workers changes nothing, and an epoch resumes at any step.
- Workers are spawned, not forked: a fork of a process that runs threads (torch's) may copy a lock that is held.
- Pictures and finished batches lie in shared memory that has no name (multiprocessing's RawArray: a file unlinked as
  soon as it is opened, on disk where /dev/shm is too small), so nothing is left behind however this process ends.
- A worker ends when its pipe closes, which the system does even for a parent that was killed. It ignores Ctrl-C and
  terminate signals, which a terminal or a batch system sends to the whole group: they are the parent's to answer.

Shapes: N pictures, H rows, W columns, 3 colours; B pictures in a batch.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import types
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featherweight.augment.albumentations_engine import augment_pictures, build_geometry
from featherweight.augment.normalize import check_pictures, normalize
from featherweight.augment.specification import batch_seed, validate
from featherweight.config import AugmentConfig
from featherweight.utils import UserError

if TYPE_CHECKING:
    import torch

AHEAD = 2  # batches a worker may have begun before the first of them is asked for


class AlbumentationsLoader:
    """A source of augmented batches over one set of pictures; keeps its workers from epoch to epoch.

    Use it in a `with` statement, or call `close`. Workers start beside whatever is done meanwhile, in a second or two.
    """

    def __init__(
        self,
        spec: AugmentConfig,
        images: torch.Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        workers: int | None = None,
    ) -> None:
        """images: uint8 [N,H,W,3] on the CPU (with workers, copied once into shared memory); batch_size: the largest B;
        workers: processes, 0 for none, None for as many as the specification says.

        Raises UserError for a bad specification, other pictures, or no memory to share.
        """
        check_pictures(images)
        count, height, width, _ = images.shape
        validate(spec, height, width)
        if count < 1 or batch_size < 1:
            raise UserError(f"cannot make batches of {batch_size} from {count} pictures")
        self.spec, self.mean, self.std, self.seed, self.device = spec, mean, std, seed, device
        self.batch_size, self.count = batch_size, count
        self._epoch = object()  # the epoch now running: a later one ends those before it
        self._closed = False
        self._workers: _Workers | None = None
        pixels = images.cpu().numpy()
        workers = spec.workers if workers is None else workers
        if workers > 0:
            self._workers = _Workers(spec, mean, pixels, batch_size, workers)
        else:
            self._pixels = pixels.view()
            self._pixels.flags.writeable = False
            self._pipeline = build_geometry(spec, mean)

    def epoch(
        self, index_batches: Sequence[torch.Tensor], *, epoch: int, first_step: int = 0
    ) -> Iterator[torch.Tensor]:
        """Yield one epoch's batches in order, from `first_step` on: float32 [B,3,H,W], channels_last, on the device.

        index_batches: for every step of the whole epoch, int64 [B] of places among the pictures. Starting another epoch
        ends this one. Raises UserError when a worker fails or dies.
        """
        batches = [np.ascontiguousarray(indices.cpu().numpy(), dtype=np.int64) for indices in index_batches]
        for step, indices in enumerate(batches):
            if not 1 <= len(indices) <= self.batch_size or indices.min() < 0 or indices.max() >= self.count:
                raise UserError(f"batch {step} does not hold 1 to {self.batch_size} places among {self.count} pictures")
        if not 0 <= first_step <= len(batches):
            raise UserError(f"cannot start at step {first_step} of an epoch of {len(batches)} steps")
        seeds = [batch_seed(self.seed, epoch, step) for step in range(len(batches))]
        mine = self._epoch = object()
        todo = list(zip(batches, seeds, strict=True))[first_step:]
        for pixels in self._workers.run(todo) if self._workers else self._run_here(todo):
            yield self._finish(pixels)
            if self._closed or self._epoch is not mine:
                raise UserError("these batches were closed, or another epoch was started, before the epoch had ended")

    def _run_here(self, todo: Sequence[tuple[np.ndarray, int]]) -> Iterator[np.ndarray]:
        for indices, seed in todo:
            out = np.empty((len(indices), *self._pixels.shape[1:]), dtype=np.uint8)
            augment_pictures(self._pipeline, self._pixels, indices, seed, out)
            yield out

    def _finish(self, pixels: np.ndarray) -> torch.Tensor:
        """The same normalisation as everywhere, on the device: a quarter of the bytes travel, and the slot is free."""
        import torch

        return normalize(torch.from_numpy(pixels).to(self.device), self.mean, self.std)

    def close(self) -> None:
        """End the workers and wait until they are gone. May be called twice."""
        self._closed = True
        if self._workers:
            self._workers.close()

    def __enter__(self) -> AlbumentationsLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Workers:
    """The processes, their pipes, and the shared memory between them and this process."""

    def __init__(
        self, spec: AugmentConfig, mean: Sequence[float], pixels: np.ndarray, batch_size: int, workers: int
    ) -> None:
        context = multiprocessing.get_context("spawn")
        slots = (AHEAD * workers, batch_size, *pixels.shape[1:])
        try:
            pictures = context.RawArray(ctypes.c_uint8, pixels.size)
            finished = context.RawArray(ctypes.c_uint8, int(np.prod(slots)))
        except (OSError, MemoryError) as error:
            raise UserError(
                f"no room to share {pixels.nbytes >> 20} MB of pictures with workers ({error}); "
                "free some memory, or set augment.workers = 0"
            ) from error
        _as_array(pictures, pixels.shape)[:] = pixels
        self._slots = _as_array(finished, slots)
        self._tickets = itertools.count()
        self._processes: list[Any] = []
        self._pipes: list[Any] = []
        self._end = weakref.finalize(self, _end, os.getpid(), self._processes, self._pipes)
        atexit.register(self._end)  # after multiprocessing's own hook, so run before it: that one would wait for ever
        try:
            with _signals_held_back(), _nameless_main():
                for number in range(workers):
                    here, there = context.Pipe()
                    self._pipes.append(here)
                    process = context.Process(
                        target=_work,
                        name=f"augment-{number}",
                        daemon=True,
                        args=(there, spec, tuple(mean), pictures, pixels.shape, finished, slots),
                    )
                    process.start()
                    self._processes.append(process)
                    there.close()  # the worker has its own now; ours would hide its death
        except OSError as error:
            self.close()
            raise UserError(f"cannot start {workers} workers ({error}); set augment.workers = 0") from error
        except BaseException:
            self.close()
            raise

    def run(self, todo: Sequence[tuple[np.ndarray, int]]) -> Iterator[np.ndarray]:
        """Yield the batches' pixels, uint8 [B,H,W,3], in order; each is a view that lasts until the next is asked for.

        Batch k goes to worker k modulo their number, into slot k modulo the slots, which is always the same worker's:
        it works through its pipe in order, so what an abandoned epoch left is overwritten, and its answers passed over.
        """
        if not self._end.alive:
            raise UserError("these workers have been closed; make a new loader")
        tickets: list[int] = []
        for k in range(len(todo)):
            while len(tickets) < min(k + len(self._slots), len(todo)):
                tickets.append(self._send(len(tickets), *todo[len(tickets)]))
            self._receive(k, tickets[k])
            yield self._slots[k % len(self._slots), : len(todo[k][0])]

    def _send(self, k: int, indices: np.ndarray, seed: int) -> int:
        ticket, worker = next(self._tickets), k % len(self._pipes)
        try:
            self._pipes[worker].send((ticket, k % len(self._slots), indices, seed))
        except OSError as error:
            raise self._died(worker) from error
        return ticket

    def _receive(self, k: int, ticket: int) -> None:
        worker = k % len(self._pipes)
        while True:
            try:
                answered, problem = self._pipes[worker].recv()
            except (OSError, EOFError) as error:
                raise self._died(worker) from error
            if problem and answered in (ticket, None):
                raise UserError(f"augmenting a batch failed in a worker: {problem}")
            if answered == ticket:
                return

    def _died(self, worker: int) -> UserError:
        process = self._processes[worker]
        process.join(timeout=1)
        code = process.exitcode
        self.close()
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        return UserError(
            f"augmentation worker {worker} ended unasked, {how} (out of memory?); "
            "try augment.workers = 0, or augment.engine = batched"
        )

    def close(self) -> None:
        atexit.unregister(self._end)
        self._end()


def _end(owner: int, processes: list[Any], pipes: list[Any]) -> None:
    """Workers hold nothing that needs saving: end them outright and collect them, so that no zombie is left."""
    if os.getpid() != owner:  # a fork of the process that started them
        return
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
        process.close()
    for pipe in pipes:
        pipe.close()
    processes.clear()
    pipes.clear()


def _as_array(memory: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(memory, dtype=np.uint8).reshape(shape)


@contextlib.contextmanager
def _nameless_main() -> Iterator[None]:
    """Processes started within do not import the main script again, as spawned ones else do: a worker needs nothing of
    it, and it may be unguarded (it would train in every worker), read from standard input, or import torch."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Processes started within never hear Ctrl-C or a terminate signal, not even at first; this one does, later."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows: workers turn them off themselves, once they run
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # started later, inside, it would let the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(
    pipe: Any,
    spec: AugmentConfig,
    mean: Sequence[float],
    pictures: Any,
    shape: tuple[int, ...],
    finished: Any,
    slots: tuple[int, ...],
) -> None:
    """A worker's life: build the pipeline, then fill the slot each message names, until the pipe closes."""
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    ticket = None
    try:
        images, out = _as_array(pictures, shape), _as_array(finished, slots)
        images.flags.writeable = False
        pipeline = _single_threaded_geometry(spec, mean)
        while True:
            ticket, slot, indices, seed = pipe.recv()
            augment_pictures(pipeline, images, indices, seed, out[slot])
            pipe.send((ticket, None))
    except (EOFError, ConnectionError):  # the parent closed the pipe, or is no more
        pass
    except Exception as error:
        with contextlib.suppress(OSError):
            pipe.send((ticket, f"{type(error).__name__}: {error}"))


def _single_threaded_geometry(spec: AugmentConfig, mean: Sequence[float]) -> Any:
    os.environ["OMP_NUM_THREADS"] = "1"
    # albumentations imports torch where it can, for a transform that is not used here: 1.4 s and 180 MB a worker
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    if sys.modules["torch"] is not None:  # whoever brought it in, it is to keep to one thread
        sys.modules["torch"].set_num_threads(1)
    import cv2

    cv2.setNumThreads(1)
    return build_geometry(spec, mean)

"""A training step recorded once and replayed: a few hundred kernels launched by one call, which is where a GPU spends
most of a small network's step otherwise.

Source: CUDA graphs as in torch's notes on CUDA semantics ("whole-network capture"). A recorded step reads and writes
the same memory at every replay. So all that changes from step to step (pictures, labels, the mixture's share, the
rates) comes in tensors that are filled before it, and Python's own numbers in it must never change.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from featherweight.utils import UserError

WARM = 3  # steps of each size done as usual first: kernels are chosen, the optimiser's buffers made

Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # pictures, labels, share → loss


class Graph(Protocol):
    """What can record work on a device and repeat it."""

    def warm(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Do the work as usual."""
        ...

    def record(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Note what the work does without doing it, and return the tensor in which a replay leaves its result."""
        ...

    def replay(self) -> None:
        """Do what was noted."""


class CudaGraph:
    """A CUDA graph of one device."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._graph = device, torch.cuda.CUDAGraph()

    def warm(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        aside = _stream(self._device)
        with torch.cuda.device(self._device):
            usual = torch.cuda.current_stream()
            aside.wait_stream(usual)
            with torch.cuda.stream(aside):
                result = work()
            usual.wait_stream(aside)
        return result

    def record(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        stream = _stream(self._device)
        with torch.cuda.device(self._device), _uncollected(), torch.cuda.graph(self._graph, stream=stream):
            return work()

    def replay(self) -> None:
        with torch.cuda.device(self._device):
            self._graph.replay()


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream of warming up and recording, not the default one, as torch asks for it: libraries keep working
    memory for each stream that they have seen."""
    return torch.cuda.Stream(device)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage is collected meanwhile: an old graph that went in the middle of a recording would spoil it."""
    before = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@dataclass(frozen=True)
class _Recorded:
    """A recorded step and the memory that it works on."""

    graph: Graph
    pictures: torch.Tensor
    labels: torch.Tensor
    share: torch.Tensor
    loss: torch.Tensor


class CapturedStep:
    """Does steps as usual for a few times, then by recordings, one for each size of batch."""

    def __init__(self, graph: Callable[[], Graph]) -> None:
        self._graph = graph
        self._warming: dict[tuple[int, ...], int] = {}  # size → steps done as usual
        self._recorded: dict[tuple[int, ...], _Recorded] = {}

    def __call__(self, work: Step, pictures: torch.Tensor, labels: torch.Tensor, share: float) -> torch.Tensor:
        """One step on pictures [N, 3, H, W] and labels [N], all on the device; its loss, to be read or copied before
        the next step. work: the same at every call; it is not kept, so that graphs are gone when their trainer is.

        Raises UserError for a step that cannot be recorded.
        """
        size = tuple(pictures.shape)
        if size not in self._recorded:
            done = self._warming.get(size, 0)
            if done < WARM:
                self._warming[size] = done + 1
                inputs = pictures, labels, _number(share, pictures.device)
                return self._graph().warm(lambda: work(*inputs))
            inputs = pictures.clone(), labels.clone(), _number(share, pictures.device)
            self._recorded[size] = self._record(work, *inputs)
        recorded = self._recorded[size]
        recorded.pictures.copy_(pictures)
        recorded.labels.copy_(labels)
        recorded.share.fill_(share)
        recorded.graph.replay()
        return recorded.loss

    def _record(self, work: Step, pictures: torch.Tensor, labels: torch.Tensor, share: torch.Tensor) -> _Recorded:
        graph = self._graph()
        try:
            loss = graph.record(lambda: work(pictures, labels, share))
        except RuntimeError as error:
            cause: BaseException = error  # the first one: ending a spoilt recording fails as well
            while isinstance(cause.__context__, RuntimeError):
                cause = cause.__context__
            reason = (str(cause).splitlines() or [type(cause).__name__])[0][:160]
            raise UserError(f"this step cannot be recorded as a CUDA graph ({reason}); set capture=false") from error
        return _Recorded(graph, pictures, labels, share, loss)


def _number(value: float, device: torch.device) -> torch.Tensor:
    return torch.full((), value, device=device)

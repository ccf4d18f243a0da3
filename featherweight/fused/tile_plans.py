"""What matrix tiles do in each pass of a convolution: where in its frame a picture lies, and which numbers of a pixel's
neighbourhood meet which of the kernel. tiles.c then only moves tiles and multiplies them.

Letters: C input channels, O output channels, k the kernel's side; numbers are those of maps in channels-last memory.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

import torch

from featherweight.fused.build import at

SIDE, DEPTH = 16, 32  # of a tile: its rows, and the bf16 numbers in one
TOGETHER = 1024  # positions of a frame that the kernel's gradient takes at a time, about: they stay in the second cache
_SHAPE = ("pictures", "height", "width", "channels", "top", "left", "step", "frame_height", "frame_width")
_SHAPE += ("out_height", "out_width", "out_channels", "group", "slack")
_PART = ("base", "positions", "chunks", "first_chunk", "first_position")


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in _SHAPE]


class _Part(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in _PART]


class _Pass(ctypes.Structure):
    """tiles.h's `plan`."""

    _fields_ = [
        ("map", _Shape),
        ("offsets", ctypes.c_void_p),
        ("where", ctypes.c_void_p),
        ("parts", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("kernel", ctypes.c_void_p),
    ]


@dataclass(frozen=True)
class Plan:
    """How one pass goes, for any number of pictures; `places` says for each place in its kernel's tiles which number of
    the weight stands there, as it lies in channels-last memory (-1: none, a 0)."""

    shape: dict[str, int]
    parts: ctypes.Array[_Part]
    offsets: torch.Tensor
    where: torch.Tensor
    places: torch.Tensor

    @functools.cached_property
    def _pass(self) -> _Pass:
        count = len(self.parts) or len(self.offsets)
        arrays = at(self.offsets), at(self.where), ctypes.cast(self.parts, ctypes.c_void_p)
        return _Pass(_Shape(**self.shape), *arrays, count)

    def of(self, pictures: int, kernel: torch.Tensor | None = None) -> _Pass:
        """What tiles.c reads; kernel: the weight cut into tiles."""
        found = _Pass.from_buffer_copy(self._pass)
        found.map.pictures = pictures
        found.kept = self, kernel  # whose memory it points into
        found.kernel = None if kernel is None else kernel.data_ptr()
        return found


def out_side(side: int, kernel: int, stride: int, dilation: int, padding: int) -> int:
    return (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def lines(pictures: int, pixels: int) -> tuple[int, int, int]:
    """Pictures, height and width for a 1x1 kernel, to which all pixels are one line: cut where it fits the cache, and
    so that every thread has its piece."""
    most = max(1, min(TOGETHER // pixels, pictures // torch.get_num_threads()))
    together = next(g for g in range(most, 0, -1) if pictures % g == 0)
    return pictures // together, 1, together * pixels


@functools.lru_cache(maxsize=256)
def forward_plan(c: int, o: int, k: int, stride: int, dilation: int, padding: int, h: int, w: int) -> Plan:
    taps = [(ky, kx) for ky in range(k) for kx in range(k)]
    frame = _frame(k, stride, dilation, padding, h, w)
    out = out_side(h, k, stride, dilation, padding), out_side(w, k, stride, dilation, padding)
    distance = {tap: c * _distance(frame, 1, tap[0] * dilation, tap[1] * dilation) for tap in taps}
    numbers = {(ky, kx): _numbers(o, c, k)[:, :, ky, kx] for ky, kx in taps}
    part = _make_part(0, out, frame["frame_width"], lambda y, x: y * out[1] + x, distance, numbers)
    return _assemble({**frame, **_map(c, h, w), **_out_map(o, out), "group": 1}, [part])


@functools.lru_cache(maxsize=256)
def input_plan(c: int, o: int, k: int, stride: int, dilation: int, padding: int, h: int, w: int) -> Plan:
    """From the gradient [N, O, H', W'] to that of the input [N, C, H, W]: the convolution with the turned kernel; with
    stride 2 one for each parity of row and column, whose pixels meet some of the taps only."""
    out = out_side(h, k, stride, dilation, padding), out_side(w, k, stride, dilation, padding)
    taps = [(ky, kx) for ky in range(k) for kx in range(k)]
    numbers = {(ky, kx): _numbers(o, c, k).transpose(0, 1)[:, :, ky, kx] for ky, kx in taps}
    reach = dilation * (k - 1)
    if stride == 1:
        frame = _frame(k, 1, dilation, reach - padding, *out)
        turned = {(k - 1 - ky, k - 1 - kx): chosen for (ky, kx), chosen in numbers.items()}
        distance = {tap: o * _distance(frame, 1, tap[0] * dilation, tap[1] * dilation) for tap in taps}
        parts = [_make_part(0, (h, w), frame["frame_width"], lambda y, x: y * w + x, distance, turned)]
    else:
        before = reach // 2
        rows, columns = (max(size, (side - 1 + padding) // 2 + 1) for size, side in zip(out, (h, w), strict=True))
        frame = {"top": before, "left": before, "step": 1}
        frame |= {"frame_height": rows + before, "frame_width": columns + before}
        parts = [
            part
            for parity in ((0, 0), (0, 1), (1, 0), (1, 1))
            if (part := _part_of_parity(parity, o, (h, w), dilation, padding, frame, numbers)) is not None
        ]
    return _assemble({**frame, **_map(o, *out), **_out_map(c, (h, w)), "group": 1}, parts)


def _part_of_parity(
    parity: tuple[int, int],
    o: int,
    size: tuple[int, int],
    dilation: int,
    padding: int,
    frame: dict[str, int],
    numbers: dict,
) -> dict | None:
    """The input's pixels at rows 2y + parity[0] - padding and columns 2x + parity[1] - padding; None where there are
    none. Those taps reach them whose distance is of their parity."""
    (y0, rows), (x0, columns) = (_of_parity(one, side, padding) for one, side in zip(parity, size, strict=True))
    if rows <= 0 or columns <= 0:
        return None
    width, before = frame["frame_width"], frame["top"]
    distance = {}
    for tap in numbers:
        (down, odd), (right, odder) = (divmod(at * dilation - one, 2) for at, one in zip(tap, parity, strict=True))
        if not (odd or odder):
            distance[tap] = o * ((before - down) * width + before - right)

    def place(y: int, x: int) -> int:
        return (2 * (y + y0) + parity[0] - padding) * size[1] + 2 * (x + x0) + parity[1] - padding

    return _make_part((y0 * width + x0) * o, (rows, columns), width, place, distance, numbers)


@functools.lru_cache(maxsize=256)
def gradient_plan(c: int, o: int, k: int, stride: int, dilation: int, padding: int, h: int, w: int) -> Plan:
    frame = _frame(k, stride, dilation, padding, h, w)
    out = out_side(h, k, stride, dilation, padding), out_side(w, k, stride, dilation, padding)
    group = max(1, TOGETHER // (frame["frame_height"] * frame["frame_width"]))
    taps = [_distance(frame, group, ky * dilation, kx * dilation) for ky in range(k) for kx in range(k)]
    shape = {**frame, **_map(c, h, w), **_out_map(o, out), "group": group}
    shape["slack"] = dilation * (k - 1) * (frame["frame_width"] + 1) + 2 * DEPTH
    where = torch.full((group, frame["frame_height"], frame["frame_width"]), -1, dtype=torch.int32)
    numbers = torch.arange(group * out[0] * out[1], dtype=torch.int32) * o
    where[:, : out[0], : out[1]] = numbers.view(group, *out)
    return Plan(shape, (_Part * 0)(), torch.tensor(taps, dtype=torch.int32), where, torch.empty(0))


def _of_parity(parity: int, side: int, padding: int) -> tuple[int, int]:
    """The first q with 0 <= 2q + parity - padding, and how many there are until `side`."""
    first = -(-(padding - parity) // 2)
    return max(first, 0), (side - 1 + padding - parity) // 2 + 1 - max(first, 0)


def _map(channels: int, height: int, width: int) -> dict[str, int]:
    return {"channels": channels, "height": height, "width": width}


def _out_map(channels: int, size: tuple[int, int]) -> dict[str, int]:
    return {"out_channels": channels, "out_height": size[0], "out_width": size[1]}


def _frame(k: int, stride: int, dilation: int, padding: int, h: int, w: int) -> dict[str, int]:
    """Where a picture lies. At stride 1 the zeros on the left of a row also stand behind the row before, and those
    above a picture below the one before it; at stride 2 each plane has its own."""
    if stride == 1:
        height, width = h + padding, w + padding
    else:
        reach = dilation * (k - 1)
        height, width = (
            max(side + padding, (out_side(side, k, stride, dilation, padding) - 1) * stride + reach + 1) + 1
            for side in (h, w)
        )
        height, width = height // 2, width // 2
    return {"top": padding, "left": padding, "step": stride, "frame_height": height, "frame_width": width}


def _distance(frame: dict[str, int], group: int, down: int, right: int) -> int:
    """How many pixels of the frame a tap lies away from the position's own."""
    step, width = frame["step"], frame["frame_width"]
    plane = (down % step) * step + right % step
    return plane * group * frame["frame_height"] * width + (down // step) * width + right // step


def _numbers(o: int, c: int, k: int) -> torch.Tensor:
    """[O, C, k, k]: the place of each number of a weight in channels-last memory."""
    return torch.arange(o * k * k * c, dtype=torch.int32).view(o, k, k, c).permute(0, 3, 1, 2)


def _make_part(base: int, size: tuple[int, int], width: int, place: Any, distance: dict, numbers: dict) -> dict:
    """One part of a plan: the taps that lie side by side in memory are cut into chunks together."""
    rows, columns = size
    where = [place(y, x) if x < columns else -1 for y in range(rows) for x in range(width)]
    where = where[: (rows - 1) * width + columns]
    positions = len(where)
    where += [-1] * (-positions % (2 * SIDE))
    offsets, tiles, run = [], [], []
    for tap in sorted(distance, key=lambda one: distance[one]):
        chosen = numbers[tap]  # [out channels, in channels]
        if run and distance[tap] == run[-1][0] + run[-1][1].shape[1]:
            run[-1] = (run[-1][0], torch.cat([run[-1][1], chosen], 1))
        else:
            run.append((distance[tap], chosen))
    for start, chosen in run:
        nothing = chosen.new_full((chosen.shape[0], -chosen.shape[1] % DEPTH), -1)
        chosen = torch.cat([chosen, nothing], 1)
        for chunk in range(chosen.shape[1] // DEPTH):
            offsets.append(start + chunk * DEPTH)
            cut = chosen[:, chunk * DEPTH : (chunk + 1) * DEPTH]  # [out channels, DEPTH]
            tiles.append(cut.view(-1, SIDE, DEPTH // 2, 2).transpose(1, 2))  # [blocks, pairs, SIDE, 2]
    return {"base": base, "positions": positions, "where": where, "offsets": offsets, "tiles": tiles}


def _assemble(shape: dict[str, int], parts: list[dict]) -> Plan:
    found, first_chunk, first_position = [], 0, 0
    for part in parts:
        chunks = len(part["offsets"])
        found.append(_Part(part["base"], part["positions"], chunks, first_chunk, first_position))
        first_chunk, first_position = first_chunk + chunks, first_position + len(part["where"])
    offsets = torch.tensor([offset for part in parts for offset in part["offsets"]], dtype=torch.int32)
    where = torch.tensor([place for part in parts for place in part["where"]], dtype=torch.int32)
    tiles = [tile for part in parts for tile in part["tiles"]]
    kernel = torch.stack(tiles) if tiles else torch.empty(0, dtype=torch.int32)
    furthest = int(offsets.max()) // shape["channels"] if len(offsets) else 0
    in_frame = shape["step"] ** 2 * shape["frame_height"] * shape["frame_width"]
    last = max(part["base"] // shape["channels"] + len(part["where"]) for part in parts)
    slack = max(0, last + furthest - in_frame) + 2 * DEPTH
    return Plan({**shape, "slack": slack}, (_Part * len(found))(*found), offsets, where, kernel.contiguous())

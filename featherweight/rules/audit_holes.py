"""Holes: blocks of pixels that are not what the draw's placement says should be there.

Every output pixel is one of three: **free** (shows picture content, so no hole is there), **hole** (shows something
else where picture content must be), or **unknown** (outside the picture after a shift or turn, where a constant border
shows something else anyway). A hole's size is read from its hole pixels and may reach on into unknown ones.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from scipy import ndimage

from featherweight.rules.audit_geometry import BLUE, CENTRE, NEAR, Placement, decode, source
from featherweight.rules.audit_probe import MARK, RAMP_START, RAMP_STEP

FREE, HOLE, UNKNOWN = 0, 1, 2
LONG = 24  # pixels: no hole asked for is as long
STRIP = 1.2  # pixels inside the picture's edge that interpolation may mix with the border


@dataclass(frozen=True, kw_only=True)
class Hole:
    """One block: place and size in output pixels."""

    left: int
    top: int
    width: int  # the part surely seen
    height: int
    most_width: int  # with the unknown pixels it may reach into; equal to width in most draws
    most_height: int
    rectangular: bool
    pieces: int  # 2: the union of two rectangles that touch or overlap
    edges: tuple[bool, bool]  # touches the picture's left or right side; its top or bottom


@dataclass(frozen=True, kw_only=True)
class Border:
    """What lies outside the picture after a shift or turn."""

    constant: bool  # one colour (or nothing of the kind seen); otherwise content: mirrored, repeated
    levels: np.ndarray | None  # (3,) its usual colour, 0 … 255, where it is constant
    others: tuple[np.ndarray, ...] = ()  # (3,) further colours out there, as of padding and then a turn
    wedges: tuple[np.ndarray, ...] = ()  # (3,) colours, not the holes', of corners left empty by a turn after a crop
    shared: np.ndarray | None = None  # (3,) the colour of such corners where it is the holes' colour too
    hole: np.ndarray | None = None  # (3,) the usual colour of whole holes that touch no side
    sides: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())  # their widths and heights


def measure_border(levels: Sequence[np.ndarray], placements: Sequence[Placement | None]) -> Border:
    """The border of all draws together: from pixels at least 1.5 pixels outside the picture. levels: (H, W, 3) each."""
    outside = []
    for picture, placement in zip(levels, placements, strict=True):
        if placement is None or placement.unmixed:
            continue
        x, y = source(placement, *picture.shape[:2])
        outside.append(picture[np.maximum(np.abs(x), np.abs(y)) > CENTRE + 1.5])
    pixels = np.concatenate(outside) if outside else np.empty((0, 3))
    if len(pixels) < 50:
        return Border(constant=True, levels=None)
    _, _, marked = decode(pixels)
    constant = bool(marked.mean() <= 0.4)  # more of the ramp's own blue: content (holes may lie over a part of it)
    kinds, counts = np.unique(pixels[~marked].round(), axis=0, return_counts=True)
    usual = int(np.argmax(counts)) if constant else -1
    others = tuple(kinds[(counts >= 0.03 * counts.sum()) & (np.arange(len(kinds)) != usual)])
    return Border(constant=constant, levels=kinds[usual] if constant else None, others=others)


def find_wedges(levels: Sequence[np.ndarray], placements: Sequence[Placement | None], border: Border) -> Border:
    """Add to `border` the colours of corners and strips that a crop and then a move (or the other way round) left
    empty, though the whole picture would reach them: those of off blocks at a side that are no rectangles or too long
    for holes, when a tenth of the moved draws have them; and beside them the whole holes' own colour and sides."""
    draws = [(level, item) for level, item in zip(levels, placements, strict=True) if item is not None]
    hole, sides = _whole_holes(draws, border)

    def other(colour: np.ndarray) -> bool:
        return hole is None or bool(np.abs(hole - colour).max() > 4)

    outside = border.others if border.levels is None else (border.levels, *border.others)
    border = dataclasses.replace(border, wedges=tuple(filter(other, outside)), hole=hole, sides=sides)
    empty: Counter[tuple[float, ...]] = Counter()
    moved = [(level, item) for level, item in draws if not item.unmixed]
    for level, item in moved:
        kinds = classify(level, item, border)
        for block in _at_an_end(kinds):
            if not _may_be_whole(block, _no_hole(kinds, level, hole), sides):
                colours, counts = np.unique(level[block].round(), axis=0, return_counts=True)
                empty[tuple(colours[np.argmax(counts)].tolist())] += 1
    seen = [np.array(colour) for colour, count in empty.items() if count >= max(5, 0.1 * len(moved))]
    apart = (*border.wedges, *filter(other, seen))
    shared = next((colour for colour in seen if not other(colour)), None)
    return dataclasses.replace(border, wedges=apart, shared=shared)


def _whole_holes(
    draws: Sequence[tuple[np.ndarray, Placement]], border: Border
) -> tuple[np.ndarray | None, tuple[frozenset[int], frozenset[int]]]:
    """The most frequent colour of whole blocks that touch no side and nothing unknown, and the widths and heights of
    those of that colour; None and those of all blocks where no colour is frequent."""
    colours: Counter[tuple[float, ...]] = Counter()
    seen: list[tuple[tuple[float, ...], Hole]] = []
    for level, item in draws:
        for hole in find_holes(classify(level, item, border)):
            sure = (hole.width, hole.height) == (hole.most_width, hole.most_height)
            if hole.rectangular and sure and not any(hole.edges) and hole.width * hole.height > 8:
                colour = tuple(level[hole.top, hole.left].round().tolist())
                colours[colour] += 1
                seen.append((colour, hole))
    usual, count = colours.most_common(1)[0] if colours else ((), 0)
    if count < 0.25 * len(seen) or not seen:  # noise, or a colour drawn anew for each hole
        return None, (frozenset(h.width for _, h in seen), frozenset(h.height for _, h in seen))
    those = [hole for colour, hole in seen if colour == usual]
    return np.array(usual), (frozenset(h.width for h in those), frozenset(h.height for h in those))


def _ring(shape: tuple[int, ...]) -> np.ndarray:
    """The mask of the outermost pixels."""
    ring = np.ones(shape, bool)
    ring[1:-1, 1:-1] = False
    return ring


def _at_an_end(kinds: np.ndarray) -> list[np.ndarray]:
    """The blocks of HOLE pixels that touch a side of the output or unknown pixels, each as a mask (H, W)."""
    end = _ring(kinds.shape) | ndimage.binary_dilation(kinds == UNKNOWN, np.ones((3, 3)))
    return [block for block in _each(kinds == HOLE) if (block & end).any()]


def _no_hole(kinds: np.ndarray, levels: np.ndarray, colour: np.ndarray | None) -> np.ndarray:
    """The mask of pixels that are surely in no hole: FREE ones, and all of another colour than the holes' known one."""
    free = kinds == FREE
    return free if colour is None else free | ((kinds == UNKNOWN) & (np.abs(levels - colour).max(axis=2) > 0.75))


def _may_be_whole(block: np.ndarray, free: np.ndarray, sides: tuple[frozenset[int], frozenset[int]]) -> bool:
    """Whether a block can be one of the holes whose widths and heights are `sides`: whole, perhaps with a part among
    unknown pixels, or plainly cut by a side of the output. Where no whole hole is known: whether it is a rectangle."""
    rows, columns = np.flatnonzero(block.any(axis=1)), np.flatnonzero(block.any(axis=0))
    hole = _hole((rows[0], rows[-1] + 1, columns[0], columns[-1] + 1), free)
    if not hole.rectangular or not sides[0]:
        return hole.rectangular and max(hole.width, hole.height) < LONG
    wide = any(hole.width <= side <= hole.most_width for side in sides[0])
    high = any(hole.height <= side <= hole.most_height for side in sides[1])
    cut_across = hole.edges[0] and high and hole.height == hole.most_height
    cut_down = hole.edges[1] and wide and hole.width == hole.most_width
    return (wide and high) or (cut_across and hole.width < max(sides[0])) or (cut_down and hole.height < max(sides[1]))


def blocks(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected blocks of a mask (H, W), corners touching included: labels (H, W) from 1, and how many."""
    return cast("tuple[np.ndarray, int]", ndimage.label(mask, structure=np.ones((3, 3))))


def _each(mask: np.ndarray) -> list[np.ndarray]:
    """The blocks of a mask (H, W), each as a mask of its own."""
    labels, count = blocks(mask)
    return [labels == number for number in range(1, count + 1)]


def classify(levels: np.ndarray, placement: Placement, border: Border) -> np.ndarray:
    """FREE, HOLE or UNKNOWN for each pixel of one ramp draw (H, W, 3) -> (H, W) int."""
    kinds = _classify(levels, placement, border)
    if placement.unmixed:
        return kinds
    empty = kinds == HOLE
    if border.hole is not None:
        empty &= np.abs(levels - border.hole).max(axis=2) > 0.75
    if border.wedges:
        expected = _expected(placement, kinds.shape)
        for colour in border.wedges:
            kinds[empty & _mixture(levels, expected, colour)] = UNKNOWN
    if border.hole is not None:
        if border.wedges:  # from the sides on, what interpolation made of them and of repeated content
            off = empty | (kinds == UNKNOWN)
            reached = ndimage.binary_propagation(off & _ring(kinds.shape), np.ones((3, 3)), off)
            kinds[np.asarray(reached, dtype=bool)] = UNKNOWN
        for block in _each(kinds == HOLE):  # thin seams of such mixtures, but not the outline of a hole that was turned
            if empty[block].all() and not ndimage.binary_erosion(block, np.ones((3, 3))).any():
                kinds[block] = UNKNOWN
    if border.shared is not None:
        for block in _at_an_end(kinds):
            if not _may_be_whole(block, _no_hole(kinds, levels, border.hole), border.sides):  # a hole may be in it
                kinds[block] = UNKNOWN
    return kinds


def _expected(placement: Placement, shape: tuple[int, ...]) -> np.ndarray:
    """The ramp picture's levels (H, W, 3) as the placement would have them, beyond the picture's edge too."""
    x, y = source(placement, shape[0], shape[1])
    red, green = RAMP_START + RAMP_STEP * (x + CENTRE), RAMP_START + RAMP_STEP * (y + CENTRE)
    return np.stack([red, green, np.full(shape, float(MARK))], axis=2)


def _mixture(levels: np.ndarray, expected: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The mask of pixels between the content to be expected there and `colour`, as interpolation mixes them."""
    way, gone = colour - expected, levels - expected
    share = np.clip((way * gone).sum(axis=2) / ((way**2).sum(axis=2) + 1e-9), 0, 1)
    return np.abs(gone - share[..., None] * way).max(axis=2) < NEAR * RAMP_STEP


def _classify(levels: np.ndarray, placement: Placement, border: Border) -> np.ndarray:
    x, y, marked = decode(levels)
    to_x, to_y = source(placement, *marked.shape)
    fits = marked & (np.abs(x - to_x) <= NEAR) & (np.abs(y - to_y) <= NEAR)
    kinds = np.where(fits, FREE, HOLE)
    off = np.abs(levels - _expected(placement, marked.shape)).max(axis=2)
    kinds[_ring(marked.shape) & (off <= 2 * RAMP_STEP)] = FREE  # a turn by 0.1° mixes a little border in, no more
    if placement.unmixed:
        return kinds
    rim = np.maximum(np.abs(to_x), np.abs(to_y)) > CENTRE - STRIP
    kinds[_repeated(kinds, levels, rim)] = FREE
    if border.constant:
        unknown = rim & (kinds == HOLE)
        sure = levels[(kinds == HOLE) & ~rim]
        if len(sure):  # where the border has another colour, the hole's own colour tells it even out there
            colour = np.median(sure, axis=0)
            if border.levels is not None and np.abs(border.levels - colour).max() > 4:
                unknown &= np.abs(levels - colour).max(axis=2) > 0.75
        kinds[unknown] = UNKNOWN
    return kinds


def _repeated(kinds: np.ndarray, levels: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """The mask of content shown once more (mirrored, repeated) where the picture ends: outside it, and inside where a
    crop took the picture away before it was moved; there it reaches on to the output's edge, as no hole of blue does.
    """
    content = (kinds == HOLE) & (np.abs(levels[..., 2] - MARK) <= 2 * BLUE)
    at_a_side = _at_an_end(np.where(content, HOLE, FREE))
    return content & np.any([rim, *at_a_side], axis=0)


def find_holes(kinds: np.ndarray) -> list[Hole]:
    """The blocks of HOLE pixels of one draw, joined where only unknown pixels part them. kinds: (H, W)."""
    labels, count = blocks(kinds == HOLE)
    boxes = [(part[0].start, part[0].stop, part[1].start, part[1].stop) for part in ndimage.find_objects(labels, count)]
    free = kinds == FREE
    joined = True
    while joined:
        joined = False
        for i in range(len(boxes)):
            for j in range(i + 1, len(boxes)):
                both = tuple(pick(a, b) for pick, a, b in zip((min, max, min, max), boxes[i], boxes[j], strict=True))
                if not free[both[0] : both[1], both[2] : both[3]].any() and (kinds == UNKNOWN).any():
                    boxes[i] = both
                    del boxes[j]
                    joined = True
                    break
            if joined:
                break
    return [_hole(box, free) for box in boxes]


def _hole(box: tuple[int, int, int, int], free: np.ndarray) -> Hole:
    top, bottom, left, right = box
    height, width = free.shape
    rectangular = not free[top:bottom, left:right].any()
    pieces = 1 if rectangular else 2 if _two_rectangles(~free[top:bottom, left:right]) else 1
    first_row, last_row, first_column, last_column = top, bottom, left, right
    if rectangular:  # how far unknown pixels would let it reach
        while first_row > 0 and not free[first_row - 1, left:right].any():
            first_row -= 1
        while last_row < height and not free[last_row, left:right].any():
            last_row += 1
        while first_column > 0 and not free[top:bottom, first_column - 1].any():
            first_column -= 1
        while last_column < width and not free[top:bottom, last_column].any():
            last_column += 1
    return Hole(
        left=left,
        top=top,
        width=right - left,
        height=bottom - top,
        most_width=last_column - first_column,
        most_height=last_row - first_row,
        rectangular=rectangular,
        pieces=pieces,
        edges=(left == 0 or right == width, top == 0 or bottom == height),
    )


def _two_rectangles(block: np.ndarray) -> bool:
    """Whether a block (h, w) is exactly two rectangles in opposite corners of its bounding box."""
    for turned in (block, block[:, ::-1]):
        first, last = turned, turned[::-1, ::-1]
        if not (first[0, 0] and last[0, 0]):
            continue
        cover = _from_corner(first) | _from_corner(last)[::-1, ::-1]
        if np.array_equal(cover, turned):
            return True
    return False


def _from_corner(block: np.ndarray) -> np.ndarray:
    """The rectangle that fills the block's top left corner: as wide as its first row, as high as its first column."""
    width = int(np.argmin(np.append(block[0], False)))
    height = int(np.argmin(np.append(block[:, 0], False)))
    cover = np.zeros_like(block)
    cover[:height, :width] = True
    return cover


def inner_pixels(kinds: np.ndarray) -> np.ndarray:
    """The mask (H, W) of hole pixels, without a hole's own edge where it is large enough to have an inside."""
    mask = kinds == HOLE
    inner = ndimage.binary_erosion(mask, structure=np.ones((3, 3)), border_value=1)
    return inner if inner.sum() >= 9 else mask


def square_up(kinds: np.ndarray) -> np.ndarray:
    """Clean what is not read sharply: a pixel follows the majority of the nine around it, blocks of fewer than six
    pixels are no holes, and a block that fills four fifths of its bounding box is that box. (H, W) -> (H, W)."""
    neighbours = ndimage.convolve((kinds == HOLE).astype(int), np.ones((3, 3), int), mode="nearest")
    mask = (kinds != UNKNOWN) & ((neighbours >= 5) | ((kinds == HOLE) & (neighbours >= 4)))  # 4: the corner of a block
    labels, count = blocks(mask)
    result = np.where(kinds == UNKNOWN, UNKNOWN, FREE)
    for number, box in enumerate(ndimage.find_objects(labels, count), 1):
        block = labels[box] == number
        if block.sum() >= 6:
            known = kinds[box] != UNKNOWN
            filled = block.sum() >= 0.8 * known.sum()
            result[box][known if filled else block] = HOLE
    return result


@dataclass(kw_only=True)
class HoleTally:
    """All draws' holes together, in output pixels and in the values that come out."""

    draws: int = 0
    counts: list[int] = field(default_factory=list)  # holes in each draw
    holes: list[Hole] = field(default_factory=list)
    fills: list[np.ndarray] = field(default_factory=list)  # (3,) mean per hole draw
    spreads: list[float] = field(default_factory=list)  # largest deviation of the pixels within it

    def add(self, kinds: np.ndarray, output: np.ndarray) -> None:
        """Count one draw: its kinds (H, W) and what came out (H, W, C)."""
        found = find_holes(kinds)
        self.draws += 1
        self.counts.append(sum(hole.pieces for hole in found))
        self.holes.extend(found)
        if found:
            pixels = output[inner_pixels(kinds)]
            self.fills.append(pixels.mean(axis=0))
            self.spreads.append(float(pixels.std(axis=0).max()))

    def summary(self) -> dict[str, Any]:
        """Plain figures: rate, counts, sizes, place and fill."""
        drawn = [count for count in self.counts if count]
        if not drawn:
            return {
                "rate": 0.0,
                "draws": self.draws,
                "one": None,
                "counts": {},
                "whole": 0,
                "sizes": {},
                "irregular": 0.0,
                "sticking_out": 0.0,
                "fill": None,
                "fill_spread": None,
                "fill_changes": None,
            }
        # A hole that touches a side may be cut there: the sizes are read from those that do not, where there are any.
        apart = [hole for hole in self.holes if hole.rectangular and not any(hole.edges)]
        whole = apart or [hole for hole in self.holes if hole.rectangular]
        exact = [hole for hole in apart if (hole.width, hole.height) == (hole.most_width, hole.most_height)]
        least_width = min((hole.width for hole in exact), default=0)
        least_height = min((hole.height for hole in exact), default=0)
        cut = [
            hole
            for hole in self.holes
            if (hole.edges[0] and hole.most_width < least_width) or (hole.edges[1] and hole.most_height < least_height)
        ]
        sizes = Counter(
            f"{hole.width}x{hole.height}"
            for hole in whole
            if (hole.width, hole.height) == (hole.most_width, hole.most_height)
        )
        fills = np.array(self.fills)
        return {
            "rate": len(drawn) / self.draws,
            "draws": self.draws,
            "one": drawn.count(1) / len(drawn),
            "counts": {str(key): value for key, value in sorted(Counter(drawn).items())},
            "whole": len(whole),
            "sizes": dict(sizes.most_common()),
            "ranges": [[hole.width, hole.most_width, hole.height, hole.most_height] for hole in whole],
            "irregular": sum(not hole.rectangular for hole in self.holes) / len(self.holes),
            "sticking_out": len(cut) / len(self.holes),
            "fill": fills.mean(axis=0).tolist(),
            "fill_spread": float(np.mean(self.spreads)),
            "fill_changes": float(fills.std(axis=0).max()),
        }

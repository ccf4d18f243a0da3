"""Receptive fields along one axis, exactly: which input pixels each unit of a map reaches.

An `AxisMap` says, for the unit at any whole position i (also beyond the map's border, as padding would have it),
the first and last input pixel it reaches. Layers are shift-invariant up to a period (transposed convolutions and
interpolation have phases that see fields of different sizes), so the map is stored for one period and goes on from
there:

    field(i + period) = field(i) + advance        hence        jump = advance / period pixels per unit

The arithmetic is the usual one (A. Araujo, W. Norris, J. Sim, "Computing Receptive Fields of Convolutional Neural
Networks", Distill 2019) written as unions of intervals, which stays exact where size/jump/offset formulas do not:
stride larger than the kernel, phases of a transposed convolution, branches of different kernels, cropping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

Interval = tuple[int, int] | None  # first and last input pixel; None: reaches no pixel at all
LONGEST_PERIOD = 4096  # beyond this many phases the map is no longer followed exactly


@dataclass(frozen=True)
class AxisMap:
    """One period of fields. `fields[r]` belongs to position r; position r + period reaches `advance` pixels further."""

    advance: int
    fields: tuple[Interval, ...]
    exact: bool = True  # False after joining branches whose jumps disagree

    @property
    def period(self) -> int:
        return len(self.fields)

    @property
    def jump(self) -> Fraction:
        """Input pixels between neighbouring units."""
        return Fraction(self.advance, self.period)

    @property
    def size(self) -> int:
        """The largest field of any unit, in input pixels; 0 where no unit reaches a pixel."""
        return max((last - first + 1 for first, last in filter(None, self.fields)), default=0)

    @property
    def offset(self) -> Fraction | None:
        """Centre of the field of the unit at position 0, in pixels from the first input pixel's centre."""
        return None if self.fields[0] is None else Fraction(sum(self.fields[0]), 2)

    def at(self, position: int) -> Interval:
        """The field of the unit at `position`, not clipped to the picture."""
        turns, phase = divmod(position, self.period)
        field = self.fields[phase]
        return None if field is None else (field[0] + turns * self.advance, field[1] + turns * self.advance)

    def gather(self, period: int, step: int, taps: Callable[[int], Iterable[int]]) -> AxisMap:
        """The map of a layer whose unit i reads positions `taps(i)`, where taps(i + period) = taps(i) + step."""
        repeat = self.period // math.gcd(self.period, step)
        if period * repeat > LONGEST_PERIOD:
            return AxisMap(self.advance * step, self._hull_of(period, taps), exact=False)
        advance = self.advance * (step * repeat // self.period)
        return AxisMap(advance, tuple(hull(map(self.at, taps(i))) for i in range(period * repeat)), self.exact)

    def _hull_of(self, period: int, taps: Callable[[int], Iterable[int]]) -> tuple[Interval, ...]:
        return tuple(hull(map(self.at, taps(i))) for i in range(period))


def identity() -> AxisMap:
    """The picture itself: each pixel reaches itself."""
    return AxisMap(1, ((0, 0),))


def hull(fields: Iterable[Interval]) -> Interval:
    """The smallest interval over all of `fields`; the field of a unit that adds up units with these fields."""
    present = [field for field in fields if field is not None]
    return (min(first for first, _ in present), max(last for _, last in present)) if present else None


def window(axis: AxisMap, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> AxisMap:
    """A sliding window: convolution, pooling; kernel 1 with a stride is slicing, with a padding padding."""
    return axis.gather(1, stride, lambda i: (i * stride - padding + dilation * tap for tap in range(kernel)))


def transposed(axis: AxisMap, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> AxisMap:
    """A transposed convolution: unit i is written by units j with i = j·stride − padding + dilation·tap."""

    def taps(i: int) -> Iterable[int]:
        reached = (divmod(i + padding - dilation * tap, stride) for tap in range(kernel))
        return [position for position, rest in reached if rest == 0]

    return axis.gather(stride, 1, taps)


def repeat(axis: AxisMap, times: int) -> AxisMap:
    """Each unit repeated `times` times."""
    return axis.gather(times, 1, lambda i: (i // times,))


def adaptive(axis: AxisMap, size_in: int, size_out: int) -> AxisMap:
    """Adaptive pooling: unit i reads from floor(i·in/out) up to and without ceil((i+1)·in/out)."""
    common = math.gcd(size_in, size_out)
    return axis.gather(
        size_out // common,
        size_in // common,
        lambda i: range(i * size_in // size_out, -(-(i + 1) * size_in // size_out)),
    )


def interpolate(axis: AxisMap, ratio: Fraction, reach: int, corners: bool) -> AxisMap:
    """Interpolation. ratio: map units per new unit; reach: 0 nearest, 1 linear, 2 cubic; corners: align_corners.

    Linear reads the two neighbours with a weight that is not zero, cubic the four (one, where it falls on a unit).
    """
    period, step = ratio.denominator, ratio.numerator

    def taps(i: int) -> Iterable[int]:
        place = i * ratio if corners or reach == 0 else (i + Fraction(1, 2)) * ratio - Fraction(1, 2)
        low = math.floor(place)
        if reach == 0 or place == low:
            return (low,)
        return range(low - reach + 1, low + reach + 1)

    return axis.gather(period, step, taps)


def union(one: AxisMap, other: AxisMap, length: int) -> AxisMap:
    """Two branches added or concatenated. `length`: units in the map, used only where the branches' jumps disagree.

    Disagreeing jumps (a branch resized to fit) have no period in common: the fields of the units that exist are taken
    one by one and the result is marked not exact.
    """
    if one == other:
        return one
    period = math.lcm(one.period, other.period)
    exact = one.exact and other.exact
    if one.jump == other.jump and period <= LONGEST_PERIOD:
        fields = tuple(hull((one.at(i), other.at(i))) for i in range(period))
        return AxisMap(int(one.jump * period), fields, exact)
    fields = tuple(hull((one.at(i), other.at(i))) for i in range(max(1, min(length, LONGEST_PERIOD))))
    return AxisMap(round(max(one.jump, other.jump) * len(fields)), fields, exact=False)

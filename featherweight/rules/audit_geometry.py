"""Where every pixel of an output came from, and from that the flip, angle, shift and scale of the draw.

Letters: (H, W) sides of the output; (u, v) column and row of an output pixel; (x, y) column and row in the picture that
went in. Both are counted from the picture's centre, in pixels of the 32-pixel picture, whatever the output's size.

The ramp picture tells x and y directly: red is x, green is y, and blue says that the pixel is picture at all. A draw
is then one affine map (x, y) = inverse · (u, v) + origin, found by robust least squares: holes, constant borders
(blue is off) and mirrored borders (far off the map) do not pull at it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featherweight.rules.audit_probe import MARK, RAMP_START, RAMP_STEP, SIDE

CENTRE = (SIDE - 1) / 2
NEAR = 1.1  # pixels: a nearest-neighbour pixel is up to 0.5 off its true place, and the fit to such pixels up to 0.4
BLUE = 3.0  # levels by which interpolation and rounding may move the ramp picture's blue


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One draw's affine map from output to input coordinates, and what it means."""

    inverse: np.ndarray  # (2, 2)
    origin: np.ndarray  # (2,)
    flipped: bool  # mirrored left to right
    upturned: bool  # mirrored top to bottom
    angle: float  # degrees, counted after taking the mirrors away
    scale: float  # length of a picture pixel in the output; 1.1: enlarged
    stretch: float  # ratio of the largest to the smallest scale over directions; 1: neither stretched nor sheared
    shift: tuple[float, float]  # movement of the picture's centre, as fractions of the side (right, down)

    @property
    def still(self) -> bool:
        """Whether the picture lies as it went in or exactly mirrored, as well as that can be read from a texture."""
        return self._within(0.06)

    @property
    def unmixed(self) -> bool:
        """Still, and so exactly that no border is mixed into its outermost pixels: a turn by 0.1° mixes enough of a
        black one (3 levels of 200) to look like a hole."""
        return self._within(0.012)

    def _within(self, pixels: float) -> bool:
        """Whether nothing moved by more than that, at the picture's edge or in its middle."""
        turned = np.abs(np.abs(self.inverse) - np.eye(2)).max() * CENTRE
        return bool(turned < pixels and np.abs(self.origin).max() < pixels / 2)


def centred(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns u and rows v of the output's pixels from its centre, scaled to the 32-pixel picture; (H, W) each."""
    u = (np.arange(width) + 0.5) * (SIDE / width) - SIDE / 2
    v = (np.arange(height) + 0.5) * (SIDE / height) - SIDE / 2
    return np.broadcast_to(u[None, :], (height, width)), np.broadcast_to(v[:, None], (height, width))


def decode(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ramp picture's levels 0 … 255 (H, W, 3) -> x, y from the centre and the mask of pixels with the right blue."""
    x = (levels[..., 0] - RAMP_START) / RAMP_STEP - CENTRE
    y = (levels[..., 1] - RAMP_START) / RAMP_STEP - CENTRE
    return x, y, np.abs(levels[..., 2] - MARK) <= BLUE


def place(levels: np.ndarray) -> Placement | None:
    """The placement of one ramp draw (H, W, 3), or None where no affine map explains what came out."""
    x, y, good = decode(levels)
    if good.sum() < 0.2 * good.size or abs(np.median(levels[..., 2][good]) - MARK) > 0.6:  # colours were changed
        return None
    u, v = centred(*good.shape)
    start = _slopes(x, y, good, u, v)
    if start is None:
        return None
    fit = np.array(start)  # rows: x, y; columns: by u, by v, constant
    basis = np.stack([u[good], v[good], np.ones(int(good.sum()))], axis=1)
    target = np.stack([x[good], y[good]], axis=1)
    keep = np.ones(len(basis), bool)
    for reach in (3.0, 1.5, NEAR, NEAR, NEAR, NEAR):
        predicted = basis @ fit.T
        keep = np.abs(predicted - target).max(axis=1) <= reach
        if (
            reach == NEAR
        ):  # content mirrored or repeated just outside the edge is near the map as well, and would bend it
            keep &= np.abs(predicted).max(axis=1) <= CENTRE - 0.4
        if keep.sum() < 40:
            return None
        near = basis[keep]
        normal = near.T @ near
        if np.linalg.cond(normal) > 1e6:  # all on a line
            return None
        fit = np.linalg.solve(normal, near.T @ target[keep]).T
    predicted = basis @ fit.T
    keep = np.abs(predicted - target).max(axis=1) <= NEAR
    inside = np.abs(predicted).max(axis=1) <= CENTRE - 1
    if inside.sum() < 40 or keep[inside].mean() < 0.9:  # bent, or several pictures: no affine map
        return None
    keep &= inside
    if _bent(basis[keep], (target - predicted)[keep]):
        return None
    return describe(fit[:, :2], fit[:, 2])


def _bent(basis: np.ndarray, left: np.ndarray) -> bool:
    """Whether what an affine map leaves of positions, (P, 2) pixels at basis (P, 3), still bends with the place, as
    after a perspective: by a third of a pixel half-way to the sides, and by more than nearest-neighbour steps can."""
    u, v = basis[:, 0] * 2 / SIDE, basis[:, 1] * 2 / SIDE
    terms = np.stack([u * u, u * v, v * v, u, v, np.ones(len(u))], axis=1)
    bend = np.abs(np.linalg.lstsq(terms, left, rcond=None)[0][:3]).max()
    return bool(bend > max(0.33, 2.3 * float(np.sqrt((left**2).mean(axis=0)).max())))


def _slopes(x: np.ndarray, y: np.ndarray, good: np.ndarray, u: np.ndarray, v: np.ndarray) -> list[list[float]] | None:
    """First guess: medians of the differences between pixels two apart, and of what then remains."""
    across, down = good[:, 2:] & good[:, :-2], good[2:] & good[:-2]
    if across.sum() < 40 or down.sum() < 40:
        return None
    rows = []
    for z in (x, y):
        by_u = float(np.median((z[:, 2:] - z[:, :-2])[across] / (u[:, 2:] - u[:, :-2])[across]))
        by_v = float(np.median((z[2:] - z[:-2])[down] / (v[2:] - v[:-2])[down]))
        rows.append([by_u, by_v, float(np.median((z - by_u * u - by_v * v)[good]))])
    return rows


def describe(inverse: np.ndarray, origin: np.ndarray) -> Placement | None:
    """Take the map (2, 2), (2,) from output to input apart; None where it is not a map one can turn round."""
    if abs(np.linalg.det(inverse)) < 0.01:
        return None
    forward = np.linalg.inv(inverse)  # input -> output
    shift = -forward @ origin
    mirrored = np.linalg.det(forward) < 0
    turn = forward @ np.diag([-1.0, 1.0]) if mirrored else forward
    angle = float(np.degrees(np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1])))
    upturned = abs(angle) > 135  # a mirror top to bottom is a mirror left to right, turned by 180 degrees
    if upturned:
        angle -= float(np.copysign(180, angle))
    sizes = np.linalg.svd(forward, compute_uv=False)
    return Placement(
        inverse=inverse,
        origin=origin,
        flipped=bool(mirrored != upturned),
        upturned=upturned,
        angle=angle,
        scale=float(np.sqrt(sizes[0] * sizes[1])),
        stretch=float(sizes[0] / sizes[1]),
        shift=(float(shift[0] / SIDE), float(shift[1] / SIDE)),
    )


def source(placement: Placement, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each output pixel's content lies in the input, from its centre: x and y, (H, W) each."""
    u, v = centred(height, width)
    (a, b), (c, d) = placement.inverse
    return a * u + b * v + placement.origin[0], c * u + d * v + placement.origin[1]

"""The second way to find a draw's placement, where colours change: one grey, smooth picture without symmetry.

Its brightness may come out multiplied and moved by anything (jitter, greying, per-picture normalisation): the fit takes
gain and offset as unknowns beside the six figures of the affine map. The start comes from correlating the output with
the picture in 24 turns, mirrored and not, at every shift at once (by Fourier transform); Gauss-Newton with robust
weights (Tukey's biweight on the median residual) then refines it, so that a hole does not pull.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from featherweight.rules.audit_geometry import CENTRE, Placement, centred, describe, source
from featherweight.rules.audit_holes import FREE, HOLE, STRIP, UNKNOWN, square_up
from featherweight.rules.audit_probe import SIDE, texture

TURNS = np.arange(0, 360, 15)  # degrees
STARTS = 6  # best correlations from which a fit is begun
WORST = 0.35  # a misfit above it is no fit
PADDED = 64  # pixels: twice the side, so that shifts do not wrap round


class TextureFinder:
    """Holds the turned copies of the texture and their transforms; `place` answers for one output at a time."""

    def __init__(self) -> None:
        self.picture = texture()[..., 0] / 255
        self.slope_y, self.slope_x = np.gradient(self.picture)
        self.starts: list[np.ndarray] = []
        spectra = []
        u, v = centred(SIDE, SIDE)
        for mirror in (1.0, -1.0):
            for turn in np.radians(TURNS):
                matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
                matrix = np.diag([mirror, 1.0]) @ matrix  # output -> input
                x = matrix[0, 0] * u + matrix[0, 1] * v
                y = matrix[1, 0] * u + matrix[1, 1] * v
                inside = np.maximum(np.abs(x), np.abs(y)) <= CENTRE
                turned = np.where(inside, self._sample(self.picture, x, y) - self.picture.mean(), 0.0)
                spectra.append(np.conj(np.fft.rfft2(turned / np.linalg.norm(turned), (PADDED, PADDED))))
                self.starts.append(matrix)
        self.spectra = np.stack(spectra)

    @staticmethod
    def _sample(field: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(field, [y + CENTRE, x + CENTRE], order=1, mode="nearest")

    def place(self, output: np.ndarray) -> tuple[Placement, float] | None:
        """The placement of one output (H, W, C) of the texture and its misfit, or None where no map explains it.

        The misfit is the robust size of what remains, as a share of black to white, over the share covered.
        """
        grey = output.mean(axis=2)
        if not np.isfinite(grey).all() or grey.std() < 1e-9:
            return None
        grey = (grey - np.median(grey)) / grey.std()
        height, width = grey.shape
        small: Any = grey if grey.shape == (SIDE, SIDE) else ndimage.zoom(grey, (SIDE / height, SIDE / width), order=1)
        scores = np.fft.irfft2(np.fft.rfft2(small, (PADDED, PADDED)) * self.spectra, (PADDED, PADDED))
        tried = []
        for index in np.argsort(scores.reshape(len(scores), -1).max(axis=1))[::-1][:STARTS]:
            row, column = np.unravel_index(int(np.argmax(scores[index])), (PADDED, PADDED))
            shift = np.array([(column + SIDE) % PADDED - SIDE, (row + SIDE) % PADDED - SIDE], float)
            start = np.hstack([self.starts[index], (-self.starts[index] @ shift)[:, None]])
            tried.append(self._refine(grey, start, 4))
        misfit, fit = min(tried, key=lambda pair: pair[0])
        misfit, fit = self._refine(grey, fit, 12)
        found = describe(fit[:, :2], fit[:, 2]) if misfit < WORST else None
        return None if found is None else (found, misfit)

    def _refine(self, grey: np.ndarray, fit: np.ndarray, steps: int) -> tuple[float, np.ndarray]:
        """Gauss-Newton from `fit` (2, 3). Returns the misfit and the refined map."""
        u, v = centred(*grey.shape)
        fit = fit.copy()
        misfit = np.inf
        for step in range(steps):
            x = fit[0, 0] * u + fit[0, 1] * v + fit[0, 2]
            y = fit[1, 0] * u + fit[1, 1] * v + fit[1, 2]
            inside = np.maximum(np.abs(x), np.abs(y)) <= CENTRE - 0.5
            if inside.sum() < 0.25 * grey.size or not 0.25 < abs(np.linalg.det(fit[:, :2])) < 4:
                return np.inf, fit
            x, y, target = x[inside], y[inside], grey[inside]
            value = self._sample(self.picture, x, y)
            gain, offset, spread = _robust_line(value, target)
            if abs(gain) < 1e-6:
                return np.inf, fit
            residual = target - gain * value - offset
            misfit = spread / abs(gain) * grey.size / int(inside.sum())
            weight = np.clip(1 - (residual / (4.7 * spread)) ** 2, 0, None) ** 2
            by_x, by_y = gain * self._sample(self.slope_x, x, y), gain * self._sample(self.slope_y, x, y)
            uu, vv = u[inside], v[inside]
            design = np.stack(
                [by_x * uu, by_x * vv, by_x, by_y * uu, by_y * vv, by_y, value, np.ones(len(value))], axis=1
            )
            normal = design.T @ (design * weight[:, None]) + 1e-6 * np.eye(8)
            change = np.linalg.solve(normal, design.T @ (weight * residual))[:6].reshape(2, 3)
            fit += change
            if step > 3 and np.abs(change).max() < 1e-3:
                break
        return misfit, fit

    def kinds(self, output: np.ndarray, placement: Placement, border_constant: bool) -> np.ndarray:
        """FREE, HOLE or UNKNOWN for each pixel of one output (H, W, C), as audit_holes.py has them.

        A hole pixel differs from the picture, or is as flat as no part of the picture is (where a hole's grey happens
        to be the picture's own).
        """
        x, y = source(placement, *output.shape[:2])
        reach = np.maximum(np.abs(x), np.abs(y))
        inside = reach <= CENTRE - 0.5
        value = self._sample(self.picture, x, y)
        steep = np.hypot(self._sample(self.slope_x, x, y), self._sample(self.slope_y, x, y)) > 0.02
        differs = np.zeros(inside.shape, bool)
        flat_across, flat_down = np.ones(inside.shape, bool), np.ones(inside.shape, bool)
        for channel in np.moveaxis(output, 2, 0):
            gain, offset, spread = _robust_line(value[inside], channel[inside])
            expected = gain * value + offset
            clipped = np.clip(
                expected, channel.min(), channel.max()
            )  # strong changes of colour run into black or white
            steep &= clipped == expected
            differs |= np.abs(channel - clipped) > max(0.06 * abs(gain), 5 * spread)
            across, down = (np.abs(np.diff(channel, axis=axis)) < 0.002 * abs(gain) for axis in (1, 0))
            flat_across &= np.pad(across, ((0, 0), (1, 0))) | np.pad(across, ((0, 0), (0, 1)))
            flat_down &= np.pad(down, ((1, 0), (0, 0))) | np.pad(down, ((0, 1), (0, 0)))
        kinds = np.where(differs | (flat_across & flat_down & steep), HOLE, FREE)
        kinds[(reach > CENTRE - STRIP) & (not placement.still) & (kinds == HOLE)] = UNKNOWN if border_constant else FREE
        return square_up(kinds)


def _robust_line(value: np.ndarray, target: np.ndarray) -> tuple[float, float, float]:
    """target ≈ gain · value + offset by reweighting on the median residual; also that residual's standard size."""
    weight = np.ones(len(value))
    gain = offset = 0.0
    spread = 1.0
    for _ in range(6):
        total = weight.sum()
        middle, level = (weight * value).sum() / total, (weight * target).sum() / total
        gain = float(
            (weight * (value - middle) * (target - level)).sum() / ((weight * (value - middle) ** 2).sum() + 1e-12)
        )
        offset = float(level - gain * middle)
        residual = target - gain * value - offset
        spread = float(1.48 * np.median(np.abs(residual))) + 1e-3
        weight = np.clip(1 - (residual / (4.7 * spread)) ** 2, 0, None) ** 2 + 1e-9
    return gain, offset, spread

"""The engine that augments a whole batch as tensors, on any device: flip, shift-scale-rotate, one hole, normalised.

Shapes: N pictures, H rows, W columns, 3 colours; A of the N pictures are transformed.

On a CPU only the pictures that need a step take it, and most of the time goes into grid_sample. On any other device
every picture takes every step, and the chosen ones keep its result: no shape depends on the data, so nothing waits for
the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from featherweight.augment.draws import Draws, interpret, uniforms
from featherweight.augment.normalize import check_pictures, normalize
from featherweight.augment.specification import validate
from featherweight.config import AugmentConfig

if TYPE_CHECKING:
    import torch


class BatchAugmenter:
    """Carries out the specification on batches of pictures of any one size, on the device they are on."""

    def __init__(self, spec: AugmentConfig, mean: Sequence[float], std: Sequence[float]) -> None:
        self.spec = spec
        self.mean = tuple(map(float, mean))
        self.std = tuple(map(float, std))
        self._fitting: tuple[int, ...] = ()  # the size of pictures that the specification was last checked for

    def __call__(
        self, images: torch.Tensor, generator: torch.Generator, flip: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Draw from the generator, then `apply`. A CPU generator gives the same draws for pictures on any device.

        flip: bool [N], in place of the flips drawn.
        """
        check_pictures(images)
        numbers = uniforms(images.shape[0], generator).to(images.device, non_blocking=True)
        draws = interpret(self.spec, numbers, images.shape[1], images.shape[2])
        return self.apply(images, draws if flip is None else replace(draws, flip=flip))

    def apply(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """uint8 [N,H,W,3] and draws on the same device -> float32 [N,3,H,W], channels_last, normalised.

        The input is left as it is. Interpolation is bilinear, on the normalised values: a constant border and the hole
        are 0, which is the mean exactly. Raises UserError for other pictures or a specification they do not allow.
        """
        check_pictures(images)
        if images.shape[1:3] != self._fitting:
            validate(self.spec, images.shape[1], images.shape[2])
            self._fitting = images.shape[1:3]
        choose = _chooses(images.device)
        if self.spec.flip_p > 0:
            images = _flip_chosen(images, draws) if choose else _flip_where(images, draws)
        batch = normalize(images, self.mean, self.std)
        if self.spec.affine_p > 0:
            batch = self._transform_chosen(batch, draws) if choose else self._transform_all(batch, draws)
        if self.spec.hole_p > 0:
            (self._cut_chosen if choose else self._cut_masked)(batch, draws)
        return batch

    def _transform_chosen(self, batch: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Transform the chosen pictures in place: half of them, and half the work, at the usual affine_p."""
        import torch

        chosen = draws.affine.nonzero().squeeze(1)
        pixels = batch.permute(0, 2, 3, 1)  # [N,H,W,3], contiguous
        grid = _sampling_grid(
            draws.angle[chosen], draws.shift_x[chosen], draws.shift_y[chosen], draws.scale[chosen], *pixels.shape[1:3]
        )
        sampled = self._sample(pixels.index_select(0, chosen).permute(0, 3, 1, 2), grid)
        # made contiguous first: index_copy_ from a permuted tensor goes number by number and takes twice as long in all
        pixels.index_copy_(0, chosen, sampled.permute(0, 2, 3, 1).contiguous(memory_format=torch.contiguous_format))
        return batch

    def _transform_all(self, batch: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Transform every picture, and keep the result where it was chosen."""
        import torch

        grid = _sampling_grid(draws.angle, draws.shift_x, draws.shift_y, draws.scale, *batch.shape[2:])
        sampled = torch.where(draws.affine[:, None, None, None], self._sample(batch, grid), batch)
        return sampled.contiguous(memory_format=torch.channels_last)

    def _sample(self, batch: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """Bilinear samples of [A,3,H,W]. With align_corners, grid_sample reflects about the outermost pixels' centres:
        reflect_101. Outside a constant border it reads 0, which is the mean of normalised pixels."""
        from torch.nn import functional

        padding = "reflection" if self.spec.border == "reflect_101" else "zeros"
        return functional.grid_sample(batch, grid, mode="bilinear", padding_mode=padding, align_corners=True)

    def _cut_chosen(self, batch: torch.Tensor, draws: Draws) -> None:
        """Set the chosen pictures' holes to 0, in place, through a view of all windows of the hole's size."""
        size, chosen = self.spec.hole_size, draws.hole.nonzero().squeeze(1)
        windows = batch.permute(0, 2, 3, 1).unfold(1, size, 1).unfold(2, size, 1)  # [N,tops,lefts,3,size,size]
        windows[chosen, draws.hole_top[chosen], draws.hole_left[chosen]] = 0.0

    def _cut_masked(self, batch: torch.Tensor, draws: Draws) -> None:
        """The same by a mask over the whole batch, for devices where choosing pictures would mean waiting."""
        import torch

        size, (height, width) = self.spec.hole_size, batch.shape[2:]
        below = torch.arange(height, device=batch.device) - draws.hole_top[:, None]
        beside = torch.arange(width, device=batch.device) - draws.hole_left[:, None]
        rows = (below >= 0) & (below < size) & draws.hole[:, None]
        columns = (beside >= 0) & (beside < size)
        batch.masked_fill_((rows[:, :, None] & columns[:, None, :]).unsqueeze(1), 0.0)


def _chooses(device: torch.device) -> bool:
    """Whether to pick out the pictures that take a step: where values are at hand, it saves the others' work."""
    return device.type == "cpu"


def _flip_chosen(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """A copy of the batch, the chosen pictures mirrored (as bytes: a quarter of the traffic of floats)."""
    chosen = draws.flip.nonzero().squeeze(1)
    return images.index_copy(0, chosen, images.index_select(0, chosen).flip(2))


def _flip_where(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    import torch

    return torch.where(draws.flip[:, None, None, None], images.flip(2), images)


def _sampling_grid(
    angle: torch.Tensor, shift_x: torch.Tensor, shift_y: torch.Tensor, scale: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """Where each output pixel is read from: [A,H,W,2], in grid_sample's units (-1 and 1 are the outermost centres).

    The inverse of p -> centre + shift + scale * R(angle) (p - centre), R counter-clockwise as seen (rows point down).
    Each coordinate is a term along the row plus a term along the column; in plain float32 arithmetic, which neither
    autocast nor TF32 touches as they would a matrix product.
    """
    import torch

    radians = torch.deg2rad(angle)[:, None]
    cos, sin = torch.cos(radians) / scale[:, None], torch.sin(radians) / scale[:, None]
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    x = torch.arange(width, device=angle.device) - centre_x - width * shift_x[:, None]  # [A,W]
    y = torch.arange(height, device=angle.device) - centre_y - height * shift_y[:, None]  # [A,H]
    grid = torch.empty(angle.shape[0], 2, height, width, device=angle.device)  # planes: twice as fast to fill
    torch.sub((cos * x / centre_x)[:, None, :], (sin * y / centre_x)[:, :, None], out=grid[:, 0])
    torch.add((sin * x / centre_y)[:, None, :], (cos * y / centre_y)[:, :, None], out=grid[:, 1])
    return grid.permute(0, 2, 3, 1)

"""Batches for training, (pictures, labels), alike from every engine: the only door the training loop needs.

Batch b of epoch e depends on (seed, e, b), the pictures it holds and the specification, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from featherweight.augment.batched import BatchAugmenter
from featherweight.augment.normalize import check_pictures, normalize
from featherweight.augment.specification import batch_seed, validate
from featherweight.augment.workers import AlbumentationsLoader
from featherweight.config import AugmentConfig
from featherweight.utils import UserError, mix_seed

_FLIPS = 0xF11  # sets the seed of alternating flips apart from others of the same run

if TYPE_CHECKING:
    import torch


class BatchSource:
    """Augmented, normalised batches of one set of labelled pictures, epoch after epoch.

    Use it in a `with` statement, or call `close`: the albumentations engine keeps worker processes from epoch to epoch.
    """

    def __init__(
        self,
        spec: AugmentConfig,
        images: torch.Tensor,
        labels: torch.Tensor,
        batch_size: int,
        *,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
    ) -> None:
        """images: uint8 [N,H,W,3]; labels: [N]; mean, std: of pixels in 0..1.

        Pictures and labels are put on the device once (for albumentations, the labels only). Raises UserError for a bad
        specification, or pictures and labels that do not fit each other.
        """
        import torch

        check_pictures(images)
        validate(spec, images.shape[1], images.shape[2])
        if len(images) < 1 or labels.shape != images.shape[:1]:
            raise UserError(f"{list(labels.shape)} labels do not fit {len(images)} pictures")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; give at least 1")
        self.spec, self.batch_size, self.seed, self.mean, self.std = spec, batch_size, seed, mean, std
        self.device, self.count = device, len(images)
        self._labels = labels.to(device)
        self._augmenter = BatchAugmenter(spec, mean, std)
        self._loader: AlbumentationsLoader | None = None
        if spec.engine == "albumentations":
            self._loader = AlbumentationsLoader(
                spec, images, mean, std, batch_size=batch_size, seed=seed, device=device
            )
        else:
            self._images = images.to(device)
        if spec.alternate_flip:
            chance = torch.Generator().manual_seed(mix_seed(seed, _FLIPS))
            self._flipped_first = (torch.rand(len(images), generator=chance) < 0.5).to(device)

    def steps(self, pictures: int, *, drop_last: bool = False) -> int:
        """How many batches an epoch over so many pictures has."""
        return pictures // self.batch_size if drop_last else -(-pictures // self.batch_size)

    def epoch(
        self, order: torch.Tensor, *, epoch: int, first_step: int = 0, drop_last: bool = False
    ) -> Generator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (float32 [B,3,H,W] in channels_last memory, labels [B]) on the device, from `first_step` on.

        order: int64 [M], the places of the pictures in the order of this epoch. drop_last: leave out the last batch
        when it is not full. Raises UserError for an order or a first step that does not fit.
        """
        import torch

        order = order.cpu()
        if order.dtype != torch.int64 or order.ndim != 1:
            raise UserError(f"the order of an epoch is int64 [M], got {order.dtype} {list(order.shape)}")
        if len(order) and (int(order.min()) < 0 or int(order.max()) >= self.count):
            raise UserError(f"the order of the epoch names pictures outside 0..{self.count - 1}")
        steps = self.steps(len(order), drop_last=drop_last)
        if not 0 <= first_step <= steps:
            raise UserError(f"cannot start at step {first_step} of an epoch of {steps} steps")
        batches = list(order.split(self.batch_size))[:steps]
        there = list(order.to(self.device).split(self.batch_size))[:steps]
        pictures = (
            self._loader.epoch(batches, epoch=epoch, first_step=first_step)
            if self._loader
            else self._tensors(there, epoch, first_step)
        )
        for step, batch in enumerate(pictures, first_step):
            yield batch, self._labels.index_select(0, there[step])

    def _tensors(self, batches: Sequence[torch.Tensor], epoch: int, first_step: int) -> Iterator[torch.Tensor]:
        import torch

        for step in range(first_step, len(batches)):
            images = self._images.index_select(0, batches[step])
            if self.spec.engine == "none":
                yield normalize(images, self.mean, self.std)
            else:
                generator = torch.Generator().manual_seed(batch_seed(self.seed, epoch, step))
                yield self._augmenter(images, generator, self._flips(batches[step], epoch))

    def _flips(self, pictures: torch.Tensor, epoch: int) -> torch.Tensor | None:
        """Which of these are flipped where flips alternate: every picture is seen both ways within two epochs, and what
        chance decides is only which comes first (Jordan 2024, arXiv:2404.00498)."""
        if not self.spec.alternate_flip:
            return None
        first = self._flipped_first.index_select(0, pictures)
        return first.logical_not() if epoch % 2 else first

    def close(self) -> None:
        """End the workers, if there are any."""
        if self._loader:
            self._loader.close()

    def __enter__(self) -> BatchSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

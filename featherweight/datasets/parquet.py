"""CIFAR-10 as the model hub keeps it (parquet files of PNG pictures), and the unpacked form made from it.

A parquet file has a column `img`, a structure whose field `bytes` is a PNG, and a column `label`. Decoding 50,000 PNGs
takes seconds, so fetching does it once and keeps the pixels as safetensors (`images` uint8 [N, 32, 32, 3], `labels`
int64 [N], canonical order), which are read as quickly as the official batches.

What is read here is verified by its reader's caller, `cifar10.read`, by the digest of all pictures and labels.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from featherweight.datasets.pictures import Part, PictureSet, assemble, make_part
from featherweight.terminal import Progress
from featherweight.utils import UserError, write_atomic

SIDE = 32
REMEDY = "delete it and run 'featherweight data --fetch', or choose another copy with --data-dir"
LARGEST = 1 << 30  # bytes; the true files have 120 MB and 154 MB, a larger one is not what it says


def available() -> bool:
    """Whether pyarrow, and with it the reading of parquet files, is installed."""
    import importlib.util

    return importlib.util.find_spec("pyarrow") is not None


def read_parquet(file: Path, classes: tuple[str, ...]) -> PictureSet:
    """The pictures of one parquet file, in canonical order, not yet verified.

    Raises UserError when pyarrow is absent, or the file is missing or not of this kind.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f"reading {file} needs pyarrow; run pip install pyarrow, or use the official batches"
        ) from error
    _expect_file(file)
    try:
        # Opened by Python, so that pyarrow never takes the name for an address of its own kinds of file systems.
        with open(file, "rb") as stream:
            table = parquet.read_table(stream, columns=["img", "label"])
        pictures = table["img"].combine_chunks().field("bytes").to_pylist()
        labels = table["label"].to_numpy()
    except (pyarrow.ArrowException, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not CIFAR-10 as parquet (columns img.bytes and label): {error}; {REMEDY}"
        ) from error
    if not np.issubdtype(labels.dtype, np.integer) or not np.isin(labels, np.arange(len(classes))).all():
        raise UserError(f"{file} has labels that are not among 0 … {len(classes) - 1}; {REMEDY}")
    if not pictures:
        raise UserError(f"{file} holds no pictures; {REMEDY}")
    step = 2500
    parts = []
    with ThreadPoolExecutor(max_workers=2) as pool, Progress(f"reading {file.name}", len(pictures)) as progress:
        for part in pool.map(
            lambda start: _decode(pictures[start : start + step], labels[start : start + step], file),
            range(0, len(pictures), step),
        ):
            parts.append(part)
            progress.step(len(part.labels))
    return assemble(parts, classes)


def _decode(encoded: list[bytes], labels: np.ndarray, file: Path) -> Part:
    from PIL import Image

    images = np.empty((len(encoded), SIDE, SIDE, 3), np.uint8)
    for row, content in enumerate(encoded):
        try:
            with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
                if picture.size != (SIDE, SIDE) or picture.mode != "RGB":
                    raise ValueError(f"{picture.mode} picture of {picture.size[0]}x{picture.size[1]}")
                images[row] = np.asarray(picture)
        except (OSError, ValueError, TypeError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
            raise UserError(
                f"{file} holds something that is not a {SIDE}x{SIDE} PNG picture: {error}; {REMEDY}"
            ) from error
    return make_part(images, labels)


def write_unpacked(file: Path, pictures: PictureSet) -> None:
    """Keep `pictures` in the unpacked form, whole or not at all. Raises UserError when it cannot be written."""
    from safetensors.torch import save

    write_atomic(file, save({"images": pictures.images, "labels": pictures.labels}))


def read_unpacked(file: Path, classes: tuple[str, ...]) -> PictureSet:
    """The pictures of one unpacked file, in canonical order, not yet verified.

    Raises UserError when the file is missing or not of this kind.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    _expect_file(file)
    try:
        with safe_open(file, framework="pt") as stored:
            images, labels = stored.get_tensor("images"), stored.get_tensor("labels")
        if images.dtype != torch.uint8 or labels.dtype != torch.int64 or tuple(images.shape[1:]) != (SIDE, SIDE, 3):
            raise ValueError(f"images {images.dtype} {list(images.shape)}, labels {labels.dtype}")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"{len(images)} pictures and {len(labels)} labels")
        return assemble([make_part(images.numpy(), labels.numpy())], classes)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error}; {REMEDY}") from error


def _expect_file(file: Path) -> None:
    if not file.is_file():
        raise UserError(f"{file} is missing; {REMEDY}")
    if file.stat().st_size > LARGEST:
        raise UserError(f"{file} is too large to be CIFAR-10; {REMEDY}")

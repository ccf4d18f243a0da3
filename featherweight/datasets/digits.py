"""The handwritten digits that come inside scikit-learn, dressed as CIFAR-10's pictures: they need no network.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998; scikit-learn carries
the test half, 1,797 pictures of 8x8 pixels with grey values 0 to 16.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from featherweight.datasets.pictures import PictureSet, assemble, make_part, split_share
from featherweight.utils import UserError

CLASSES = tuple("0123456789")
LARGEST = 16  # grey values run from 0 to 16
FACTOR = 4  # 8x8 pixels become 32x32
TEST_SHARE = 5  # one in five of each class, chosen by content hash, is a test picture


@cache
def load() -> tuple[PictureSet, PictureSet]:
    """(train, test), stratified, about 80 to 20, in canonical order; uint8 [N, 32, 32, 3], three equal colours.

    Raises UserError when scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "the data set 'digits' comes with scikit-learn, which is not installed; run pip install scikit-learn"
        ) from error
    grey, labels = load_digits(return_X_y=True)
    images = enlarge(np.asarray(grey).reshape(-1, 8, 8).astype(np.int64))
    return split_share(assemble([make_part(images, np.asarray(labels))], CLASSES), TEST_SHARE)


def enlarge(grey: np.ndarray) -> np.ndarray:
    """Grey pictures of values 0 … 16, int64 [N, H, W] → uint8 [N, 4H, 4W, 3] of values 0 … 255, bilinear.

    Pixel centres are kept in place and the border is repeated. All in whole numbers (eighths along each axis), so every
    machine gets the same bytes.
    """
    eighths = _stretch(_stretch(grey, 1), 2)  # values in 1/64 of a grey step
    top = 64 * LARGEST
    scaled = (eighths * 255 + top // 2) // top
    return np.repeat(scaled.astype(np.uint8)[..., None], 3, axis=3)


def _stretch(values: np.ndarray, axis: int) -> np.ndarray:
    """`values` interpolated to four times their number along `axis`, times 8."""
    size = values.shape[axis]
    centre = 2 * np.arange(FACTOR * size) + 1 - FACTOR  # new centres in eighths of an old pixel: (2k + 1 - 4)
    left, weight = np.floor_divide(centre, 2 * FACTOR), np.mod(centre, 2 * FACTOR)
    shape = [1] * values.ndim
    shape[axis] = -1
    weight = weight.reshape(shape)
    first = np.take(values, np.clip(left, 0, size - 1), axis)
    second = np.take(values, np.clip(left + 1, 0, size - 1), axis)
    return first * (2 * FACTOR - weight) + second * weight

"""The engine that augments picture by picture with albumentations 2.0.8, held to the specification exactly.

What has to be closed for that, each seen to go wrong in 2.0.8 or in code written for 1.x:
- at import it asks the network for a newer version, unless told not to before the import;
- an unknown parameter name (all the old ones) only warns, and the default is used: `strict=True` makes it an error;
- `ShiftScaleRotate` pads with black by default, draws a second scale for the height, and cuts shifts off to whole
  pixels (a limit of 2 pixels gives -1, 0 or 1): here `Affine` with the border named, one scale, and shifts kept whole;
- a fraction as fill of 8-bit pixels is cut off: the fill is rounded first;
- a hole larger than the picture is quietly made smaller: refused by `validate`;
- one seed given to a `Compose` starts every transform on the same random numbers, so that flips, turns and holes come
  together: here all of them share one stream.
"""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featherweight.augment.specification import hole_fill
from featherweight.config import AugmentConfig
from featherweight.utils import UserError

if TYPE_CHECKING:
    import albumentations


def build_pipeline(spec: AugmentConfig, mean: Sequence[float], std: Sequence[float]) -> albumentations.Compose:
    """The specification as an albumentations pipeline: flip, shift-scale-rotate, hole, normalise.

    mean, std: three numbers each, of pixels in 0..1. Called with `image=` uint8 [H,W,3], it returns float32 [H,W,3]
    under "image". Raises UserError when albumentations is missing or does not take these parameters.
    """
    normalise = _strict(
        _library().Normalize, mean=tuple(map(float, mean)), std=tuple(map(float, std)), max_pixel_value=255.0, p=1.0
    )
    return _compose([*_geometry(spec, mean), normalise])


def build_geometry(spec: AugmentConfig, mean: Sequence[float]) -> albumentations.Compose:
    """`build_pipeline` without its last step: uint8 in, uint8 out, to be normalised a batch at a time."""
    return _compose(_geometry(spec, mean))


def augment_pictures(
    pipeline: albumentations.Compose, images: np.ndarray, indices: np.ndarray, seed: int, out: np.ndarray
) -> None:
    """Put pipeline(images[indices[i]]) into out[i], with random numbers that depend on the seed alone.

    images: [N,H,W,3]; indices: [B]; out: at least [B,H,W,3], of the pipeline's output type.
    """
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
    for place, index in enumerate(indices):
        out[place] = pipeline(image=images[index])["image"]


def _geometry(spec: AugmentConfig, mean: Sequence[float]) -> list[Any]:
    import cv2

    library = _library()
    fill = hole_fill(mean)
    border = {"reflect_101": cv2.BORDER_REFLECT_101, "constant": cv2.BORDER_CONSTANT}[spec.border]
    shift = (-spec.shift_limit, spec.shift_limit)
    side = (int(spec.hole_size), int(spec.hole_size))  # whole numbers: fractions would mean fractions of the picture
    return [
        _strict(library.HorizontalFlip, p=spec.flip_p),
        _strict(
            _sub_pixel_affine(),
            scale=(1 - spec.scale_limit, 1 + spec.scale_limit),
            keep_ratio=True,
            translate_percent={"x": shift, "y": shift},
            rotate=(-spec.rotate_limit, spec.rotate_limit),
            shear=(0.0, 0.0),
            interpolation=cv2.INTER_LINEAR,
            border_mode=border,
            fill=fill,
            p=spec.affine_p,
        ),
        _strict(
            library.CoarseDropout,
            num_holes_range=(1, 1),
            hole_height_range=side,
            hole_width_range=side,
            fill=fill,
            fill_mask=None,
            p=spec.hole_p,
        ),
    ]


def _compose(transforms: list[Any]) -> albumentations.Compose:
    return _library().Compose(transforms, strict=True, p=1.0)


def _strict(kind: type, **parameters: Any) -> Any:
    """A transform whose unknown or unfit parameters are errors, not warnings followed by defaults."""
    try:
        return kind(**parameters, strict=True)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"albumentations refuses these parameters of {kind.__name__}: {error}; "
            "install the version this was made for, albumentations==2.0.8"
        ) from error


def _library() -> Any:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # read at import: without it, the import asks the network
    try:
        import albumentations
    except ImportError as error:
        raise UserError(
            f"albumentations cannot be imported ({error}); install albumentations==2.0.8, "
            "or choose augment.engine = batched"
        ) from error
    return albumentations


@functools.cache
def _sub_pixel_affine() -> type:
    """albumentations' Affine, but a shift of 1.7 pixels shifts by 1.7 pixels, as in version 1, and not by 1."""
    affine = _library().Affine
    if not hasattr(affine, "_get_translate_params"):  # the override below would silently do nothing
        raise UserError("this version of albumentations cuts shifts off to whole pixels; install albumentations==2.0.8")

    class SubPixelAffine(affine):
        def _get_translate_params(self, image_shape: tuple[int, ...]) -> dict[str, float]:
            height, width = image_shape[:2]
            across, down = (self.py_random.uniform(*self.translate_percent[axis]) for axis in ("x", "y"))
            return {"x": across * width, "y": down * height}

    return SubPixelAffine

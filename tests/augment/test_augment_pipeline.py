"""The albumentations pipeline: what it is made of, and every trap of the library shown to be closed."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from augment_pictures import MEAN, STD, by_albumentations, normalised, random_pictures, spec_with

from featherweight.augment import albumentations_engine, build_pipeline
from featherweight.augment.specification import hole_fill
from featherweight.config import AugmentConfig
from featherweight.utils import UserError


def test_parts_in_order_with_the_specifications_figures() -> None:
    import cv2

    spec = AugmentConfig(
        flip_p=0.25, affine_p=0.75, hole_p=0.125, shift_limit=0.05, scale_limit=0.2, rotate_limit=9.0, hole_size=7
    )
    parts: list[Any] = list(build_pipeline(spec, MEAN, STD).transforms)
    flip, affine, hole, norm = parts
    assert [type(part).__name__ for part in (flip, affine, hole, norm)] == [
        "HorizontalFlip",
        "SubPixelAffine",
        "CoarseDropout",
        "Normalize",
    ]
    assert (flip.p, affine.p, hole.p, norm.p) == (0.25, 0.75, 0.125, 1.0)
    assert affine.rotate == (-9.0, 9.0)
    assert affine.scale == {"x": (0.8, 1.2), "y": (0.8, 1.2)}
    assert affine.keep_ratio
    assert affine.translate_percent == {"x": (-0.05, 0.05), "y": (-0.05, 0.05)}
    assert affine.interpolation == cv2.INTER_LINEAR
    assert affine.border_mode == cv2.BORDER_REFLECT_101
    assert hole.num_holes_range == (1, 1)
    assert hole.hole_height_range == hole.hole_width_range == (7, 7)
    assert hole.fill_mask is None
    assert (norm.mean, norm.std, norm.max_pixel_value) == (MEAN, STD, 255.0)


def test_borders_are_chosen() -> None:
    import cv2

    for border, code in (("reflect_101", cv2.BORDER_REFLECT_101), ("constant", cv2.BORDER_CONSTANT)):
        affine: Any = build_pipeline(spec_with(border=border), MEAN, STD).transforms[1]
        assert affine.border_mode == code
        assert affine.fill == (125.0, 123.0, 114.0)


def test_the_fill_is_rounded_not_cut_off() -> None:
    assert hole_fill(MEAN) == (125.0, 123.0, 114.0)  # 125.3, 122.96, 113.86: cut off they would be 125, 122, 113
    assert hole_fill((0.0, 1.0, 0.999)) == (0.0, 255.0, 255.0)


@pytest.mark.parametrize("mean", [MEAN, (0.4921, 0.4901, 0.4882), (0.13, 0.87, 0.5)])
def test_one_hole_fully_inside_with_the_mean_in_it(mean: tuple[float, float, float]) -> None:
    pictures = np.full((200, 32, 32, 3), 255, dtype=np.uint8)
    out, applied = by_albumentations(build_pipeline(spec_with(hole_p=1.0), mean, STD), pictures, seed=2)
    for picture, used in zip(out, applied, strict=True):
        left, top, right, bottom = used["CoarseDropout"]["holes"][0]
        assert (right - left, bottom - top) == (16, 16)
        assert 0 <= left <= right <= 32
        assert 0 <= top <= bottom <= 32
        inside = picture[top:bottom, left:right]
        assert np.abs(inside.mean((0, 1))).max() < 0.02
        assert inside.std((0, 1)).max() < 1e-6
        assert (np.abs(picture - inside[0, 0]).max(2) > 0.2).sum() == 32 * 32 - 16 * 16


def test_normalisation_is_that_of_the_rest() -> None:
    pictures = random_pictures(8)
    out, _ = by_albumentations(build_pipeline(spec_with(), MEAN, STD), pictures, seed=0)
    assert out.dtype == np.float32
    assert np.allclose(out, normalised(pictures), atol=2e-6, rtol=0)


def test_old_parameter_names_raise_instead_of_warning() -> None:
    import albumentations

    old = {"max_holes": 1, "max_height": 16, "max_width": 16, "fill_value": (125, 123, 114), "p": 1.0}
    with warnings.catch_warnings(record=True) as heard:  # the trap: a warning, and then a hole of the wrong size
        warnings.simplefilter("always")
        trapped = albumentations.CoarseDropout(**old)
    assert any("not valid" in str(warning.message) for warning in heard)
    assert trapped.hole_height_range != (16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so that an error here is not merely a warning turned into one
        with pytest.raises(UserError, match=r"max_holes.*albumentations==2\.0\.8"):
            albumentations_engine._strict(albumentations.CoarseDropout, **old)


@pytest.mark.parametrize("name", ["HorizontalFlip", "CoarseDropout", "Normalize"])
def test_a_library_that_renamed_its_parameters_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every transform is built strictly: with another version's names in its place, building fails."""
    import albumentations

    class Renamed(albumentations.ImageOnlyTransform):
        class InitSchema(albumentations.ImageOnlyTransform.InitSchema):
            chance: float

        def __init__(self, chance: float = 0.5) -> None:
            super().__init__(p=chance)

    monkeypatch.setattr(albumentations, name, Renamed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UserError, match="Renamed"):
            build_pipeline(AugmentConfig(), MEAN, STD)


def test_a_library_without_the_hook_for_shifts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import albumentations

    monkeypatch.delattr(albumentations.Affine, "_get_translate_params")
    albumentations_engine._sub_pixel_affine.cache_clear()
    with pytest.raises(UserError, match="whole pixels"):
        build_pipeline(AugmentConfig(), MEAN, STD)


def test_a_missing_library_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(UserError, match=r"install albumentations==2\.0\.8"):
        build_pipeline(AugmentConfig(), MEAN, STD)


def test_nothing_heavy_at_import_and_no_question_to_the_network() -> None:
    """In a fresh process: the room imports without torch, albumentations or OpenCV; building a pipeline asks nobody."""
    script = (
        "import sys, featherweight.augment as augment\n"
        "assert not {'torch', 'albumentations', 'cv2'} & set(sys.modules), 'imported too early'\n"
        "import urllib.request\n"
        "def refuse(*_, **__): raise SystemExit('asked the network')\n"
        "urllib.request.urlopen = urllib.request.OpenerDirector.open = refuse\n"
        "from featherweight.config import AugmentConfig\n"
        "augment.build_pipeline(AugmentConfig(), (.5, .5, .5), (.2, .2, .2))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")

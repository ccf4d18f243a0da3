"""A picture means the same pixels whatever file it comes in, and what is no picture is told in one line."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from ship_pictures import bad_files, gradient, png_claiming

from featherweight.ship import predictor
from featherweight.ship.predictor import (
    PictureError,
    find_pictures,
    printable,
    read_picture,
)

KINDS = ["PNG", "BMP", "TIFF", "GIF", "PPM", "TGA", "PCX", "QOI", "WEBP"]


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_the_right_size_goes_in_unchanged(kind: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = Image.fromarray(pixels if kind != "GIF" else pixels // 64 * 64)  # 64 colours, which a palette holds
    content = saved(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(read_picture(content, 32), np.asarray(image))


SIZES = [(64, 64), (451, 300), (300, 451), (33, 900), (20, 17), (1, 1)]


def scaled(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Oracle: torch's own antialiased bicubic interpolation."""
    whole = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    found = torch.nn.functional.interpolate(whole, (height, width), mode="bicubic", antialias=True)
    return found[0].permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_scaling_is_antialiased_bicubic_of_the_whole_picture(width: int, height: int) -> None:
    pixels = np.asarray(gradient(width, height))
    assert np.abs(read_picture(pixels, 32) - scaled(pixels, 32, 32)).max() <= 1


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_for_people_the_shape_is_kept(width: int, height: int) -> None:
    pixels = np.asarray(gradient(width, height))
    found = read_picture(pixels, 90, keep_shape=True)
    shape = {(64, 64): (90, 90), (451, 300): (60, 90), (300, 451): (90, 60), (33, 900): (90, 3), (20, 17): (76, 90)}
    assert found.shape == (*shape.get((width, height), (90, 90)), 3)
    assert np.abs(found - scaled(pixels, *found.shape[:2])).max() <= 2  # it is rounded twice, enlarged or not


def test_nothing_is_cut_off() -> None:
    pixels = np.zeros((30, 96, 3), np.uint8)
    pixels[:, :32, 0] = pixels[:, 32:64, 1] = pixels[:, 64:, 2] = 255
    found = read_picture(pixels, 32)
    assert (found[:, [0, 16, 31]] == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]).all()
    strip = Image.new("RGB", (1, 200_000), (9, 99, 199))
    assert (read_picture(strip, 32) == (9, 99, 199)).all()
    assert read_picture(strip, 32, keep_shape=True).shape == (32, 1, 3)


def test_alpha_is_laid_on_white() -> None:
    colour = Image.new("RGBA", (40, 40), (200, 100, 0, 102))  # 40 % opaque
    expected = [round(0.4 * value + 0.6 * 255) for value in (200, 100, 0)]
    for content in (saved(colour, "PNG"), saved(colour, "WEBP", lossless=True), saved(colour, "TIFF")):
        assert np.abs(read_picture(content, 32).astype(int) - expected).max() <= 1
    clear = Image.new("P", (40, 40), 0)
    clear.putpalette([255, 0, 0, 0, 0, 255])
    clear.paste(1, (0, 0, 40, 20))
    found = read_picture(saved(clear, "PNG", transparency=0), 40)
    assert (found[:20] == (0, 0, 255)).all()
    assert (found[20:] == 255).all()
    grey = Image.new("LA", (32, 32), (0, 0))
    assert (read_picture(saved(grey, "PNG"), 32) == 255).all()


def test_grey_of_every_depth_keeps_its_brightness() -> None:
    levels = np.linspace(0, 255, 32 * 32).astype(np.uint8).reshape(32, 32)
    expected = np.repeat(levels[:, :, None], 3, 2)
    wide = levels.astype(np.uint16) * 257  # 255 becomes 65535
    eight, sixteen = Image.fromarray(levels), Image.fromarray(wide)
    contents = [saved(eight, "PNG"), saved(sixteen, "PNG"), saved(sixteen, "TIFF"), saved(sixteen, "PPM")]
    contents.append(saved(Image.fromarray(wide.astype(np.int32)), "TIFF"))
    contents.append(saved(Image.fromarray(levels.astype(np.float32) / 255), "TIFF"))
    contents.append(saved(Image.fromarray(levels.astype(np.int32) * 1000), "TIFF"))
    contents.append(saved(Image.fromarray(levels.astype(np.int32)), "TIFF"))
    for content in contents:
        np.testing.assert_array_equal(read_picture(content, 32), expected)
    clear = read_picture(saved(sixteen, "PNG", transparency=0), 32)  # what is black is transparent: on white
    np.testing.assert_array_equal(clear, np.where(expected == 0, 255, expected))
    bits = Image.fromarray(levels > 127)
    np.testing.assert_array_equal(read_picture(saved(bits, "PNG"), 32), np.where(expected > 127, 255, 0))
    broken = Image.fromarray(np.full((32, 32), np.nan, np.float32))
    with pytest.raises(PictureError, match="not finite"):
        read_picture(saved(broken, "TIFF"), 32)


def test_an_older_pillow_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images do not know yet whether they have transparency."""
    monkeypatch.delattr(Image.Image, "has_transparency_data")
    test_alpha_is_laid_on_white()


def test_large_grey_is_stretched_in_parts_as_in_one() -> None:
    values = np.random.default_rng(0).integers(-(10**9), 10**9, (3, 2**20), dtype=np.int32)
    values[1] -= 10**9
    low, high = float(values.min()), float(values.max())
    whole = np.rint((values.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)
    np.testing.assert_array_equal(predictor._grey(values, False), whole)
    np.testing.assert_array_equal(predictor._grey(values.T, False), whole.T)


@pytest.mark.parametrize("wrong", [None, 0, 1.5, io.BytesIO(), torch.zeros(3)])
def test_what_is_no_picture_at_all_is_told_as_that(wrong: object) -> None:
    with pytest.raises(PictureError, match=f"must be a path, .*, not {type(wrong).__name__}$"):
        read_picture(wrong, 32)  # type: ignore[arg-type]


def test_cmyk_palette_and_other_colours() -> None:
    """(255 - ink) (255 - black) / 255 in each colour; palettes of 256 colours come close to the picture."""
    ink = Image.new("CMYK", (32, 32), (255, 51, 0, 51))
    expected = [round((255 - c) * (255 - 51) / 255) for c in (255, 51, 0)]
    for content in (saved(ink, "TIFF"), saved(ink, "JPEG", quality=100)):
        assert np.abs(read_picture(content, 32).astype(int) - expected).max() <= 2
    picture = gradient(64, 64)
    palette = read_picture(saved(picture.quantize(256), "PNG"), 32).astype(float)
    assert np.abs(palette - read_picture(picture, 32)).mean() < 8
    for mode in ("YCbCr", "HSV"):
        assert np.abs(read_picture(picture.convert(mode), 32).astype(float) - read_picture(picture, 32)).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation: int) -> None:
    stored = gradient(48, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(stored, "PNG", exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    np.testing.assert_array_equal(read_picture(content, 40), read_picture(upright, 40))
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    square = np.zeros((32, 32, 3), np.uint8)
    square[0, 0] = 255  # where the stored first pixel must come to lie, by the EXIF standard's own table
    found = read_picture(saved(Image.fromarray(square), "PNG", exif=exif), 32)
    assert found[corner[orientation]].tolist() == [255, 255, 255]


def test_broken_exif_does_not_hinder() -> None:
    content = saved(gradient(32, 32), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read_picture(content, 32).shape == (32, 32, 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_counts(kind: str) -> None:
    red, blue = Image.new("RGB", (40, 40), (255, 0, 0)), Image.new("RGB", (40, 40), (0, 0, 255))
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(red, kind, save_all=True, append_images=[blue], **options)
    assert (read_picture(content, 32) == (255, 0, 0)).all()


def test_a_large_jpeg_read_at_a_reduced_scale_is_the_same_picture() -> None:
    image = gradient(1100, 1040).resize((2200, 2080), Image.Resampling.BICUBIC)
    content = saved(image, "JPEG", quality=95)
    with Image.open(io.BytesIO(content)) as whole:
        whole.load()
        full = read_picture(whole.convert("RGB"), 32).astype(float)
    difference = np.abs(read_picture(content, 32).astype(float) - full)
    assert difference.mean() < 0.5
    assert difference.max() <= 3


def test_bad_files_are_told_in_one_line(tmp_path: Path) -> None:
    said = bad_files(tmp_path)
    assert len(said) >= 12
    for name, words in said.items():
        with pytest.raises(PictureError) as caught:
            read_picture(tmp_path / name, 32)
        assert words in str(caught.value), name
        assert "\n" not in str(caught.value)
    for name in ("no/such/file.png", "nul\0byte.png", tmp_path, "x" * 5000):
        with pytest.raises(PictureError):
            read_picture(name, 32)
    with pytest.raises(PictureError, match="uint8"):
        read_picture(np.zeros((32, 32, 4), np.uint8), 32)


def test_a_jpeg_is_no_smaller_for_being_decoded_at_a_reduced_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(gradient(1100, 1000), "JPEG")
    assert read_picture(content, 32).shape == (32, 32, 3)
    monkeypatch.setattr(predictor, "MAX_PIXELS", 1_000_000)
    with pytest.raises(PictureError, match=r"1 million pixels \(1100 x 1000\)"):
        read_picture(content, 32)


def test_the_pixel_limit_is_told_before_anything_is_decoded() -> None:
    with pytest.raises(PictureError, match="100 million pixels"):
        read_picture(png_claiming(10_001, 10_000), 32)
    with pytest.raises(
        PictureError, match="damaged or incomplete"
    ):  # within the limit: it is decoded, and is not whole
        read_picture(png_claiming(1_000, 1_000), 32)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs a POSIX system")
def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    gradient(32, 32).save(path)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # to whom nothing is forbidden
        os.seteuid(65534)
    try:
        with pytest.raises(PictureError, match="Permission denied"):
            read_picture(path, 32)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("kind", [*KINDS, "JPEG", "ICO", "JPEG2000", "AVIF"])
def test_damaged_files_never_do_worse_than_a_picture_error(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Sixty files of each kind, bytes changed or cut off: a picture or a PictureError, and nothing on the screen."""
    chance = random.Random(kind)
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    whole = saved(gradient(60, 50), kind, **options)
    refused, said = 0, []
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(chance.choice([1, 4, 40])):
            content[chance.randrange(min(len(content), 600))] = chance.randrange(256)
        if chance.random() < 0.3:
            del content[chance.randrange(len(content)) :]
        try:
            found = read_picture(bytes(content), 32)
        except PictureError as error:
            refused += 1
            said.append(str(error))
        else:
            assert found.shape == (32, 32, 3)
            assert found.dtype == np.uint8
    assert refused > 0
    assert not any("\n" in text for text in said)
    told = capfd.readouterr()
    assert told.out == told.err == ""


def test_folders_are_walked_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/z.gif", "sub/deeper.png/y.bmp", "notes.txt", ".hidden.png", ".cache/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        gradient(8, 8).save(tmp_path / name, "PNG")
    os.symlink(tmp_path, tmp_path / "sub" / "round_and_round")
    found, others = find_pictures([str(tmp_path)])
    names = [os.path.relpath(one.name, tmp_path) for one in found]
    assert names == ["a.JPG", "b.png", "sub/z.gif", "sub/deeper.png/y.bmp"]
    assert others == 3  # notes.txt, .hidden.png and the link; what is below a hidden folder is not looked at
    (tmp_path / "hollow").mkdir()
    (nothing,), _ = find_pictures([str(tmp_path / "hollow")])
    with pytest.raises(PictureError, match="without any picture"):
        nothing.read(32)


def test_names_are_told_in_one_printable_line() -> None:
    assert printable("plain ünïcode.png") == "plain ünïcode.png"
    assert printable("two\nlines\x1b[31m.png") == "two\\nlines\\x1b[31m.png"
    assert printable(os.fsdecode(b"caf\xe9.png")) == "caf\\xe9.png"

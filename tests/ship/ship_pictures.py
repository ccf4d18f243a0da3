"""Pictures for the tests: photographs and drawn scenes of the classes; files as awkward as people's folders hold."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

PICTURES = Path(__file__).parent / "pictures"

# Photographs that are no CIFAR images (pictures/LICENCES.txt says whose): name of the file → class. All that were found
# under a clear licence, whatever is said of them; none was found of a car, truck, ship, aeroplane or frog.
PHOTOGRAPHS = {
    "chelsea": "cat",
    "kitten": "cat",
    "shepherd": "dog",
    "horses": "horse",
    "moose": "deer",
    "duck": "bird",
    "owl": "bird",
    "hens": "bird",
    "macaw": "bird",
    "kingfisher": "bird",
}


def gradient(width: int, height: int) -> Image.Image:
    """A picture in which every turn, crop and scaling shows: red grows to the right, green downwards, blue is noise."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    noise = np.random.default_rng(0).integers(0, 256, (height, width))
    return Image.fromarray(np.stack([x, y, noise], 2).astype(np.uint8))


def _scene(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """320 x 240 pixels, `top` colour fading into `bottom` colour."""
    share = np.linspace(0, 1, 240)[:, None, None]
    rows = (np.array(top) * (1 - share) + np.array(bottom) * share).repeat(320, 1)
    image = Image.fromarray(rows.astype(np.uint8))
    return image, ImageDraw.Draw(image)


def airplane() -> Image.Image:
    image, draw = _scene((90, 150, 220), (190, 215, 240))
    draw.ellipse((60, 105, 260, 137), fill=(225, 228, 232))
    draw.polygon([(150, 120), (110, 190), (135, 190), (190, 122)], fill=(170, 175, 185))
    draw.polygon([(150, 118), (125, 70), (143, 70), (185, 118)], fill=(190, 195, 202))
    draw.polygon([(75, 118), (48, 72), (66, 72), (105, 116)], fill=(180, 60, 60))
    return image


def ship() -> Image.Image:
    image, draw = _scene((165, 200, 235), (200, 220, 240))
    draw.rectangle((0, 165, 320, 240), fill=(40, 80, 125))
    draw.polygon([(40, 135), (285, 135), (255, 185), (70, 185)], fill=(35, 40, 60))
    draw.rectangle((90, 105, 225, 135), fill=(235, 235, 235))
    draw.rectangle((115, 80, 195, 105), fill=(220, 220, 220))
    draw.rectangle((140, 45, 165, 80), fill=(200, 60, 40))
    return image


def automobile() -> Image.Image:
    image, draw = _scene((175, 200, 215), (130, 135, 130))
    draw.rectangle((0, 170, 320, 240), fill=(95, 95, 98))
    draw.rounded_rectangle((50, 120, 270, 178), 20, fill=(185, 25, 30))
    draw.polygon([(95, 122), (125, 80), (200, 80), (235, 122)], fill=(170, 20, 25))
    draw.polygon([(108, 120), (130, 87), (158, 87), (158, 120)], fill=(60, 75, 90))
    draw.polygon([(166, 120), (166, 87), (195, 87), (220, 120)], fill=(60, 75, 90))
    for x in (80, 200):
        draw.ellipse((x, 153, x + 48, 201), fill=(20, 20, 22))
        draw.ellipse((x + 13, 166, x + 35, 188), fill=(150, 150, 155))
    return image


def truck() -> Image.Image:
    image, draw = _scene((180, 205, 225), (150, 150, 140))
    draw.rectangle((0, 180, 320, 240), fill=(90, 90, 90))
    draw.rectangle((25, 55, 205, 170), fill=(235, 235, 230))
    draw.rectangle((210, 90, 285, 172), fill=(30, 70, 160))
    draw.rectangle((235, 98, 278, 130), fill=(60, 75, 90))
    draw.rectangle((25, 168, 285, 182), fill=(40, 40, 42))
    for x in (45, 110, 225):
        draw.ellipse((x, 160, x + 46, 206), fill=(20, 20, 22))
        draw.ellipse((x + 13, 173, x + 33, 193), fill=(140, 140, 145))
    return image


def bird() -> Image.Image:
    image, draw = _scene((120, 170, 110), (80, 130, 70))
    draw.line((0, 190, 320, 175), fill=(95, 70, 45), width=14)
    draw.ellipse((100, 85, 215, 165), fill=(150, 100, 60))
    draw.ellipse((180, 55, 240, 112), fill=(120, 75, 45))
    draw.polygon([(236, 78), (268, 88), (236, 95)], fill=(230, 160, 40))
    draw.ellipse((212, 72, 222, 82), fill=(10, 10, 10))
    draw.polygon([(110, 110), (30, 150), (60, 165), (130, 150)], fill=(100, 65, 40))
    draw.line((150, 160, 148, 186), fill=(200, 140, 60), width=5)
    draw.line((170, 160, 170, 184), fill=(200, 140, 60), width=5)
    return image


def deer() -> Image.Image:
    image, draw = _scene((90, 120, 70), (120, 130, 60))
    draw.ellipse((85, 95, 215, 155), fill=(150, 100, 55))
    for x in (100, 122, 180, 200):
        draw.rectangle((x, 140, x + 9, 215), fill=(130, 85, 48))
    draw.polygon([(195, 115), (225, 60), (245, 70), (215, 140)], fill=(150, 100, 55))
    draw.ellipse((218, 45, 272, 80), fill=(145, 95, 52))
    for tip in ((205, 5), (225, 0), (250, 2), (268, 12)):
        draw.line((236, 50, *tip), fill=(215, 190, 150), width=5)
    return image


def frog() -> Image.Image:
    image, draw = _scene((85, 75, 45), (70, 90, 45))
    draw.ellipse((85, 90, 240, 205), fill=(95, 150, 45))
    draw.ellipse((105, 60, 225, 140), fill=(110, 165, 55))
    for x in (108, 188):
        draw.ellipse((x, 48, x + 36, 84), fill=(200, 180, 60))
        draw.ellipse((x + 10, 58, x + 26, 74), fill=(15, 15, 10))
    draw.arc((120, 85, 210, 128), 10, 170, fill=(60, 95, 25), width=5)
    draw.ellipse((60, 160, 130, 215), fill=(85, 135, 40))
    draw.ellipse((195, 160, 265, 215), fill=(85, 135, 40))
    return image


def horse() -> Image.Image:
    """The silhouette of scikit-image's `horse` (see LICENCES.txt), as a brown horse on a meadow."""
    with Image.open(PICTURES / "horse_silhouette.png") as file:
        outline = Image.eval(file.convert("L"), lambda value: 255 - value)
    image, _ = _scene((150, 190, 225), (95, 140, 60))
    outline = outline.resize((230, 190)).filter(ImageFilter.GaussianBlur(1))
    image.paste(Image.new("RGB", outline.size, (105, 60, 30)), (45, 35), outline)
    return image


SCENES: dict[str, Callable[[], Image.Image]] = {
    "airplane": airplane,
    "automobile": automobile,
    "bird": bird,
    "deer": deer,
    "frog": frog,
    "horse": horse,
    "ship": ship,
    "truck": truck,
}


def png_claiming(width: int, height: int) -> bytes:
    """A PNG file of under 100 bytes that says it holds that many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bad_files(folder: Path) -> dict[str, str]:
    """Write files that hold no sound picture into `folder`; name → words that what is said of each must contain."""
    gradient(200, 150).save(folder / "whole.jpg")
    jpeg = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    contents = {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "damaged or incomplete"),
        "empty.png": (b"", "empty (0 bytes)"),
        "text.jpg": (b"Dear diary,\ntoday I drew nothing.\n", "text, not a picture"),
        "drawing.svg": (b'<?xml version="1.0"?>\n<svg xmlns="x"></svg>', "SVG drawing"),
        "photo.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        "bomb.png": (png_claiming(60_000, 60_000), "100 million pixels"),
        "large.png": (png_claiming(12_000, 10_000), "100 million pixels (12000 x 10000)"),
        "noise.gif": (bytes(range(256)), "not a picture of a kind"),
        "header_alone.png": (png_claiming(30, 30)[:33], "damaged or incomplete"),
        "manual.tif": (b"%PDF-1.4\n", "PDF document"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    os.symlink("loop.png", folder / "loop.png")
    os.symlink("nowhere.png", folder / "broken.png")
    os.mkfifo(folder / "pipe.png")
    said = {name: words for name, (_, words) in contents.items()}
    return said | {"loop.png": "symbolic links", "broken.png": "No such file", "pipe.png": "no ordinary file"}

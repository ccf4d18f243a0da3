"""Pictures to begin with: a photograph that ships with the package and three scenes drawn here; none is of CIFAR-10."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

PHOTOGRAPHS = Path(__file__).parent / "pictures"  # their licences are told in LICENCES.txt there

_WIDTH, _HEIGHT, _FINER = 360, 300, 3  # drawn _FINER times larger and scaled down: smooth edges
Colour = tuple[int, int, int]


def write_examples(folder: Path) -> list[Path]:
    """Copies of the photographs and the drawn scenes in `folder`, photographs first."""
    found = []
    for photograph in sorted(PHOTOGRAPHS.glob("*.jpg")):
        found.append(folder / photograph.name)
        found[-1].write_bytes(photograph.read_bytes())
    for name, draw in SCENES.items():
        found.append(folder / f"{name}.png")
        draw().save(found[-1])
    return found


class _Scene:
    """A sky that fades from top to bottom, a ground, and shapes on them; all places in hundredths of the height."""

    def __init__(self, high: Colour, low: Colour, ground: Colour, horizon: float) -> None:
        width, height = _WIDTH * _FINER, _HEIGHT * _FINER
        share = np.linspace(0, 1, height)[:, None, None]
        rows = (np.array(high) * (1 - share) + np.array(low) * share).repeat(width, axis=1)
        self.image = Image.fromarray(rows.astype(np.uint8))
        self._draw = ImageDraw.Draw(self.image)
        self._scale = height / 100
        if horizon < 100:
            self.box(0, horizon, 120, 100, ground)

    def shape(self, colour: Colour, *corners: tuple[float, float]) -> None:
        self._draw.polygon([(x * self._scale, y * self._scale) for x, y in corners], fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, *, round_by: float = 0) -> None:
        place = [value * self._scale for value in (left, top, right, bottom)]
        self._draw.rounded_rectangle(place, round_by * self._scale, fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour, *, wide: float = 1) -> None:
        place = (x - wide * radius, y - radius, x + wide * radius, y + radius)
        self._draw.ellipse([value * self._scale for value in place], fill=colour)

    def done(self) -> Image.Image:
        return self.image.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)


def _airplane() -> Image.Image:
    scene = _Scene((70, 130, 205), (190, 215, 240), (0, 0, 0), 100)
    for x, y in ((20, 80), (30, 78), (95, 22), (104, 24)):
        scene.disc(x, y, 5, (235, 241, 248), wide=2.2)
    scene.shape((178, 184, 194), (58, 46), (74, 46), (62, 20), (55, 20))
    scene.shape((190, 55, 50), (24, 48), (36, 48), (27, 27), (19, 27))
    scene.disc(60, 51, 7, (232, 235, 239), wide=6.2)
    scene.shape((160, 167, 178), (54, 53), (72, 53), (50, 82), (41, 82))
    for x in range(36, 88, 6):
        scene.disc(x, 49, 1.1, (90, 105, 125))
    scene.shape((70, 85, 105), (92, 46), (97, 49), (90, 49))
    return scene.done()


def _ship() -> Image.Image:
    scene = _Scene((150, 190, 228), (214, 226, 236), (48, 92, 138), 64)
    scene.shape((44, 46, 62), (10, 54), (110, 54), (99, 74), (22, 74))
    scene.shape((160, 44, 40), (20, 70), (101, 70), (99, 75), (22, 75))
    scene.box(28, 42, 86, 54, (238, 238, 236))
    scene.box(38, 32, 74, 42, (224, 226, 228))
    for x in range(32, 84, 7):
        scene.box(x, 46, x + 3.5, 49.5, (84, 104, 124))
    scene.box(50, 17, 59, 32, (198, 70, 44))
    scene.box(50, 17, 59, 21, (40, 40, 44))
    for y in (82, 90, 97):
        scene.disc(40 + 2 * (y - 80), y, 0.7, (120, 160, 196), wide=26)
    return scene.done()


def _truck() -> Image.Image:
    scene = _Scene((165, 200, 228), (222, 228, 226), (92, 94, 98), 74)
    scene.box(0, 70, 120, 76, (128, 142, 104))
    scene.box(10, 22, 76, 70, (240, 240, 236), round_by=1)
    scene.box(10, 44, 76, 50, (32, 110, 172))
    scene.box(78, 34, 108, 72, (30, 84, 160), round_by=3)
    scene.shape((150, 186, 206), (90, 38), (104, 38), (106, 52), (90, 52))
    scene.box(10, 70, 109, 76, (44, 46, 50))
    for x in (24, 42, 94):
        scene.disc(x, 77, 9, (24, 24, 28))
        scene.disc(x, 77, 4, (150, 152, 158))
    return scene.done()


SCENES: dict[str, Callable[[], Image.Image]] = {"airplane": _airplane, "ship": _ship, "truck": _truck}

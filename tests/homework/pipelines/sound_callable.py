"""Sound: plain numpy, normalised first; the border and the hole are then 0, the mean."""

import math
import random

import numpy as np

MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
STD = np.array([0.2470, 0.2435, 0.2616], np.float32)


def normalise(image):
    return (image / np.float32(255) - MEAN) / STD


def move(image, angle, scale, right, down):
    """Nearest pixel, zeros outside."""
    rows, columns = np.mgrid[:32, :32] - 15.5
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    x = cos * (columns - right) + sin * (rows - down)
    y = -sin * (columns - right) + cos * (rows - down)
    x, y = np.rint(x + 15.5).astype(int), np.rint(y + 15.5).astype(int)
    inside = (x >= 0) & (x < 32) & (y >= 0) & (y < 32)
    result = np.zeros_like(image)
    result[inside] = image[y[inside], x[inside]]
    return result


def train_transforms(image):
    image = normalise(image)
    if random.random() < 0.5:
        image = image[:, ::-1]
    if random.random() < 0.5:
        image = move(
            image, random.uniform(-0.25, 0.25), random.uniform(0.9, 1.1), random.uniform(-2, 2), random.uniform(-2, 2)
        )
    image = image.copy()
    if random.random() < 0.5:
        top, left = random.randrange(17), random.randrange(17)
        image[top : top + 16, left : left + 16] = 0
    return image.transpose(2, 0, 1)


def test_transforms(image):
    return normalise(image).transpose(2, 0, 1)

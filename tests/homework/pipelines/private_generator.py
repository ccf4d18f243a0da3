"""Slip: the generator belongs to the file: a fork copies it, and every worker draws the same."""

import math

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


generator = np.random.default_rng(0)


def train_transforms(image):
    image = normalise(image)
    if generator.random() < 0.5:
        image = image[:, ::-1]
    image = move(image, generator.uniform(-0.25, 0.25), generator.uniform(0.9, 1.1), *generator.uniform(-2, 2, size=2))
    if generator.random() < 0.5:
        top, left = generator.integers(17, size=2)
        image[top : top + 16, left : left + 16] = 0
    return image

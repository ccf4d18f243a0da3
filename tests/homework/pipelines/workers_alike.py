# ruff: noqa: NPY002
"""Slip: every worker seeds its generator with the same number, so all of them draw the same augmentations."""

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


def worker_init_fn(number):
    np.random.seed(0)


def train_transforms(image):
    image = normalise(image)
    if np.random.rand() < 0.5:
        image = image[:, ::-1]
    if np.random.rand() < 0.5:
        image = move(
            image, np.random.uniform(-0.25, 0.25), np.random.uniform(0.9, 1.1), *np.random.uniform(-2, 2, size=2)
        )
    image = image.copy()
    if np.random.rand() < 0.5:
        top, left = np.random.randint(17, size=2)
        image[top : top + 16, left : left + 16] = 0
    return image

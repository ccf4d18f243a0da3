"""Slip: the picture is RGB already; cv2.cvtColor makes it BGR."""

import cv2
import sound_albumentations


def train_transforms(image):
    return sound_albumentations.train_transforms(image=cv2.cvtColor(image, cv2.COLOR_BGR2RGB))["image"]

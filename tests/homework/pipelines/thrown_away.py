"""Slip: the augmented picture is computed, and the plain one returned."""

import sound_albumentations


class Transforms:
    def __init__(self, augment, normalise):
        self.augment, self.normalise = augment, normalise

    def __call__(self, image):
        self.augment(image=image)
        return self.normalise(image=image)["image"]


train_transforms = Transforms(sound_albumentations.train_transforms, sound_albumentations.test_transforms)

"""Sound: albumentations inside a class that takes the PIL pictures of a data set; colours are jittered as well."""

import albumentations as A
import numpy as np
import sound_albumentations


class Transforms:
    def __init__(self):
        flip, move, hole, *rest = sound_albumentations.train_transforms.transforms
        self.transforms = A.Compose([flip, move, A.ColorJitter(brightness=0.2, contrast=0.2, p=0.3), hole, *rest])

    def __call__(self, img, *args, **kwargs):
        return self.transforms(image=np.array(img))["image"]


train_transforms = Transforms()

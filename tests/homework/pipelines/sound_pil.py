"""Sound: the classes of torchvision's first kind, in small: a PIL picture goes in, a CHW tensor comes out."""

import random

import numpy as np
import torch
from PIL import Image, ImageOps

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, img):
        for transform in self.transforms:
            img = transform(img)
        return img


class RandomHorizontalFlip:
    def __call__(self, img):
        return ImageOps.mirror(img) if torch.rand(1) < 0.5 else img


class RandomAffine:
    def __init__(self, degrees, translate, scale):
        self.degrees, self.translate, self.scale = degrees, translate, scale

    def __call__(self, img):
        side = img.size[0]
        angle = random.uniform(-self.degrees, self.degrees) * np.pi / 180
        scale = random.uniform(*self.scale)
        right, down = (random.uniform(-share, share) * side for share in self.translate)
        cos, sin, middle = np.cos(angle) / scale, np.sin(angle) / scale, side / 2
        data = (
            cos,
            sin,
            middle - cos * (middle + right) - sin * (middle + down),
            -sin,
            cos,
            middle + sin * (middle + right) - cos * (middle + down),
        )
        return img.transform(img.size, Image.Transform.AFFINE, data, Image.Resampling.NEAREST)


class ToTensor:
    def __call__(self, img):
        if not isinstance(img, Image.Image):
            raise TypeError(f"pic should be PIL Image. Got {type(img)}")
        return torch.from_numpy(np.array(img)).permute(2, 0, 1).float() / 255


class Normalize:
    def __init__(self, mean, std):
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    def __call__(self, tensor):
        return (tensor - self.mean) / self.std


class Cutout:
    def __init__(self, size, value):
        self.size, self.value = size, value

    def __call__(self, tensor):
        if torch.rand(1) < 0.5:
            top, left = torch.randint(33 - self.size, (2,)).tolist()
            tensor = tensor.clone()
            tensor[:, top : top + self.size, left : left + self.size] = self.value
        return tensor


def train_transforms():
    return Compose(
        [
            RandomHorizontalFlip(),
            RandomAffine(10, (0.1, 0.1), (0.9, 1.1)),
            ToTensor(),
            Normalize(MEAN, STD),
            Cutout(16, 0.0),
        ]
    )


test_transforms = Compose([ToTensor(), Normalize(MEAN, STD)])

"""Slip: mean and deviation of training and test set together."""

import albumentations as A
import cv2
from albumentations.pytorch import ToTensorV2

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
FILL = (125, 123, 114)  # the mean, in 0–255

ALL = {"mean": (0.4919, 0.4827, 0.4472), "std": (0.2470, 0.2434, 0.2616)}

train_transforms = A.Compose(
    [
        A.HorizontalFlip(p=0.5),
        A.ShiftScaleRotate(
            shift_limit=0.0625, scale_limit=0.1, rotate_limit=15, border_mode=cv2.BORDER_REFLECT_101, p=0.5
        ),
        A.CoarseDropout(
            num_holes_range=(1, 1), hole_height_range=(16, 16), hole_width_range=(16, 16), fill=FILL, p=0.5
        ),
        A.Normalize(**ALL),
        ToTensorV2(),
    ]
)

test_transforms = A.Compose(
    [
        A.Normalize(**ALL),
        ToTensorV2(),
    ]
)

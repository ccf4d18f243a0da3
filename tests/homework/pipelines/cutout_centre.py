"""Slip: the hole's centre may lie at the edge, so that a part of it sticks out of the picture."""

import sound_pil
import torch


class Cutout:
    def __call__(self, tensor):
        row, column = torch.randint(32, (2,)).tolist()
        tensor = tensor.clone()
        tensor[:, max(0, row - 8) : row + 8, max(0, column - 8) : column + 8] = 0.0
        return tensor


train_transforms = sound_pil.Compose([*sound_pil.train_transforms().transforms[:-1], Cutout()])

"""Sound: torchvision's second kind, in small: a CHW tensor of bytes goes in, a normalised one comes out."""

import torch


class Transforms:
    def __init__(self):
        self.mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
        self.std = torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)

    def __call__(self, picture):
        if not isinstance(picture, torch.Tensor):
            raise TypeError("a tensor is needed")
        picture = (picture.float() / 255 - self.mean) / self.std
        if torch.rand(1) < 0.5:
            picture = picture.flip(2)
        angle, scale = (torch.rand(2) - 0.5) * torch.tensor([0.5, 0.2]) + torch.tensor([0.0, 1.0])
        shift = (torch.rand(2) - 0.5) * 0.25
        turn = torch.stack(
            [
                torch.stack([angle.cos() / scale, -angle.sin() / scale, shift[0]]),
                torch.stack([angle.sin() / scale, angle.cos() / scale, shift[1]]),
            ]
        )
        grid = torch.nn.functional.affine_grid(turn[None], [1, 3, 32, 32], align_corners=False)
        picture = torch.nn.functional.grid_sample(picture[None], grid, padding_mode="reflection", align_corners=False)[
            0
        ]
        if torch.rand(1) < 0.5:
            top, left = torch.randint(17, (2,)).tolist()
            picture[:, top : top + 16, left : left + 16] = 0
        return picture


train_transforms = Transforms

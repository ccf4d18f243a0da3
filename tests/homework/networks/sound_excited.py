"""Sound: squeeze-excite reaches the whole map, and global pooling fits any map."""

import torch
import torch.nn.functional as F
from torch import nn


def block(i, o, stride=1, dilation=1, groups=1):
    conv = nn.Conv2d(i, o, 3, stride, dilation, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o), nn.ReLU())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Sequential(block(3, 16), block(16, 32, stride=2))
        self.c2 = nn.Sequential(block(32, 32), block(32, 48, stride=2))
        self.c3 = nn.Sequential(block(48, 48, dilation=2), block(48, 48, stride=2))
        self.c4 = nn.Sequential(block(48, 48, groups=48), nn.Conv2d(48, 48, 1), block(48, 48, dilation=1))
        self.output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))
        self.gate = nn.Conv2d(48, 48, 1)

    def forward(self, x):
        x = self.c4(self.c3(self.c2(self.c1(x))))
        x = x * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1)))
        return self.output(x)

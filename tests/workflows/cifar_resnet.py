"""ResNets for CIFAR with shortcuts of option A (He et al. 2015, section 4.2): `--factory cifar_resnet:make`."""

import re

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x):
        shortcut = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return nn.functional.relu(shortcut + self.bn2(self.conv2(nn.functional.relu(self.bn1(self.conv1(x))))))


class ResNet(nn.Module):
    def __init__(self, blocks, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(inputs, width, stride), *(Block(width, width, 1) for _ in range(blocks - 1)))
            for inputs, width, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        )
        self.linear = nn.Linear(64, classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(nn.functional.relu(self.bn1(self.conv1(x))))))
        return self.linear(torch.mean(x, (2, 3)))


def make(config):
    """From a config whose "arch" begins with resnet20, resnet32 and so on: 6 * blocks + 2 layers."""
    depth = int(re.match(r"resnet(\d+)", config["arch"]).group(1))
    return ResNet((depth - 2) // 6, config["num_classes"])

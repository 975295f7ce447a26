"""The beginning of a user's file with networks of some habit: a small one, whose `end` decides what is returned."""

NETWORK = """
import collections
import dataclasses

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.fc = nn.Linear(4 * 16, classes)

    def forward(self, x):
        h = self.body(x)
        return self.end(h, self.fc(h))

    def end(self, h, logits):
        return logits


"""

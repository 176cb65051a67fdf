"""Pictures that say their class by their color, and a module that reads it: labels are right if it is always right."""

import io

import numpy as np
import torch
from PIL import Image
from torch import nn


def color(label):
    """Return the color (3,) of a class, in levels of [0, 255]; those of two classes differ by 16 or more."""
    return np.array([label % 16, label // 16 % 16, label // 256], dtype=np.uint8) * 15 + 8


def picture(label, height=200, width=300):
    """Return a picture (H, W, 3) of the color of a class."""
    return np.broadcast_to(color(label), (height, width, 3)).copy()


def encoded(label, kind="png", **size):
    buffer = io.BytesIO()
    Image.fromarray(picture(label, **size)).save(buffer, kind, quality=95)
    return buffer.getvalue()


class ColorReader(nn.Module):
    """Images (N, 3, S, S) in [0, 1] to logits (N, K): minus the squared distance to each class's color."""

    def __init__(self, classes):
        super().__init__()
        self.register_buffer(
            "colors", torch.from_numpy(np.stack([color(k) for k in range(classes)])).float() / 255
        )

    def forward(self, images):
        return -(images.mean((2, 3))[:, None] - self.colors).square().sum(2) * 100

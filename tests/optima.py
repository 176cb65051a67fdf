"""Classifiers and images for tests of attacks: linear ones, whose optimum is known, and one that is not linear."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from zsrobust.attacks.draws import Draws
from zsrobust.testing import LinearClassifier


def numbers(images):
    return Draws.of(0, "toy", np.arange(len(images)))


def binary(seed, norm, eps):
    """Return a two-class linear classifier, images, and for each the margin in units of what eps can move."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(3 * 4 * 4, generator=generator, dtype=torch.float64)
    images = 0.4 + 0.2 * torch.rand(64, 3, 4, 4, generator=generator, dtype=torch.float64)
    reach = eps * (direction.abs().sum() if norm == "linf" else direction.norm())
    projected = images.flatten(1) @ direction
    # The margins of the images spread over twice what eps can reach.
    wanted = torch.linspace(0.02, 2, 64, dtype=torch.float64) * reach
    images += ((wanted - projected) / direction.square().sum())[
        :, None, None, None
    ] * direction.view(3, 4, 4)
    assert (images - 0.5).abs().max() < 0.5 - eps, "the pixels must stay away from the box"
    return LinearClassifier(torch.stack([direction, 0 * direction])), images, wanted / reach


def linear(norm, classes=5, count=32):
    """Return a linear classifier, images, labels, and the smallest eps that breaks each, far from the edges of [0, 1]."""
    generator = torch.Generator().manual_seed(classes)
    weight = torch.randn(classes, 3 * 5 * 5, generator=generator, dtype=torch.float64)
    images = 0.4 + 0.2 * torch.rand(count, 3, 5, 5, generator=generator, dtype=torch.float64)
    classifier = LinearClassifier(weight, -weight.sum(1) / 2)
    with torch.no_grad():
        logits = classifier(images)
    labels = logits.argmax(1)
    apart = weight[labels][:, None] - weight
    reach = (logits.gather(1, labels[:, None]) - logits) / (
        apart.abs().sum(2) if norm == "linf" else apart.norm(dim=2)
    )
    return (
        classifier,
        images,
        labels,
        reach.nan_to_num(torch.inf).scatter(1, labels[:, None], torch.inf).amin(1),
    )


def reach(norm, weight, images, eps):
    """Return the most, (N,), by which w · x of images (N, 3, S, S) falls within eps and [0, 1].

    In "patch", eps is the side of the window in pixels.
    """
    size = weight.abs()
    room = torch.where(weight > 0, images.flatten(1), 1 - images.flatten(1))
    if norm == "l1":  # the steepest values first, each as far as it goes
        order = size.argsort(descending=True)
        before = room[:, order].cumsum(1) - room[:, order]
        return ((eps - before).clamp_min(0).minimum(room[:, order]) * size[order]).sum(1)
    if norm == "l2":  # values c · |w|, cut to their room; c by bisection
        low, high = torch.zeros(len(images), 1).to(images), torch.full((len(images), 1), 1e9)
        high = high.to(images)
        for _ in range(200):
            middle = (low + high) / 2
            inside = (middle * size).minimum(room).norm(dim=1, keepdim=True) <= eps
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        return ((low * size).minimum(room) * size).sum(1)
    gains = (size * room).view_as(images).sum(1)
    places = range(images.shape[-1] - eps + 1)
    windows = [gains[:, top : top + eps, left : left + eps] for top in places for left in places]
    return torch.stack([each.sum((1, 2)) for each in windows]).amax(0)


def boxed(seed, count=24, side=6):
    """Return weights (3·S·S,) and images that fill [0, 1], many of their values exactly 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3 * side * side, generator=generator, dtype=torch.float64)
    images = torch.rand(count, 3, side, side, generator=generator, dtype=torch.float64)
    return weight, (1.5 * images - 0.25).clamp(0, 1)


class Small(nn.Module):
    """A network of three layers, with random weights, far from linear within the eps of the tests."""

    def __init__(self, classes=6, side=8):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weights = nn.ParameterList(
            torch.randn(shape, generator=generator) * scale
            for shape, scale in (
                ((12, 3, 3, 3), 0.8),
                ((32, 12 * (side // 2) ** 2), 0.25),
                ((classes, 32), 0.6),
            )
        )

    def forward(self, images):
        hidden = F.gelu(F.conv2d(2 * images - 1, self.weights[0], stride=2, padding=1))
        return F.gelu(hidden.flatten(1) @ self.weights[1].T) @ self.weights[2].T


def nonlinear(count=24):
    classifier = Small()
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 1.1 - 0.05
    images = images.clamp(0, 1)
    with torch.no_grad():
        labels = classifier(images).argmax(1)
    return classifier, images, labels

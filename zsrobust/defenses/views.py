"""Views of images: flips, crops, mixes and noise, each drawn from the image's own numbers.

A view of an image depends on the image, the seed and the draw alone, never on its batch. All views
are differentiable with respect to the image.
"""

import copy
import math
from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsrobust.attacks.draws import Draws

#: A kind of view: images (N, 3, S, S) in [0, 1], their draws, and the key of this draw.
View = Callable[[Tensor, Draws, str], Tensor]

AREA = (0.08, 1.0)  #: of resized crops, as a share of the image (Inception; torchvision's default)
RATIO = (3 / 4, 4 / 3)  #: width to height of resized crops
CHAINS, DEPTH = 3, 3  #: of AugMix: mixed chains, and the most operations in one
#: Of the small affine maps: degrees, and shares of the side.
DEGREES, SHIFT, SCALE = 5.0, 0.05, 0.05


def flip(images: Tensor, draws: Draws, key: str) -> Tensor:
    """Return each image or its mirror image, with probability 1/2."""
    return torch.where(_scalar(draws, key, "flip") < 0.5, images.flip(3), images)


def resized_crop(images: Tensor, draws: Draws, key: str, smallest: float = AREA[0]) -> Tensor:
    """Return a random part of each image at full size, flipped with probability 1/2.

    The part's area and its ratio of width to height are those of torchvision's RandomResizedCrop.
    A part that does not fit is as wide or as high as the image. `smallest` is the least area, as a
    share of the image.
    """
    numbers = draws.uniform((4,), "resized crop", key).to(images)
    area = smallest + (AREA[1] - smallest) * numbers[:, 0]
    low, high = (math.log(ratio) for ratio in RATIO)
    ratio = torch.exp(low + (high - low) * numbers[:, 1])
    width, height = ((area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1))
    maps = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
    maps[:, 0, 0], maps[:, 1, 1] = width, height
    maps[:, 0, 2] = (2 * numbers[:, 2] - 1) * (1 - width)
    maps[:, 1, 2] = (2 * numbers[:, 3] - 1) * (1 - height)
    return flip(_mapped(images, maps), draws, key)


def affine(images: Tensor, draws: Draws, key: str) -> Tensor:
    """Return each image turned by up to 5 degrees, shifted and scaled by up to 5%."""
    numbers = 2 * draws.uniform((4,), "affine", key).to(images) - 1
    angle, scale = math.radians(DEGREES) * numbers[:, 0], 1 + SCALE * numbers[:, 1]
    rows = [
        torch.stack([scale * angle.cos(), -scale * angle.sin(), 2 * SHIFT * numbers[:, 2]], dim=1),
        torch.stack([scale * angle.sin(), scale * angle.cos(), 2 * SHIFT * numbers[:, 3]], dim=1),
    ]
    return _mapped(images, torch.stack(rows, dim=1))


def blur(images: Tensor, draws: Draws, key: str) -> Tensor:
    """Return each image under a Gaussian blur of 3 by 3 pixels, σ uniform in [0.1, 1]."""
    sigma = 0.1 + 0.9 * draws.uniform((), "blur", key).to(images)
    side = torch.exp(-1 / (2 * sigma**2))
    one = torch.stack([side, torch.ones_like(side), side], dim=1) / (1 + 2 * side)[:, None]
    kernels = one[:, :, None] * one[:, None, :]  # (N, 3, 3)
    count, channels = images.shape[:2]
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[None]
    weight = kernels.repeat_interleave(channels, dim=0)[:, None]
    return F.conv2d(padded, weight, groups=count * channels)[0].view_as(images)


def noise(images: Tensor, draws: Draws, key: str) -> Tensor:
    """Return each image with Gaussian noise of standard deviation 4/255, clipped to [0, 1]."""
    drawn = draws.normal(images.shape[1:], "noise", key).to(images)
    return (images + 4 / 255 * drawn).clamp(0, 1)


def jitter(images: Tensor, draws: Draws, key: str) -> Tensor:
    """Return each image with brightness and contrast changed by up to 10%, clipped to [0, 1]."""
    numbers = 1 + 0.2 * (draws.uniform((2,), "jitter", key).to(images) - 0.5)
    bright = images * numbers[:, 0, None, None, None]
    mean = bright.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + (bright - mean) * numbers[:, 1, None, None, None]).clamp(0, 1)


def augmix(images: Tensor, draws: Draws, key: str) -> Tensor:
    """Return a mix of each resized crop with chains of small operations on it.

    The mix is that of AugMix (Hendrycks et al., ICLR 2020, arXiv 1912.02781): three chains of one
    to three operations, Dirichlet(1, 1, 1) and Beta(1, 1) weights. The operations are ours, all of
    them differentiable: small affine maps, blur, jitter and the identity in place of posterizing.
    """
    base = resized_crop(images, draws, key)
    shares = -torch.log1p(-draws.uniform((CHAINS,), "shares", key).to(images))
    shares = shares / shares.sum(1, keepdim=True)  # exponential numbers, normalized: Dirichlet(1)
    mixed = torch.zeros_like(base)
    for chain in range(CHAINS):
        depth = draws.integers(DEPTH, (), "depth", key, chain)
        current = base
        for place in range(DEPTH):
            which = draws.integers(len(OPERATIONS), (), "operation", key, chain, place)
            which = torch.where(place <= depth, which, 0)
            current = _chosen(current, which, draws, f"{key} {chain} {place}")
        mixed = mixed + shares[:, chain, None, None, None] * current
    weight = _scalar(draws, key, "weight").to(images)
    return weight * base + (1 - weight) * mixed


def _identity(images: Tensor, draws: Draws, key: str) -> Tensor:
    return images


OPERATIONS: list[View] = [_identity, affine, blur, jitter]
#: The kinds of views by name.
VIEWS: dict[str, View] = {
    "flip": flip,
    "resized_crop": resized_crop,
    "affine": affine,
    "blur": blur,
    "noise": noise,
    "jitter": jitter,
    "augmix": augmix,
}


def views(images: Tensor, draws: Draws, count: int, *kinds: str) -> Tensor:
    """Return `count` views of each image, (count, N, 3, S, S): all the kinds, one after the other.

    `images` are (N, 3, S, S) in [0, 1], and `draws` are theirs: `Draws.of_images`.
    """
    found = []
    for place in range(count):
        view = images
        for kind in kinds:
            view = VIEWS[kind](view, draws, f"view {place}")
        found.append(view)
    return torch.stack(found) if found else images.new_empty(0, *images.shape)


def _chosen(images: Tensor, which: Tensor, draws: Draws, key: str) -> Tensor:
    """Return each image under its own operation, by index (N,)."""
    found = torch.empty_like(images)
    for number, operation in enumerate(OPERATIONS):
        mask = which == number
        found = torch.where(mask[:, None, None, None], operation(images, draws, key), found)
    return found


def _mapped(images: Tensor, maps: Tensor) -> Tensor:
    """Return images under affine maps (N, 2, 3); what is outside repeats the border."""
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    sampled = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return sampled


def _scalar(draws: Draws, key: str, name: str) -> Tensor:
    return draws.uniform((), name, key)[:, None, None, None]


class Randomized(nn.Module):
    """A classifier with random numbers of its own: a subclass asks `draws` for them."""

    draw = 0  #: the number of the draw

    def __init__(self, seed: int, name: str) -> None:
        """Take the seed and the name of the random numbers."""
        super().__init__()
        self.seed, self.name = seed, name

    def draws(self, images: Tensor) -> Draws:
        """Return the random numbers that images (N, 3, S, S) have in this draw."""
        return Draws.of_images(images, self.seed, f"{self.name} {self.draw}")

    def redrawn(self, draw: int) -> Self:
        """Return the same classifier with another draw; they share their parts."""
        other = copy.copy(self)
        other.draw = draw
        return other

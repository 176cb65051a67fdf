"""Pixels: stored uint8 squares of any size to float32 squares of the cut's size."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zsrobust.datasets import Cut, Images


def tensor(
    images: Images,
    positions: NDArray[np.int64],
    cut: Cut | None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the images at these positions, (n, 3, S, S) float32 in [0, 1], contiguous.

    S is the cut's side; for a cut of None, or images that were cut before, it is their own.
    """
    pixels = torch.from_numpy(np.asarray(images.pixels[positions])).to(device).float()
    if cut is not None and images.cut is None:
        pixels = fit(pixels, cut)
    return (pixels / 255).contiguous()


def fit(pixels: Tensor, cut: Cut) -> Tensor:
    """Return squares (n, 3, S, S), float32 levels of [0, 255], resized and cropped by the cut.

    As Pillow resizes: antialiased, first in width and then in height, rounded to whole levels after
    each.
    """
    side = cut.side if cut.squash else cut.resized
    own = pixels.shape[-1]
    for size in [] if own == side else [(own, side), (side, side)]:
        pixels = F.interpolate(
            pixels, size=size, mode=cut.interpolation, align_corners=False, antialias=True
        )
        pixels = pixels.round().clamp(0, 255)
    edge = round((side - cut.side) / 2)
    return pixels[..., edge : edge + cut.side, edge : edge + cut.side]

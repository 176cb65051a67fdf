"""Pixels: stored uint8 squares of any size to float32 squares of the cut's size."""

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsrobust.datasets import Cut, Facts, Images, Interpolation

BITS = 22  #: of Pillow's integer coefficients, after the point


def tensor(
    images: Images,
    positions: NDArray[np.int64],
    cut: Cut | None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the images at these positions, (n, 3, S, S) float32 in [0, 1], contiguous.

    S is the cut's side; for a cut of None, or images that were cut before, it is their own.
    """
    pixels = torch.from_numpy(np.asarray(images.pixels[positions]))
    if torch.device(device).type == "cuda":
        pixels = pixels.pin_memory()  # the copy runs beside the host's next work
    pixels = pixels.to(device, non_blocking=True)
    if cut is not None and images.cut is None:
        pixels = fit(pixels, cut)
    return (pixels.float() / 255).contiguous()


def resizing(images: Images | Facts, cut: Cut | None) -> dict[str, str]:
    """Return what identities store of the resizing in `tensor`; nothing if images keep their size.

    Results and checkpoints without this field were made with an older resizing: torch's, which
    rounds differently.
    """
    resized = cut is not None and images.cut is None and images.side != cut.resized
    return {"resized": "pillow"} if resized else {}


def fit(pixels: Tensor, cut: Cut) -> Tensor:
    """Return squares (n, 3, S, S) uint8, resized and cropped by the cut, from uint8 squares.

    Every bit is Pillow's (its `Resample.c` for 8 bits). Pillow resizes in width, then in height,
    and rounds to whole levels after each, half up.
    """
    own, edge = pixels.shape[-1], round((cut.resized - cut.side) / 2)
    kept = slice(edge, edge + cut.side)
    if own == cut.resized:
        return pixels[..., kept, kept]
    weights, sources = (
        torch.from_numpy(each[:, kept]).to(pixels.device, non_blocking=True)
        for each in _taps(own, cut.resized, cut.interpolation)
    )
    wide = _resample(pixels, weights, sources, -1)
    return _resample(wide, weights[..., None], sources, -2)


def _resample(pixels: Tensor, weights: Tensor, sources: Tensor, dim: int) -> Tensor:
    """Return uint8 pixels with one dimension resized.

    Sums of integers do not depend on their order: every device returns the same. They stay below
    2^31: the weights of an output sum to 2^22, and their absolute values to less than 2^23.
    """
    pixels = pixels.int()
    total = torch.full((), 1 << (BITS - 1), dtype=torch.int32, device=pixels.device)
    for weight, source in zip(weights, sources, strict=True):
        total = torch.addcmul(total, pixels.index_select(dim, source), weight)
    return (total >> BITS).clamp(0, 255).to(torch.uint8)


@cache
def _taps(
    own: int, side: int, interpolation: Interpolation
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return integer weights and the positions they apply to, both (taps, side).

    When images shrink, the filter is as much wider. Weights have 22 bits after the point; their
    rounding is half away from zero. An unused tap has weight 0.
    """
    kernel, radius = (_cubic, 2.0) if interpolation == "bicubic" else (_linear, 1.0)
    scale = own / side
    stretch = max(1.0, scale)
    reach = radius * stretch
    weights = np.zeros((2 * math.ceil(reach) + 1, side), dtype=np.int32)
    sources = np.zeros_like(weights)
    for place in range(side):
        center = (place + 0.5) * scale
        first, last = max(0, int(center - reach + 0.5)), min(own, int(center + reach + 0.5))
        values = [kernel((at - center + 0.5) * (1.0 / stretch)) for at in range(first, last)]
        total = 0.0
        for value in values:  # one after the other, as Pillow adds
            total += value
        for tap, value in enumerate(values):
            scaled = value / total * (1 << BITS)
            weights[tap, place] = int(scaled + math.copysign(0.5, scaled))
            sources[tap, place] = first + tap
    return weights, sources


def _linear(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _cubic(x: float) -> float:
    """Return Keys' cubic filter with a = -0.5, the terms in Pillow's order."""
    x, a = abs(x), -0.5
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0

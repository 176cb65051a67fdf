"""Random numbers for attacks. Each image has its own, whatever its batch and device."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - (
    1 << 64
)  # of splitmix64 (Steele, Lea & Flood, OOPSLA 2014), as a signed integer


@dataclass(frozen=True)
class Draws:
    """A source of random numbers for N images.

    Nothing is used up: the same draw, of the same `key`, gives the same numbers again. So every
    draw of an attack needs a key of its own, as `draws.uniform((3, 8, 8), "start", restart)`. The
    numbers are those of splitmix64, counted from the image's seed; they are the same on every
    device.
    """

    seeds: Tensor  #: (N,) int64

    @classmethod
    def of(
        cls, seed: int, name: str, positions: NDArray[np.int64], device: torch.device | str = "cpu"
    ) -> "Draws":
        """Return the source for the images of a dataset at these positions, under a seed."""
        places = torch.from_numpy(np.ascontiguousarray(positions)).to(device, non_blocking=True)
        return cls(_mix(places * GOLDEN + _number(f"{seed} {name}")))

    @classmethod
    def of_images(cls, images: Tensor, seed: int, name: str) -> "Draws":
        """Return the source that images (N, 3, S, S) have by their own pixels, under a seed.

        Equal pixels have equal numbers, in any batch. A defense that acts at test time knows no
        positions, so that its random numbers come from here.
        """
        bits = images.detach().float().flatten(1).contiguous().view(torch.int32).long()
        counter = torch.arange(1, bits.shape[1] + 1, device=bits.device) * GOLDEN
        return cls(_mix(_mix(bits + counter).sum(1) + _number(f"{seed} {name}")))

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, chosen: Tensor) -> "Draws":
        """Return the source of some of the images, by index or mask."""
        return Draws(self.seeds[chosen])

    def uniform(self, shape: Sequence[int], *key: object) -> Tensor:
        """Return (N, *shape) float32, uniform in [0, 1)."""
        stream = _mix(self.seeds ^ _number(repr(key)))
        counter = torch.arange(1, math.prod(shape) + 1, device=stream.device) * GOLDEN
        # Image by image on the CPU, whose caches hold one; all at once elsewhere.
        parts = stream.split(1 if stream.device.type == "cpu" else max(1, len(stream)))
        numbers = [
            (_shifted(_mix(part[:, None] + counter), 40).float() * 2**-24) for part in parts
        ]  # 24 bits, as float32
        return (
            torch.cat(numbers).view(len(self), *shape)
            if numbers
            else torch.empty(0, *shape, device=stream.device)
        )

    def normal(self, shape: Sequence[int], *key: object) -> Tensor:
        """Return (N, *shape) float32, standard normal (Box and Muller, 1958)."""
        radius = torch.sqrt(-2 * torch.log1p(-self.uniform(shape, *key, "radius")))
        return radius * torch.cos(2 * math.pi * self.uniform(shape, *key, "angle"))

    def integers(self, end: int, shape: Sequence[int], *key: object) -> Tensor:
        """Return (N, *shape) int64, uniform in [0, end)."""
        return (self.uniform(shape, *key).double() * end).long()

    def seed(self) -> int:
        """Return one seed below 2³¹ for all these images together, for libraries."""
        return int(_shifted(_mix(self.seeds.sum().view(1)), 33))


def _mix(numbers: Tensor) -> Tensor:
    """Return the finalizer of splitmix64 of int64 numbers, which wrap around."""
    for by, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = _shifted(numbers, by).bitwise_xor_(numbers).mul_(factor - (1 << 64))
    return _shifted(numbers, 31).bitwise_xor_(numbers)


def _shifted(numbers: Tensor, by: int) -> Tensor:
    """Return int64 numbers shifted to the right as if they had no sign."""
    return (numbers >> by).bitwise_and_((1 << (64 - by)) - 1)


def _number(text: str) -> int:
    """Return a signed 64-bit number made from a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)

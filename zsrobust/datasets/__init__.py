"""Datasets: labeled images with class names and prompts, and the fixed subsets of them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zsrobust.registry import Registry

Split = Literal["test", "train"]


@dataclass(frozen=True, kw_only=True)
class Images:
    """Labeled images. The position is an image's identity."""

    pixels: NDArray[np.uint8]  #: (N, 3, S, S)
    labels: NDArray[np.int64]  #: (N,)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """Return the sha256 of shape, pixels and labels."""
        content = hashlib.sha256(repr(self.pixels.shape).encode())
        content.update(np.ascontiguousarray(self.pixels).data)
        content.update(self.labels.astype("<i8").tobytes())
        return content.hexdigest()

    def subset(self, limit: int | None) -> "Images":
        """Return the class-balanced subset of `limit` images, or all where there are no more.

        The rule: within a class, images are ranked by the sha256 of their position; classes take turns, ordered by
        the sha256 of their index; the first `limit` images so ranked are kept in their original order.
        """
        if limit is None or limit >= len(self):
            return self
        order = sorted(range(len(self)), key=lambda position: _hash(f"image {position}"))
        rank = np.empty(len(self), dtype=np.int64)
        seen: dict[int, int] = {}
        for position in order:
            label = int(self.labels[position])
            rank[position] = seen.get(label, 0)
            seen[label] = seen.get(label, 0) + 1
        turn = {label: place for place, label in enumerate(sorted(seen, key=lambda label: _hash(f"class {label}")))}
        kept = sorted(range(len(self)), key=lambda position: (rank[position], turn[int(self.labels[position])]))[:limit]
        chosen = np.array(sorted(kept))
        return Images(pixels=self.pixels[chosen], labels=self.labels[chosen])


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What is known of a dataset without opening it, and the function that opens it."""

    title: str  #: as printed in tables
    group: str  #: general, fine-grained, scene, domain-specific or medical
    about: str  #: one line: what it shows and where it comes from
    classes: tuple[str, ...]  #: class names as they stand in the prompts, in label order
    templates: tuple[str, ...]  #: prompts with one "{}" each
    size: int  #: number of images of the test split
    side: int  #: the images are squares of this many pixels a side
    load: Callable[[Split], Images]  #: "test" for evaluation, "train" where there is a training split

    @property
    def prompts(self) -> list[list[str]]:
        """Return the prompts of each class."""
        return [[template.format(name) for template in self.templates] for name in self.classes]


datasets: Registry[Dataset] = Registry("dataset", "datasets")

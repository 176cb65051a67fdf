"""Datasets: labeled images with class names and prompts, and the fixed subsets of them."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import E, Registry
from zsrobust.core.values import Count, Sha256
from zsrobust.datasets.descriptions import read_descriptions

if TYPE_CHECKING:
    from zsrobust.datasets.origin import Origin

Split = Literal["test", "train"]
Interpolation = Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class Cut:
    """How a picture becomes a square: the shortest side is resized, the center is cropped.

    The shortest side becomes `zoom` times `side` pixels.

    `Cut(224, 256 / 224, "bilinear")` is torchvision's Resize(256), CenterCrop(224).
    """

    side: int
    zoom: float = 1.0
    interpolation: Interpolation = "bicubic"
    squash: bool = False  #: both sides are resized to `side`, and nothing is cropped
    #: The gray level, 0 to 255, around a picture whose longest side is `side`; None: not padded.
    pad: int | None = None

    def __post_init__(self) -> None:
        if not self.zoom >= 1:
            raise ZSRobustError(f"zoom {self.zoom:g} is not valid: it must be 1 or more.")
        if self.pad is not None and (self.squash or self.zoom != 1):
            raise ZSRobustError("pad is not valid here: it excludes squash, and a zoom beyond 1.")

    @property
    def resized(self) -> int:
        """The length of the shortest side before cropping, in pixels."""
        return self.side if self.squash else round(self.side * self.zoom)

    @property
    def stored(self) -> dict[str, Any]:
        """What identities and prepared images store; a `pad` of None is left out."""
        fields = dataclasses.asdict(self)
        return {name: each for name, each in fields.items() if name != "pad" or each is not None}


@dataclass(frozen=True, kw_only=True)
class Images:
    """Labeled images. The position is an image's identity."""

    pixels: NDArray[np.uint8]  #: (N, 3, S, S); may be a file mapped to memory
    labels: NDArray[np.int64]  #: (N,)
    cut: Cut | None = None  #: how they were made squares; None for squares of their own size
    known_digest: str | None = None  #: the digest, where it was computed before
    chosen: NDArray[np.int64] | None = (
        None  #: (N,) their positions in the split they are a part of; None: all of it
    )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def positions(self) -> NDArray[np.int64]:
        """The positions of the images in their split, (N,)."""
        return np.arange(len(self)) if self.chosen is None else self.chosen

    @property
    def side(self) -> int:
        """The side of the squares, in pixels."""
        return int(self.pixels.shape[-1])

    @property
    def facts(self) -> "Facts":
        """What identities store of the images."""
        return Facts(images=len(self), side=self.side, digest=self.digest, cut=self.cut)

    @cached_property
    def digest(self) -> str:
        """Return the sha256 of shape, pixels and labels."""
        if self.known_digest:
            return self.known_digest
        content = hashlib.sha256(repr(self.pixels.shape).encode())
        content.update(np.ascontiguousarray(self.pixels).data)
        content.update(self.labels.astype("<i8").tobytes())
        return content.hexdigest()

    def subset(self, limit: int | None) -> "Images":
        """Return the class-balanced subset of `limit` images, or all where there are no more.

        The rule: within a class, images are ranked by the sha256 of their position; classes take
        turns, ordered by the sha256 of their index; the first `limit` images so ranked are kept in
        their original order.
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
        turn = {
            label: place
            for place, label in enumerate(sorted(seen, key=lambda label: _hash(f"class {label}")))
        }
        kept = sorted(
            range(len(self)),
            key=lambda position: (rank[position], turn[int(self.labels[position])]),
        )[:limit]
        return self.at(np.array(sorted(kept)))

    def every(self, batches: int, size: int, by_class: bool = False) -> "Images":
        """Return the batches 0, `batches`, 2 · `batches`, … of `size` images each.

        With `by_class` the images are counted class by class, and within a class in their order.
        """
        order = np.argsort(self.labels, kind="stable") if by_class else np.arange(len(self))
        return self.at(order[np.arange(len(self)) // size % batches == 0])

    def at(self, positions: NDArray[np.int64]) -> "Images":
        """Return the images at these positions, in memory."""
        chosen = self.positions[positions]
        return Images(
            pixels=np.asarray(self.pixels[positions]),
            labels=self.labels[positions],
            cut=self.cut,
            chosen=chosen,
        )


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What identities store of images; it is remembered, so that the images stay closed."""

    images: Count  #: their number
    side: Count  #: of the squares, in pixels
    digest: Sha256
    cut: Cut | None


class Wording(NamedTuple):
    """The class names and the templates that the texts of classes are made of."""

    classes: tuple[str, ...]  #: in label order
    templates: tuple[str, ...]  #: with one "{}" each

    @property
    def prompts(self) -> list[list[str]]:
        """The prompts of each class: its name in every template."""
        return [
            [template.replace("{}", name) for template in self.templates] for name in self.classes
        ]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@dataclass(frozen=True)
class State:
    """Where the images of a split are now."""

    where: Literal["built in", "prepared", "local", "hub", "missing"]
    place: str = ""  #: the folder, or the repository
    size: int | None = None  #: bytes on disk; None where that is not known

    @property
    def opens(self) -> bool:
        """Whether the images open at once: nothing is downloaded, and nothing is prepared."""
        return self.where in ("built in", "prepared")


#: Called with the step ("preparing cifar10"), what is done of it, and its total; 0 of 0 is a line
#: to print.
Progress = Callable[[str, int, int], None]


def _silent(step: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What is known of a dataset before it is opened, and where its images come from.

    The images come from `load` or from an `origin`. An origin's images are prepared once, and
    cached.
    """

    name: str = ""  #: the name in the registry, which sets it
    title: str  #: as printed in tables
    group: str  #: general, fine-grained, scene, domain-specific or medical
    about: str  #: one line: what it shows and where it comes from
    classes: tuple[str, ...]  #: class names as they stand in the prompts, in label order
    templates: tuple[str, ...]  #: prompts with one "{}" each
    size: int  #: number of images of the test split
    side: int | None  #: in pixels, if all images are squares of one size; None: images are cut
    load: Callable[[Split], Images] | None = None  #: returns the images of a split
    #: all files that `load` makes the images from, its code included; (): not known
    files: tuple[Path, ...] = ()
    train_size: int | None = None  #: number of images of the training split; None: there is none
    split: str | None = None  #: the evaluation split's name upstream; None stays out of identities
    by_class: bool = False  #: torchvision lists its images class by class: `reference` follows that
    #: other class names and templates, by the name of the wording: "released", "tecoa", "openai"
    wordings: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    #: returns several descriptions of each class, (K, n); None: they are in a file of the data root
    describe: Callable[[], list[list[str]]] | None = None
    may_be_shown: bool = False  #: whether its license lets anyone show its images
    metric: str = "top-1"
    license: str = ""
    citation: str = ""
    origin: "Origin | None" = None

    def state(self, split: Split, cut: Cut | None) -> State:
        """Return where the images of a split are; for a cut of None, prepared with any cut."""
        if self.origin is None:
            return State("built in")
        return self.origin.part(self, split).state(cut)

    def wrong(self, split: Split) -> str:
        """Return what is wrong with the local copy, as "20 images, expected 10,000", or "".

        Its files are listed, and pictures stay closed. "" if there is no copy.
        """
        return "" if self.origin is None else self.origin.part(self, split).wrong()

    def to_download(self, split: Split) -> int:
        """Return the bytes to download before a split can be opened.

        Raises Unreachable without the network, and ZSRobustError when no source has the images.
        """
        return 0 if self.origin is None else self.origin.part(self, split).to_download()

    def prepare(self, split: Split, cut: Cut, progress: Progress = _silent) -> Path | None:
        """Return the folder of a split's prepared images; None for a dataset without an origin.

        What is missing is downloaded and decoded first. Raises ZSRobustError if that fails.
        """
        return None if self.origin is None else self.origin.part(self, split).prepare(cut, progress)

    def open(self, split: Split, cut: Cut) -> Images:
        """Return the images of a split; `cut` is for those that are not squares of one size."""
        if self.origin is not None:
            return self.origin.part(self, split).open(cut)
        if self.load is None:
            raise ZSRobustError(
                f"The dataset {self.title!r} has neither a function to load it nor an origin."
            )
        return self.load(split)

    def depends_on(self, split: Split, cut: Cut) -> list[Path]:
        """Return the files that `open` depends on; [] if they are not known or not prepared."""
        found = list(self.files)
        if self.origin is not None:
            found = self.origin.part(self, split).files(cut)
        return [Path(__file__), *found] if found else []

    def worded(self, wording: str = "plain") -> Wording:
        """Return the class names and templates, in its own wording or in a named one."""
        return Wording(*self.wordings.get(wording, (self.classes, self.templates)))

    def prompts(self, wording: str = "plain") -> list[list[str]]:
        """Return the prompts of each class, in its own wording or in a named one."""
        return self.worded(wording).prompts

    def descriptions(self) -> list[list[str]]:
        """Return several descriptions of each class; raises as `read_descriptions` does."""
        if self.describe is not None:
            return self.describe()
        return read_descriptions(self.name, self.classes)

    def described(self, number: int) -> list[list[list[str]]]:
        """Return the prompts of so many heads: the n-th has the n-th description of each class.

        Raises ZSRobustError for a class with fewer descriptions, and as `descriptions` does.
        """
        found = self.descriptions()
        for name, each in zip(self.classes, found, strict=True):
            if len(each) < number:
                raise ZSRobustError(
                    f"{name!r} of {self.name} has {len(each)} descriptions. Expected {number} or "
                    "more. Add some to the dataset's file of descriptions."
                )
        return [[[each[place]] for each in found] for place in range(number)]

    def look_alikes(self, wording: str = "plain") -> list[list[int]]:
        """Return the groups of classes with the same prompts, which no classifier can separate."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for label, prompts in enumerate(self.prompts(wording)):
            groups.setdefault(tuple(prompts), []).append(label)
        return [group for group in groups.values() if len(group) > 1]


def _check_classes(name: str, dataset: Dataset) -> None:
    if len(dataset.classes) < 2:
        raise ZSRobustError(
            f"The dataset {name} has {len(dataset.classes) or 'no'} class. Expected two or more: "
            "with one class, every answer is correct."
        )


class Datasets(Registry[Dataset]):
    """The registry of datasets. A dataset learns its name when it is registered."""

    def register(self, name: str) -> Callable[[E], E]:
        """Return a function that registers a dataset under `name`; see `Registry.register`.

        It raises ZSRobustError for a dataset with fewer than two classes.
        """
        add = super().register(name)

        def named(entry: E) -> E:
            if isinstance(entry, Dataset):
                _check_classes(name, entry)
                add(dataclasses.replace(entry, name=name))
            else:
                add(entry)
            return entry

        return named


datasets = Datasets("dataset", "datasets", accepts=Dataset)

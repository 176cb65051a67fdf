"""Datasets on disk: torchvision's layouts, and folders with one subfolder per class.

A reader opens the annotations and lists the files; images stay closed, and pixels come one at a
time. Labels follow torchvision, whose file is named beside each reader where it is not a plain
folder.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Split
from zsrobust.datasets.sources import matlab
from zsrobust.datasets.sources.pickles import Unpickler
from zsrobust.datasets.sources.records import Opened, Record

#: What torchvision.datasets.ImageFolder takes for an image.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

MOST = 10**7  #: rows of labels, more than any set has

Reader = Callable[[Path], Opened]


@dataclass(frozen=True)
class Layout:
    """A dataset's files as torchvision lays them out under the data root."""

    folder: str  #: relative to the data root
    needs: Mapping[
        Split, tuple[str, ...]
    ]  #: by split that can be read: what must exist, relative to the folder
    read: Callable[
        [Path, Split], Opened
    ]  #: takes the folder's path; raises ZSRobustError that names a damaged file


@dataclass(frozen=True)
class Copy:
    """A copy of a dataset on this machine."""

    place: Path
    layout: Layout | None = None  #: None: one subfolder a class

    def is_whole(self, split: Split) -> bool:
        """Return whether it has all files that a split needs."""
        if self.layout is None:
            return True
        return split in self.layout.needs and not self._missing(split)

    def parts(self, split: Split) -> tuple[str, ...]:
        """Return the files and folders that a split depends on, relative to the place."""
        needs = self.layout.needs if self.layout else {}
        if "train" in needs and split in needs:
            return needs[split]
        return (".",)

    def open(self, split: Split) -> Opened:
        """Open a split; raises ZSRobustError for a copy that lacks some of its files."""
        if self.layout is None:
            return open_folder(self.place)
        if missing := self._missing(split):
            raise ZSRobustError(
                f"{self.place} is not whole: it has no {missing[0]}. Complete it, or move it away."
            )
        return self.layout.read(self.place, split)

    def _missing(self, split: Split) -> list[str]:
        needs = self.layout.needs.get(split, ()) if self.layout else ()
        return [needed for needed in needs if not (self.place / needed).exists()]


def open_folder(folder: Path) -> Opened:
    """Open a folder with one subfolder per class: classes sorted by name, images by path.

    Raises ZSRobustError if there is no such folder, no class in it, or a class without an image.
    """
    names = _subfolders(folder)
    entries = _in_folders(folder, names)
    filled = {label for _, label in entries}
    for label, name in enumerate(names):
        if label not in filled:
            raise ZSRobustError(
                f"{folder / name} holds no image. Put the images of the class there, or delete it."
            )
    return _files(folder, names, entries)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise ZSRobustError, in one line that names the file, for whatever goes wrong with it."""
    try:
        yield
    except ZSRobustError:
        raise
    except Exception as error:  # a damaged pickle, .mat or .h5 raises all kinds
        what = (
            getattr(error, "strerror", None)
            or f"{type(error).__name__}: {' '.join(str(error).split())}"
        )
        raise ZSRobustError(
            f"Cannot read {path} ({what}). Extract it again from the dataset's archive."
        ) from None


def _lines(path: Path) -> list[str]:
    with _reading(path):
        return [
            line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        ]


def _labels(numbers: Iterable[Any], first: int, classes: int) -> list[int]:
    """Return labels from 0 for numbers from `first`; raises ValueError for an unknown class."""
    labels = [int(number) - first for number in numbers]
    for label in labels:
        if not 0 <= label < classes:
            raise ValueError(f"{label + first} is none of {classes} labels")
    return labels


def _files(folder: Path, names: Sequence[str] | None, entries: Iterable[tuple[str, int]]) -> Opened:
    """Return image files with labels; raises ZSRobustError for a path outside the folder."""

    def records() -> Iterator[Record]:
        for path, label in entries:
            if ".." in path.split("/"):
                raise ZSRobustError(
                    f"{folder} lists {path!r}, which is outside of it. Extract it again from its "
                    "archive."
                )
            yield Record(path, folder / path, label)

    return Opened(names, records())


def _rows(
    file: str, pictures: Iterable[NDArray[np.uint8]], labels: Iterable[int]
) -> Iterator[Record]:
    """Yield pictures (H, W, 3) that are the rows of one file."""
    for row, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        yield Record(f"{file} row {row}", np.array(picture, order="C"), label)


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ZSRobustError(
            f"No folder {folder}. It must hold one subfolder a class, with its images."
        )
    with _reading(folder):
        names = sorted(
            entry.name
            for entry in folder.iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        )
    if not names:
        raise ZSRobustError(
            f"{folder} has no subfolders. It must hold one a class, with its images."
        )
    return names


def _in_folders(folder: Path, classes: Iterable[str], nested: bool = True) -> list[tuple[str, int]]:
    """Return the images of each class's subfolder, with `nested` at any depth; paths are sorted."""
    entries = []
    for label, name in enumerate(classes):
        with _reading(folder / name):
            entries += [
                (f"{name}/{path}", label) for path in sorted(_images(folder / name, nested))
            ]
    return entries


def _images(folder: Path, nested: bool) -> Iterator[str]:
    def stop(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        folders[:] = [each for each in folders if nested and not each.startswith(".")]
        for file in files:
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                yield Path(place, file).relative_to(folder).as_posix()


def _library(name: str, path: Path) -> Any:
    """Import what only some files need; raises ZSRobustError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ZSRobustError(
            f"{path.name} is read with {name}, which is missing: pip install 'zsrobust[layouts]'"
        ) from None


def _mat(path: Path, variable: str) -> list[Any]:
    """Return a variable of a MATLAB file as a list."""
    _library("scipy.io", path)
    with _reading(path):
        command = [sys.executable, "-P", matlab.__file__, str(path), variable]
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603  # our own lines, on a file's name
        if done.returncode:
            *_, last = done.stderr.decode(errors="replace").splitlines() or [""]
            raise ValueError(
                last if done.returncode > 0 else f"scipy ends by signal {-done.returncode}"
            )
        rows: list[Any] = json.loads(done.stdout)
        return rows


def _unpickle(path: Path) -> Any:
    with _reading(path), path.open("rb") as file:
        return Unpickler(file, path).load()


def _cifar(meta: str, batch: str, prefix: str) -> Reader:
    """cifar.py: a batch's rows are 3 x 32 x 32 pixels."""

    def read(folder: Path) -> Opened:
        held = _unpickle(folder / meta)
        with _reading(folder / meta):
            names = [str(name) for name in held[f"{prefix}label_names"]]
        held = _unpickle(folder / batch)
        with _reading(folder / batch):
            labels = _labels(held[f"{prefix}labels"], 0, len(names))
            pixels = held["data"].pixels().reshape(len(labels), 3, 32, 32).transpose(0, 2, 3, 1)
        return Opened(names, _rows(batch, pixels, labels), len(labels))

    return read


def _stl10(folder: Path) -> Opened:
    """stl10.py: labels count from 1, and an image is stored column by column."""
    names = _lines(folder / "class_names.txt")
    with _reading(folder / "test_y.bin"):
        labels = _labels(np.fromfile(folder / "test_y.bin", dtype=np.uint8), 1, len(names))
    with _reading(folder / "test_X.bin"):
        pixels = np.memmap(folder / "test_X.bin", dtype=np.uint8, mode="r").reshape(
            len(labels), 3, 96, 96
        )
    rows = _rows("test_X.bin", pixels.transpose(0, 3, 2, 1), labels)
    return Opened(names, rows, len(labels))


def _sun397(folder: Path) -> Opened:
    """sun397.py: a line of ClassName.txt, /a/apse/indoor, is a folder and a class name."""
    lines = _lines(folder / "ClassName.txt")
    entries = _in_folders(folder, [line.lstrip("/") for line in lines], nested=False)
    return _files(folder, [line[3:] for line in lines], entries)


def _food101(folder: Path) -> Opened:
    """food101.py: meta/test.json lists the images of each class."""
    listing = folder / "meta/test.json"
    with _reading(listing):
        images = json.loads(listing.read_bytes())
        names = sorted(images)
        entries = [
            (f"images/{image}.jpg", label)
            for label, name in enumerate(names)
            for image in images[name]
        ]
    return _files(folder, names, entries)


def _oxford_pets(folder: Path) -> Opened:
    """oxford_iiit_pet.py: a line of test.txt is "American_Bulldog_12 2 2 1": image, class."""
    listing = folder / "annotations/test.txt"
    rows = [line.split() for line in _lines(listing)]
    with _reading(listing):
        classes: dict[int, str] = {}
        for image, number, *_ in rows:
            name = image.rpartition("_")[0].replace("_", " ")
            if classes.setdefault(int(number), name) != name:
                raise ValueError(f"class {number} has two names, {classes[int(number)]} and {name}")
        numbers = sorted(classes)
        entries = [
            (f"images/{image}.jpg", numbers.index(int(number))) for image, number, *_ in rows
        ]
    return _files(folder, [classes[number] for number in numbers], entries)


def _flowers102(folder: Path) -> Opened:
    """flowers102.py: images and labels count from 1; the classes have no names."""
    images, labels = _mat(folder / "setid.mat", "tstid"), _mat(folder / "imagelabels.mat", "labels")
    with _reading(folder / "imagelabels.mat"):
        label_of = dict(enumerate(_labels(labels, 1, 102), start=1))
        entries = [(f"jpg/image_{image:05d}.jpg", label_of[image]) for image in map(int, images)]
    return _files(folder, None, entries)


def _dtd(folder: Path) -> Opened:
    """dtd.py: a line of the split's file is "banded/banded_0002.jpg"; partition 1 of 10."""
    listing = folder / "dtd/labels/test1.txt"
    images = [line.split("/") for line in _lines(listing)]
    with _reading(listing):
        names = sorted({name for name, _ in images})
        entries = [(f"dtd/images/{name}/{file}", names.index(name)) for name, file in images]
    return _files(folder, names, entries)


def _fgvc_aircraft(folder: Path) -> Opened:
    """fgvc_aircraft.py: a line of images_variant_test.txt is "1514522 707-320"."""
    names, listing = _lines(folder / "data/variants.txt"), folder / "data/images_variant_test.txt"
    rows = [line.split(" ", 1) for line in _lines(listing)]
    with _reading(listing):
        entries = [(f"data/images/{image}.jpg", names.index(name.strip())) for image, name in rows]
    return _files(folder, names, entries)


def _stanford_cars(folder: Path) -> Opened:
    """stanford_cars.py: labels count from 1."""
    names = [str(name) for name in _mat(folder / "devkit/cars_meta.mat", "class_names")]
    listing = folder / "cars_test_annos_withlabels.mat"
    rows = _mat(listing, "annotations")
    with _reading(listing):
        labels = _labels((row["class"] for row in rows), 1, len(names))
        entries = [
            (f"cars_test/{row['fname']}", label) for row, label in zip(rows, labels, strict=True)
        ]
    return _files(folder, names, entries)


def _pcam(folder: Path) -> Opened:
    """pcam.py: the array x is (N, 96, 96, 3), y is (N, 1, 1, 1); the classes have no names."""
    x, y = (folder / f"camelyonpatch_level_2_split_test_{array}.h5" for array in "xy")
    h5py = _library("h5py", x)
    with _reading(y), h5py.File(y) as file:
        if len(file["y"]) > MOST:
            raise ValueError(f"y has {len(file['y'])} labels")
        labels = _labels(file["y"][:, 0, 0, 0], 0, 2)
    with _reading(x), h5py.File(x) as file:
        if file["x"].shape != (len(labels), 96, 96, 3) or file["x"].dtype != np.uint8:
            raise ValueError(f"x is {file['x'].dtype} {file['x'].shape}, for {len(labels)} labels")

    def pictures() -> Iterator[NDArray[np.uint8]]:
        with _reading(x), h5py.File(x) as file:
            for start in range(
                0, len(labels), 256
            ):  # 7 MB at a time: a row alone would unpack its whole chunk
                yield from file["x"][start : start + 256]

    return Opened(None, _rows(x.name, pictures(), labels), len(labels))


def _tiny_imagenet(folder: Path) -> Opened:
    """Read val/ as the archive has it, or with a folder a class; images come in the same order."""
    if names := [name for name in _subfolders(folder / "val") if name != "images"]:
        return _files(folder, names, _in_folders(folder, [f"val/{name}" for name in names]))
    names, listing = sorted(_lines(folder / "wnids.txt")), folder / "val/val_annotations.txt"
    rows = [line.split() for line in _lines(listing)]
    with _reading(listing):
        labeled = sorted((names.index(name), f"val/images/{file}") for file, name, *_ in rows)
    return _files(folder, names, ((path, label) for label, path in labeled))


def _foldered(top: str, nested: bool = True) -> Reader:
    """Return the reader of a folder `top` with one subfolder a class."""

    def read(folder: Path) -> Opened:
        names = _subfolders(folder / top)
        return _files(
            folder, names, _in_folders(folder, [f"{top}/{name}" for name in names], nested)
        )

    return read


def _layout(
    folder: str, test: Reader, *needs: str, train: tuple[Reader, tuple[str, ...]] | None = None
) -> Layout:
    """Return a layout from the readers of the test split and of the training split."""
    splits: dict[Split, tuple[Reader, tuple[str, ...]]] = {"test": (test, needs)}
    if train:
        splits["train"] = train

    def read(at: Path, split: Split) -> Opened:
        if split not in splits:
            raise ZSRobustError(f"{at}: the {split} split is not read. Read the test split.")
        return splits[split][0](at)

    return Layout(folder, {split: needs for split, (_, needs) in splits.items()}, read)


#: By dataset name.
LAYOUTS: dict[str, Layout] = {
    "cifar10": _layout(
        "cifar-10-batches-py",
        _cifar("batches.meta", "test_batch", ""),
        "test_batch",
        "batches.meta",
    ),
    "cifar100": _layout(
        "cifar-100-python",
        _cifar("meta", "test", "fine_"),
        "test",
        "meta",
        train=(_cifar("meta", "train", "fine_"), ("train", "meta")),
    ),
    "stl10": _layout("stl10_binary", _stl10, "test_X.bin", "test_y.bin", "class_names.txt"),
    "sun397": _layout("SUN397", _sun397, "ClassName.txt"),
    "food101": _layout("food-101", _food101, "meta/test.json", "images"),
    "oxford_pets": _layout("oxford-iiit-pet", _oxford_pets, "annotations/test.txt", "images"),
    "flowers102": _layout("flowers-102", _flowers102, "setid.mat", "imagelabels.mat", "jpg"),
    "dtd": _layout("dtd", _dtd, "dtd/labels/test1.txt", "dtd/images"),
    "eurosat": _layout("eurosat", _foldered("2750"), "2750"),
    "fgvc_aircraft": _layout(
        "fgvc-aircraft-2013b",
        _fgvc_aircraft,
        "data/variants.txt",
        "data/images_variant_test.txt",
        "data/images",
    ),
    "tiny_imagenet": _layout(
        "tiny-imagenet-200", _tiny_imagenet, "val", train=(_foldered("train"), ("train",))
    ),
    "imagenet": _layout(
        "imagenet", _foldered("val"), "val", train=(_foldered("train"), ("train",))
    ),
    "caltech101": _layout("caltech101", _foldered("101_ObjectCategories"), "101_ObjectCategories"),
    "caltech256": _layout(
        "caltech256", _foldered("256_ObjectCategories", nested=False), "256_ObjectCategories"
    ),
    "stanford_cars": _layout(
        "stanford_cars",
        _stanford_cars,
        "devkit/cars_meta.mat",
        "cars_test_annos_withlabels.mat",
        "cars_test",
    ),
    "pcam": _layout(
        "pcam", _pcam, *(f"camelyonpatch_level_2_split_test_{array}.h5" for array in "xy")
    ),
}

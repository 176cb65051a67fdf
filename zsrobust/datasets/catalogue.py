"""The catalogue: the 16 datasets of the paper and a user's own, read from TOML and JSON."""

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from zsrobust.core.errors import ZSRobustError, suggest
from zsrobust.core.files import is_folder
from zsrobust.core.values import Count, Line, check
from zsrobust.datasets import Dataset, datasets
from zsrobust.datasets.origin import Origin
from zsrobust.datasets.sources.hub import HubSource
from zsrobust.datasets.sources.layouts import LAYOUTS, open_folder

TEMPLATE = "This is a photo of a {}"  # PMG-AFT paper, section 3.1

#: Names of subfolders that are splits of a dataset and not classes; those to evaluate come first.
SPLITS = ("test", "testing", "val", "valid", "validation", "dev", "train", "training")

Lines = Annotated[tuple[Line, ...], Meta(min_length=1, description="a list of lines of text")]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a table `[dataset.NAME]` of a user's file sets; None: `like`'s, or a default.

    Its fields are those of `Dataset` and `Origin`, and the two below.
    """

    like: Line | None = None  #: another dataset, whose classes, prompts and sizes it takes over
    folders: Lines | None = None  #: what its copy calls the classes, where the names differ

    title: Line | None = None
    group: Line | None = None
    about: Line | None = None
    classes: Lines | None = None
    templates: Lines | None = None
    size: Count | None = None  #: None: the images are counted
    train_size: Count | None = None
    side: Count | None = None
    split: Line | None = None
    by_class: bool | None = None
    may_be_shown: bool | None = None
    metric: Line | None = None
    license: str | None = None
    citation: str | None = None

    dropped: Lines | None = None
    sources: tuple[HubSource, ...] | None = None
    layout: Line | None = None
    folder: Line | None = None  #: relative to the file's folder
    train_folder: Line | None = None

    def values(self, kind: type[Dataset | Origin]) -> dict[str, Any]:
        """Return the fields of `kind` that are set."""
        names = [field.name for field in dataclasses.fields(kind)]
        found = {name: getattr(self, name, None) for name in names}
        return {name: value for name, value in found.items() if value is not None}


def listed() -> dict[str, Dataset]:
    """Return the datasets of the catalogue by name, a user's among them; no plugin is loaded."""
    return {name: each for name, each in datasets.registered().items() if each.origin}


def register_dataset(name: str, fields: Mapping[str, Any], base: Path) -> None:
    """Register a user's own dataset from the table of a TOML file in the folder `base`.

    Raises ZSRobustError that names the field and what is wrong with it.
    """
    where = f"dataset.{name}"
    if not re.fullmatch(r"[A-Za-z]\w{0,99}", name):
        raise ZSRobustError(
            f"dataset.{name!r}: the name is not valid; expected letters, digits and _."
        )
    entry = check(fields, Entry, where, "See: docs/extending.md")
    _check_texts(entry, where)
    origin = entry.values(Origin) | _own_folders(entry, base, where)
    dataset = (
        _like(name, entry, origin, where) if entry.like else _new(name, entry, origin, base, where)
    )
    dataset = _counted(dataset)
    if not dataset.size:
        raise ZSRobustError(f"{where}: size is missing; expected the number of test images.")
    datasets.register(name)(dataset)


def _check_texts(entry: Entry, where: str) -> None:
    for template in entry.templates or ():
        if template.count("{}") != 1:
            raise ZSRobustError(
                f"{where}: templates: {template!r} is not valid; each template has one {{}}, "
                "for the class name."
            )
    if entry.layout not in (None, *LAYOUTS):
        known = list(LAYOUTS)
        unknown = suggest("layout", str(entry.layout), known, f"Layouts: {', '.join(known)}.")
        raise ZSRobustError(f"{where}: {unknown}")


def _own_folders(entry: Entry, base: Path, where: str) -> dict[str, Path]:
    """Return the folders of an entry as absolute paths; raises ZSRobustError if one is missing."""
    named = {"folder": entry.folder, "train_folder": entry.train_folder}
    found = {key: base.resolve() / folder for key, folder in named.items() if folder}
    for key, folder in found.items():
        if not is_folder(folder):
            raise ZSRobustError(
                f"{where}: {key}: there is no folder {folder}. Give its path relative to the file."
            )
    return found


def _like(name: str, entry: Entry, origin: dict[str, Any], where: str) -> Dataset:
    """Return a dataset that is another one but for what the entry sets."""
    other = listed().get(str(entry.like))
    if other is None or other.origin is None:
        unknown = suggest("dataset", str(entry.like), list(listed()), "See: zsrobust data")
        raise ZSRobustError(f"{where}: like: {unknown}")
    for key in ("classes", "folders"):
        names = getattr(entry, key) or other.classes
        if len(names) != len(other.classes):
            raise ZSRobustError(
                f"{where}: {key} has {len(names)} names; expected {len(other.classes)}, "
                f"as {entry.like} has."
            )
    values = entry.values(Dataset)
    if "folder" in origin or "train_folder" in origin:
        origin = {"layout": None, **origin}
    if origin.keys() & {"folder", "train_folder", "sources"}:  # other images
        values = {"size": 0, "train_size": None, **values}
    if entry.folders:
        origin["called"] = {**other.origin.called, "folders": entry.folders}
    values["origin"] = dataclasses.replace(other.origin, **origin)
    return dataclasses.replace(other, **{"name": name, "title": name, **values})


def _new(name: str, entry: Entry, origin: dict[str, Any], base: Path, where: str) -> Dataset:
    """Return a dataset of its own."""
    names: Sequence[str] | None = entry.folders or entry.classes
    if names is None:
        if "folder" not in origin:
            raise ZSRobustError(f"{where}: folder is missing; expected a folder, or `like`.")
        names = open_folder(origin["folder"]).names or ()
        _check_classes(names, entry, where)
    classes = entry.classes or tuple(each.replace("_", " ") for each in names)
    values = {
        "name": name,
        "title": name,
        "group": "own",
        "about": f"Of {base}.",
        "templates": (TEMPLATE,),
        "size": 0,
        "side": None,
        "split": "test",
        **entry.values(Dataset),
        "classes": classes,
        "origin": Origin(called={"names": names, "classes": classes}, **origin),
    }
    return Dataset(**values)


def _check_classes(names: Sequence[str], entry: Entry, where: str) -> None:
    """Raise ZSRobustError if the subfolders of a folder are one class, or are splits."""
    if all(name.lower() in SPLITS for name in names):
        split = min(names, key=lambda name: SPLITS.index(name.lower()))
        raise ZSRobustError(
            f"{where}: folder {entry.folder!r} has the subfolders {', '.join(names)}, which are "
            f'splits and not classes. Name the split: folder = "{entry.folder}/{split}"'
        )
    if len(names) < 2:
        raise ZSRobustError(
            f"{where}: folder {entry.folder!r} has one subfolder, {names[0]}, and so one class. "
            "Expected a subfolder for each of two or more classes. If it contains the classes: "
            f'folder = "{entry.folder}/{names[0]}"'
        )


def _counted(dataset: Dataset) -> Dataset:
    """Return the dataset with the sizes that it lacks, counted in folders of its own."""
    origin = dataset.origin
    if origin is None or not (origin.folder or origin.train_folder):
        return dataset
    size = dataset.size or origin.part(dataset, "test").count() or 0
    train_size = dataset.train_size or origin.part(dataset, "train").count()
    return dataclasses.replace(dataset, size=size, train_size=train_size)


def _read() -> Iterator[Dataset]:
    """Yield the datasets of `catalogue.toml`, with their class names and templates."""
    files = resources.files(__package__)
    classes = json.loads(files.joinpath("classes.json").read_text(encoding="utf-8"))
    templates = json.loads(files.joinpath("templates.json").read_text(encoding="utf-8"))
    catalogue = tomllib.loads(files.joinpath("catalogue.toml").read_text(encoding="utf-8"))
    for name, fields in catalogue.items():
        called, prompts = classes[name], templates[name]
        dropped = tuple(called.pop("dropped", ()))
        plain = tuple(called.get("openai", called["paper"]))
        wordings = {"openai": (plain, tuple(prompts["openai"]))}
        if "released_prompts" in prompts:
            wordings["released"] = (tuple(prompts["released_prompts"]), ("{}",))
        else:
            wordings["released"] = (tuple(called["paper"]), tuple(prompts["released"]))
        wordings["tecoa"] = wordings["released"]
        if "tecoa" in prompts:
            wordings["tecoa"] = (tuple(called["paper"]), tuple(prompts["tecoa"]))
        origin = Origin(
            called=called,
            dropped=dropped,
            sources=check(
                fields.pop("sources"), tuple[HubSource, ...], f"{name} in catalogue.toml"
            ),
            layout=name,
        )
        yield Dataset(
            name=name,
            classes=plain,
            templates=(TEMPLATE,),
            wordings=wordings,
            origin=origin,
            **{"side": None, "split": "test", **fields},
        )


for _dataset in _read():
    datasets.register(_dataset.name)(_dataset)

"""The catalogue: datasets as data. The 16 of the paper, and a user's own, are entries of the same form."""

import dataclasses
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from zsrobust.core.errors import UNPRINTABLE, ZSRobustError, suggest
from zsrobust.core.files import is_folder
from zsrobust.core.hub import Unreachable, check_network
from zsrobust.core.values import fits
from zsrobust.datasets import Cut, Dataset, Images, Progress, Split, State, cache, datasets
from zsrobust.datasets.sources import formats, hub
from zsrobust.datasets.sources.hub import HubSource
from zsrobust.datasets.sources.labels import assign, fold
from zsrobust.datasets.sources.layouts import LAYOUTS, open_folder
from zsrobust.datasets.sources.records import Opened, Record

TEMPLATE = "This is a photo of a {}"  # PMG-AFT paper, section 3.1

T = TypeVar("T")

#: A dataset's files on this machine: the folder, and the function that opens it.
Local = tuple[Path, Callable[[], Opened]]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of a dataset, where its images come from, and how its labels are told apart."""

    name: str
    title: str
    group: str
    about: str
    size: int
    classes: tuple[str, ...]  #: class names as they stand in the prompts, in label order
    templates: tuple[str, ...] = (TEMPLATE,)
    called: Mapping[str, Sequence[str]] = field(
        default_factory=dict
    )  #: what sources call the classes, in label order
    dropped: tuple[str, ...] = ()  #: classes of sources that are left out
    wordings: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    split: str = "test"  #: what the evaluation split is upstream
    by_class: bool = (
        False  #: whether torchvision has its images class by class, and not in a list's order
    )
    train_size: int | None = None
    side: int | None = (
        None  #: of images that are all squares of one size; None where each has its own
    )
    metric: str = "top-1"
    licence: str = ""
    may_be_shown: bool = False  #: whether that lets anyone show its images
    citation: str = ""
    sources: tuple[HubSource, ...] = ()
    layout: str | None = (
        None  #: how local files are laid out, by a name in LAYOUTS; None: one subfolder a class
    )
    folder: Path | None = None  #: where the test split is, or all of it; None: under the data root
    train_folder: Path | None = None

    def state(self, split: Split, cut: Cut | None) -> State:
        """Return where its images are; for a cut of None, whichever was prepared."""
        for folder in filter(cache.is_complete, self._cached(split, cut)):
            return State(
                "prepared", str(folder), sum(file.stat().st_size for file in folder.iterdir())
            )
        for place, _ in self._local(split):
            if place.is_dir():
                return State("local", str(place))
        for source in self._hub(split):
            return State("hub", source.repo)
        return State("missing", "")

    def to_download(self, split: Split) -> int:
        """Return the bytes to download before its images can be prepared.

        Raises Unreachable without the network, and ZSRobustError when no source has them.
        """
        files = self._first(
            [partial(hub.missing, source, split, _listings()) for source in self._hub(split)], split
        )
        return sum(file.size for file in files)

    def prepare(self, split: Split, cut: Cut, progress: Progress) -> Path:
        """Download what is missing, decode it once, and return the folder of the prepared images.

        A local copy is used where there is one; else the first source of the hub that answers and agrees. What was prepared
        from a local copy is prepared again where the copy's files have changed, and stays in use where they are gone.
        Raises ZSRobustError that says what is wrong with it, or with each.
        """
        self._size(split)
        (folder,) = self._cached(split, cut)
        stale = cache.is_complete(folder)
        if stale:
            if (changed := self._changed(folder, split)) is None:
                return folder
            progress(
                f"{self.name}: {changed} has changed since it was prepared, and is prepared again",
                0,
                0,
            )

        def from_local(place: Path, read: Callable[[], Opened]) -> Path:
            stamp = self._stamp(
                place, split
            )  # before anything is read: what changes meanwhile is noticed the next time
            return self._write(
                folder,
                split,
                cut,
                str(place),
                read(),
                canonical=True,
                progress=progress,
                replaces=stale,
                fingerprint=stamp,
            )

        def from_hub(source: HubSource) -> Path:
            paths = hub.download(source, split, _listings(), progress)
            where = f"{source.repo}@{source.revision[:7]}"
            opened = formats.read(source, split, paths)
            return self._write(
                folder,
                split,
                cut,
                where,
                opened,
                canonical=source.order == "canonical",
                progress=progress,
            )

        for place, read in self._local(split):
            if place.is_dir():
                return from_local(place, read)
        return self._first(
            [partial(from_hub, source) for source in self._hub(split)], split, progress
        )

    def _changed(self, folder: Path, split: Split) -> Path | None:
        """Return the local copy that a prepared split was made from, if there is one and its files have changed."""
        if self.folder or self.train_folder:  # the cache's name holds theirs
            return None
        place = next((place for place, _ in self._local(split) if place.is_dir()), None)
        stamp = (
            cache.read_about(folder).get("fingerprint") if place else None
        )  # older ones have none, nor has the hub's
        return None if place is None or stamp in (None, self._stamp(place, split)) else place

    def _stamp(self, place: Path, split: Split) -> str:
        """Return the fingerprint of a local copy; of one that holds both splits, of the files of one."""
        needs = (
            LAYOUTS[self.layout].needs
            if self.layout and place.name == LAYOUTS[self.layout].folder
            else {}
        )
        return cache.fingerprint(
            place, needs[split] if "train" in needs and split in needs else (".",)
        )

    def load(self, split: Split, cut: Cut) -> Images:
        """Return the images, prepared first if they are not; raises ZSRobustError as `prepare` does."""
        return cache.read(self.prepare(split, cut, lambda what, done, total: None))

    def advice(self, split: Split) -> str:
        """Return what is missing, where it was looked for, and how to provide it."""
        looked = [f"{place}/" for place, _ in self._local(split)] or [
            "no folder, as ZSROBUST_DATA is not set"
        ]
        looked += [f"{source.repo} on the hub" for source in self._hub(split)]
        return f"{self.name} ({split} split) is not here; looked for {', '.join(looked)}."

    def count(self, split: Split) -> int | None:
        """Return the number of images of its local copy, without decoding them; None where it has none for the split."""
        needs = LAYOUTS[self.layout].needs.get(split) if self.layout else ()
        for place, read in self._local(split):
            if needs is not None and all((place / needed).exists() for needed in needs):
                opened = read()
                label_of = self._labels(opened, str(place), canonical=True)
                return sum(label_of(record) is not None for record in opened.records)
        return None

    def _first(
        self, ways: Sequence[Callable[[], T]], split: Split, progress: Progress | None = None
    ) -> T:
        """Return what the first way gives that works, and tell of those that did not; offline, no other is tried."""
        errors: list[str] = []
        for way in ways:
            try:
                found = way()
                if errors and progress:
                    progress(f"{self.name}: passed over: {' '.join(errors)}", 0, 0)
                return found
            except Unreachable as error:
                raise Unreachable(f"{self.advice(split)} {error}") from error
            except ZSRobustError as error:
                errors.append(str(error))
        raise ZSRobustError(" ".join(errors) or self.advice(split))

    def _size(self, split: Split) -> int:
        size = self.size if split == "test" else self.train_size
        if size is None:
            raise ZSRobustError(
                f"{self.name} has no training split here. Train on tiny_imagenet or cifar100."
            )
        return size

    def _cached(self, split: Split, cut: Cut | None) -> list[Path]:
        """Return the folder of the prepared images; for a cut of None, all that there are."""
        folder = cache.cache_folder() / "prepared"
        if cut is None:
            return sorted(folder.glob(f"{self.name}-{split}-*"))
        content = (
            self.called,
            self.dropped,
            self._size(split),
            self.side,
            None if self.side else asdict(cut),
            [asdict(source) for source in self.sources],
            self.layout,
            self._fingerprint(split),
        )
        return [
            folder
            / f"{self.name}-{split}-{hashlib.sha256(repr(content).encode()).hexdigest()[:12]}"
        ]

    def _fingerprint(self, split: Split) -> list[tuple[str, int, int]]:
        """Return what tells whether the files of a folder of its own have changed: their paths, sizes and times."""
        own = self.folder if split == "test" or self.layout else self.train_folder
        files = sorted(path for path in own.rglob("*") if path.is_file()) if own else []
        return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]

    def _local(self, split: Split) -> Iterator[Local]:
        """Yield where a local copy may be, and how to open it."""
        if self.folder or self.train_folder:
            own = self.folder if split == "test" or self.layout else self.train_folder
            if own:
                yield own, partial(self._open, own, split)
        elif root := os.environ.get("ZSROBUST_DATA"):
            if self.layout:
                place = Path(root, LAYOUTS[self.layout].folder)
                yield place, partial(self._open, place, split)
            plain = Path(root, self.name, split)
            yield plain, partial(open_folder, plain)

    def _open(self, place: Path, split: Split) -> Opened:
        if self.layout is None:
            return open_folder(place)
        layout = LAYOUTS[self.layout]
        if split not in layout.needs:
            raise ZSRobustError(f"{place} is not read for the {split} split of {self.name}.")
        for needed in layout.needs[split]:
            if not (place / needed).exists():
                raise ZSRobustError(
                    f"{place} is not whole: it has no {needed}. Complete it, or move it away."
                )
        return layout.read(place, split)

    def _hub(self, split: Split) -> list[HubSource]:
        return [source for source in self.sources if getattr(source, split)]

    def _write(
        self,
        folder: Path,
        split: Split,
        cut: Cut,
        where: str,
        opened: Opened,
        canonical: bool,
        progress: Progress,
        replaces: bool = False,
        **more: str,
    ) -> Path:
        what = f"preparing {self.name}{':train' if split == 'train' else ''}"
        cache.write(
            folder,
            opened,
            self._labels(opened, where, canonical),
            size=self._size(split),
            side=self.side,
            cut=cut,
            about={"dataset": self.name, "split": split, "source": where, **more},
            progress=lambda done, total: progress(what, done, total),
            replaces=replaces,
        )
        return folder

    def _labels(
        self, opened: Opened, where: str, canonical: bool
    ) -> Callable[[Record], int | None]:
        """Return the function from a record to its canonical label; None for a class that is left out."""
        by_number = (
            {label: label for label in range(len(self.classes))}
            if opened.names is None and canonical
            else {}
        )
        by_name: dict[str, set[int | None]] = {fold(name): {None} for name in self.dropped}
        if opened.names is not None:
            by_number = assign(opened.names, self.called, self.dropped, where)  # type: ignore[assignment]  # None: left out
            by_name |= {fold(name): {by_number[label]} for label, name in enumerate(opened.names)}
        else:
            for names in self.called.values():
                for label, name in enumerate(names):
                    by_name.setdefault(fold(name), set()).add(label)

        def label_of(record: Record) -> int | None:
            if isinstance(record.label, int) and record.label in by_number:
                return by_number[record.label]
            labels = (
                by_name.get(fold(record.label), set()) if isinstance(record.label, str) else set()
            )
            if len(labels) == 1:
                return next(iter(labels))
            unnamed = isinstance(record.label, int) and not by_number
            why = (
                "carries no class names, so that its labels have no meaning"
                if unnamed
                else "is no class of it"
            )
            raise ZSRobustError(
                f"{where}, {record.where}: label {record.label!r} {why} ({self.name})."
            )

        return label_of


def _listings() -> Path:
    return cache.cache_folder() / "listings"


def check_available(names: Sequence[str]) -> None:
    """Raise Unreachable, in one line with all of them, if test splits must be downloaded and the network does not answer.

    Names that are not in the catalogue are passed over.
    """
    absent = [
        name
        for name in names
        if name in entries and entries[name].state("test", None).where == "hub"
    ]
    try:
        if sum(entries[name].to_download("test") for name in absent):
            check_network("They must be downloaded")
    except Unreachable as error:
        root = os.environ.get("ZSROBUST_DATA")
        where = (
            f"in {root}"
            if root
            else "for copies of your own nowhere, as neither --data-root nor ZSROBUST_DATA is set"
        )
        raise Unreachable(
            f"{len(absent)} of {len(names)} datasets are not here: {', '.join(absent)}. Looked in "
            f"{cache.cache_folder()}, and {where}; and the hub cannot be reached ({error.__cause__ or error}) Give a "
            "folder with your copies, or run once with the network: zsrobust data --suite paper. `--suite mini` needs none."
        ) from error


def register(entry: Entry) -> None:
    """Add an entry to the catalogue and to the registry of datasets."""
    datasets.register(entry.name)(
        Dataset(
            title=entry.title,
            group=entry.group,
            about=entry.about,
            classes=entry.classes,
            templates=entry.templates,
            size=entry.size,
            side=entry.side,
            train_size=entry.train_size,
            split=entry.split,
            by_class=entry.by_class,
            wordings=entry.wordings,
            may_be_shown=entry.may_be_shown,
            origin=entry,
        )
    )
    entries[entry.name] = entry


def register_dataset(name: str, fields: Mapping[str, Any], base: Path) -> None:
    """Register a user's own dataset from the table of a TOML file in the folder `base`.

    Fields: those of an entry; `like`, another dataset whose classes, prompts and sizes it takes over; and `folders`, the
    names of the subfolders in the order of `classes` where they differ. Without `size`, the images are counted.
    Raises ZSRobustError that names what is wrong.
    """
    where = f"The dataset {name!r} of {base}"
    if not isinstance(fields, Mapping):
        raise ZSRobustError(f"{where} is no table: [dataset.{name}]")
    if not re.fullmatch(r"[A-Za-z]\w{0,99}", name):
        raise ZSRobustError(f"{where} needs a name of letters, digits and _.")
    values = dict(fields)
    known = {each.name for each in dataclasses.fields(Entry)} - {"name", "called", "wordings"} | {
        "like",
        "folders",
    }
    for key in values.keys() - known:
        raise suggest(
            f"field of {where}:", key, sorted(known), f"Its fields: {', '.join(sorted(known))}."
        )
    for key, value in values.items():
        kind = _KINDS.get(key, str)
        texts = value if isinstance(value, list) else [str(value)]
        plain = key == "sources" or all(
            isinstance(each, str) and not UNPRINTABLE.search(each) for each in texts
        )
        if not plain or not fits(value, kind) or (kind is int and value < 1):
            raise ZSRobustError(f"{where}: {key} is {_TOLD[kind]}, not {value!r}.")
    if any(template.count("{}") != 1 for template in values.get("templates", ())):
        raise ZSRobustError(f"{where}: each template has one {{}}, for the class name.")
    for key in values.keys() & {"folder", "train_folder"}:
        values[key] = base.resolve() / values[key]
        if not is_folder(values[key]):
            raise ZSRobustError(f"{where}: no folder {values[key]}.")
    if values.get("layout") not in (None, *LAYOUTS):
        raise suggest("layout", values["layout"], list(LAYOUTS), f"Layouts: {', '.join(LAYOUTS)}.")
    for key in values.keys() & {"classes", "templates", "dropped", "folders"}:
        values[key] = tuple(values[key])
    like, folders = values.pop("like", None), values.pop("folders", None)
    try:
        if "sources" in values:
            values["sources"] = tuple(HubSource(**_tuples(source)) for source in values["sources"])
        if like is not None:
            if like not in entries:
                raise suggest("dataset", like, list(entries), "See: zsrobust data")
            own = values.keys() & {"folder", "train_folder"}
            whole = {"size": None, "train_size": None} if own or "sources" in fields else {}
            whole |= {"layout": None} if own else {}
            entry = dataclasses.replace(
                entries[like], name=name, **{"title": name, **whole, **values}
            )
        else:
            names = folders or values.get("classes") or open_folder(values["folder"]).names or ()
            classes = values.pop("classes", None) or tuple(each.replace("_", " ") for each in names)
            blank = {"title": name, "group": "own", "about": f"Of {base}.", "size": None}
            called = {"names": names, "classes": classes}
            entry = Entry(**{"name": name, **blank, **values, "classes": classes, "called": called})
        if entry.folder or entry.train_folder:
            sizes = entry.size or entry.count("test"), entry.train_size or entry.count("train")
            entry = dataclasses.replace(entry, size=sizes[0], train_size=sizes[1])  # type: ignore[arg-type]  # checked below
    except (TypeError, KeyError, AttributeError) as error:
        raise ZSRobustError(f"{where} needs a folder, or `like`: {error}.") from error
    if not entry.size:
        raise ZSRobustError(f"{where} needs its size, the number of test images.")
    register(entry)


#: Types of an entry's fields that are no text; and what they are called.
_KINDS: dict[str, type] = {
    **dict.fromkeys(("classes", "templates", "dropped", "folders", "sources"), list),
    **dict.fromkeys(("size", "train_size", "side"), int),
    **dict.fromkeys(("by_class", "may_be_shown"), bool),
}
_TOLD = {list: "a list of texts", int: "a whole number", bool: "true or false", str: "text"}


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }


def _read() -> Iterator[Entry]:
    """Yield the entries of `catalogue.toml`, with their words from `classes.json` and `templates.json`."""
    files = resources.files(__package__)
    classes = json.loads(files.joinpath("classes.json").read_text(encoding="utf-8"))
    templates = json.loads(files.joinpath("templates.json").read_text(encoding="utf-8"))
    for name, fields in tomllib.loads(
        files.joinpath("catalogue.toml").read_text(encoding="utf-8")
    ).items():
        called, said = classes[name], templates[name]
        dropped = tuple(called.pop("dropped", ()))
        plain = tuple(called.get("openai", called["paper"]))
        released = (tuple(called["paper"]), tuple(said["released"]))
        if "released_prompts" in said:
            released = (tuple(said["released_prompts"]), ("{}",))
        sources = tuple(HubSource(**_tuples(source)) for source in fields.pop("sources"))
        yield Entry(
            name=name,
            classes=plain,
            called=called,
            dropped=dropped,
            wordings={"released": released, "openai": (plain, tuple(said["openai"]))},
            sources=sources,
            layout=name if name in LAYOUTS else None,
            **fields,
        )


entries: dict[str, Entry] = {}
for _entry in _read():
    register(_entry)

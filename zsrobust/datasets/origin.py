"""Where the images of a dataset come from: copies on this machine and on the hub, prepared once."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import cache_folder
from zsrobust.core.hub import Unreachable
from zsrobust.datasets import Cut, Dataset, Images, Progress, Split, State, _silent, cache
from zsrobust.datasets.sources import formats, hub
from zsrobust.datasets.sources.hub import HubSource
from zsrobust.datasets.sources.labels import Labels, assign, fold
from zsrobust.datasets.sources.layouts import LAYOUTS, Copy
from zsrobust.datasets.sources.records import Opened

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the images of a dataset come from, and what its copies call the classes."""

    #: lists of class names that copies use, each in label order
    called: Mapping[str, Sequence[str]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()  #: classes of copies that are left out
    sources: tuple[HubSource, ...] = ()  #: copies on the hub, in the order in which they are tried
    layout: str | None = None  #: of local files, a name in LAYOUTS; None: one subfolder a class
    folder: Path | None = None  #: where the test split is, or all of it; None: under the data root
    train_folder: Path | None = None  #: where the training split is

    def part(self, dataset: Dataset, split: Split) -> "Part":
        """Return one split of the dataset that comes from here."""
        return Part(dataset, self, split)


@dataclass(frozen=True)
class Part:
    """One split of a dataset: where its images are now, and how they are prepared."""

    dataset: Dataset
    origin: Origin
    split: Split

    def state(self, cut: Cut | None) -> State:
        """Return where the images are; for a cut of None, prepared with any cut."""
        for folder in filter(cache.is_complete, self._prepared(cut)):
            size = sum(file.stat().st_size for file in folder.iterdir())
            return State("prepared", str(folder), size)
        if copy := self._copy():
            return State("local", str(copy.place))
        if sources := self._sources():
            return State("hub", sources[0].repo)
        return State("missing")

    def to_download(self) -> int:
        """Return the bytes to download before the images can be prepared.

        Raises Unreachable without the network, and ZSRobustError when no source has the images.
        """
        ways = [partial(hub.to_download, source, self.split) for source in self._sources()]
        return self._first(ways, _silent)

    def files(self, cut: Cut) -> list[Path]:
        """Return the files of the prepared images; [] if they are not prepared."""
        (folder,) = self._prepared(cut)
        return sorted(folder.iterdir()) if cache.is_complete(folder) else []

    def open(self, cut: Cut) -> Images:
        """Return the images, prepared first if they are not; raises ZSRobustError as `prepare`."""
        return cache.read(self.prepare(cut, _silent))

    def prepare(self, cut: Cut, progress: Progress) -> Path:
        """Return the folder of the prepared images, prepared from the first copy that agrees.

        A local copy comes first, then the sources on the hub. Images from a local copy are prepared
        again if its files have changed. They stay in use if the copy is gone.
        Raises ZSRobustError that names what is wrong with the local copy, or with each source.
        """
        (folder,) = self._prepared(cut)
        prepared = cache.is_complete(folder)
        copy = self._copy()
        if prepared and not (copy and self._has_changed(copy, folder)):
            return folder
        if copy:
            if prepared:
                line = f"{self.dataset.name}: {copy.place} has changed since it was prepared"
                progress(f"{line}, and is prepared again", 0, 0)
            stamp = self._stamp(copy)  # first, so that later changes are noticed
            write = partial(self._write, folder, cut, progress, replaces=prepared)
            write(copy.open(self.split), str(copy.place), in_order=True, fingerprint=stamp)
            return folder
        ways = [
            partial(self._from_hub, source, folder, cut, progress) for source in self._sources()
        ]
        self._first(ways, progress)
        return folder

    def count(self) -> int | None:
        """Return the number of images of the local copy; None if it lacks the split."""
        copy = self._copy()
        if copy is None or not copy.is_whole(self.split):
            return None
        opened = copy.open(self.split)
        label_of = self._labels(opened, str(copy.place), in_order=True)
        if opened.count is not None and not self.origin.dropped:
            return opened.count  # no picture is read
        return sum(label_of(record) is not None for record in opened.records)

    def wrong(self) -> str:
        """Return what is wrong with the local copy, as "20 images, expected 10,000", or ""."""
        copy = self._copy()
        if copy is None:
            return ""
        try:
            found = self.count()
        except ZSRobustError as error:
            return str(error)
        if found is None:
            return f"files of the {self.split} split are missing"
        return "" if found == self._size else f"{found:,} images, expected {self._size:,}"

    @property
    def _size(self) -> int:
        size = self.dataset.size if self.split == "test" else self.dataset.train_size
        if size is None:
            raise ZSRobustError(
                f"{self.dataset.name} has no training split. Train on tiny_imagenet or cifar100."
            )
        return size

    def _sources(self) -> list[HubSource]:
        return [source for source in self.origin.sources if source.parts(self.split)]

    def _copy(self) -> Copy | None:
        """Return the local copy; None if there is none."""
        return next((copy for copy in self._places() if copy.place.is_dir()), None)

    def _places(self) -> Iterator[Copy]:
        """Yield where a local copy may be."""
        layout = LAYOUTS[self.origin.layout] if self.origin.layout else None
        if self.origin.folder or self.origin.train_folder:
            if own := self._own_folder():
                yield Copy(own, layout)
        elif root := os.environ.get("ZSROBUST_DATA"):
            if layout:
                yield Copy(Path(root, layout.folder), layout)
            yield Copy(Path(root, self.dataset.name, self.split))

    def _own_folder(self) -> Path | None:
        whole = self.split == "test" or self.origin.layout
        return self.origin.folder if whole else self.origin.train_folder

    def _has_changed(self, copy: Copy, folder: Path) -> bool:
        """Return whether a copy's files have changed since they were prepared in `folder`."""
        if self.origin.folder or self.origin.train_folder:  # the folder's name changes with them
            return False
        stamp = cache.read_about(folder).get("fingerprint")  # the hub's images have none
        return stamp is not None and stamp != self._stamp(copy)

    def _stamp(self, copy: Copy) -> str:
        return cache.fingerprint(copy.place, copy.parts(self.split))

    def _prepared(self, cut: Cut | None) -> list[Path]:
        """Return the folder of the prepared images; for a cut of None, those that exist."""
        folder = cache_folder() / "prepared"
        name = f"{self.dataset.name}-{self.split}"
        if cut is None:
            return sorted(folder.glob(f"{name}-*"))
        content = (
            self.origin.called,
            self.origin.dropped,
            self._size,
            self.dataset.side,
            None if self.dataset.side else cut.stored,
            [asdict(source) for source in self.origin.sources],
            self.origin.layout,
            self._own_files(),
        )
        return [folder / f"{name}-{hashlib.sha256(repr(content).encode()).hexdigest()[:12]}"]

    def _own_files(self) -> list[tuple[str, int, int]]:
        """Return the paths, sizes and times of the files in the dataset's own folder."""
        own = self._own_folder()
        files = sorted(path for path in own.rglob("*") if path.is_file()) if own else []
        return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]

    def _from_hub(self, source: HubSource, folder: Path, cut: Cut, progress: Progress) -> None:
        paths = hub.download(source, self.split, progress)
        opened = formats.read(source, self.split, paths)
        where = f"{source.repo}@{source.revision[:7]}"
        self._write(folder, cut, progress, opened, where, in_order=source.order == "canonical")

    def _write(
        self,
        folder: Path,
        cut: Cut,
        progress: Progress,
        opened: Opened,
        where: str,
        in_order: bool,
        replaces: bool = False,
        **about: str,
    ) -> None:
        name = self.dataset.name
        step = f"preparing {name}" if self.split == "test" else f"preparing {name}:{self.split}"
        cache.write(
            folder,
            opened,
            self._labels(opened, where, in_order),
            size=self._size,
            side=self.dataset.side,
            cut=cut,
            about={"dataset": name, "split": self.split, "source": where, **about},
            progress=partial(progress, step),
            replaces=replaces,
        )

    def _labels(self, opened: Opened, where: str, in_order: bool) -> Labels:
        """Return what maps a copy's labels to the dataset's.

        `in_order`: the numbers of a copy without class names are the dataset's own.
        """
        by_number: dict[int, int | None] = {}
        by_name: dict[str, set[int | None]] = {fold(name): {None} for name in self.origin.dropped}
        if opened.names is not None:
            by_number = assign(opened.names, self.origin.called, self.origin.dropped, where)
            by_name |= {fold(name): {by_number[label]} for label, name in enumerate(opened.names)}
        else:
            if in_order:
                by_number.update((label, label) for label in range(len(self.dataset.classes)))
            for names in self.origin.called.values():
                for label, name in enumerate(names):
                    by_name.setdefault(fold(name), set()).add(label)
        return Labels(by_number, by_name, where, self.dataset.name)

    def _first(self, ways: Sequence[Callable[[], T]], progress: Progress) -> T:
        """Return what the first way gives that works, and report those that did not.

        Raises ZSRobustError with every error; without the network, after the first way.
        """
        errors: list[str] = []
        for way in ways:
            try:
                found = way()
            except Unreachable as error:
                raise Unreachable(f"{self._advice} {error}") from error
            except ZSRobustError as error:
                errors.append(str(error))
            else:
                if errors:
                    progress(f"{self.dataset.name}: skipped: {' '.join(errors)}", 0, 0)
                return found
        raise ZSRobustError(" ".join(errors) or self._advice)

    @property
    def _advice(self) -> str:
        """What is missing, and where it was looked for."""
        looked = [f"{copy.place}/" for copy in self._places()]
        looked = looked or ["no folder, as ZSROBUST_DATA is not set"]
        looked += [f"{source.repo} on the hub" for source in self._sources()]
        what = f"{self.dataset.name} ({self.split} split)"
        return f"{what} is not on this machine; looked for {', '.join(looked)}."

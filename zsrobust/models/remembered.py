"""What was computed from files, remembered in the cache folder by their paths, sizes and times."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import cache_folder, write_atomically
from zsrobust.core.values import check
from zsrobust.datasets import Cut, Dataset, Facts, Images, Split

#: The most values that are remembered; the oldest are forgotten.
MOST = 200
Stamp = tuple[str, int, int]
T = TypeVar("T")


def recall(key: str, kind: type[T]) -> T | None:
    """Return the value under `key` as a `kind`, which `core.values.check` makes of JSON.

    None if it is not known, if one of its files changed, or if it is not such a value.
    """
    known = _read().get(key)
    try:
        stamps, value = known["stamps"], known["value"]  # type: ignore[index]  # None is caught
        same = bool(stamps) and all(stamp == list(_stamp(Path(stamp[0]))) for stamp in stamps)
        return check(value, kind, "A remembered value") if same else None
    except (OSError, ValueError, LookupError, TypeError, ZSRobustError):
        return None  # damaged, or a file is gone


def facts_of(
    dataset: Dataset, split: Split, cut: Cut, part: str, make: Callable[[], Images]
) -> Facts:
    """Return what identities store of images, so that they stay closed until a file changes.

    `make` opens them, and `part` says which images of the split they are.
    """
    files = dataset.depends_on(split, cut)
    chosen = ["images", dataset.name, split, repr(cut), part, np.__version__]
    key = "\n".join([*chosen, *map(str, files)])
    if (known := recall(key, Facts)) is not None:
        return known
    taken = stamps(files)
    found = make().facts
    remember(key, taken, asdict(found))
    return found


def stamps(files: Iterable[Path]) -> list[Stamp]:
    """Return the stamps of files, taken before they are read; [] if one of them is missing."""
    try:
        return [_stamp(path) for path in files]
    except OSError:
        return []


def remember(key: str, taken: list[Stamp], value: Any) -> None:
    """Store a value that JSON can express, and the stamps of the files that it was computed from.

    Nothing is stored if there are no stamps, or if the cache folder cannot be written.
    """
    if not taken or stamps(Path(path) for path, _, _ in taken) != taken:
        return
    known = {name: each for name, each in _read().items() if name != key}
    known[key] = {"stamps": taken, "value": value}
    kept = dict(list(known.items())[-MOST:])
    try:
        write_atomically(_file(), (json.dumps(kept, indent=1) + "\n").encode())
    except ZSRobustError:
        return


def _stamp(path: Path) -> Stamp:
    about = path.stat()
    return str(path.absolute()), about.st_size, about.st_mtime_ns


def _file() -> Path:
    return cache_folder() / "remembered.json"


def _read() -> dict[str, Any]:
    try:
        found = json.loads(_file().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

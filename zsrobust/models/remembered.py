"""What was computed from files, remembered in the cache folder by their paths, sizes and times."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import cache_folder, write_atomically

#: The most values that are remembered; the oldest are forgotten.
MOST = 200
Stamp = tuple[str, int, int]


def recall(key: str) -> Any:
    """Return the value under `key`; None if it is not known, or if one of its files changed."""
    known = _read().get(key)
    try:
        stamps, value = known["stamps"], known["value"]  # type: ignore[index]  # None is caught
        same = bool(stamps) and all(stamp == list(_stamp(Path(stamp[0]))) for stamp in stamps)
    except (OSError, ValueError, LookupError, TypeError):  # damaged, or a file is gone
        return None
    return value if same else None


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

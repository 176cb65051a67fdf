"""Files: written whole or not at all, and named safely."""

import glob
import hashlib
import os
import re
import tempfile
from pathlib import Path

from zsrobust.core.errors import UNPRINTABLE, ZSRobustError


def is_file(path: str | Path) -> bool:
    """Return whether there is such a file. A name that no disk can store is not one."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: str | Path) -> bool:
    """Return whether there is such a folder; see `is_file`."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


#: How a file is called until `write_atomically` gives it its name.
TEMPORARY = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}")


def one_line(text: str) -> str:
    """Return a text without what is no part of a line."""
    return " ".join(UNPRINTABLE.sub(" ", text).split())


def slug(text: str) -> str:
    """Return `text` as one safe folder name: letters, digits and "._=+-" stay, everything else becomes "-".

    One of more than 200 characters is cut, and ends in a digest of the whole text.
    """
    name = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", text).lstrip(".") or "-"
    if len(name) <= 200:
        return name
    return f"{name[:183]}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is seen whole or not at all; raises ZSRobustError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as temporary:
            try:
                temporary.write(content)
                temporary.flush()
                os.fsync(temporary.fileno())
                os.chmod(temporary.name, 0o644)
                os.replace(temporary.name, path)
            except BaseException:
                Path(temporary.name).unlink(missing_ok=True)  # it may have its name already
                raise
    except OSError as error:
        raise ZSRobustError(
            f"Cannot write {path}: {error.strerror}. Choose another folder."
        ) from error


def leftovers(path: Path) -> list[Path]:
    """Return what killed processes left of the writing of a file: no one reads it, and who may write the file removes it."""
    found = path.parent.glob(f"{glob.escape(f'.{path.name}.')}*")
    return [
        left
        for left in found
        if (match := TEMPORARY.fullmatch(left.name)) and match["name"] == path.name
    ]


def check_writable(folder: Path) -> None:
    """Raise ZSRobustError now, and not after an hour, if nothing can be stored in a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # it has no name, so that nothing is left of it
    except OSError as error:
        raise ZSRobustError(
            f"Cannot write {folder}: {error.strerror}. Choose another folder."
        ) from error

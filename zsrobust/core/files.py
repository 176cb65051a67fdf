"""Files: written whole or not at all, under safe names."""

import glob
import hashlib
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from zsrobust.core.errors import ZSRobustError

#: The name of a file while `write_atomically` writes it.
TEMPORARY = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}")


def is_file(path: str | Path) -> bool:
    """Return whether a file exists; False for a name that no disk can store."""
    with suppress(OSError, ValueError):
        return Path(path).is_file()
    return False


def is_folder(path: str | Path) -> bool:
    """Return whether a folder exists; False for a name that no disk can store."""
    with suppress(OSError, ValueError):
        return Path(path).is_dir()
    return False


def slug(text: str) -> str:
    """Return `text` as one safe folder name, in which only letters, digits and "._=+-" stay.

    All other characters become "-". A name longer than 200 characters is cut, and ends with a
    digest of the whole text.
    """
    name = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", text).lstrip(".") or "-"
    if len(name) <= 200:
        return name
    return f"{name[:183]}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see all of it or nothing.

    Raises ZSRobustError if the file cannot be written.
    """
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
                Path(temporary.name).unlink(missing_ok=True)  # it may have its final name already
                raise
    except OSError as error:
        raise cannot_write(path, error) from error


def leftovers(path: Path) -> list[Path]:
    """Return the temporary files that killed processes left while they wrote `path`.

    Nothing reads these files. A process that may write `path` removes them.
    """
    found = path.parent.glob(f"{glob.escape(f'.{path.name}.')}*")
    names = [(left, TEMPORARY.fullmatch(left.name)) for left in found]
    return [left for left, match in names if match and match["name"] == path.name]


def check_writable(folder: Path) -> None:
    """Raise ZSRobustError now, and not after an hour, if a folder is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # it has no name, so it leaves no file
    except OSError as error:
        raise cannot_write(folder, error) from error


def cannot_write(path: Path, error: OSError) -> ZSRobustError:
    """Return the error for a file or a folder that cannot be written."""
    return ZSRobustError(f"Cannot write {path}: {error.strerror}. Choose another folder.")

"""Files: written whole or not at all, under safe names."""

import errno
import hashlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from zsrobust.core.errors import NoAnswerError, ZSRobustError

T = TypeVar("T")

#: Errors of a file system of the network that may pass: a lost answer, a stale handle.
PASSING = (errno.EIO, errno.ESTALE, errno.EAGAIN)
MISSING = (FileNotFoundError, NotADirectoryError)  # what the file system says of a missing file
TRIES = 4  # how often a call is made that fails in passing
PAUSE = 0.1  # seconds before the second try; they double

#: The name of a file while `write_atomically` writes it.
TEMPORARY = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}")


def cache_folder() -> Path:
    """Return the folder of the cache: ZSROBUST_CACHE, or `zsrobust` in the user's cache folder."""
    named = os.environ.get("ZSROBUST_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else home / "zsrobust"


def is_address(place: str | Path) -> bool:
    """Return whether a place is an address of the hub; Path writes its two slashes as one."""
    return str(place).startswith("hf:/")


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


def kind_of(mode: int) -> str:
    """Return what a file is by its mode, for example "a link"; "" for a regular file."""
    if stat.S_ISREG(mode):
        return ""
    kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe"}
    return kinds.get(stat.S_IFMT(mode), "a device or a socket")


def patiently(act: Callable[[Path], T], path: Path) -> T:
    """Return what `act` returns for a path; it is called again after a passing error.

    The answer of a call may be lost after the call did its work. So `act` must accept that its work
    is done. Raises NoAnswerError after TRIES passing errors, and any other OSError at once: no
    caller can take a path that was not reached for a missing one.
    """
    for again in range(TRIES):
        try:
            return act(path)
        except OSError as error:
            if error.errno not in PASSING:
                raise
            why = error
        if again + 1 < TRIES:
            time.sleep(PAUSE * 2**again)
    raise NoAnswerError(
        f"{path} cannot be reached: {why.strerror}, {TRIES} times. Next: run the same command again"
    ) from why


def state_of(path: Path, follow: bool = True) -> os.stat_result | None:
    """Return the state of a file or a folder; None if it is missing. `follow` follows a link.

    Raises NoAnswerError, and ZSRobustError for a path that may not be read.
    """
    try:
        return patiently(Path.stat if follow else Path.lstat, path)
    except MISSING:
        return None
    except OSError as error:
        raise ZSRobustError(
            f"Cannot read {path}: {error.strerror}. Change its permissions, or choose another path."
        ) from error


def exists(path: Path) -> bool:
    """Return whether a path exists, as `Path.exists` does; raises the errors of `state_of`."""
    return state_of(path) is not None


def beginning(folder: Path, start: str) -> list[Path]:
    """Return the paths in a folder whose names begin with `start`; empty if it is missing.

    Raises NoAnswerError, and OSError for a folder that cannot be listed.
    """
    try:
        return [folder / name for name in patiently(os.listdir, folder) if name.startswith(start)]
    except MISSING:
        return []


def remove(path: Path) -> None:
    """Remove a file, if it exists. Raises ZSRobustError if it cannot be removed."""
    try:
        patiently(partial(Path.unlink, missing_ok=True), path)
    except OSError as error:
        raise cannot_write(path, error) from error


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file; nothing else is opened.

    Raises OSError for a link, a named pipe or a device, and for a file that cannot be read. Raises
    NoAnswerError if nothing is known of it.
    """
    return patiently(_read_regular, path)


def _read_regular(path: Path) -> bytes:
    if kind := kind_of(path.lstat().st_mode):
        raise OSError(f"it is {kind}, not a regular file")

    def opener(name: str, flags: int) -> int:  # the file may be replaced after lstat
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)

    with open(path, "rb", opener=opener) as file:
        return file.read()


def walk(folder: Path, depth: int = 100) -> Iterator[tuple[Path, str]]:
    """Yield all files below a folder, sorted, each with what is wrong with it, or "".

    Links below the folder are not followed, but `folder` itself may be a link. Wrong are links,
    named pipes and devices, and folders that cannot be listed. Folders in more than `depth` others
    are left out. Raises NoAnswerError: no file is left out for a passing error.
    """
    try:
        paths = sorted(folder / name for name in patiently(os.listdir, folder))
    except FileNotFoundError:  # a run removed it meanwhile
        return
    except OSError as error:
        yield folder, f"it cannot be listed: {error.strerror}"
        return
    for path in paths:
        try:
            kind = kind_of(patiently(Path.lstat, path).st_mode)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield path, f"it cannot be read: {error.strerror}"
            continue
        if kind != "a folder":
            yield path, f"it is {kind}, not a regular file" if kind else ""
        elif depth:
            yield from walk(path, depth - 1)


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
        patiently(partial(_write, content=content), path)
    except OSError as error:
        raise cannot_write(path, error) from error


def _write(path: Path, content: bytes) -> None:
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
            with suppress(OSError):  # it may have its final name already
                os.unlink(temporary.name)
            raise


def leftovers(path: Path) -> list[Path]:
    """Return the temporary files that killed processes left while they wrote `path`.

    Nothing reads these files. A process that may write `path` removes them.
    """
    found = beginning(path.parent, f".{path.name}.")
    names = [(left, TEMPORARY.fullmatch(left.name)) for left in found]
    return [left for left, match in names if match and match["name"] == path.name]


def check_writable(folder: Path) -> None:
    """Raise ZSRobustError now, and not after an hour, if a folder is not writable."""
    if is_address(folder):
        raise ZSRobustError(f"{folder} is on the hub, and only read. Choose a folder to write.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # it has no name, so it leaves no file
    except OSError as error:
        raise cannot_write(folder, error) from error


def cannot_write(path: Path, error: OSError) -> ZSRobustError:
    """Return the error for a file or a folder that cannot be written."""
    return ZSRobustError(f"Cannot write {path}: {error.strerror}. Choose another folder.")

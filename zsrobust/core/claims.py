"""Claims: several runs share a folder, and none of them makes what another is making.

A claim is a small file beside what is made, `.NAME.claim`. One process can create it; a thread of that touches it until the
thing is made. It is taken over when its process is dead, where that can be seen; else, on another machine, when nobody
touched it for STALE seconds. These are counted here, from when we first looked: clocks are never compared.

Nothing but creating, linking, reading and removing files is asked of the file system. Locks of the kernel (`filelock`) would
be less code, but on some mounts of NFS and Lustre they hold on one machine only, and nobody says so.
"""

import errno
import glob
import hashlib
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsrobust.core.errors import ZSRobustError

BEAT = 15.0  # seconds from one touch of a claim to the next
STALE = 120.0  # seconds without one, after which a claim is nobody's
PAUSE = 1.0  # seconds from one look at another's claim to the next
DRAFT = ".new"  # how the name of a claim ends that is being written


class BusyError(ZSRobustError):
    """Another process is making it."""


@dataclass(frozen=True)
class Seen:
    """A claim as it was read; another look that sees the same saw no touch in between."""

    content: str  #: empty while it is being written, or if it is not ours to read
    place: int  #: its inode
    touched: int


#: Claims of other machines: how they looked, and since when they look so, in seconds of this process.
_watched: dict[Path, tuple[Seen, float]] = {}


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Within it, `path` is this process's to make; raises BusyError, at once, if it is another's."""
    claim = claim_of(path)
    mine = _take(claim, path)
    stop = threading.Event()
    beat = threading.Thread(target=_touch, args=(claim, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()  # it has the file open, and NFS keeps what is open
        with suppress(OSError):
            _remove(claim, mine, lambda seen: seen.content == mine)


@contextmanager
def sole(path: Path, tell: Callable[[str], None] | None = None) -> Iterator[None]:
    """Within it, `path` is there, or this process's to make.

    While it is another's, this waits, and tells whose it is; without `tell` it raises BusyError.
    """
    with ExitStack() as stack:
        told = None
        while not path.exists():
            try:
                stack.enter_context(claimed(path))
                break
            except BusyError as busy:
                if tell is None:
                    raise
                if str(busy) != told:
                    tell(f"waiting: {busy}")
                    told = str(busy)
                time.sleep(PAUSE)
        else:
            clear(path)
        yield


@contextmanager
def terminable() -> Iterator[None]:
    """Within it, SIGTERM interrupts as Ctrl-C does, so that claims are given back: Slurm and torchrun end processes so."""
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # others cannot say what signals do
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _take(claim: Path, path: Path) -> str:
    """Create a claim and return its content; raises BusyError, or ZSRobustError if nothing can be written there."""
    mine = _myself()
    try:
        claim.parent.mkdir(parents=True, exist_ok=True)
        while not _create(claim, mine):
            seen = _look(claim)
            if seen is None:  # given back meanwhile
                continue
            if not _is_stale(claim, seen) or not _remove(claim, seen.content, seen.__eq__):
                raise BusyError(f"{path.name} is made by {_owner(seen)}")
        _sweep(claim)
    except OSError as error:
        raise ZSRobustError(
            f"Cannot write {claim}: {error.strerror}. Choose another folder."
        ) from error
    return mine


def clear(path: Path) -> None:
    """Remove what a process left here that was killed when it had made `path`, and had not given its claim back."""
    claim = claim_of(path)
    with suppress(OSError):
        _sweep(claim)
        seen = _look(claim)
        if seen and _is_stale(claim, seen):
            _remove(claim, seen.content, seen.__eq__)


def claim_of(path: Path) -> Path:
    """Return where the claim on a file is, while it is made."""
    return path.with_name(f".{path.name}.claim")


def abandoned(claim: Path) -> bool:
    """Return whether the process of a claim is dead, as far as that can be seen from here, or the claim is gone."""
    seen = _look(claim)
    return seen is None or _is_stale(claim, seen)


def _sweep(claim: Path) -> None:
    """Remove what processes left that were killed in the moment in which they took or removed a claim on the same."""
    for left in claim.parent.glob(f"{glob.escape(claim.name)}.*"):
        seen = _look(left)
        if seen and (_is_stale(left, seen) or (left.name.endswith(DRAFT) and not seen.content)):
            left.unlink(missing_ok=True)


def _myself() -> str:
    """Return what a claim of this process says; no two are alike."""
    about = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "machine": _machine(),
        "born": _born(os.getpid()),
    }
    return json.dumps({**about, "token": uuid.uuid4().hex})


def _create(place: Path, content: str) -> bool:
    """Create a file that is not there yet, seen whole or not at all; return whether it was not.

    One that is empty, of a process that was killed in between, would tell nobody that its process is dead.
    """
    draft = place.with_name(f"{place.name}.{uuid.uuid4().hex[:16]}{DRAFT}")
    try:
        _write(draft, content)
        os.link(draft, place)
        return True
    except FileExistsError:
        return (
            draft.stat().st_nlink == 2
        )  # NFS may link, lose its answer, and find the link when it asks again
    except FileNotFoundError:  # another swept it away
        return draft.parent.is_dir() and _create(place, content)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    finally:
        draft.unlink(missing_ok=True)
    try:
        _write(place, content)
    except FileExistsError:
        return False
    return True


def _write(place: Path, content: str) -> None:
    file = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        os.write(file, content.encode())
    except OSError:
        place.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


def _touch(claim: Path, stop: threading.Event) -> None:
    with suppress(OSError):
        file = os.open(claim, os.O_RDONLY)  # once taken over, it is still ours that is touched
        try:
            while not stop.wait(BEAT):
                with suppress(OSError):
                    os.utime(file)
        finally:
            os.close(file)


def _remove(claim: Path, content: str, is_it: Callable[[Seen], bool]) -> bool:
    """Remove the claim with this content if it is the one; return whether this process was the one to see to it.

    Several may want to, and by then another claim may be there: who creates a file named after the content removes the
    claim, and nobody else does.
    """
    grave = claim.with_name(f"{claim.name}.{hashlib.sha256(content.encode()).hexdigest()[:16]}")
    try:
        if not _create(grave, _myself()):
            seen = _look(grave)
            if seen and _is_stale(grave, seen):  # who created it died that moment
                grave.unlink(missing_ok=True)
            return False
    except OSError:  # the disk is full: what is to be removed need not stay for that
        pass
    try:
        seen = _look(claim)
        if seen and is_it(seen):
            claim.unlink(missing_ok=True)
    finally:
        grave.unlink(missing_ok=True)
    return True


def _look(claim: Path) -> Seen | None:
    """Return a claim as it is now, None if there is none. It is opened, as NFS shows the present only then."""
    content = ""
    try:
        with suppress(PermissionError):
            content = claim.read_text(errors="replace")
        about = claim.stat()
    except FileNotFoundError:
        return None
    return Seen(content, about.st_ino, about.st_mtime_ns)


def _is_stale(claim: Path, seen: Seen) -> bool:
    """Return whether the process of a claim is dead, or nobody touched it for STALE seconds."""
    about = _parse(seen)
    if about.get("machine") == _machine() and (born := _born(about["process"])) is not None:
        return bool(born != about["born"])
    before, since = _watched.get(claim, (None, 0.0))
    if before != seen:
        _watched[claim] = seen, time.monotonic()
        return False
    return time.monotonic() - since > STALE


def _owner(seen: Seen) -> str:
    about = _parse(seen)
    return f"process {about['process']} on {about['host']}" if about else "another process"


def _parse(seen: Seen) -> dict[str, Any]:
    try:
        about = json.loads(seen.content)
        return {name: about[name] for name in ("host", "process", "machine", "born")}
    except (ValueError, TypeError, KeyError):
        return {}


def _machine() -> str:
    """Return what tells this machine since it was started, and its process ids (a container has its own), from others."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            os.readlink("/proc/self/ns/pid"),
        ]
    return " ".join(parts)


def _born(process: int) -> str | None:
    """Return when a process of this machine was started, "" if it is dead, None if that cannot be seen."""
    try:
        # "PID (NAME) STATE …", and the 20th field from STATE on is the start in ticks since boot: proc_pid_stat(5)
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return None

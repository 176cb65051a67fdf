"""Claims: several runs share a folder, and no two of them make the same file.

A claim is a small folder beside the file, `.NAME.claim`. It contains one empty file, whose name
identifies the owner. A run prepares this folder under another name and renames it, which fails
while another owner is inside. To free a claim, a run removes the owner's file, whose name is never
used again, and then the empty folder. So a run that is late removes nothing of the next owner, and
a killed run leaves nothing that blocks.

An owner on this machine is dead when its process is. An owner on another machine counts as dead
when nobody has touched its file for STALE seconds. They are counted here, from the first look:
clocks are never compared.

`filelock` 4.2 does not suffice: its `SoftFileLease` takes over a dead owner only by exchanging two
names, which NFS refuses, and an owner that was killed before it wrote its record blocks forever.
The kernel's locks do not reach other machines on some mounts of NFS and Lustre.
"""

import errno
import hashlib
import os
import re
import shutil
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import beginning, cannot_write, exists, patiently, remove, slug

BEAT = 15.0  # seconds from one touch of an owner's file to the next
STALE = 120.0  # seconds without a touch, after which an owner on another machine counts as dead
PAUSE = 1.0  # seconds from one look at another run's claim to the next
TRIES = 20  # how often a run tries to take a claim that others take and free meanwhile

#: The name of an owner's file. It is never used again.
OWNER = re.compile(
    r"(?P<process>[0-9]+)\.(?P<born>[0-9]*)\.(?P<machine>[0-9a-f]{16})\.[0-9a-f]{16}@(?P<host>.+)"
)

#: Owners on other machines: when their file was last touched, and since when we know that.
_watched: dict[Path, tuple[int, float]] = {}


class BusyError(ZSRobustError):
    """Another process makes the file."""


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Within it, only this process makes `path`.

    Raises BusyError at once if another process has the claim. Raises ZSRobustError if the folder
    is not writable.
    """
    owner = _take(path)
    stop = threading.Event()
    beat = threading.Thread(target=_touch, args=(owner, stop), daemon=True)
    try:
        beat.start()
        yield
    finally:
        stop.set()
        _free(owner)


@contextmanager
def sole(path: Path, report: Callable[[str], None] | None = None) -> Iterator[None]:
    """Within it, `path` exists, or only this process makes it.

    While another process has the claim, this waits, and reports the owner. Without `report` it
    raises BusyError.
    """
    with ExitStack() as stack:
        reported = ""
        while not exists(path):
            try:
                stack.enter_context(claimed(path))
                break
            except BusyError as busy:
                if report is None:
                    raise
                if str(busy) != reported:
                    report(f"waiting: {busy}")
                    reported = str(busy)
                time.sleep(PAUSE)
        else:
            clear(path)
        yield


class Preempted(KeyboardInterrupt):
    """SIGTERM arrived: a notice that this process is about to be killed."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within it, SIGTERM raises Preempted, which frees claims and saves the state of a training.

    Slurm and torchrun send it, and kill some seconds later. Only the first notice counts: another
    one would interrupt what saves the state.
    """
    if threading.current_thread() is not threading.main_thread():  # others cannot handle signals
        yield
        return

    def stop(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Preempted

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def claim_of(path: Path) -> Path:
    """Return the folder that is the claim on a file."""
    return path.with_name(f".{path.name}.claim")


def abandoned(claim: Path) -> bool:
    """Return whether a claim has no owner that is alive, as far as this machine can see."""
    return all(_is_dead(owner) for owner in _owners(claim))


def clear(path: Path) -> None:
    """Remove what dead processes left of their claims on `path` and of their drafts of one.

    What cannot be removed now stays, and whoever wants the claim clears it later.
    """
    claim = claim_of(path)
    with suppress(OSError, ZSRobustError):
        for folder in (claim, *beginning(claim.parent, f"{claim.name}.")):
            with suppress(OSError, ZSRobustError):
                for owner in _owners(folder):
                    if _is_dead(owner):
                        remove(owner)
                patiently(Path.rmdir, folder)  # fails while an owner is inside


def _take(path: Path) -> Path:
    """Return the file that names this process as the owner of the claim on `path`."""
    claim = claim_of(path)
    owner = claim / _name()
    try:
        for _ in range(TRIES):
            clear(path)
            if owners := _owners(claim):
                if owner in owners:  # the answer to an earlier rename was lost
                    return owner
                raise BusyError(f"{path.name} is made by {_describe(owners[0])}")
            with suppress(FileExistsError):  # another made it, and it is not seen here yet
                patiently(partial(Path.mkdir, parents=True, exist_ok=True), claim.parent)
            try:
                if patiently(_publish, owner):
                    return owner
            except BaseException:
                _free(owner)  # its rename may have succeeded
                raise
    except OSError as error:
        raise cannot_write(claim, error) from error
    raise BusyError(f"{path.name} is made by another process")


def _publish(owner: Path) -> bool:
    """Return whether the claim is now this owner's: it appears with its owner, or not at all."""
    claim = owner.parent
    draft = claim.with_name(f"{claim.name}.{uuid.uuid4().hex[:16]}")
    try:
        draft.mkdir()
        with suppress(OSError):  # whoever may write beside the claim may take it over
            shutil.copymode(claim.parent, draft)
        (draft / owner.name).touch()
        draft.rename(claim)
        return True
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT):
            raise
        return owner.exists()  # this try or the one before may have lost the answer to its rename
    finally:
        _free(draft / owner.name)


def _free(owner: Path) -> None:
    with suppress(OSError, ZSRobustError):
        remove(owner)
        patiently(Path.rmdir, owner.parent)  # fails if it has another owner by now


def _touch(owner: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with suppress(OSError):
            os.utime(owner)


def _owners(claim: Path) -> list[Path]:
    """Return the files that name the owner of a claim: one, or none if the claim is free."""
    try:
        names = patiently(os.listdir, claim)
    except (FileNotFoundError, NotADirectoryError):  # in earlier versions a claim was a file
        return [claim] if patiently(Path.is_file, claim) else []
    return [claim / name for name in names if not name.startswith(".nfs")]


def _is_dead(owner: Path) -> bool:
    """Return whether an owner's process is dead, or nobody touched its file for STALE seconds."""
    known = OWNER.fullmatch(owner.name)
    if known and known["machine"] == _machine() and (born := _born(known["process"])) is not None:
        return born != known["born"]
    try:
        touched = patiently(_touched, owner)
    except FileNotFoundError:
        return True
    before, since = _watched.get(owner, (None, 0.0))
    if before != touched:
        _watched[owner] = touched, time.monotonic()
        return False
    return time.monotonic() - since > STALE


def _touched(owner: Path) -> int:
    """Return when an owner's file was last touched."""
    with suppress(PermissionError):
        # NFS shows a file as it is now only to those who open it.
        os.close(os.open(owner, os.O_RDONLY | os.O_NONBLOCK))
    return owner.stat().st_mtime_ns


def _describe(owner: Path) -> str:
    known = OWNER.fullmatch(owner.name)
    return f"process {known['process']} on {known['host']}" if known else "another process"


def _name() -> str:
    """Return a name for the file of this process as an owner; no two are alike."""
    process, token = os.getpid(), uuid.uuid4().hex[:16]
    return f"{process}.{_born(process) or ''}.{_machine()}.{token}@{slug(socket.gethostname())}"


def _machine() -> str:
    """Return 16 digits for this machine since its start; a container, with its own ids, differs."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            os.readlink("/proc/self/ns/pid"),
        ]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def _born(process: int | str) -> str | None:
    """Return when a process of this machine was started; "" if it is dead, None if unknown."""
    try:
        # "PID (NAME) STATE …"; the 20th field from STATE on is the start in ticks: proc_pid_stat(5)
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except OSError:
        pass
    return None

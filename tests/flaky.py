"""A slow and flaky file system: calls below a folder are late, fail, or see an old state, as NFS does."""

import errno
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

#: What a call on a network's file system may answer, and succeeds when it is made again.
PASSING = (errno.EIO, errno.ESTALE, errno.EAGAIN)
READS = ("stat", "lstat", "listdir")
WRITES = ("open", "mkdir", "rmdir", "rename", "replace", "unlink")
OF_FILES = ("fsync", "utime", "chmod")


@contextmanager
def flaky(
    draws: random.Random, rate: float, folder: Path, blind: float = 0.02
) -> Iterator[Counter[str]]:
    """Within it, a share of the calls below `folder` is late, and a share fails.

    Half of the failing calls did their work before: their answer is lost. A path that was found
    missing stays missing for `blind` seconds, or until this process changes its folder. That is how
    long a client of NFS believes what it saw: nfs(5), "lookupcache".

    Yields the number of calls that failed, and of those that saw an old state, by name.
    """
    seen: Counter[str] = Counter()
    missing: dict[str, float] = {}

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def maybe(*given: Any, **more: Any) -> Any:
            path = str(given[0]) if given and isinstance(given[0], str | os.PathLike) else ""
            if not path.startswith(str(folder)) and name not in OF_FILES:
                return call(*given, **more)
            if draws.random() < rate:
                time.sleep(draws.uniform(0.0, 0.003))
            looks = name in READS or (name == "open" and not given[1] & os.O_CREAT)
            if looks and time.monotonic() < missing.get(path, 0.0):
                seen["old state"] += 1
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            fails = draws.random() < rate
            if fails and draws.random() < 0.5:
                seen[f"{name} failed"] += 1
                raise OSError(draws.choice(PASSING), "the network's file system", path)
            try:
                answer = call(*given, **more)
            except FileNotFoundError:
                if looks:
                    missing[path] = time.monotonic() + blind
                raise
            if name in WRITES:
                for changed in map(str, given[: 2 if name in ("rename", "replace") else 1]):
                    above = os.path.dirname(changed)
                    for known in [known for known in missing if known.startswith(above)]:
                        del missing[known]
            if fails:
                if name == "open":
                    os.close(answer)
                seen[f"{name} lost its answer"] += 1
                raise OSError(draws.choice(PASSING), "the network's file system", path)
            return answer

        return maybe

    names = (*READS, *WRITES, *OF_FILES)
    with mock.patch.multiple(os, **{name: wrapped(name, getattr(os, name)) for name in names}):
        yield seen

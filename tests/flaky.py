"""A slow and flaky file system: calls below a folder are late, and some fail as those of NFS do."""

import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

#: What a call on a network's file system may answer, and succeeds when it is made again.
PASSING = (errno.EIO, errno.ESTALE, errno.EAGAIN)
CALLS = ("open", "mkdir", "rename", "replace", "link", "stat", "lstat", "listdir", "scandir")


@contextmanager
def flaky(draws: random.Random, rate: float, folder: Path) -> Iterator[list[str]]:
    """Within it, a share of the calls below `folder` is late, and a share fails before it did its work.

    Yields the names of the calls that failed, which grows.
    """
    failed: list[str] = []

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def maybe(*given: Any, **more: Any) -> Any:
            path = given[0] if given else "."
            below = isinstance(path, str | os.PathLike) and str(path).startswith(str(folder))
            if not below and name != "fsync":
                return call(*given, **more)
            if draws.random() < rate:
                time.sleep(draws.uniform(0.0, 0.003))
            if draws.random() < rate:
                failed.append(name)
                raise OSError(draws.choice(PASSING), "the network's file system", str(path))
            return call(*given, **more)

        return maybe

    with mock.patch.multiple(
        os, **{name: wrapped(name, getattr(os, name)) for name in (*CALLS, "fsync")}
    ):
        yield failed

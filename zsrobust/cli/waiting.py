"""What a terminal sees while seconds pass."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Within it, a terminal shows what is under way; of several processes, the first shows it."""
    if not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield

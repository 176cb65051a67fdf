"""Notes: what an attack reports beside its images, by name.

A result stores the names. `zsrobust/results/flags.toml` has the words, which are looked up when
they are printed.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_DROPPED: ContextVar[bool] = ContextVar("_DROPPED", default=False)


class Note(UserWarning):
    """A warning whose text is a name, for example `attack_zero_gradients`."""


def note(name: str) -> None:
    """Warn of something that concerns the number; the result stores this name."""
    warnings.warn(name, Note, stacklevel=3)


def note_if(seen: Tensor, name: str) -> None:
    """Note a name if `seen`, () bool, is true. Reading it waits for the device."""
    if not _DROPPED.get() and seen:
        warnings.warn(name, Note, stacklevel=3)


@contextmanager
def dropped() -> Iterator[None]:
    """Within it, no flag of `note_if` is read, so that nothing waits for the device."""
    before = _DROPPED.set(True)
    try:
        yield
    finally:
        _DROPPED.reset(before)

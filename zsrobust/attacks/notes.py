"""Notes: what an attack reports beside its images, by name.

A result stores the names. `zsrobust/results/flags.toml` has the words, which are looked up when
they are printed.
"""

import warnings


class Note(UserWarning):
    """A warning whose text is a name, for example `attack_zero_gradients`."""


def note(name: str) -> None:
    """Warn of something that concerns the number; the result stores this name."""
    warnings.warn(name, Note, stacklevel=3)

"""Notes: the warnings of attacks, as names that a result stores."""

import warnings
from collections.abc import Iterable

from zsrobust.attacks.notes import Note
from zsrobust.core.errors import one_line
from zsrobust.results.flags import WARNED, is_name


def collected(caught: Iterable[warnings.WarningMessage]) -> tuple[list[str], list[str] | None]:
    """Return the sorted names of the notes, and the texts of foreign warnings.

    A foreign warning is a plain UserWarning of a plugin or of a library. Its name is
    `attack_warned`. The texts are None if there was no foreign warning.
    """
    names: set[str] = set()
    messages: set[str] = set()
    for warning in caught:
        text = one_line(str(warning.message))
        if issubclass(warning.category, Note) and is_name(text):
            names.add(text)
        elif warning.category is UserWarning or issubclass(warning.category, Note):
            names.add(WARNED)
            messages.add(text)
    return sorted(names), sorted(messages) or None

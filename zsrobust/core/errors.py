"""The one error that users see."""

import difflib
import re

#: What is not valid in a name: control characters, line separators, halves of characters.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class ZSRobustError(Exception):
    """What went wrong, in one line that names the thing and the next command."""

    def __str__(self) -> str:
        """Return the line; what a name in it could do to a terminal or a log is written as in Python's strings."""
        return UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], super().__str__())


def suggest(kind: str, name: str, known: list[str], see: str) -> ZSRobustError:
    """Return the error for an unknown `name`, with the nearest known one."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return ZSRobustError(f"Unknown {kind} {name!r}.{hint} {see}")


def counted(number: int, noun: str) -> str:
    """Return so many of something, "1 cell" or "2 cells"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"

"""The one error that users see, and what makes its text one line."""

import difflib
import re

#: Characters that no line may contain: control characters, line separators, lone surrogates.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class ZSRobustError(Exception):
    """What went wrong, in one line that names the value and the next command."""

    def __str__(self) -> str:
        """Return the line, with the escapes of Python's strings for unprintable characters."""
        return UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], super().__str__())


class NoAnswerError(ZSRobustError):
    """A file system failed to answer, however often it was asked: nothing is known of the file."""


def suggest(kind: str, name: str, known: list[str], see: str) -> ZSRobustError:
    """Return the error for an unknown `name`, with the nearest known name."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return ZSRobustError(f"Unknown {kind} {name!r}.{hint} {see}")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 cell", "2 cells"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def one_line(text: str) -> str:
    """Return a text as one line, without unprintable characters."""
    return " ".join(UNPRINTABLE.sub(" ", text).split())


def last_line(error: str | None) -> str:
    """Return the last line of a failed cell's error, or that no error is stored."""
    lines = (error or "").strip().splitlines()
    return lines[-1] if lines else "no error is stored"

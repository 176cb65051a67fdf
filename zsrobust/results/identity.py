"""Identities: everything that the numbers of a cell depend on."""

from collections.abc import Iterator, Mapping
from typing import Any


def differences(
    stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """Yield the dotted names of the fields in which two identities differ; titles are for print and never compared."""
    for key in sorted((stored.keys() | asked.keys()) - {"title"}):
        old, new = stored.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}"

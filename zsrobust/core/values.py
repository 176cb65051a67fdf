"""Values read from JSON and TOML: whether they are of a type."""

import sys
import types
import typing
from collections.abc import Mapping
from typing import Any


def fits(value: Any, kind: Any) -> bool:
    """Return whether a value read from JSON or TOML is of a type: a plain one, a Literal, a list, a dict, a union; Any is.

    A float must be finite, and may be written as a whole number; bool is no int.
    """
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, option) for option in options)
    if origin is typing.Literal:
        return isinstance(value, str) and value in options
    if origin in (list, tuple):
        return isinstance(value, origin) and all(fits(each, options[0]) for each in value)
    if origin in (dict, Mapping):
        return isinstance(value, origin) and all(fits(each, options[1]) for each in value.values())
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return kind is Any or (
        isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    )

"""Spec strings such as `pgd:steps=100,eps=4/255`, and the values in them."""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import Any

from zsrobust.core.errors import UNPRINTABLE, ZSRobustError

#: The text of a number: ASCII letters and digits (1e-4, inf), without underscores and spaces.
NUMBER = re.compile(r"[0-9A-Za-z.+/-]+")

#: Whole numbers are smaller in size, because torch and numpy count with 64 bits.
LARGEST = 2**63


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Return the name and the fields of a spec `name:key=value,key=value`.

    A part without an identifier and "=" in front, for example a path, has the key "". Raises
    ZSRobustError for an empty part, a field that is set twice, and control characters.
    """
    name, colon, rest = spec.partition(":")
    if UNPRINTABLE.search(spec):
        raise ZSRobustError(f"{spec!r} has control characters. Write the spec as one line of text.")
    fields: dict[str, str] = {}
    for part in rest.split(",") if colon else []:
        if not part.strip():
            raise ZSRobustError(
                f"{spec!r} has an empty field. Write it as name, or as name:key=value,key=value."
            )
        key, equals, value = part.partition("=")
        if not equals or not key.strip().isidentifier():
            key, value = "", part
        if key in fields:
            raise ZSRobustError(f"{spec!r} sets {key or part!r} twice.")
        fields[key.strip()] = value.strip()
    return name.strip(), fields


def join_spec(name: str, fields: Mapping[str, Any]) -> str:
    """Return the spec string of a name and its fields, sorted by key; it inverts `split_spec`."""
    parts = [f"{key}={value}" if key else str(value) for key, value in sorted(fields.items())]
    return f"{name}:{','.join(parts)}" if parts else name


def normalize(spec: str) -> str:
    """Return a spec with its fields sorted by key; raises ZSRobustError as `split_spec` does."""
    return join_spec(*split_spec(spec))


def field_types(entry: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields by name."""
    kind: Any = type(entry)
    return dict(_types_of(kind))


@cache
def _types_of(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def parse_fields(fields: Mapping[str, str], kinds: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values of a spec's fields, parsed by their types.

    Raises ZSRobustError for an unknown field and for a value of another type.
    """
    values = {}
    for key, text in fields.items():
        if key not in kinds:
            raise ZSRobustError(
                f"{where} has no field {key or text!r}. Its fields: {', '.join(kinds) or 'none'}."
            )
        try:
            values[key] = parse_value(text, kinds[key])
        except (ValueError, TypeError, ArithmeticError):
            raise ZSRobustError(
                f"{where}: {key}={_short(text)!r} is not {_describe(kinds[key])}."
            ) from None
    return values


def parse_value(text: str, kind: Any) -> Any:
    """Return `text` as a `kind`: bool, int, float, str, Literal, or a union of these with None.

    A float may be a fraction, and "none" is None. Raises ValueError, TypeError or ArithmeticError
    for a text that is not valid.
    """
    options = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        if text not in options:
            raise ValueError(text)
        return text
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if text == "none":
            return None
        return parse_value(text, next(each for each in options if each is not type(None)))
    if kind is bool:
        return ("false", "true").index(text.lower()) == 1
    if kind in (int, float) and not NUMBER.fullmatch(text):
        raise ValueError(text)
    if kind is float:
        return float(Fraction(text)) if "/" in text else float(text)
    if kind is int and abs(int(text)) >= LARGEST:
        raise ValueError(text)
    return kind(text)


def _short(text: str) -> str:
    """Return a value as errors print it, cut to 60 characters."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def _describe(kind: Any) -> str:
    options = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(options)}"
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return " or ".join(_describe(option) for option in options)
    names = {
        int: "a whole number (of 64 bits)",
        float: "a number",
        bool: "true or false",
        str: "a word",
        type(None): "none",
    }
    return names.get(kind, str(kind))


def parse_eps(text: str, norm: str | None = "linf") -> float:
    """Return a bound from "8/255" or "0.03"; raises ZSRobustError for other text.

    It is in (0, 1), but for l1 and l2, whose bounds add up over an image: "12". A norm of None
    accepts the bounds of every norm.
    """
    try:
        eps = float(parse_value(text, float))
    except (ValueError, ArithmeticError):
        eps = 0.0
    if norm in ("l1", "l2", None) and 1 <= eps < math.inf:
        return eps
    if not 0 < eps < 1:
        raise ZSRobustError(
            f"eps {_short(text)!r} is not a bound on pixels in [0, 1]. "
            "Write it as 8/255, or as a number in (0, 1)."
        )
    return eps


def format_eps(eps: float) -> str:
    """Return "8/255" for multiples of 1/255, else the number as text; it inverts `parse_eps`.

    Bounds of 1 and more, in l1 and l2, are numbers: "12", "1.5".
    """
    if eps >= 1:
        return repr(int(eps)) if eps == int(eps) else repr(eps)
    whole = round(eps * 255)
    return f"{whole}/255" if whole and abs(eps - whole / 255) < 1e-9 else repr(eps)

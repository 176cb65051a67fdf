"""Values of TOML and JSON files, checked against types. An error names file, field and value.

A dataclass is a table of named fields; msgspec validates their types. A type such as
`Annotated[float, Meta(gt=0, description="a number above 0")]` adds a range and its description.
"""

import dataclasses
import math
import reprlib
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from zsrobust.core.errors import UNPRINTABLE, ZSRobustError, suggest

T = TypeVar("T")

_PRINTABLE = f"[^{UNPRINTABLE.pattern[1:]}"
#: Text of one line, which may be empty.
Text = Annotated[str, Meta(pattern=rf"\A{_PRINTABLE}*\Z", description="text of one line")]
Line = Annotated[str, Meta(pattern=rf"\A{_PRINTABLE}+\Z", description="a line of text")]
_NAMED = "a name of letters, digits and _, with a letter first"
Name = Annotated[str, Meta(pattern=r"\A[A-Za-z][A-Za-z0-9_]{0,99}\Z", description=_NAMED)]
Sha256 = Annotated[
    str, Meta(pattern=r"\A[0-9a-f]{64}\Z", description="64 hexadecimal digits, in lower case")
]
#: For example of images; no dataset is as large as the bound.
Count = Annotated[int, Meta(ge=1, le=10**12, description="a whole number above 0")]
#: The largest value is that of torch's seeds.
Whole = Annotated[int, Meta(ge=0, le=2**63 - 1, description="a whole number, 0 or above")]
NotNegative = Annotated[float, Meta(ge=0, description="a number, 0 or above")]
Positive = Annotated[float, Meta(gt=0, description="a number above 0")]
Bound = Annotated[float, Meta(gt=0, lt=1, description="a bound such as '8/255' or 0.03")]
Scalar = Annotated[bool | int | float | str, Meta(description="a number, text, or true or false")]

_WORDS = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    Any: "a finite number",  # only numbers that are not finite fail there
}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60


def read_toml(content: str | bytes, kind: type[T], where: str, see: str = "") -> T:
    """Return the content of a TOML file as a `kind`; raises ZSRobustError as `check` does."""
    try:
        values = tomllib.loads(content if isinstance(content, str) else content.decode())
    except (ValueError, RecursionError) as error:
        raise ZSRobustError(f"{where} is not valid TOML: {error}. {see}".rstrip()) from None
    return check(values, kind, where, see)


def read_json(content: str | bytes, kind: type[T], where: str, see: str = "") -> T:
    """Return the content of a JSON file as a `kind`; raises ZSRobustError as `check` does."""
    try:
        values = msgspec.json.decode(content)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ZSRobustError(f"{where} is not valid JSON: {error}. {see}".rstrip()) from None
    return check(values, kind, where, see)


def check(value: Any, kind: type[T], where: str, see: str = "", path: str = "") -> T:
    """Return a value as a `kind`; tables become dataclasses and lists tuples if `kind` has them.

    Nothing else is converted: "1" is not a number, true is not 1. Infinity and NaN are not valid.
    Raises ZSRobustError for a field that is unknown, missing, or not valid. `where` names the file,
    `path` is the value's place in the file, and `see` is the next command.
    """
    try:
        parts = list(_walk(value, kind, path))
    except RecursionError:
        raise ZSRobustError(f"{where} is nested too deeply. {see}".rstrip()) from None
    for step, part, expected in parts:
        place = f"{where}: {step}" if step else where
        if isinstance(part, dict) and dataclasses.is_dataclass(expected):
            _check_keys(part, expected, place, see)
        if not fits(part, expected):
            raise ZSRobustError(
                f"{place}{' =' if step else ':'} {_short(part)} is not valid; "
                f"expected {describe(expected)}. {see}".rstrip()
            )
    return msgspec.convert(value, kind)


def check_fields(instance: Any, where: str) -> None:
    """Raise ZSRobustError, as `check` does, for a field of a dataclass that has another type."""
    for name, kind in _types(type(instance)).items():
        check(getattr(instance, name), kind, where, path=name)


def missing(value: Any) -> bool:
    """Return whether a value of a record is missing: None, or NaN in a DataFrame."""
    return value is None or value != value


def fits(value: Any, kind: Any) -> bool:
    """Return whether a value is of a type, and all its numbers are finite."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return _finite(value)


def describe(kind: Any) -> str:
    """Return the description of a type: "a whole number", "one of ce, dlr"."""
    options, origin = typing.get_args(kind), typing.get_origin(kind)
    if origin is Annotated:
        return getattr(options[1], "description", None) or describe(options[0])
    if origin is Literal:
        return f"one of {', '.join(options)}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(describe(each) for each in options if each is not type(None))
    if dataclasses.is_dataclass(kind) or _is(origin, Mapping):
        return "a table"
    if _is(origin, Sequence):
        return "a list"
    return _WORDS.get(kind) or str(kind)


def _check_keys(table: Mapping[str, Any], kind: Any, place: str, see: str) -> None:
    """Raise ZSRobustError for an unknown or a missing field of a table."""
    fields = [field for field in dataclasses.fields(kind) if field.init]
    known = [field.name for field in fields]
    for key in table:
        if key not in known:
            unknown = suggest("field", key, known, f"Its fields: {', '.join(known)}.")
            raise ZSRobustError(f"{place}: {unknown}")
    for field in fields:
        default = field.default is not dataclasses.MISSING
        if not default and field.default_factory is dataclasses.MISSING and field.name not in table:
            raise ZSRobustError(
                f"{place}: {field.name} is missing; "
                f"expected {describe(_types(kind)[field.name])}. {see}".rstrip()
            )


def _walk(value: Any, kind: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the parts of a value, then the value: the path, the part, the expected type."""
    for step, part, expected in _parts(value, kind):
        yield from _walk(part, expected, f"{path}{step}".removeprefix("."))
    yield path, value, kind


def _parts(value: Any, kind: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the parts of a table or a list: the step of the path, the part, the expected type."""
    for option in _options(kind):
        origin, inner = typing.get_origin(option), typing.get_args(option)
        if isinstance(value, dict) and dataclasses.is_dataclass(option):
            known = _types(option)
            yield from ((f".{key}", part, known.get(key, Any)) for key, part in value.items())
        elif isinstance(value, dict) and (option is Any or _is(origin, Mapping)):
            each = inner[1] if inner else Any
            yield from ((f".{key}", part, each) for key, part in value.items())
        elif isinstance(value, list | tuple) and (option is Any or _is(origin, Sequence)):
            each = inner[0] if inner and inner[1:] in ((), (...,)) else Any
            yield from ((f"[{place}]", part, each) for place, part in enumerate(value))


def _options(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type, without their ranges."""
    if typing.get_origin(kind) is Annotated:
        return _options(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return tuple(part for option in typing.get_args(kind) for part in _options(option))
    return (kind,)


def _types(kind: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields by name, with their ranges."""
    return typing.get_type_hints(kind, include_extras=True)


def _is(origin: Any, base: type) -> bool:
    return isinstance(origin, type) and issubclass(origin, base)


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if value is None or isinstance(value, str | int):
        return True  # most values are of these types, and Mapping is slow to ask
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_finite, value))


def _short(value: Any) -> str:
    """Return a value as Python writes it, cut to about 60 characters."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not write whole numbers of more than 4300 digits
        return "a number of thousands of digits"

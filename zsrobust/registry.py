"""Names: registries, spec strings such as `pgd:steps=100,eps=4/255`, plugins, and the one error users see."""

import dataclasses
import difflib
import importlib
import importlib.util
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")
E = TypeVar("E")


#: What no name holds: control characters, line separators, halves of characters.
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


class Registry(Generic[T]):
    """Entries of one kind by name. A name is taken once; the first look-up loads the plugins."""

    def __init__(self, kind: str, plural: str) -> None:
        """Name the kind, as in "Unknown attack", and its plural, as in `zsrobust list attacks`."""
        self.kind, self.plural = kind, plural
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[E], E]:
        """Return a function, or decorator, that registers an entry under `name` and returns it.

        Raises ZSRobustError when the name is taken.
        """

        def add(entry: E) -> E:
            if name in self._entries:
                raise ZSRobustError(f"The {self.kind} name {name!r} is taken; register under another name.")
            self._entries[name] = typing.cast(T, entry)
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        """Return the entry; raises ZSRobustError with the nearest name for an unknown one."""
        load_plugins()
        if name not in self._entries:
            raise suggest(self.kind, name, list(self._entries), f"See: zsrobust list {self.plural}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in the order of registration."""
        load_plugins()
        return iter(self._entries)

    def create(self, spec: str, defaults: Mapping[str, Any] | None = None) -> T:
        """Return the entry a spec string names, with the spec's fields set.

        `defaults` holds values for fields that the spec leaves open, where the entry has them.
        Raises ZSRobustError for an unknown name, an unknown field, or an ill-typed value.
        """
        name, fields = split_spec(spec)
        entry: Any = self[name]
        where = f"{self.kind} {name!r}"
        if defaults:
            kinds = field_types(entry)
            known = {key: str(value) for key, value in defaults.items() if key in kinds}
            entry = dataclasses.replace(entry, **parse_fields(known, kinds, where))
        configure = getattr(entry, "configure", None)
        if not fields and not configure:
            return typing.cast(T, entry)
        if configure:
            return typing.cast(T, configure(fields, where))
        return typing.cast(T, dataclasses.replace(entry, **parse_fields(fields, field_types(entry), where)))


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Split `name:key=value,key=value` into the name and its fields.

    A part without "=", or with no identifier before it (a path may have one), has the key "".
    """
    name, _, rest = spec.partition(":")
    if UNPRINTABLE.search(spec):
        raise ZSRobustError(f"{spec!r} has characters that stand in no line of text.")
    fields: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key.strip().isidentifier():
            key, value = "", part
        if key in fields:
            raise ZSRobustError(f"{spec!r} sets {key or part!r} twice.")
        fields[key.strip()] = value.strip()
    return name.strip(), fields


def counted(number: int, noun: str) -> str:
    """Return so many of something, "1 cell" or "2 cells"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def join_spec(name: str, fields: Mapping[str, Any]) -> str:
    """Return the spec string of a name and its fields, sorted by key; the inverse of `split_spec`."""
    parts = [f"{key}={value}" if key else str(value) for key, value in sorted(fields.items())]
    return f"{name}:{','.join(parts)}" if parts else name


def field_types(entry: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields by name."""
    hints = typing.get_type_hints(type(entry))
    return {field.name: hints[field.name] for field in dataclasses.fields(entry) if field.init}


def parse_fields(fields: Mapping[str, str], kinds: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values of a spec's fields, parsed by their types; raises ZSRobustError that says which fields exist."""
    values = {}
    for key, text in fields.items():
        if key not in kinds:
            raise ZSRobustError(f"{where} has no field {key or text!r}. Its fields: {', '.join(kinds) or 'none'}.")
        try:
            values[key] = parse_value(text, kinds[key])
        except (ValueError, TypeError, ArithmeticError):
            raise ZSRobustError(f"{where}: {key}={text!r} is not {_describe(kinds[key])}.") from None
    return values


def parse_value(text: str, kind: Any) -> Any:
    """Return `text` as a value of type `kind`: bool, int, float (or a fraction), str, Literal, or one of these or None."""
    options = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        if text not in options:
            raise ValueError(text)
        return text
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return None if text == "none" else parse_value(text, next(o for o in options if o is not type(None)))
    if kind is bool:
        return ("false", "true").index(text.lower()) == 1
    if kind is float:
        return float(Fraction(text)) if "/" in text else float(text)
    return kind(text)


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
    return kind is Any or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool)))


def _describe(kind: Any) -> str:
    options = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(options)}"
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return " or ".join(_describe(option) for option in options)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", type(None): "none"}
    return names.get(kind, str(kind))


def parse_eps(text: str) -> float:
    """Return a perturbation bound in (0, 1) from "8/255" or "0.03"; raises ZSRobustError for anything else."""
    try:
        eps = float(parse_value(text, float))
    except (ValueError, ArithmeticError):
        eps = 0.0
    if not 0 < eps < 1:
        raise ZSRobustError(f"eps {text!r} is not a bound on pixels in [0, 1]. Write it as 8/255, or a number in (0, 1).")
    return eps


def format_eps(eps: float) -> str:
    """Return "8/255" for whole multiples of 1/255, else the number; the inverse of `parse_eps`."""
    whole = round(eps * 255)
    return f"{whole}/255" if whole and abs(eps - whole / 255) < 1e-9 else repr(eps)


def is_file(path: str | Path) -> bool:
    """Return whether there is such a file; there is none whose name no disk could hold."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: str | Path) -> bool:
    """Return whether there is such a folder; see `is_file`."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


_loaded = False


def load_plugins() -> None:
    """Import every module named by an entry point of the group `zsrobust`, our own among them, once.

    Raises ZSRobustError that names a plugin that fails to import.
    """
    global _loaded
    if _loaded:
        return
    _loaded = True
    for point in sorted(entry_points(group="zsrobust"), key=lambda point: (point.module != "zsrobust.lineup", point.name)):
        _import(point.name, point.load)


def load_plugin_file(path: str | Path) -> None:
    """Run a Python file that registers things; raises ZSRobustError if it is missing or fails."""
    path = Path(path)
    if not is_file(path):
        raise ZSRobustError(f"No plugin file {path}.")
    load_plugins()

    def run() -> None:
        name = f"zsrobust_plugin_{path.stem}"  # a name of its own: the file may be called torch.py
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError("not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)

    _import(str(path), run)


def _import(name: str, load: Callable[[], Any]) -> None:
    try:
        load()
    except ZSRobustError as error:
        raise ZSRobustError(f"Plugin {name}: {error}") from error
    except Exception as error:
        raise ZSRobustError(f"Plugin {name} fails to import: {type(error).__name__}: {error}") from error

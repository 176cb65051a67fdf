"""Registries of named entries, and the plugins that fill them."""

import dataclasses
import hashlib
import importlib
import importlib.util
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from zsrobust.core.errors import ZSRobustError, one_line, suggest
from zsrobust.core.files import is_file
from zsrobust.core.specs import field_types, parse_fields, split_spec

T = TypeVar("T")
E = TypeVar("E")
#: An entry's name: it is part of specs and of file names.
NAME = re.compile(r"[a-z][a-z0-9_]*")


class Registry(Generic[T]):
    """Entries of one kind by unique name. The first look-up loads the plugins."""

    def __init__(self, kind: str, plural: str, *, accepts: Any) -> None:
        """Name the kind, as in "Unknown attack", and its plural, as in `zsrobust list attacks`.

        Entries must be objects of the class `accepts`, or functions if `accepts` is Callable.
        """
        self.kind, self.plural, self.accepts = kind, plural, accepts
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[E], E]:
        """Return a function, or decorator, that registers an entry under `name` and returns it.

        The function raises ZSRobustError for a name that is not valid or is taken, and for an
        entry of another type.
        """

        def add(entry: E) -> E:
            if not (isinstance(name, str) and NAME.fullmatch(name)):
                raise ZSRobustError(
                    f"The {self.kind} name {name!r} is not valid. "
                    "Use lower-case letters, digits and underscores, after a letter: my_name2"
                )
            if name in self._entries:
                raise ZSRobustError(
                    f"The {self.kind} name {name!r} is taken. Register under another name."
                )
            if not isinstance(entry, self.accepts):
                raise self._refusal(name, entry)
            self._entries[name] = typing.cast(T, entry)
            return entry

        return add

    def _refusal(self, name: str, entry: object) -> ZSRobustError:
        """Return the error for an entry of another type than the registry accepts."""
        given = f"an object of type {type(entry).__name__}"
        if isinstance(entry, type):
            given = f"the class {entry.__name__}"
        expected = self.accepts.__name__
        remedy = f"an object of type {expected}: from {self.accepts.__module__} import {expected}"
        if self.accepts is Callable:
            remedy = "a function"
        return ZSRobustError(f"The {self.kind} {name!r} is {given}. Register {remedy}")

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

    def registered(self) -> dict[str, T]:
        """Return the entries registered so far, by name, without loading plugins."""
        return dict(self._entries)

    def create(self, spec: str, defaults: Mapping[str, Any] | None = None) -> T:
        """Return the entry that a spec string names, with the spec's fields set.

        `defaults` are values of fields that the spec does not set; unknown fields are skipped.
        Raises ZSRobustError for an unknown name or field, and for a value of another type.
        """
        name, fields = split_spec(spec)
        entry: Any = self[name]
        where = f"{self.kind} {name!r}"
        if defaults:
            kinds = field_types(entry)
            known = {key: str(value) for key, value in defaults.items() if key in kinds}
            entry = dataclasses.replace(entry, **parse_fields(known, kinds, where))
        if hasattr(entry, "configure"):
            entry = entry.configure(fields, where)
        elif fields:
            values = parse_fields(fields, field_types(entry), where)
            entry = dataclasses.replace(entry, **values)
        return typing.cast(T, entry)


_loaded = False


def load_plugins() -> None:
    """Import once the modules of the entry points in the group `zsrobust`, our own first.

    Raises ZSRobustError, with the plugin's name, if an import fails.
    """
    global _loaded
    if _loaded:
        return
    _loaded = True
    for point in sorted(
        entry_points(group="zsrobust"),
        key=lambda point: (not _ours(point), point.name),
    ):
        _import(point.name, point.load)


def only_builtins() -> bool:
    """Return whether there are no entries but the built-in ones, which may not be loaded yet.

    The built-in entries alone are in the index; see `zsrobust.core.index`.
    """
    return not _loaded and all(map(_ours, entry_points(group="zsrobust")))


def _ours(point: EntryPoint) -> bool:
    return point.module == "zsrobust.lineup"


def load_plugin_file(path: str | Path) -> None:
    """Run a Python file that registers entries; raises ZSRobustError if it is missing or fails.

    The file cannot import modules from its own folder.
    """
    path = Path(path)
    if not is_file(path):
        raise ZSRobustError(f"The plugin file {path} is missing. Next: zsrobust --plugin FILE list")
    load_plugins()

    def run() -> None:
        # A unique name: the file may be called torch.py, and two files may have the same name.
        place = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()
        name = f"zsrobust_plugin_{path.stem}_{place[:8]}"
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
    except KeyboardInterrupt:
        raise
    except ZSRobustError as error:
        raise ZSRobustError(f"Plugin {name}: {error}") from error
    except BaseException as error:  # after sys.exit(0), the command would seem to succeed
        reason = one_line(f"{type(error).__name__}: {error}")
        raise ZSRobustError(f"Plugin {name} fails to import: {reason}") from error

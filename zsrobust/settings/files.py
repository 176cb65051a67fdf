"""Settings by name: TOML files of ours or a user's, which may extend others with `like`."""

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Generic, TypeVar

from zsrobust.core.errors import ZSRobustError, suggest
from zsrobust.core.files import is_file
from zsrobust.core.values import check, read_toml

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Files(Generic[T]):
    """The TOML files of one kind of settings."""

    kind: str  #: "suite", as messages and `zsrobust list suites` name it
    type: type[T]  #: a dataclass with the fields of a file, and `name`, the file's name
    package: str  #: the package with our files
    alone: Collection[str] = ()  #: fields that a file does not inherit through `like`
    others: Collection[str] = ()  #: tables of a file that other code reads

    def names(self) -> list[str]:
        """Return the names of our files, sorted."""
        files = resources.files(self.package).iterdir()
        return sorted(Path(file.name).stem for file in files if file.name.endswith(".toml"))

    def load(self, name: str, **more: str) -> T:
        """Return settings by name or by the path of a TOML file, with `more` values of fields.

        A file that is `like` another inherits the fields that it does not set, and extends tables.
        Raises ZSRobustError for an unknown name, a missing file, a file with the name of one of
        ours (their results would mix), and a field that is unknown, missing, or not valid.
        """
        where, named = f"The {self.kind} {name}", {"name": Path(name).stem, **more}
        if name.endswith(".toml") and named["name"] in self.names():
            why = "has the name of one of ours; give the file another name"
            raise ZSRobustError(f"{where} {why}. {self._see}")
        values = self._values(name, ())
        known = [each.name for each in dataclasses.fields(self.type) if each.name not in named]  # type: ignore[arg-type]  # a dataclass
        for key in values:
            if key not in known:
                unknown = suggest("field", key, known, f"Its fields: like, {', '.join(known)}.")
                raise ZSRobustError(f"{where}: {unknown}")
        return check({**values, **named}, self.type, where, self._see)

    @property
    def _see(self) -> str:
        return f"See: zsrobust list {self.kind}s"

    def _values(self, name: str, above: tuple[str, ...]) -> dict[str, Any]:
        """Return a file's fields, inherited ones too; `above` are the files that inherit them."""
        where = f"The {self.kind} {name}"
        if name in above:
            raise ZSRobustError(f"{where} is like itself. {self._see}")
        values = read_toml(_content(self._find(name), where), dict[str, Any], where, self._see)
        values = {key: _number(each) for key, each in values.items() if key not in self.others}
        if "like" not in values:
            return values
        like = check(values.pop("like"), str, where, self._see, "like")
        base = self._values(like, (*above, name))
        for key, value in base.items():
            if isinstance(value, dict) and isinstance(values.get(key), dict):
                values[key] = {**value, **values[key]}
            elif key not in self.alone:
                values.setdefault(key, value)
        return values

    def _find(self, name: str) -> Traversable:
        if name.endswith(".toml"):
            if not is_file(name):
                raise ZSRobustError(f"The {self.kind} file {name} is missing. {self._see}")
            return Path(name)
        if name not in self.names():
            raise suggest(self.kind, name, self.names(), self._see)
        return resources.files(self.package).joinpath(f"{name}.toml")


def _content(file: Traversable, where: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ZSRobustError(
            f"{where} cannot be read: {error.strerror}. Check its path and permissions."
        ) from None


def _number(value: Any) -> Any:
    """Return a value in which texts such as "8/255" are numbers, also inside tables and lists."""
    if isinstance(value, dict):
        return {key: _number(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_number(each) for each in value]
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}/[1-9][0-9]{0,8}", value):
        return float(Fraction(value))
    return value

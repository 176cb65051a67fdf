"""The index of the built-in attacks, defenses and datasets, which is read without importing torch.

`index.json` has what the registries have: lines for `zsrobust list`, and the types of fields, by
which specs are checked. `python -m zsrobust.running.indexing` writes it from the registries.
"""

import functools
import json
import operator
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Literal

from zsrobust.core.errors import suggest
from zsrobust.core.registry import only_builtins
from zsrobust.core.specs import parse_fields, split_spec

FILE = resources.files("zsrobust.core").joinpath("index.json")
#: The types of fields by the name that the index has for them.
TYPES: dict[str, Any] = {"bool": bool, "int": int, "float": float, "str": str, "none": type(None)}

#: By kind, "attack" for example, the entries by name; see `zsrobust.running.indexing.index`.
Index = Mapping[str, Mapping[str, Mapping[str, Any]]]


def read() -> Index | None:
    """Return the index; None if plugins are loaded or installed, because it lacks their entries."""
    return _read() if only_builtins() else None


@functools.cache
def _read() -> Index:
    found: Index = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def check(
    defenses: Sequence[str] = (), attacks: Sequence[str] = (), datasets: Sequence[str] = ()
) -> None:
    """Raise ZSRobustError for a spec whose name or field is wrong, as the registries would.

    Nothing is checked if there are plugins. What only the entry itself knows is not checked, for
    example the range of a value.
    """
    found = read()
    if found is None:
        return
    for kind, specs in (("defense", defenses), ("attack", attacks), ("dataset", datasets)):
        for spec in specs:
            name, fields = (spec, {}) if kind == "dataset" else split_spec(spec)
            _check(found[kind], kind, name, fields, f"{kind} {name!r}")


def _check(
    entries: Mapping[str, Mapping[str, Any]],
    kind: str,
    name: str,
    fields: Mapping[str, str],
    where: str,
) -> None:
    if name not in entries:
        raise suggest(kind, name, list(entries), f"See: zsrobust list {kind}s")
    entry = entries[name]
    if "fields" not in entry:
        return
    kinds = {key: decode(value) for key, value in entry["fields"].items()}
    if "around" not in entry:
        parse_fields(fields, kinds, where)
        return
    own = {key: text for key, text in fields.items() if key in kinds}
    handed = {key: text for key, text in fields.items() if key not in kinds}
    parse_fields(own, kinds, where)
    of = own.get("of", entry["around"])
    for spec in of.split("+") if entry["several"] else [of]:
        other, attached = split_spec(spec)
        if other:  # an empty member has an error of its own
            _check(entries, kind, other, {**attached, **handed}, f"{where} of {other!r}")


def decode(kind: Sequence[str | Sequence[str]]) -> Any:
    """Return the type that the index writes as a list of alternatives.

    `["float", "none"]` is `float | None`, and `[["ce", "margin"]]` is `Literal["ce", "margin"]`.
    """
    options = [TYPES[each] if isinstance(each, str) else Literal[tuple(each)] for each in kind]
    return functools.reduce(operator.or_, options)

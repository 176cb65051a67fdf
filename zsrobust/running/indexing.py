"""The index as it follows from the registries; `python -m zsrobust.running.indexing` writes it."""

import json
import types
import typing
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from zsrobust.attacks import Attack, attacks
from zsrobust.core import index
from zsrobust.core.files import write_atomically
from zsrobust.core.registry import load_plugins
from zsrobust.core.specs import field_types
from zsrobust.datasets import Dataset, datasets
from zsrobust.defenses import Around, Defense, defenses
from zsrobust.defenses.weights import Weights
from zsrobust.results.digests import checkpoint_place
from zsrobust.settings import suites
from zsrobust.settings.suites import Suite


def make(listed: Iterable[Suite]) -> index.Index:
    """Return all entries by kind and name, with the places of their checkpoints in these suites.

    An entry has `about`, its first line in `zsrobust list`, and `fields`, the types by which a spec
    is checked. An entry that parses its own spec lacks them.
    """
    suites = list(listed)
    return {
        "attack": {name: _attack(attacks[name]) for name in attacks},
        "defense": {name: _defense(defenses[name], suites) for name in defenses},
        "dataset": {name: _dataset(datasets[name]) for name in datasets},
    }


def _attack(attack: Attack) -> dict[str, Any]:
    shown = {key: each for key, each in vars(attack).items() if key not in ("eps", "step_size")}
    return {
        "about": (type(attack).__doc__ or "").strip().splitlines()[0],
        "values": ", ".join(f"{key}={each}" for key, each in shown.items()),
        **({} if hasattr(attack, "configure") else _fields(field_types(attack))),
    }


def _defense(defense: Defense, suites: list[Suite]) -> dict[str, Any]:
    about = {"about": f"{defense.title}; {defense.paper}"}
    if isinstance(defense, Weights) and defense.where:
        file = f", {defense.file}" if defense.file else ""
        backbone = f"; for {defense.backbone}" if defense.backbone else ""
        return {**about, "published": f"{defense.where}{file}{backbone}", "fields": {}}
    places = {
        suite.name: [
            checkpoint_place(suite.name, recipe.to_dict()).as_posix()
            for recipe in defense.recipes(suite)
        ]
        for suite in suites
    }
    return {**about, "checkpoints": places, **_spec(defense)}


def _spec(defense: Defense) -> dict[str, Any]:
    """Return what checks the spec of a defense; nothing if the defense parses it in its own way."""
    base = Around if isinstance(defense, Around) else Defense
    if type(defense).configure is not base.configure:
        return {}
    fields = _fields(defense.own_fields())
    if isinstance(defense, Around):
        return {"around": defense.of, "several": defense.several, **fields}
    return fields


def _dataset(dataset: Dataset) -> dict[str, Any]:
    size = f"{dataset.size} images, {len(dataset.classes)} classes, {dataset.group}"
    return {"about": dataset.about, "size": size}


def _fields(kinds: dict[str, Any]) -> dict[str, Any]:
    return {"fields": {key: _encode(kind) for key, kind in kinds.items()}}


_NAMES = {kind: name for name, kind in index.TYPES.items()}


def _encode(kind: Any) -> list[Any]:
    """Return a type as `zsrobust.core.index.decode` reads it; the inverse of that function."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return [each for option in typing.get_args(kind) for each in _encode(option)]
    if typing.get_origin(kind) is typing.Literal:
        return [list(typing.get_args(kind))]
    return [_NAMES.get(kind, str(kind))]


def text() -> str:
    """Return the content of the index file: a line for each entry."""
    made = make(suites.load(name) for name in suites.names())
    line = partial(json.dumps, ensure_ascii=False)
    kinds = [
        f"{line(kind)}: {{\n"
        + ",\n".join(f"{line(name)}: {line(entry)}" for name, entry in entries.items())
        + "\n}"
        for kind, entries in made.items()
    ]
    return "{\n" + ",\n".join(kinds) + "\n}\n"


if __name__ == "__main__":
    load_plugins()
    write_atomically(Path(str(index.FILE)), text().encode())

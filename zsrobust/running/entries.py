"""A user's own entries: a TOML file with tables `[dataset.NAME]` and `[weights.NAME]`, as ours are written."""

import tomllib
from pathlib import Path

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import load_plugins
from zsrobust.datasets.catalogue import register_dataset
from zsrobust.settings import suites
from zsrobust.settings.suites import Suite

_loaded: set[Path] = set()


def load_suite(name: str | None) -> Suite:
    """Return a suite, the default one for None; a user's file may hold datasets and weights of its own beside it."""
    loaded = suites.load(name or suites.DEFAULT)
    if name and name.endswith(".toml"):
        load_entries(Path(name))
    return loaded


def load_entries(path: Path) -> None:
    """Register the datasets and weights of a TOML file, once; paths in it are relative to its folder.

    Raises ZSRobustError if it is missing or not TOML, and for an entry that is not one.
    """
    load_plugins()
    try:
        if path.resolve() in _loaded:
            return
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ZSRobustError(f"{path} is no file of entries: {error}") from None
    for kind in suites.ENTRIES:
        entries = tables.get(kind, {})
        if not isinstance(entries, dict) or not all(
            isinstance(fields, dict) for fields in entries.values()
        ):
            raise ZSRobustError(
                f"{path}: {kind} holds no tables. Write [{kind}.NAME], and its fields below."
            )
    for name, fields in tables.get("dataset", {}).items():
        register_dataset(name, fields, path.parent)
    if "weights" in tables:
        from zsrobust.defenses.weights import register_weights

        for name, fields in tables["weights"].items():
            register_weights(name, fields, path.parent)
    _loaded.add(path.resolve())

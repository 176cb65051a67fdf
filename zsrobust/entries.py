"""A user's own entries: a TOML file with tables `[dataset.NAME]` and `[weights.NAME]`, as ours are written."""

import tomllib
from pathlib import Path

from zsrobust.datasets.catalogue import register_dataset
from zsrobust.registry import ZSRobustError, load_plugins

_loaded: set[Path] = set()


def load_entries(path: Path) -> None:
    """Register the datasets and weights of a TOML file, once; paths in it are relative to its folder.

    Raises ZSRobustError if it is missing or not TOML, and for an entry that is not one.
    """
    if path.resolve() in _loaded:
        return
    load_plugins()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ZSRobustError(f"{path} is no file of entries: {error}") from None
    _loaded.add(path.resolve())
    for name, fields in tables.get("dataset", {}).items():
        register_dataset(name, fields, path.parent)
    if "weights" in tables:
        from zsrobust.defenses.weights import register_weights

        for name, fields in tables["weights"].items():
            register_weights(name, fields, path.parent)

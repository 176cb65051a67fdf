"""Load a user's TOML file: a suite, and its tables `[dataset.NAME]` and `[weights.NAME]`."""

from pathlib import Path
from typing import Any

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import load_plugins
from zsrobust.core.values import check, read_toml
from zsrobust.settings import suites
from zsrobust.settings.suites import Suite

_loaded: set[Path] = set()


def load_suite(name: str | None) -> Suite:
    """Return a suite; None is the default suite. A user's file may define datasets and weights.

    Raises ZSRobustError for an unknown suite, and for an unknown field of attacks or recipes.
    """
    loaded = suites.load(suites.DEFAULT if name is None else name)
    if name and name.endswith(".toml"):
        load_entries(Path(name))
        from zsrobust.running.sections import check_sections

        check_sections(loaded)
    return loaded


def load_entries(path: Path) -> None:
    """Register the datasets and weights of a TOML file, once; its paths are relative to it.

    Raises ZSRobustError for a missing file, a file that is not TOML, and a wrong entry.
    """
    load_plugins()
    try:
        if path.resolve() in _loaded:
            return
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no disk can store such a name
        reason = getattr(error, "strerror", None) or error
        raise ZSRobustError(f"{path} cannot be read: {reason}. Give a TOML file.") from None
    tables = read_toml(content, dict[str, Any], str(path))
    found = {
        kind: check(tables.get(kind, {}), dict[str, dict[str, Any]], str(path), path=kind)
        for kind in suites.ENTRIES
    }
    from zsrobust.datasets.catalogue import register_dataset

    for name, fields in found["dataset"].items():
        try:
            register_dataset(name, fields, path.parent)
        except ZSRobustError as error:
            raise ZSRobustError(f"{path}: {error}") from error
    if found["weights"]:
        from zsrobust.defenses.weights import register_weights

        for name, fields in found["weights"].items():
            try:
                register_weights(name, fields, path.parent)
            except ZSRobustError as error:
                raise ZSRobustError(f"{path}: {error}") from None
    _loaded.add(path.resolve())

"""What a user's suite may set: the fields of attacks and of recipes."""

import dataclasses
from typing import Any

from zsrobust.attacks import attacks
from zsrobust.core.errors import ZSRobustError, suggest
from zsrobust.core.values import check
from zsrobust.defenses import Defense, defenses
from zsrobust.settings.suites import Suite
from zsrobust.training import GROUPS


def check_sections(suite: Suite) -> None:
    """Raise ZSRobustError for a field of `attack` or `recipe` that is unknown or not valid."""
    where = f"The suite {suite.asked}"
    known = sorted({each for name in attacks for each in _fields(attacks[name])})
    for key in suite.attack:
        if key not in known:
            unknown = suggest("field", key, known, f"Fields of attacks: {', '.join(known)}.")
            raise ZSRobustError(f"{where}: attack: {unknown}")
    check(suite.recipe, _recipe_type(), where, path="recipe")


def _fields(entry: Any) -> list[str]:
    if not dataclasses.is_dataclass(entry):
        return []
    return [field.name for field in dataclasses.fields(entry)]


def _recipe_type() -> type:
    """Return a dataclass of the recipe fields that a suite may set, for all or for one group."""
    kinds: dict[str, Any] = {}
    for defense in (defenses[name] for name in defenses):
        if isinstance(defense, Defense):
            kinds |= defense.settable
    plain = [(name, kind, None) for name, kind in kinds.items()]
    group = dataclasses.make_dataclass("Group", plain)
    groups = [(name, group, None) for name in GROUPS]
    others = [each for each in plain if each[0] not in GROUPS]
    return dataclasses.make_dataclass("Section", [*others, *groups])

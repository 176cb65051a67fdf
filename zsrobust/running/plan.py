"""The plan: which cells a command asks for."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zsrobust.attacks import Attack, attacks
from zsrobust.core import specs
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import Registry
from zsrobust.core.specs import join_spec, split_spec
from zsrobust.datasets import datasets
from zsrobust.defenses import defenses
from zsrobust.reporting import tables
from zsrobust.reporting.rows import Need
from zsrobust.settings.suites import Suite

MODULE = "module"  # the name, in a cell, of a module that is no registered defense


@dataclass(frozen=True)
class Cell:
    """One defense, attack and dataset of a suite."""

    defense: str  #: spec
    attack: str  #: spec without eps
    eps: float
    dataset: str
    limit: int | None
    seed: int


def plan(
    suite: Suite,
    defense_specs: Sequence[str] = (),
    attack_specs: Sequence[str] = (),
    dataset_names: Sequence[str] = (),
    *,
    needs: Sequence[Need] = (),
    eps: float | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Cell]:
    """Return the cells asked for, by defense, attack, dataset: `needs`, or the product of the specs.

    What is left open is what Tables 1 to 3 need. A dataset may be any that is registered, a plugin's say. Raises
    ZSRobustError for unknown names.
    """
    chosen_defenses = [normalize(spec, defenses) for spec in defense_specs]
    chosen_attacks = [normalize(spec, attacks) for spec in attack_specs]
    wanted = list(needs) or [need for number in ("1", "2", "3") for need in tables.needs(number)]
    if chosen_defenses or chosen_attacks:
        some_defenses = chosen_defenses or [need.defense for need in wanted]
        some_attacks = chosen_attacks or [need.attack for need in wanted]
        wanted = [Need(defense, attack) for defense in some_defenses for attack in some_attacks]
    cells = []
    for defense, spec, bound in dict.fromkeys(wanted):
        attack, bare = resolve_attack(spec, suite, eps if eps is not None else bound)
        for name in dataset_names or suite.datasets:
            size = limit if limit is not None else suite.limits.get(split_spec(spec)[0])
            cells.append(Cell(defense, bare, attack.eps, name, _whole(size, name), seed))
    order = list(dict.fromkeys(cell.defense for cell in cells))
    return sorted(cells, key=lambda cell: order.index(cell.defense))


def _whole(limit: int | None, dataset: str) -> int | None:
    """Return the limit, or None where it leaves the dataset whole; raises ZSRobustError below 1."""
    if limit is not None and limit < 1:
        raise ZSRobustError(f"A limit of {limit} images leaves none. Choose 1 or more.")
    return None if limit is None or limit >= datasets[dataset].size else limit


def normalize(spec: str, registry: Registry[Any]) -> str:
    """Return a spec with its fields in order; raises ZSRobustError for what the registry does not know."""
    registry.create(spec)
    return specs.normalize(spec)


def resolve_attack(spec: str, suite: Suite, eps: float | None = None) -> tuple[Attack, str]:
    """Return the attack with the suite's values where the spec leaves them open, and the spec without its eps."""
    name, fields = split_spec(spec)
    attack = attacks.create(spec, suite.attack)
    if eps is not None:
        attack = dataclasses.replace(attack, eps=eps)
    fields.pop("eps", None)
    return attack, join_spec(name, fields)

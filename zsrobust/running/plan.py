"""The plan: the cells of a command, with their objects created from specs."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zsrobust.attacks import Attack, attacks
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import Registry
from zsrobust.core.specs import format_eps, join_spec, split_spec
from zsrobust.datasets import Dataset, datasets
from zsrobust.defenses import Defense, defenses
from zsrobust.reporting import tables
from zsrobust.reporting.rows import Need
from zsrobust.settings.protocols import Protocol
from zsrobust.settings.suites import Suite

MODULE = "module"  #: the spec of a user's module, which is not a registered defense


class Key(NamedTuple):
    """The name of a cell: specs in their normal form, and numbers."""

    defense: str
    attack: str  #: without its eps
    eps: float
    dataset: str
    limit: int | None
    seed: int

    def __str__(self) -> str:
        return f"{self.defense} under {self.attack} {format_eps(self.eps)} on {self.dataset}"


@dataclass(frozen=True)
class Cell:
    """One defense under one attack on one dataset. Cells with equal keys are equal."""

    key: Key
    defense: Defense | None = field(compare=False, repr=False)  #: None for a user's module
    attack: Attack = field(compare=False, repr=False)  #: as it runs, with the suite's values
    dataset: Dataset = field(compare=False, repr=False)

    @classmethod
    def of(cls, key: Key, suite: Suite, protocol: Protocol) -> "Cell":
        """Return the cell of a key, its objects created; raises ZSRobustError for unknown names.

        The attack takes all its steps if the protocol judges the last iterate. An oblivious attack
        does, too: an image that just crossed the border of the attacked classifier rarely crosses
        the border of the deployed one. So does an attack on a randomized defense, whose verdict
        has another draw.
        """
        defense = None if key.defense == MODULE else defenses.create(key.defense)
        attack = attacks.create(key.attack, suite.attack)
        attack = dataclasses.replace(attack, eps=key.eps)
        oblivious = defense is not None and defense.knowledge == "oblivious"
        randomized = defense is not None and defense.randomized
        if oblivious or randomized or protocol.judged == "final":
            attack = attack.full()
        return cls(key, defense, attack, datasets[key.dataset])

    @property
    def size(self) -> int:
        """The number of images, before a protocol selects some of them."""
        return min(self.dataset.size, self.key.limit or self.dataset.size)


def plan(
    suite: Suite,
    protocol: Protocol,
    defense_specs: Sequence[str] = (),
    attack_specs: Sequence[str] = (),
    dataset_names: Sequence[str] = (),
    *,
    needs: Sequence[Need] = (),
    eps: float | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Cell]:
    """Return the cells of `needs`, or of the product of the specs, by defense, attack, dataset.

    Without specs, these are the cells of Tables 1 to 3. Any registered dataset is valid. Raises
    ZSRobustError for unknown names.
    """
    wanted = list(needs) or [
        need for number in ("1", "2", "3") for need in tables.needs(number, suite)
    ]
    if defense_specs or attack_specs:
        chosen_defenses = [normalize(spec, defenses) for spec in defense_specs]
        chosen_attacks = [normalize(spec, attacks) for spec in attack_specs]
        wanted = [
            Need(defense, attack)
            for defense in chosen_defenses or [need.defense for need in wanted]
            for attack in chosen_attacks or [need.attack for need in wanted]
        ]
    keys = []
    for need in dict.fromkeys(wanted):
        attack, bare = resolve_attack(need.attack, suite, eps if eps is not None else need.eps)
        usual = need.limit or suite.limits.get(split_spec(need.attack)[0])
        left_out = set(suite.datasets).difference(need.datasets(suite))
        for name in dataset_names or need.datasets(suite):
            if name not in left_out:
                size = whole(limit if limit is not None else usual, name)
                keys.append(Key(need.defense, bare, attack.eps, name, size, seed))
    keys = list(dict.fromkeys(keys))  # two tables can show the same cell
    order = list(dict.fromkeys(key.defense for key in keys))
    keys.sort(key=lambda key: order.index(key.defense))
    return [Cell.of(key, suite, protocol) for key in keys]


def whole(limit: int | None, dataset: str) -> int | None:
    """Return the limit, or None if it keeps every image; raises ZSRobustError below 1."""
    if limit is not None and limit < 1:
        raise ZSRobustError(
            f"A limit of {limit} images is not valid. Choose 1 or more: --limit 500"
        )
    return None if limit is None or limit >= datasets[dataset].size else limit


def normalize(spec: str, registry: Registry[Any]) -> str:
    """Return a spec with its fields in order; raises ZSRobustError if the spec is unknown."""
    registry.create(spec)
    return join_spec(*split_spec(spec))


def resolve_attack(spec: str, suite: Suite, eps: float | None = None) -> tuple[Attack, str]:
    """Return the attack, with the suite's values as defaults, and its spec without eps."""
    name, fields = split_spec(spec)
    attack = attacks.create(spec, suite.attack)
    if eps is not None:
        attack = dataclasses.replace(attack, eps=eps)
    fields.pop("eps", None)
    return attack, join_spec(name, fields)

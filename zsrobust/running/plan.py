"""The plan: the cells of a command, with their objects created from specs."""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zsrobust.attacks import Attack, attacks
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import Registry
from zsrobust.core.specs import format_eps, join_spec, split_spec
from zsrobust.core.sweeps import StepSize
from zsrobust.datasets import Dataset, datasets
from zsrobust.defenses import Around, Defense, defenses
from zsrobust.reporting import contents
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
    eps: float | Sequence[float] | None = None,
    limit: int | None = None,
    seed: int | Sequence[int] = 0,
    train_seeds: Sequence[int] = (),
    step_size: StepSize | None = None,
) -> list[Cell]:
    """Return the cells of `needs`, or of the product of the specs, by defense, attack, dataset.

    Without specs, these are the cells of Tables 1 to 3. Any registered dataset is valid. Several
    values of `eps` (none: those of the attacks), of `seed` (none: 0) and of `train_seeds` (none:
    those of the recipes) give their product. Raises ZSRobustError for unknown names, for a spec
    with its own training seed or step size where another is asked for, and for a `step_size`
    that no attack has.
    """
    wanted = list(needs) or [
        need for number in ("1", "2", "3") for need in contents.needs(number, suite)
    ]
    if defense_specs or attack_specs:
        chosen_defenses = [normalize(spec, defenses) for spec in defense_specs]
        chosen_attacks = [normalize(spec, attacks) for spec in attack_specs]
        wanted = [
            Need(defense, attack)
            for defense in chosen_defenses or [need.defense for need in wanted]
            for attack in chosen_attacks or [need.attack for need in wanted]
        ]
    given = [eps] if isinstance(eps, float | int) else list(eps or ())
    bounds: list[float | None] = [*given] or [None]
    own_seeds: list[int | None] = [*(train_seeds or ())] or [None]
    seeds = [seed] if isinstance(seed, int) else list(seed or (0,))
    keys, stepped = [], False
    for need, bound, drawn, own in itertools.product(
        dict.fromkeys(wanted), bounds, seeds, own_seeds
    ):
        attack, bare = resolve_attack(need.attack, suite, need.eps if bound is None else bound)
        if step_size is not None and hasattr(attack, "step_size"):
            bare, stepped = with_step(bare, attack, step_size), True
        defense = need.defense if own is None else trained_with(need.defense, own, suite)
        usual = need.limit or suite.limits.get(split_spec(need.attack)[0])
        left_out = set(suite.datasets).difference(need.datasets(suite))
        for name in dataset_names or need.datasets(suite):
            if name not in left_out:
                size = whole(limit if limit is not None else usual, name)
                keys.append(Key(defense, bare, attack.eps, name, size, drawn))
    if step_size is not None and not stepped:
        raise ZSRobustError("None of these attacks has a step size. Leave out --step-size.")
    keys = list(dict.fromkeys(keys))  # two tables can show the same cell
    order = list(dict.fromkeys(key.defense for key in keys))
    keys.sort(key=lambda key: order.index(key.defense))
    return [Cell.of(key, suite, protocol) for key in keys]


def trained_with(spec: str, seed: int, suite: Suite) -> str:
    """Return the spec of a defense that is trained with a seed.

    A defense without a training of its own passes the seed on to those that it is around. A spec
    with this seed anyway, or without any training, is returned as it is. Raises ZSRobustError if
    it sets another seed itself.
    """
    if _training_seeds(spec, suite) <= {seed}:
        return spec
    name, fields = split_spec(spec)
    entry = defenses[name]
    if isinstance(entry, Around) and entry.recipe is None and "seed" in entry.own_fields():
        # Its own seed is that of its random numbers at test time.
        fields["of"] = trained_with(fields.get("of", entry.of), seed, suite)
    elif "seed" in fields:
        raise ZSRobustError(
            f"{spec} sets a training seed itself. Leave it out of the spec, or leave out "
            "--train-seed."
        )
    else:
        fields["seed"] = str(seed)
    found = join_spec(name, fields)
    if _training_seeds(found, suite) != {seed}:
        raise ZSRobustError(
            f"--train-seed does not reach every training of {spec}. Write the seed into the spec: "
            "of=tecoa:seed=1"
        )
    return found


def _training_seeds(spec: str, suite: Suite) -> set[int]:
    """Return the seed of a defense's own training, or those of the defenses that it is around."""
    defense = defenses.create(spec)
    recipe = defense.recipe_for(suite)
    if recipe is not None:
        return {recipe.seed}
    members = defense.members if isinstance(defense, Around) else []
    return {seed for member in members for seed in _training_seeds(member, suite)}


def with_step(spec: str, attack: Attack, step_size: StepSize) -> str:
    """Return the spec of an attack, without its eps, that takes steps of a size.

    It stays as it is if the attack takes such steps anyway, so that stored cells are reused. Raises
    ZSRobustError if it sets another size itself.
    """
    name, fields = split_spec(spec)
    size, own = step_size.at(attack.eps), getattr(attack, "step_size", None)
    if own is not None and format_eps(own) == size:
        return spec
    if "step_size" in fields:
        raise ZSRobustError(
            f"{spec} sets a step size itself. Leave it out of the spec, or leave out --step-size."
        )
    return normalize(join_spec(name, {**fields, "step_size": size}), attacks)


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

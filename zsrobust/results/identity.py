"""Identities: everything that the numbers of a cell depend on."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from zsrobust.core.errors import UNPRINTABLE
from zsrobust.core.files import slug
from zsrobust.core.specs import format_eps, parse_value
from zsrobust.core.values import fits

#: Titles are printed, and never compared.
PRINTED = "title"

#: The arithmetic of a search and the switches of a protocol where an identity does not name them.
FLOAT32 = "float32"


class Difference(NamedTuple):
    """A field in which two identities differ; None where one does not have it."""

    name: str  #: dotted, as "attack.steps"
    stored: Any
    asked: Any

    def __str__(self) -> str:
        return f"{self.name} is {_shown(self.asked)}, stored {_shown(self.stored)}"


@dataclass(frozen=True)
class DefenseIdentity:
    """What identifies a defense."""

    spec: str
    title: str
    details: Mapping[str, Any] = field(default_factory=dict)  #: digests, recipe, wrapper

    @property
    def knowledge(self) -> str:
        """What the attack knows of a test-time defense; empty for other defenses."""
        return str(self.details.get("knowledge", ""))

    @property
    def recipe(self) -> Mapping[str, Any] | None:
        """The recipe of the checkpoint; None for a defense that is not trained."""
        return self.details.get("recipe")

    @property
    def checkpoint(self) -> str | None:
        """The digest of the checkpoint's weights; None for a defense that is not trained."""
        return self.details.get("checkpoint")

    def to_json(self) -> dict[str, Any]:
        """Return the defense's part of a stored identity."""
        return {"spec": self.spec, "title": self.title, **self.details}


@dataclass(frozen=True)
class AttackIdentity:
    """What identifies an attack."""

    spec: str  #: without its eps
    eps: float  #: in pixels of [0, 1]
    details: Mapping[str, Any] = field(default_factory=dict)  #: its other fields, and its plan

    def to_json(self) -> dict[str, Any]:
        """Return the attack's part of a stored identity; eps becomes text here."""
        return {"spec": self.spec, "eps": format_eps(self.eps), **self.details}


@dataclass(frozen=True)
class DatasetIdentity:
    """What identifies the images and the prompts."""

    name: str
    title: str
    limit: int | None = None  #: size of the subset; None for the whole split
    details: Mapping[str, Any] = field(
        default_factory=dict
    )  #: digests, classes, templates, split, cut

    def to_json(self) -> dict[str, Any]:
        """Return the dataset's part of a stored identity."""
        return {"name": self.name, "title": self.title, "limit": self.limit, **self.details}


@dataclass(frozen=True)
class Identity:
    """Everything that the numbers of a cell depend on."""

    suite: str
    protocol: str
    defense: DefenseIdentity
    attack: AttackIdentity
    dataset: DatasetIdentity
    seed: int = 0
    switches: Mapping[str, Any] = field(
        default_factory=dict
    )  #: where the protocol differs from `sound`
    search: str = FLOAT32  #: the precision in which the attack searches
    draws: str | None = None  #: the generator of the attack's random numbers

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Identity":
        """Return a stored identity; raises ValueError that names a field which is missing or not valid."""
        defense, attack, dataset = (
            _part(stored, name) for name in ("defense", "attack", "dataset")
        )
        return cls(
            suite=_take(stored, "suite", str),
            protocol=_take(stored, "protocol", str),
            defense=DefenseIdentity(
                _take(defense, "spec", str),
                _take(defense, "title", str),
                _rest(defense, "spec", "title"),
            ),
            attack=AttackIdentity(
                _take(attack, "spec", str),
                _bound(_take(attack, "eps", str)),
                _rest(attack, "spec", "eps"),
            ),
            dataset=DatasetIdentity(
                _take(dataset, "name", str),
                _take(dataset, "title", str),
                _take(dataset, "limit", int | None),
                _rest(dataset, "name", "title", "limit"),
            ),
            seed=_take(stored, "seed", int),
            switches=_take(stored, "switches", dict[str, Any]) if "switches" in stored else {},
            search=_take(stored, "search", str) if "search" in stored else FLOAT32,
            draws=_take(stored, "draws", str) if "draws" in stored else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the identity as JSON stores it: lists for tuples, and nothing that is not set."""
        stored = {
            "suite": self.suite,
            "protocol": self.protocol,
            "switches": self.switches or None,
            "search": None if self.search == FLOAT32 else self.search,
            "defense": self.defense.to_json(),
            "attack": self.attack.to_json(),
            "dataset": self.dataset.to_json(),
            "seed": self.seed,
            "draws": self.draws,
        }
        kept = {name: value for name, value in stored.items() if value is not None}
        return dict(json.loads(json.dumps(kept)))

    def differences(self, asked: "Identity") -> list[Difference]:
        """Return the fields in which this stored identity differs from what is asked."""
        return list(differences(self.to_json(), asked.to_json()))

    @property
    def attacks_everything(self) -> bool:
        """Whether misclassified images are attacked, too: robust is then correct under attack."""
        return self.switches.get("attacked") == "all"

    @property
    def about(self) -> dict[str, Any]:
        """The cell's suite, protocol, attack, eps, defense, dataset, seed and limit, as `load_results` names them."""
        return {
            "suite": self.suite,
            "protocol": self.protocol,
            "seed": self.seed,
            "attack": self.attack.spec,
            "eps": format_eps(self.attack.eps),
            "defense": self.defense.spec,
            "dataset": self.dataset.name,
            "limit": self.dataset.limit,
        }

    @property
    def path(self) -> Path:
        """The cell's place in the results folder: a relative path without suffix."""
        subset = "" if self.dataset.limit is None else f".limit={self.dataset.limit}"
        seed = f".seed={self.seed}" if self.seed else ""
        attack = f"{self.attack.spec}-eps={format_eps(self.attack.eps)}"
        folders = [slug(each) for each in (self.suite, self.protocol, attack, self.defense.spec)]
        return Path(*folders, slug(self.dataset.name) + subset + seed)

    @property
    def row(self) -> str:
        """A digest of defense, attack and switches, which all cells of a row of a table must share."""
        stored = self.to_json()
        defense = {name: value for name, value in stored["defense"].items() if name != PRINTED}
        attack = {name: value for name, value in stored["attack"].items() if name != "plan"}
        more = [stored[name] for name in ("switches", "search") if name in stored]
        text = json.dumps([defense, attack, *more], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(
    stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = ""
) -> Iterator[Difference]:
    """Yield the fields in which two parts of stored identities differ, but for titles."""
    for key in sorted((stored.keys() | asked.keys()) - {PRINTED}):
        old, new = stored.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield Difference(f"{prefix}{key}", old, new)


def _part(stored: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = _take(stored, name, dict[str, Any])
    return {**part}


def _take(stored: Mapping[str, Any], name: str, kind: Any) -> Any:
    value = stored.get(name)
    printable = not (isinstance(value, str) and UNPRINTABLE.search(value))
    if not fits(value, kind) or not printable:
        raise ValueError(f"{name} of its identity is missing, or not valid")
    return value


def _bound(text: str) -> float:
    eps = float(parse_value(text, float))
    if not 0 < eps < math.inf:
        raise ValueError(f"eps {text!r} of its identity is not a bound")
    return eps


def _rest(part: Mapping[str, Any], *taken: str) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in taken}


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:8]}…"

"""Identities: everything that the numbers of a cell depend on, as results store it."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from zsrobust.core.files import slug
from zsrobust.core.specs import format_eps, join_spec, parse_value, split_spec
from zsrobust.core.values import Text, fits

PRINTED = "title"  #: the field that is printed, and never compared
FLOAT32 = "float32"  #: the precision of a search, if the identity does not name one


class Difference(NamedTuple):
    """A field in which two identities differ; its value is None in an identity that lacks it."""

    name: str  #: with dots: "attack.steps"
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
        """What the attack knows about a test-time defense; "" for other defenses."""
        return str(self.details.get("knowledge", ""))

    @property
    def recipe(self) -> Mapping[str, Any] | None:
        """The recipe of the checkpoint; None for a defense that is not trained."""
        return self.details.get("recipe")

    @property
    def checkpoint(self) -> str | None:
        """The digest of the checkpoint's weights; None for a defense that is not trained."""
        return self.details.get("checkpoint")

    @property
    def trained(self) -> dict[str, Mapping[str, Any]]:
        """The details with a checkpoint and a recipe, by their place: its own, and its towers'."""
        return {
            place: details
            for place, details in _towers("defense", self.details)
            if details.get("checkpoint") and details.get("recipe")
        }

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
    #: digests, classes, templates, split, cut
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> int | None:
        """The number of classes; None if the identity does not store a positive number."""
        count = self.details.get("classes")
        return count if isinstance(count, int) and count > 0 else None

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
    #: the switches in which the protocol differs from `sound`
    switches: Mapping[str, Any] = field(default_factory=dict)
    search: str = FLOAT32  #: the precision of the attack's search
    compiled: bool = False  #: whether the attack searches in a compiled classifier
    draws: str | None = None  #: the generator of the attack's random numbers

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Identity":
        """Return a stored identity; raises ValueError for a field that is missing or not valid."""
        stored = {"switches": {}, "search": FLOAT32, "compiled": False, **stored}
        attack = _part(stored, "attack", spec=Text, eps=Text)
        dataset = _part(stored, "dataset", name=Text, title=Text, limit=int | None)
        return cls(
            suite=_take(stored, "suite", Text),
            protocol=_take(stored, "protocol", Text),
            defense=DefenseIdentity(**_part(stored, "defense", spec=Text, title=Text)),
            attack=AttackIdentity(**{**attack, "eps": _bound(attack["eps"])}),
            dataset=DatasetIdentity(**dataset),
            seed=_take(stored, "seed", int),
            switches=_take(stored, "switches", dict[str, Any]),
            search=_take(stored, "search", Text),
            compiled=_take(stored, "compiled", bool),
            draws=_take(stored, "draws", Text | None),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the identity as JSON stores it, with lists for tuples and without unset fields."""
        return dict(json.loads(json.dumps(self._fields())))

    def _fields(self) -> dict[str, Any]:
        stored = {
            "suite": self.suite,
            "protocol": self.protocol,
            "switches": self.switches or None,
            "search": None if self.search == FLOAT32 else self.search,
            "compiled": self.compiled or None,
            "defense": self.defense.to_json(),
            "attack": self.attack.to_json(),
            "dataset": self.dataset.to_json(),
            "seed": self.seed,
            "draws": self.draws,
        }
        return {name: value for name, value in stored.items() if value is not None}

    def differences(self, asked: "Identity") -> list[Difference]:
        """Return the fields in which this stored identity differs from the `asked` one."""
        return list(differences(self.to_json(), asked.to_json()))

    @property
    def attacks_everything(self) -> bool:
        """Whether misclassified images are attacked, too; see `Outcomes.right`."""
        return self.switches.get("attacked") == "all"

    @property
    def about(self) -> dict[str, Any]:
        """The suite, protocol, seed, attack, eps, defense, dataset and limit of `load_results`."""
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
        """Digest of the defense, attack and switches; all cells in a row of a table share it."""
        stored = self._fields()
        defense = _compared(stored["defense"])
        attack = {
            name: value
            for name, value in stored["attack"].items()
            if name not in ("plan", "prompts")  # which differ by dataset
        }
        more = [stored[name] for name in ("switches", "search", "compiled") if name in stored]
        return _short_digest([defense, attack, *more])

    @property
    def deployed(self) -> str:
        """Digest of the defense; cells of one checkpoint share it, whatever attacks know of it."""
        defense = _compared(self.defense.to_json())
        defense.pop("knowledge", None)
        return _short_digest({**defense, "spec": deployed_spec(self.defense.spec)})


def deployed_spec(spec: str) -> str:
    """Return the spec of a deployed defense: without what the attack knows of it."""
    name, fields = split_spec(spec)
    return join_spec(name, {key: value for key, value in fields.items() if key != "knowledge"})


def _compared(defense: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in defense.items() if name != PRINTED}


def _short_digest(stored: Any) -> str:
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()[:16]


def is_checkpoint(name: str) -> bool:
    """Return whether a field is the digest of a checkpoint that a defense is made from."""
    inner = name.startswith("defense.towers.") and name.endswith(".checkpoint")
    return inner or name == "defense.checkpoint"


def _towers(place: str, details: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a defense's details with their place, and those of the towers it is made from."""
    yield place, details
    for spec, inner in details.get("towers", {}).items():
        yield from _towers(f"{place}.towers.{spec}", inner)


def differences(
    stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = ""
) -> Iterator[Difference]:
    """Yield the fields, except titles, in which two parts of stored identities differ."""
    for key in sorted((stored.keys() | asked.keys()) - {PRINTED}):
        old, new = stored.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield Difference(f"{prefix}{key}", old, new)


def _part(stored: Mapping[str, Any], name: str, /, **kinds: Any) -> dict[str, Any]:
    """Return the fields of a part that have a type in `kinds`, and all others as `details`."""
    part = _take(stored, name, dict[str, Any])
    taken = {key: _take(part, key, kind) for key, kind in kinds.items()}
    return {**taken, "details": {key: part[key] for key in part if key not in kinds}}


def _take(stored: Mapping[str, Any], name: str, kind: Any) -> Any:
    if not fits(stored.get(name), kind):
        raise ValueError(f"{name} of its identity is missing or not valid")
    return stored.get(name)


def _bound(text: str) -> float:
    eps = float(parse_value(text, float))
    if not 0 < eps < math.inf:
        raise ValueError(f"eps {text!r} of its identity is not a number above 0")
    return eps


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:8]}…"

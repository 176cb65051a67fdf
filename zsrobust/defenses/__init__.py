"""Defenses: one file for each published method, with its source, objective, recipe and row."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import Registry
from zsrobust.core.specs import field_types, join_spec, normalize, parse_fields, split_spec
from zsrobust.datasets import Wording
from zsrobust.models.clip import Clip
from zsrobust.models.heads import Head
from zsrobust.models.randomized import parse_judged
from zsrobust.models.wrappers import Knowledge, Wrapper
from zsrobust.models.zeroshot import ZeroShotClassifier
from zsrobust.settings.suites import Suite
from zsrobust.training import GROUPS, Recipe

if TYPE_CHECKING:
    from zsrobust.defenses.workshop import Workshop

#: Fields of a recipe that a spec cannot set: they are the method's, or the suite's.
FIXED = ("objective", "backbone", "trainable", "tower", "options")


@dataclass(frozen=True, kw_only=True)
class Defense:
    """A defense whose image tower is the backbone's own, or made from it by a recipe."""

    title: str  #: as printed in tables
    paper: str  #: where it was published
    recipe: Recipe | None = None
    choices: Mapping[str, Any] = field(
        default_factory=dict
    )  #: types of options that their values do not tell
    overrides: Mapping[str, Any] = field(
        default_factory=dict
    )  #: values that a spec sets for the recipe and its options
    knowledge = ""  #: what an attack knows of a test-time defense; empty for other defenses
    randomized = False  #: whether it draws random numbers at test time

    @property
    def passes(self) -> int:
        """The passes through the image tower for one pass through the deployed defense."""
        return 1

    @property
    def settable(self) -> dict[str, Any]:
        """The types of what a spec or a suite can set, by name: the recipe's fields and options."""
        if self.recipe is None:
            return {}
        fields = {
            name: kind for name, kind in field_types(self.recipe).items() if name not in FIXED
        }
        options = {name: type(value) for name, value in self.recipe.options.items()}
        return {**fields, **options, **self.choices}

    def own_fields(self) -> dict[str, Any]:
        """Return the types of its own fields by name, without those of a defense it is around."""
        return self.settable

    def configure(self, fields: Mapping[str, str], where: str) -> "Defense":
        """Return the defense with a spec's fields set; raises ZSRobustError for an unknown one."""
        return dataclasses.replace(self, overrides=parse_fields(fields, self.own_fields(), where))

    def recipe_for(self, suite: Suite) -> Recipe | None:
        """Return the recipe with the suite's values in it, and what the spec set on top."""
        if self.recipe is None:
            return None
        values: dict[str, Any] = {
            key: value for key, value in suite.recipe.items() if key not in GROUPS
        }
        values |= suite.recipe.get(self.recipe.trainable, {})
        known = {
            field.name for field in dataclasses.fields(self.recipe)
        } | self.recipe.options.keys()
        values = {key: value for key, value in values.items() if key in known}
        values["backbone"] = suite.backbone
        if self.recipe.attack is None:
            values |= {"attack": None, "eps": None, "step_size": None}
        values |= self.overrides
        options = {name: values.pop(name, value) for name, value in self.recipe.options.items()}
        return dataclasses.replace(self.recipe, **values, options=options)

    def recipes(self, suite: Suite) -> list[Recipe]:
        """Return the recipes of the checkpoints that it is made from."""
        recipe = self.recipe_for(suite)
        return [] if recipe is None else [recipe]

    def tower(self, workshop: "Workshop") -> "Tower":
        """Return the image tower on this suite, trained if it is missing."""
        recipe = self.recipe_for(workshop.suite)
        if recipe is None:
            clip = workshop.clip
            encoder = Late(lambda: clip.encoder)
            return Tower(encoder, {"backbone": clip.digest}, {"epoch_seconds": 0.0})
        return workshop.trained(
            recipe, f"{self.title} {recipe.digest[:4]}" if self.overrides else self.title
        )


class Late:
    """An image tower that is made when it is first asked for. Stored results need its identity."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        """Take the function that makes the tower."""
        self.make = make

    @cached_property
    def module(self) -> nn.Module:
        """The tower, made once."""
        return self.make()


@dataclass(frozen=True)
class Tower:
    """An image tower, the head that belongs to it, and what identifies both."""

    image: nn.Module | Late
    identity: dict[str, Any]  #: digests and recipe; part of a result's identity
    training: dict[str, Any] = field(
        default_factory=dict
    )  #: how long it took, and the like; no part of it
    wrapper: Wrapper | None = None  #: what a test-time defense puts around the classifier
    knowledge: Knowledge = "adaptive"  #: what an attack knows of the wrapper, or of the head
    head: Head | None = None  #: None: the backbone's text tower encodes the prompts
    attacked: Head | None = None  #: the head that an oblivious attack sees; None: the deployed one

    @property
    def encoder(self) -> nn.Module:
        """The image tower: normalized images (N, 3, S, S) to embeddings (N, D)."""
        return self.image.module if isinstance(self.image, Late) else self.image

    def classifier(
        self,
        clip: Clip,
        wording: Wording,
        scale: float | None = None,
        normalization: str | None = None,
        *,
        attacked: bool = False,
    ) -> ZeroShotClassifier:
        """Return the classifier of a dataset's classes, without the wrapper; see `Clip.classifier`.

        With `attacked`, it is the one that an oblivious attack sees.
        """
        head = self.attacked if attacked else self.head
        with torch.no_grad():
            rows = None if head is None else head(wording, scale)
        made = clip.classifier(wording.prompts, self.encoder, scale, normalization, rows)
        made.wording = wording
        return made


@dataclass(frozen=True, kw_only=True)
class Around(Defense):
    """A defense made from another one, whose spec is `of`, or from several: `of=tecoa+fare`.

    A field of its spec is its own if it has a field of that name. If not, every other defense gets
    it. A field right after the name of another defense, `of=tecoa:eps=1/255`, is always that one's.
    Each of several can have one such field, because a comma ends `of`.
    """

    of: str = "tecoa"
    several = False  #: whether `of` can name several defenses, joined by "+"

    def check_around(self, other: Defense, where: str) -> None:
        """Raise ZSRobustError if it cannot be around the other defense."""

    def title_around(self, *others: Defense) -> str:
        """Return its title, which names the other defenses."""
        return f"{self.title} ({' + '.join(other.title for other in others)})"

    def own_fields(self) -> dict[str, Any]:
        """Return the types of its own fields: `of`, a subclass's, and those of its recipe."""
        inherited = {field.name for field in dataclasses.fields(Defense)}
        added = {name: kind for name, kind in field_types(self).items() if name not in inherited}
        return {**added, **self.settable}

    @property
    def members(self) -> list[str]:
        """The specs of the other defenses, in their order."""
        return self.split(self.of)

    def split(self, of: str) -> list[str]:
        """Return the specs in a value of `of`."""
        return [spec.strip() for spec in of.split("+")] if self.several else [of]

    def configure(self, fields: Mapping[str, str], where: str) -> "Around":
        """Return the defense that a spec names.

        Raises ZSRobustError for a field that no defense has, one that is set twice, one that
        could belong to two defenses, and for members that are not different.
        """
        kinds = self.own_fields()
        own = {key: text for key, text in fields.items() if key in kinds}
        handed = {key: text for key, text in fields.items() if key not in kinds}
        values = parse_fields(own, kinds, where)
        of = values.pop("of", self.of)
        specs = self.split(of)
        if self.several:
            _check_members(of, specs, handed, where)
        others = [self._other(spec, own, handed, where) for spec in specs]
        joined = "+".join(spec for spec, _ in others)
        overrides = {name: values.pop(name) for name in values.keys() & self.settable.keys()}
        changed = dataclasses.replace(self, of=joined, overrides=overrides, **values)
        title = changed.title_around(*(other for _, other in others))
        return dataclasses.replace(changed, title=title)

    def _other(
        self, spec: str, own: Mapping[str, str], handed: Mapping[str, str], where: str
    ) -> tuple[str, Defense]:
        """Return the whole spec of a defense that it is around, and that defense."""
        name, attached = split_spec(spec)
        if twice := sorted(attached.keys() & handed.keys()):
            raise ZSRobustError(f"{where} sets {twice[0]} of {name!r} twice. Set it once.")
        self.check_around(defenses[name], where)
        other = defenses[name].configure({**attached, **handed}, f"{where} of {name!r}")
        if other.knowledge == "oblivious":
            raise ZSRobustError(
                f"{where}: an attack on {spec} does not know all of it. "
                "Only the outermost defense sets what an attack knows. Leave it out"
            )
        _check_unambiguous(own, spec, where, self.settable)
        return join_spec(name, {**attached, **handed}), other

    def recipes(self, suite: Suite) -> list[Recipe]:
        """Return the recipes of the other defenses, and its own."""
        others = [each for spec in self.members for each in defenses.create(spec).recipes(suite)]
        return others + super().recipes(suite)


def _check_members(of: str, specs: Sequence[str], handed: Mapping[str, str], where: str) -> None:
    """Raise ZSRobustError unless the members are different ones, and the spec can express them.

    In `soup:of=tecoa:seed=1,epochs=2+fare` the comma ends `of`.
    """
    for key, text in handed.items():
        if "+" in text:
            raise ZSRobustError(
                f"{where}: {key}={text!r} has a '+', but a comma ends the list of members. Give "
                "each member one field at most, and write fields of all members at the end: "
                "of=tecoa+tecoa:seed=1,epochs=2"
            )
    if not all(specs) or len({normalize(spec) for spec in specs}) < len(specs):
        raise ZSRobustError(
            f"{where}: {of!r} is not a list of different defenses. "
            "Join their names with '+': of=tecoa+tecoa:seed=1"
        )


def _check_unambiguous(
    own: Mapping[str, str], of: str, where: str, kinds: Mapping[str, Any]
) -> None:
    """Raise ZSRobustError if a field of `own` reads as if it belonged to the fields that `of` sets.

    In `ttc:of=tecoa:epochs=1,eps=2/255` both defenses have a field eps. `kinds` has the
    fields of the outer defense's recipe.
    """
    chain = _chain(of)
    attached = {key: text for _, fields in chain for key, text in fields.items()}
    for key in own if attached else ():
        shared = [name for name, _ in chain if key in defenses[name].own_fields()]
        if shared and key not in ("of", *attached):
            names = ":of=".join(name for name, _ in chain)
            if attached.keys() & kinds.keys():
                raise ZSRobustError(
                    f"{where}: {key} is a field of {shared[0]!r}, too, and a spec cannot set both "
                    f"apart. Register {names} with its fields under a name, and write of=NAME"
                )
            apart = join_spec("", attached | {key: own[key]}).removeprefix(":")
            raise ZSRobustError(
                f"{where}: {key} is a field of {shared[0]!r}, too. "
                f"To set its own, write of={names},{apart}; "
                f"to set that of {shared[0]!r}, write {shared[0]}:{key}={own[key]}"
            )


def _chain(of: str) -> list[tuple[str, dict[str, str]]]:
    """Return the names of a defense and of those it is around, each with the fields set at it."""
    name, fields = split_spec(of)
    entry = defenses[name]
    if not isinstance(entry, Around):
        return [(name, fields)]
    inner = entry.split(fields.pop("of", entry.of))
    # A field after several members is never one member's.
    return [(name, fields), *(_chain(inner[0]) if len(inner) == 1 else [])]


@dataclass(frozen=True, kw_only=True)
class Wrapped(Around):
    """A test-time defense around another defense.

    An attack knows it, or does not: two specs, two rows. A subclass adds its fields, and makes the
    wrapper of the classifier.
    """

    knowledge: Knowledge = "adaptive"

    def wrapper(self, workshop: "Workshop") -> Wrapper:
        """Return how the classifier is wrapped."""
        raise NotImplementedError

    def check_around(self, other: Defense, where: str) -> None:
        """Raise ZSRobustError if the other defense is a wrapper, too."""
        if isinstance(other, Wrapped):
            raise ZSRobustError(
                f"{where}: {other.title} is a wrapper, too. Wrap a defense of the weights: of=tecoa"
            )

    def title_around(self, *others: Defense) -> str:
        """Return its title, which names the other defense, and an oblivious attack."""
        title = super().title_around(*others)
        return f"{title}, oblivious attack" if self.knowledge == "oblivious" else title

    def tower(self, workshop: "Workshop") -> "Tower":
        """Return the other defense's tower, to be wrapped."""
        inner = workshop.tower(self.of)
        fields = {name: getattr(self, name) for name in self.own_fields() if name != "knowledge"}
        identity = {**inner.identity, "wrapper": fields}
        return dataclasses.replace(
            inner,
            identity=identity,
            wrapper=self.wrapper(workshop),
            knowledge=self.knowledge,
        )


@dataclass(frozen=True, kw_only=True)
class Drawn(Wrapped):
    """A test-time defense with random numbers. They come from the image's pixels and `seed`.

    `judged` says which draws make the verdict; see `zsrobust.models.randomized.Judged`.
    """

    judged: str = "one_shot"
    seed: int = 0
    randomized = True

    def __post_init__(self) -> None:
        parse_judged(self.judged)

    def title_around(self, *others: Defense) -> str:
        """Return its title, which names the other defense, and how it is judged if not by one."""
        title = super().title_around(*others)
        return title if self.judged == "one_shot" else f"{title}, {self.judged.replace('_', ' ')}"


defenses: Registry[Defense] = Registry("defense", "defenses", accepts=Defense)

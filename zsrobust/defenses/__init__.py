"""Defenses: one file a published method, with where it comes from, its objective, its recipe and its row."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import Registry
from zsrobust.core.specs import field_types, join_spec, parse_fields, split_spec
from zsrobust.models.wrappers import Knowledge, Wrapper
from zsrobust.settings.suites import Suite
from zsrobust.training import Recipe

if TYPE_CHECKING:
    from zsrobust.defenses.workshop import Workshop

#: Fields of a recipe that a spec cannot set: they are the method's, or the suite's.
FIXED = ("objective", "backbone", "trainable", "options")


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

    @property
    def settable(self) -> dict[str, Any]:
        """The types of what a spec or a suite can set, by name: fields of the recipe, and its options."""
        if self.recipe is None:
            return {}
        fields = {
            name: kind for name, kind in field_types(self.recipe).items() if name not in FIXED
        }
        options = {name: type(value) for name, value in self.recipe.options.items()}
        return {**fields, **options, **self.choices}

    def configure(self, fields: Mapping[str, str], where: str) -> "Defense":
        """Return the defense with fields of its recipe, or of the recipe's options, set from a spec."""
        return dataclasses.replace(self, overrides=parse_fields(fields, self.settable, where))

    def recipe_for(self, suite: Suite) -> Recipe | None:
        """Return the recipe with the suite's values in it, and what the spec set on top."""
        if self.recipe is None:
            return None
        groups = ("encoder", "prompts")
        values: dict[str, Any] = {
            key: value for key, value in suite.recipe.items() if key not in groups
        }
        values |= suite.recipe.get(self.recipe.trainable, {})
        known = {
            field.name for field in dataclasses.fields(self.recipe)
        } | self.recipe.options.keys()
        values = {key: value for key, value in values.items() if key in known}
        values["backbone"] = suite.backbone
        if self.recipe.attack is None:
            values |= {"eps": None, "step_size": None}
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
            return Tower(
                workshop.clip.encoder, {"backbone": workshop.clip.digest}, {"epoch_seconds": 0.0}
            )
        return workshop.trained(
            recipe, f"{self.title} {recipe.digest[:4]}" if self.overrides else self.title
        )


@dataclass(frozen=True)
class Tower:
    """An image tower and what identifies it."""

    encoder: nn.Module
    identity: dict[str, Any]  #: digests and recipe; part of a result's identity
    training: dict[str, Any] = field(
        default_factory=dict
    )  #: how long it took, and the like; no part of it
    wrapper: Wrapper | None = None  #: what a test-time defense puts around the classifier
    knowledge: Knowledge = "adaptive"  #: what an attack knows of the wrapper


@dataclass(frozen=True, kw_only=True)
class Wrapped(Defense):
    """A test-time defense around another defense, attacked with or without knowledge of it: two specs, two rows.

    A subclass adds its fields, and says how the classifier is wrapped.
    """

    of: str = "tecoa"
    knowledge: Knowledge = "adaptive"

    def wrapper(self, workshop: "Workshop") -> Wrapper:
        """Return how the classifier is wrapped."""
        raise NotImplementedError

    @property
    def passes(self) -> int:
        """How many passes through the image tower one through what is deployed takes, for estimates."""
        return 1

    def own_fields(self) -> dict[str, Any]:
        """Return the types of its fields by name: `of`, `knowledge`, and those of a subclass."""
        inherited = {field.name for field in dataclasses.fields(Defense)}
        return {name: kind for name, kind in field_types(self).items() if name not in inherited}

    def configure(self, fields: Mapping[str, str], where: str) -> "Wrapped":
        """Return the defense that a spec names; fields that it does not have itself go to the other defense."""
        kinds = self.own_fields()
        values = parse_fields(
            {key: value for key, value in fields.items() if key in kinds}, kinds, where
        )
        name, others = split_spec(values.pop("of", self.of))
        others |= {key: value for key, value in fields.items() if key not in kinds}
        if others:
            defenses[name].configure(others, f"{where} of {name!r}")
        of = join_spec(name, others)
        inner = defenses.create(of)
        if isinstance(inner, Wrapped):
            raise ZSRobustError(
                f"{where}: {of} is wrapped already. Choose a defense of the weights: of=tecoa"
            )
        changed = dataclasses.replace(self, of=of, **values)
        unaware = ", oblivious attack" if changed.knowledge == "oblivious" else ""
        return dataclasses.replace(changed, title=f"{self.title} ({inner.title}){unaware}")

    def recipes(self, suite: Suite) -> list[Recipe]:
        """Return the recipes of the other defense."""
        return defenses.create(self.of).recipes(suite)

    def tower(self, workshop: "Workshop") -> "Tower":
        """Return the other defense's tower, to be wrapped."""
        inner = workshop.tower(self.of)
        fields = {name: getattr(self, name) for name in self.own_fields() if name != "knowledge"}
        identity = {**inner.identity, "wrapper": fields}
        return Tower(
            inner.encoder, identity, inner.training, self.wrapper(workshop), self.knowledge
        )


defenses: Registry[Defense] = Registry("defense", "defenses")

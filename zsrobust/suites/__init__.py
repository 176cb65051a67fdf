"""Suites: on what is measured. One TOML file a suite."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from zsrobust.registry import ZSRobustError, parse_eps, suggest

DEFAULT = "paper"
PROTOCOL = "sound"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A backbone, its datasets in the order of the tables' columns, and what it changes in attacks and recipes."""

    name: str
    title: str
    backbone: str
    train_on: str
    datasets: tuple[str, ...]
    attack: Mapping[str, float]  #: values for the attacks' fields, `eps` among them, in pixels of [0, 1]
    limits: Mapping[str, int] = field(default_factory=dict)  #: by attack: the size of the subset it is measured on
    recipe: Mapping[str, Any] = field(default_factory=dict)  #: values for the recipes' fields


def names() -> list[str]:
    """Return the names of the suites there are."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


@cache
def load(name: str) -> Suite:
    """Return a suite by name; raises ZSRobustError for one that is not there."""
    if name not in names():
        if name == DEFAULT:
            raise ZSRobustError(
                "The suite 'paper' (16 real datasets, ViT-B/32) is not there yet. Until then: zsrobust run --suite mini"
            )
        raise suggest("suite", name, names(), "See: zsrobust list suites")
    fields = tomllib.loads(resources.files(__name__).joinpath(f"{name}.toml").read_text())
    fields["datasets"] = tuple(fields["datasets"])
    for section in ("attack", "recipe"):
        fields[section] = {
            key: parse_eps(value) if key in ("eps", "step_size") else value for key, value in fields[section].items()
        }
    return Suite(name=name, **fields)

"""Suites: on what is measured. One TOML file a suite; users may pass their own."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from zsrobust.core.errors import UNPRINTABLE, ZSRobustError, suggest
from zsrobust.core.files import is_file
from zsrobust.core.specs import parse_eps, parse_value
from zsrobust.core.values import fits

DEFAULT = "paper"
MOST = 10**12  #: images, more than any set has

#: Tables of a user's file that are not the suite's; see `zsrobust.entries`.
ENTRIES = ("dataset", "weights")

_Value = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A backbone, its datasets in the order of the tables' columns, and what it changes in attacks and recipes."""

    name: str
    title: str
    backbone: str
    train_on: str
    datasets: tuple[str, ...]
    attack: Mapping[
        str, float
    ]  #: values for the attacks' fields, `eps` among them, in pixels of [0, 1]
    limits: Mapping[str, int] = field(
        default_factory=dict
    )  #: by attack: the size of the subset it is measured on
    recipe: Mapping[str, Any] = field(default_factory=dict)  #: values for the recipes' fields
    sweep: tuple[float, ...] = ()  #: the bounds of Figure 4, in pixels of [0, 1]
    printed: tuple[str, ...] = ()  #: the paper's tables whose numbers are of this suite
    asked: str = ""  #: the name or the file that it was loaded by, for the next command
    second: str | None = None  #: the suite with the second target dataset, of Tables s1 and s2


def names() -> list[str]:
    """Return the names of the suites there are."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def firsts() -> dict[str, str]:
    """Return the suites of ours that have a second series, by the name of that."""
    return {second: name for name in names() if (second := load(name).second)}


def load(name: str) -> Suite:
    """Return a suite by name, or from a TOML file by its path, named as the file.

    A file may say `like = "paper"`, and only what differs. Raises ZSRobustError for a suite that is not there, or not one,
    and for a file with the name of one of ours, whose results it would mix with.
    """
    if name.endswith(".toml") and Path(name).stem in names():
        raise ZSRobustError(
            f"The suite {Path(name).stem!r} is one of ours; give the file {name} another name."
        )
    try:
        return _suite(Path(name).stem if name.endswith(".toml") else name, _values(name), name)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ZSRobustError(
            f"The suite {name} is not one: {error}. An example: zsrobust/suites/paper.toml"
        ) from None


def _values(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a suite's file says, on top of the suite that it is like."""
    if name in above:
        raise ZSRobustError(f"The suite {name} is like itself.")
    if name.endswith(".toml"):
        if not is_file(name):
            raise ZSRobustError(f"No suite file {name}. See: zsrobust list suites")
        values = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    elif name in names():
        values = tomllib.loads(
            resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
        )
    else:
        raise suggest("suite", name, names(), "See: zsrobust list suites")
    if "like" not in values:
        return values
    base = _values(values.pop("like"), (*above, name))
    for own in ("second", "printed"):  # of that suite, and of none that is like it
        base.pop(own, None)
    for section in ("attack", "limits", "recipe"):
        values[section] = {**base.get(section, {}), **values.get(section, {})}
    return {**base, **values}


def _suite(name: str, values: dict[str, Any], asked: str) -> Suite:
    values = {key: value for key, value in values.items() if key not in ENTRIES}
    known = [each.name for each in fields(Suite) if each.name not in ("name", "asked")]
    for key in values.keys() - set(known):
        raise suggest(
            f"field of the suite {name}:", key, known, f"Its fields: {', '.join(known)}, like."
        )
    for key in {"title", "backbone", "train_on", "datasets", "attack"} - values.keys():
        raise ZSRobustError(f'The suite {name} does not say its {key}. Give it, or like = "paper".')
    for key in ("title", "backbone", "train_on"):
        if not fits(values[key], str) or UNPRINTABLE.search(values[key]):
            raise ZSRobustError(f"The suite {name}: {key} is a line of text.")
    if not fits(values["datasets"], list[str]) or any(map(UNPRINTABLE.search, values["datasets"])):
        raise ZSRobustError(f"The suite {name}: datasets is a list of names.")
    if not fits(limits := values.get("limits", {}), dict[str, int]) or not all(
        0 < size <= MOST for size in limits.values()
    ):
        raise ZSRobustError(f"The suite {name}: limits are whole numbers of images, by attack.")
    for section, kind in (
        ("attack", dict[str, _Value]),
        ("recipe", dict[str, _Value | dict[str, _Value]]),
    ):
        if not fits(values.get(section, {}), kind):
            raise ZSRobustError(
                f"The suite {name}: [{section}] holds numbers by their names, and bounds as '8/255'."
            )
    for key in ("printed", "sweep"):
        if not fits(values.get(key, []), list[_Value]):
            raise ZSRobustError(f"The suite {name}: {key} is a list.")
    for key, value in values.get("recipe", {}).items():
        if isinstance(value, dict) != (key in ("encoder", "prompts")):
            raise ZSRobustError(
                f"The suite {name}: of its recipe, encoder and prompts are tables, and nothing else: {key}."
            )
        if isinstance(value, str) and key not in (
            "train_on",
            "eps",
            "step_size",
            "zoom",
            "interpolation",
            "optimizer",
        ):
            raise ZSRobustError(
                f"The suite {name}: {key} of its recipe is a number, not {value!r}."
            )
    if not isinstance(values.get("second"), str | None):
        raise ZSRobustError(f"The suite {name}: second is the name of a suite.")
    values["datasets"] = tuple(values["datasets"])
    values["printed"] = tuple(map(str, values.get("printed", ())))
    values["sweep"] = tuple(parse_eps(str(bound)) for bound in values.get("sweep", ()))
    for section in ("attack", "recipe"):
        values[section] = {
            key: _number(key, value) for key, value in values.get(section, {}).items()
        }
    if "eps" not in values["attack"]:
        raise ZSRobustError(
            f"The suite {name} does not say the eps of its attacks: [attack] eps = '1/255'."
        )
    return Suite(name=name, asked=asked, **values)


def _number(key: str, value: Any) -> Any:
    if key in ("eps", "step_size"):
        return parse_eps(str(value))
    return parse_value(value, float) if key == "zoom" and isinstance(value, str) else value

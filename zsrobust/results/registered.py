"""The names of the built-in attacks and defenses, and whether an identity contradicts its own.

`registered.toml` has what the registries have, so that stored results are verified without torch.
Names that it lacks, for example those of plugins, are not verified.
"""

import math
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import parse_value, split_spec
from zsrobust.results.cell import Result, versions
from zsrobust.results.identity import Identity
from zsrobust.settings import suites


@cache
def registered() -> Mapping[str, Mapping[str, Any]]:
    """Return the fields of each built-in attack and the title of each built-in defense, by name."""
    file = resources.files("zsrobust.results").joinpath("registered.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def of_this_version(result: Result) -> bool:
    """Return whether a result was measured by this version, whose titles and rules are known."""
    return result.versions.get("zsrobust") == versions().get("zsrobust") is not None


def misnamed(result: Result) -> list[str]:
    """Return where a result's attack or title differs from its spec, in words.

    Titles may improve from version to version: only those of this version are compared.
    """
    try:
        wrong = _wrong_fields(result.identity)
        if of_this_version(result) and (expected := _expected_title(result.identity)):
            wrong.append(f"its title is {result.identity.defense.title!r}, not {expected!r}")
        return wrong
    except ZSRobustError as error:
        return [f"its spec is not valid: {error}"]


def _wrong_fields(identity: Identity) -> list[str]:
    """Return the fields of an attack that differ from those its spec and its suite set."""
    name, fields = split_spec(identity.attack.spec)
    expected: dict[str, Any] = dict(fields)
    if identity.suite in suites.names():  # a user's suite may set any field
        own, of_suite = registered()["attacks"].get(name, {}), suites.load(identity.suite).attack
        expected = {**own, **{key: of_suite[key] for key in own.keys() & of_suite.keys()}, **fields}
    randomized = "judged" in identity.defense.details.get("wrapper", {})
    if (identity.defense.knowledge == "oblivious" or randomized) and "early_stop" in expected:
        expected["early_stop"] = False  # such an attack takes all its steps
    stored = identity.attack.details
    return [
        f"the attack {identity.attack.spec} has {key} {expected[key]}, but {stored[key]} is stored"
        for key in sorted(expected.keys() & stored.keys())
        if not _same(stored[key], expected[key])
    ]


def _same(stored: Any, expected: Any) -> bool:
    """Return whether a stored value is the expected one, which may be text: "3/255", "true"."""
    if isinstance(stored, bool) or isinstance(expected, bool):
        return str(stored).lower() == str(expected).lower()
    try:
        one, two = (float(parse_value(str(value), float)) for value in (stored, expected))
    except (ValueError, ArithmeticError):
        return str(stored) == str(expected)
    return math.isclose(one, two, abs_tol=1e-9)


def _expected_title(identity: Identity) -> str | None:
    """Return the title that a built-in defense should have; None if it has this title."""
    title, titles = identity.defense.title, registered()["defenses"]
    name, fields = split_spec(identity.defense.spec)
    expected = titles.get(name)
    if expected is None or title in (expected, identity.defense.spec):
        return None
    members = [split_spec(spec)[0] for spec in fields.get("of", "").split("+")]
    inner = [titles.get(member, "") for member in members]
    around = title.startswith(f"{expected} (") and all(each in title for each in inner)
    return None if around and name in registered()["around"]["names"] else expected

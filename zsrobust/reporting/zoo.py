"""The zoo: the methods of the comparison, as data, and their specs at other bounds and seeds.

The list is in the order of the tables. Titles are those of `registered.toml`.
"""

from dataclasses import dataclass
from typing import Literal

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import format_eps, join_spec, split_spec
from zsrobust.reporting.rows import Need
from zsrobust.results.registered import registered
from zsrobust.settings.suites import Suite

#: What a method trains against an attack: nothing, the tower, prompts alone, or nothing by itself,
#: because it mixes the weights of others.
Kind = Literal["reference", "tower", "prompts", "mixture"]


@dataclass(frozen=True)
class Method:
    """A method of the comparison."""

    spec: str
    kind: Kind = "tower"
    seeds: int = 3  #: the training seeds 0, 1, ... of which Table z1 shows the mean
    bounded: bool = True  #: whether its training has a bound
    swept: bool = True  #: whether it is measured at all bounds of the suite's sweep, in Table z2


REFERENCES = (
    Method("clip", "reference", seeds=1, bounded=False),
    Method("ft_standard", "reference", bounded=False),
)
TRAINED = (
    Method("tecoa"),
    Method("pmg_aft"),
    Method("fare"),
    Method("lore"),
    Method("sim_clip"),
    Method("sim_clip_code", seeds=1, swept=False),
    Method("agft"),
    Method("tga_zsr"),
    Method("tga_zsr_code", seeds=1, swept=False),
    Method("comp_tga"),
    Method("ucat"),
    Method("saft"),
    Method("apt", "prompts", swept=False),
)
MIXTURES = (
    Method("soup", "mixture", swept=False),
    Method("task_arithmetic", "mixture", swept=False),
)
# Variants of released code are trained once, and Table z2 has trained towers alone. This rule was
# fixed before a result of the zoo was seen. It keeps results/ computable in about five hours.
#: Methods of the paper's tables that are not compared further.
PAPER = (Method("vpt_tecoa", "prompts"), Method("vpt_pmg_aft", "prompts"))

BY_NAME = {each.spec: each for each in (*REFERENCES, *TRAINED, *MIXTURES, *PAPER)}


def methods() -> list[Method]:
    """Return the compared methods, in the order of the tables, except for unregistered ones."""
    known = registered()["defenses"]
    return [each for each in (*REFERENCES, *TRAINED, *MIXTURES) if each.spec in known]


def titles(*, swept: bool = False) -> dict[str, str]:
    """Return the titles of the compared methods by their specs; `swept`: those of Table z2."""
    return {each.spec: title(each.spec) for each in methods() if each.swept or not swept}


def title(spec: str) -> str:
    """Return the title of a method; its spec if it is not registered."""
    return str(registered()["defenses"].get(split_spec(spec)[0], spec))


def method(spec: str) -> Method:
    """Return the method of a spec; one that is not listed is taken for a trained tower."""
    name, fields = split_spec(spec)
    found = BY_NAME.get(name, Method(name))
    seeds = 1 if "seed" in fields else found.seeds
    return Method(spec, found.kind, seeds, found.bounded and "eps" not in fields)


def seeded(spec: str) -> list[str]:
    """Return the specs of a method at all its training seeds; the first is `spec` itself."""
    name, fields = split_spec(spec)
    later = range(1, method(spec).seeds)
    return [spec, *(join_spec(name, {**fields, "seed": seed}) for seed in later)]


def at_bound(spec: str, eps: float, suite: Suite, attack: str = "pgd10") -> Need:
    """Return the row of a method that is tested at a bound, and trained there if it has one."""
    name, fields = split_spec(spec)
    trained = spec
    if method(spec).bounded and not _same(eps, suite.recipe.get("eps")):
        trained = join_spec(name, {**fields, "eps": format_eps(eps)})
    return Need(trained, attack, None if _same(eps, suite.attack["eps"]) else eps)


def bounds(suite: Suite, shown: str, *, others: bool = False) -> list[float]:
    """Return the bounds of a suite's sweep, from small to large; `others` leaves out its own.

    Raises ZSRobustError if there are none for `shown`, a table or a figure.
    """
    found = sorted(eps for eps in suite.sweep if not (others and _same(eps, suite.attack["eps"])))
    if not found:
        raise ZSRobustError(
            f"The suite {suite.name} has no {'other ' if others else ''}bounds for {shown}. Add "
            'bounds to its file: sweep = ["1/255", "2/255"]'
        )
    return found


def _same(eps: float, other: float | None) -> bool:
    return other is not None and format_eps(eps) == format_eps(other)

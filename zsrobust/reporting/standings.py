"""Standings: defenses ranked by the worst case over the stored attacks. No torch here.

An image counts if it survives every attack that is stored for the same defense, checkpoint and
images. Several trainings of a method are one row, with the mean over those with the same attacks.
More attacks can only lower a number. A defense has a rank if one of its attacks is strong
and knows it. Ranks follow the mean above chance, as in Table t1: a constant answer earns nothing.
"""

import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property
from importlib import resources
from typing import Literal, get_args

import pandas as pd

from zsrobust.core.errors import counted
from zsrobust.core.specs import parse_eps, split_spec
from zsrobust.reporting import zoo
from zsrobust.reporting.columns import UNAWARE, Entry, above_chance, average, flagged
from zsrobust.reporting.measures import worst_of
from zsrobust.reporting.rows import METRICS, UNDEFENDED, Row, rows
from zsrobust.reporting.seeds import across
from zsrobust.reporting.tables import ROWS
from zsrobust.results.identity import deployed_spec
from zsrobust.results.registered import registered
from zsrobust.results.selection import Selection
from zsrobust.settings import protocols
from zsrobust.settings.suites import Suite

Kind = Literal["undefended", "trained", "test-time", "ablation", "interpolation"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: The attacks that a rank needs one of: the others are too weak, or have no standard strength.
STRONG = ("autoattack", "adaptive", "worst")
MIXTURES = ("interpolation", *(each.spec for each in zoo.MIXTURES))
WHOLE = 10**12  # more images than any dataset has
#: On the number of an attack that does not know the defense.
REMARK = f"{UNAWARE}; such numbers are usually published, and are not ranked"


@dataclass(frozen=True)
class Standing:
    """A defense in a ranking."""

    spec: str
    title: str
    kind: Kind
    under: str  #: spec of the method that it is a variant of; "" for none
    attacks: Mapping[str, Row]  #: by attack, on the datasets of the ranking
    oblivious: Mapping[str, Row]  #: of attacks that do not know the defense
    rank: int | None = None
    seeds: tuple["Standing", ...] = ()  #: its other trainings, with other seeds

    @cached_property
    def counted(self) -> dict[str, Row]:
        """The attacks that the worst case is taken over, those that know the defense first.

        They are stored on every dataset, for the checkpoint that the first strong attack had.
        """
        every = [*self.attacks.items()]
        every += [(f"{name}, oblivious", row) for name, row in self.oblivious.items()]
        whole = {name: row for name, row in every if row.mean("robust") is not None}
        strong = [name for name in whole if name in self.attacks and _strong(name)]
        first = next(iter([*strong, *whole]), None)
        return {
            name: row
            for name, row in whole.items()
            if first is not None and row.deployed == whole[first].deployed
        }

    @cached_property
    def row(self) -> Row:
        """The worst case; without cells if no attack that knows the defense is stored."""
        found = list(self.counted.values())
        if not any(name in self.attacks for name in self.counted):
            return Row(self._first.suite, {})
        return found[0] if len(found) == 1 else worst_of(found)

    @property
    def why(self) -> str:
        """Why the defense has no rank; "" if it can have one."""
        if self.under:
            return f"a variant of {self.under}"
        if not any(name in self.attacks for name in self.counted):
            return "no attack that knows the defense is stored on every dataset"
        if self.row.mean("robust") is None:
            return "its cells are of different checkpoints or images"
        if self.row.mean_above_chance("robust") is None:
            return "chance is not known on a dataset"
        if not any(map(_strong, self.attacks.keys() & self.counted.keys())):
            return f"no strong attack is stored: {', '.join(STRONG)}"
        return ""

    @property
    def key(self) -> tuple[Fraction, Fraction]:
        """What defenses are ranked by: the worst case above chance, then clean accuracy."""
        robust, clean = (self._read(above_chance(metric)).share for metric in METRICS)
        return robust or Fraction(0), clean or Fraction(0)

    @property
    def worst(self) -> Entry:
        """The mean of the worst case, with the red flags of all its cells."""
        return self._read(flagged(average("robust")))

    @property
    def above_chance(self) -> Entry:
        """The mean of the worst case above chance."""
        return self._read(above_chance("robust"))

    @property
    def clean(self) -> Entry:
        """The mean clean accuracy."""
        return self._read(average("clean"))

    @property
    def seeded(self) -> str:
        """How many of its training seeds have the counted attacks: "1 of 3 seeds; missing: 1, 2".

        "" for a defense with one training.
        """
        lacking = [each for each in self.seeds if not each.among(self.counted).cells]
        missing = [str(each.train_seed) for each in lacking]
        every = 1 + len(self.seeds)
        words = f"{every - len(missing)} of {every} seeds" if self.seeds else ""
        return f"{words}; missing: {', '.join(missing)}" if missing else words

    @property
    def train_seed(self) -> int:
        """The seed of its training."""
        return int(next(iter(self._first.cells.values()))["train_seed"])

    @property
    def _first(self) -> Row:
        """One of its rows."""
        return next(iter([*self.attacks.values(), *self.oblivious.values()]))

    def among(self, attacks: Collection[str]) -> Row:
        """Return the worst case over these attacks; without cells if one of them is not stored."""
        found = [self.counted[name] for name in attacks if name in self.counted]
        if len(found) < len(attacks) or not found:
            return Row(self._first.suite, {})
        return found[0] if len(found) == 1 else worst_of(found)

    def _read(self, read: Callable[[Row], Entry]) -> Entry:
        """Return the mean of an entry over the training seeds that have the counted attacks."""
        own = read(self.row)
        if own.share is None:
            return replace(own, about=self.why)
        return mean_of_trainings([own, *(read(each.among(self.counted)) for each in self.seeds)])

    @property
    def numbers(self) -> list[tuple[str, Entry, str]]:
        """Each attack, its mean, and a remark on it."""
        read, other = average("robust"), "of another checkpoint or fewer datasets: not counted"
        known = []
        for name, row in self.attacks.items():
            every = [row, *(each.attacks[name] for each in self.seeds if name in each.attacks)]
            remark = "" if name in self.counted else other
            known.append((name, mean_of_trainings([read(each) for each in every]), remark))
        return known + [(name, read(row), REMARK) for name, row in self.oblivious.items()]

    @property
    def name(self) -> str:
        """The name of the defense, without its fields."""
        return split_spec(self.spec)[0]

    @property
    def links(self) -> dict[str, str]:
        """The addresses of its paper and of its authors' code, as far as they are known."""
        return links(self.name)


def mean_of_trainings(found: Sequence[Entry]) -> Entry:
    """Return the mean of the entries with a number, the first of which is the defense's own."""
    known = [each for each in found if each.share is not None] or found[:1]
    return across(known, [""] * len(known), "mean of {} training seeds")


@dataclass(frozen=True)
class Ranking:
    """The defenses of a suite on the same images, at one bound: ranked ones first."""

    suite: Suite  #: with the datasets of the ranking
    protocol: str
    bound: str  #: "6/255"
    norm: str
    seed: int
    limit: int | None  #: images of each dataset
    standings: Sequence[Standing]

    @property
    def title(self) -> str:
        """What is ranked, in one line."""
        images = f"{self.limit} images" if self.limit else "all images"
        seed = f", seed {self.seed}" if self.seed else ""
        norm = "" if self.norm == "linf" else f" in {self.norm}"
        return (
            f"suite {self.suite.name}, protocol {self.protocol}, eps {self.bound}{norm}, "
            f"{images} of each of {counted(len(self.suite.datasets), 'dataset')}{seed}"
        )

    @property
    def ranked(self) -> int:
        """The number of defenses with a rank."""
        return sum(each.rank is not None for each in self.standings)


def rankings(frame: pd.DataFrame, suites: Sequence[Suite]) -> list[Ranking]:
    """Return every ranking of stored cells; of each suite, the ones with the most ranks first."""
    found = []
    for suite in suites:
        cells = frame[frame["suite"] == suite.name]
        cells = cells.assign(norm=[_norm(attack) for attack in cells["attack"]])
        of_suite = []
        for key, group in cells.groupby(["protocol", "norm", "eps", "seed"]):
            protocol, norm, bound, seed = map(str, key)
            for limit in [None, *sorted(set(group["limit"].dropna().astype(int)))]:
                standings, chosen = _standings(_of_size(group, limit), suite)
                if standings:
                    ranking = Ranking(chosen, protocol, bound, norm, int(seed), limit, standings)
                    of_suite.append(ranking)
        of_suite.sort(key=lambda each: _order(each, suite))
        found += of_suite
    return found


def _order(ranking: Ranking, suite: Suite) -> tuple[object, ...]:
    own = Selection(suite=suite, eps=parse_eps(ranking.bound, ranking.norm)).usual
    return (
        ranking.protocol != protocols.DEFAULT,
        not own,
        -ranking.ranked * len(ranking.suite.datasets),
        -(ranking.limit or WHOLE),
        ranking.title,
    )


def _strong(attack: str) -> bool:
    return split_spec(attack)[0] in STRONG


def _norm(attack: str) -> str:
    name, fields = split_spec(attack)
    own = registered()["attacks"].get(name, {}).get("norm", "linf")
    return str(fields.get("norm", own))


def _of_size(cells: pd.DataFrame, limit: int | None) -> pd.DataFrame:
    """Return the cells on so many images; smaller datasets are measured whole."""
    if limit is None:
        return cells[cells["limit"].isna()]
    whole = cells["limit"].isna() & (cells["images"] <= limit)
    return cells[whole | (cells["limit"] == limit)]


def _standings(cells: pd.DataFrame, suite: Suite) -> tuple[list[Standing], Suite]:
    """Return the standings of cells on the same numbers of images, and the suite they are on."""
    suite = replace(suite, datasets=_datasets(cells, suite))
    cells = cells[cells["dataset"].isin(suite.datasets)]
    aware: dict[str, dict[str, Row]] = {}
    oblivious: dict[str, dict[str, Row]] = {}
    titles: dict[str, str] = {}
    trained: dict[str, list[str]] = {}
    for attack, group in cells.groupby("attack", sort=True):
        for spec, row in rows(group, suite).items():
            own = deployed_spec(spec)
            (oblivious if row.oblivious else aware).setdefault(own, {})[str(attack)] = row
            titles[own] = str(next(iter(row.cells.values()))["defense_title"])
    seeds = dict(zip(cells["defense"].map(deployed_spec), cells["train_seed"], strict=True))
    methods = dict(zip(cells["defense"].map(deployed_spec), cells["method"], strict=True))
    for spec in sorted({*aware, *oblivious}):
        trained.setdefault(deployed_spec(str(methods[spec])), []).append(spec)
    for each in trained.values():  # one training of each method is in the ranking
        each.sort(key=lambda spec: (seeds[spec], spec))
    specs = sorted(each[0] for each in trained.values())
    found = {
        spec: Standing(
            spec,
            ROWS.get(spec, titles[spec]),
            kind(spec),
            method_of(spec, specs),
            aware.get(spec, {}),
            oblivious.get(spec, {}),
        )
        for spec in sorted({*aware, *oblivious})
    }
    merged = [
        replace(found[first], seeds=tuple(found[spec] for spec in others))
        for first, *others in trained.values()
    ]
    return _ranked(merged), suite


def _datasets(cells: pd.DataFrame, suite: Suite) -> tuple[str, ...]:
    """Return the datasets on which half of the defenses under strong attacks, or more, have cells.

    Without strong attacks, it is half of all defenses.
    """
    strong = cells[[_strong(attack) for attack in cells["attack"]]]
    chosen = cells if strong.empty else strong
    total = chosen["defense"].nunique()
    have = chosen.groupby("dataset")["defense"].nunique()
    order = suite.datasets or tuple(sorted(have.index))
    return tuple(name for name in order if 2 * have.get(name, 0) >= max(total, 1))


def _ranked(found: Sequence[Standing]) -> list[Standing]:
    """Return the standings with ranks, the best first: by the rule of `reporting.ranking`."""
    keys = {each.spec: each.key for each in found if not each.why}
    ranked = sorted(
        (each for each in found if each.spec in keys),
        key=lambda each: (*(-share for share in keys[each.spec]), each.title),
    )
    return [
        *(
            replace(each, rank=1 + sum(key > keys[each.spec] for key in keys.values()))
            for each in ranked
        ),
        *sorted((each for each in found if each.why), key=lambda each: each.title),
    ]


def kind(spec: str) -> Kind:
    """Return what a defense is; a trained one with other fields than its own is an ablation."""
    name, fields = split_spec(spec)
    if name in MIXTURES:
        return "interpolation"
    if "of" in fields:
        return "test-time"
    if name == UNDEFENDED:
        return "undefended"
    return "ablation" if name != "weights" and (fields or name.endswith("_code")) else "trained"


def method_of(spec: str, specs: Sequence[str]) -> str:
    """Return which of the specs an ablation or an interpolation is a variant of; "" for none."""
    name, fields = split_spec(spec)
    own = kind(spec)
    if own == "interpolation":
        parent = fields.get("of", "").split("+")[0]
    else:
        parent = name.removesuffix("_code") if own == "ablation" else ""
    return parent if parent != spec and parent in specs else ""


def links(name: str) -> dict[str, str]:
    """Return the addresses of a defense's paper and code, as far as they are known."""
    name, found = name.removesuffix("_code"), {}
    if number := _sources()["paper"].get(name):
        found["paper"] = f"https://arxiv.org/abs/{number}"
    if repository := _sources()["code"].get(name):
        found["code"] = f"https://github.com/{repository}"
    return found


@cache
def _sources() -> dict[str, dict[str, str]]:
    text = resources.files(__package__).joinpath("sources.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)

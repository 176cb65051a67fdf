"""Contents of the tables: the rows and columns of each, as data. No torch here."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from zsrobust.core.errors import ZSRobustError
from zsrobust.reporting import measures, more_attacks, ranking, zoo
from zsrobust.reporting.columns import (
    Entry,
    above_chance,
    added_time,
    average,
    deployed_memory,
    epoch_time,
    flagged,
    memory,
    passes,
    success,
    unaware,
    verdict,
)
from zsrobust.reporting.measures import Measure
from zsrobust.reporting.rows import USUAL, Metric, Need
from zsrobust.settings import suites
from zsrobust.settings.suites import Suite

#: The paper's rows, in its order, with their titles.
ROWS = {
    "clip": "CLIP",
    "ft_standard": "FT-Standard",
    "tecoa": "FT-TeCoA",
    "pmg_aft": "PMG-AFT",
    "vpt_tecoa": "VPT-TeCoA",
    "vpt_pmg_aft": "VPT-PMG-AFT",
}

BUDGET = (
    "All adversarial trainings share the suite's budget of epochs and batches. No method is tuned "
    "alone."
)


@dataclass(frozen=True)
class Table:
    """A table of the paper, or one of ours: the cells that it shows."""

    caption: str
    metrics: tuple[Metric, ...] = ("robust",)
    attack: str = "pgd10"  #: clean accuracy is read from the cells of this attack, too
    rows: Mapping[str, str] = field(default_factory=lambda: ROWS)  #: title by the defense's spec
    by_dataset: bool = True  #: whether each dataset has a column; averages have one anyway
    second: bool = False  #: whether its suite is the one with the second target dataset
    note: str = ""  #: the meaning of its rows
    every: int = 1  #: 4: its means are over every fourth dataset, from the first on
    #: the bounds of the suite's sweep that it shows, each for training and test; "" is one eps
    swept: Literal["", "others", "all"] = ""
    #: the columns of a table over several attacks, seeds or bounds, which replace all others
    measures: Callable[[Suite], Sequence[Measure]] | None = None
    seeded: bool = False  #: whether its measures are over training seeds
    with_cost: bool = False  #: whether columns of its own have what test-time defenses cost
    #: the rank of each row of such a table, by spec and in its order, from the entries by title
    ranks: Callable[[Mapping[str, Mapping[str, Entry]]], Mapping[str, Entry]] | None = None

    @property
    def columned(self) -> bool:
        """Whether each dataset has a column."""
        return self.by_dataset and self.measures is None

    def bounds(self, suite: Suite) -> list[float | None]:
        """Return the bounds that it shows, from small to large; None is the selection's own.

        Raises ZSRobustError for a suite without such bounds.
        """
        if not self.swept:
            return [None]
        return [*zoo.bounds(suite, "this table", others=self.swept == "others")]

    def need(self, spec: str, eps: float | None, suite: Suite) -> Need:
        """Return the cells of a row at one of the bounds."""
        if eps is None:
            return Need(spec, self.attack)
        return zoo.at_bound(spec, eps, suite, self.attack)

    def needs(self, spec: str, suite: Suite) -> list[Need]:
        """Return all cells of a row, by its spec; raises ZSRobustError like `bounds`."""
        if self.measures is not None:
            return [need for each in self.measures(suite) for need in each.needs(spec)]
        return [self.need(spec, eps, suite) for eps in self.bounds(suite)]


def _trained_defenses(suite: Suite) -> list[Measure]:
    """Return the columns of Table z1."""
    robust = flagged(average("robust"))
    under = functools.partial(measures.under, suite=suite)
    return [
        measures.over_seeds("Clean", average("clean")),
        measures.over_seeds("Clean, above chance", above_chance("clean")),
        measures.over_seeds("PGD-10", robust),
        measures.over_seeds("PGD-10, above chance", above_chance("robust")),
        measures.difference("tecoa"),
        under("PGD-100", robust, "pgd100"),
        under("PGD-100, above chance", above_chance("robust"), "pgd100"),
        under("AutoAttack", robust, "autoattack", every=4),
        under("AutoAttack, above chance", above_chance("robust"), "autoattack", every=4),
        measures.first_seed(
            "Time (s)",
            epoch_time,
            "Time: seconds of one training epoch; of a mixture, the sum of its members'.",
        ),
        measures.any_row(
            "Memory (MiB)",
            memory,
            "pgd100",
            "Memory: peak of the tensors of one training step, of any training that stores it.",
        ),
    ]


def _test_time_defenses(suite: Suite) -> list[Measure]:
    """Return the columns of Table t1."""
    clean, robust = average("clean"), average("robust")
    adaptive = functools.partial(ranking.need, suite=suite, attack=ranking.ADAPTIVE)
    oblivious = functools.partial(ranking.oblivious, suite=suite)
    worst = functools.partial(ranking.needs, suite=suite)
    seeing = functools.partial(ranking.seeing, suite=suite)
    single = measures.single
    return [
        single("Clean", clean, adaptive),
        measures.worst("Worst", flagged(robust), worst, ranking.ABOUT_WORST),
        single("Oblivious", unaware(robust), oblivious),
        *(
            single(title, robust, functools.partial(ranking.need, suite=suite, attack=attack))
            for title, attack in ranking.ATTACKS.items()
        ),
        measures.worst(ranking.WORST, above_chance("robust"), worst, ranking.RULE),
        single(ranking.CLEAN, above_chance("clean"), adaptive),
        measures.joint("Verdict", verdict, seeing, ranking.VERDICT),
        single("Passes", passes, adaptive, ranking.COST),
        single("Added (ms)", added_time, adaptive),
        single("Memory (MiB)", deployed_memory, adaptive),
    ]


def _more_attacks(suite: Suite) -> list[Measure]:
    """Return the columns of Table a1."""
    columns: list[Measure] = []
    for each in more_attacks.COLUMNS:
        need = functools.partial(more_attacks.need, suite=suite, column=each)
        if not columns:
            columns.append(measures.single("Clean", average("clean"), need))
        columns.append(measures.single(each.title, flagged(average("robust")), need))
        if each.targeted:
            columns.append(measures.single(f"{each.title}, success", success, need))
    return columns


def _at_bounds(suite: Suite) -> list[Measure]:
    """Return the columns of Table z2; raises ZSRobustError for a suite without bounds."""
    columns = {
        "Clean": average("clean"),
        "Robust": flagged(average("robust")),
        "Clean, above chance": above_chance("clean"),
        "Robust, above chance": above_chance("robust"),
    }
    found = [measures.at_bounds(title, read, suite, "Table z2") for title, read in columns.items()]
    return [*itertools.chain(*found), measures.crossing(suite, "Table z2")]


TABLES = {
    "1": Table("Zero-shot robust accuracy (%) under PGD-10"),
    "2": Table("Zero-shot clean accuracy (%)", ("clean",)),
    "3": Table(
        "Zero-shot robust accuracy (%) under AutoAttack",
        attack="autoattack",
        rows={name: ROWS[name] for name in ("clip", "tecoa", "pmg_aft")},
    ),
    "4": Table(
        "The terms of the loss: average accuracy (%), robust under PGD-10",
        ("clean", "robust"),
        rows={
            "tecoa": "FT-TeCoA (α = 0, β = 0)",
            "pmg_aft:beta=0": "+ L_general (α = 1, β = 0)",
            "pmg_aft": "+ L_general + L_clean (α = 1, β = 1)",
        },
        by_dataset=False,
    ),
    "5": Table(
        "The layer and the distance of L_general: average accuracy (%), robust under PGD-10",
        ("clean", "robust"),
        rows={
            "pmg_aft": "Output + KL",
            "pmg_aft:distance=l2": "Output + L2",
            "pmg_aft:distance=l2,layer=feature": "Feature + L2",
            "pmg_aft:distance=cosine,layer=feature": "Feature + cosine",
        },
        by_dataset=False,
    ),
    "a1": Table(
        "More attacks (l1 at eps 12, a patch with 1/8 of the side): average accuracy (%)",
        attack=USUAL,
        rows=more_attacks.ROWS,
        measures=_more_attacks,
        note=more_attacks.note(),
        every=ranking.EVERY,
    ),
    "s1": Table("Second target dataset: zero-shot robust accuracy (%) under PGD-10", second=True),
    "s2": Table("Second target dataset: zero-shot clean accuracy (%)", ("clean",), second=True),
    "s3": Table(
        "The weights α and β of PMG-AFT: average accuracy (%), robust under PGD-10",
        ("clean", "robust"),
        rows={
            "tecoa": "α = 0, β = 0 (FT-TeCoA)",
            "pmg_aft:alpha=0": "α = 0, β = 1",
            "pmg_aft:alpha=0,beta=2": "α = 0, β = 2",
            "pmg_aft:beta=0": "α = 1, β = 0",
            "pmg_aft": "α = 1, β = 1",
            "pmg_aft:beta=2": "α = 1, β = 2",
            "pmg_aft:alpha=2,beta=0": "α = 2, β = 0",
            "pmg_aft:alpha=2": "α = 2, β = 1",
            "pmg_aft:alpha=2,beta=2": "α = 2, β = 2",
        },
        by_dataset=False,
        note="α: weight of L_general. β: weight of L_clean.",
    ),
    "s4": Table(
        "Zero-shot robust and clean accuracy (%) at other bounds, under PGD-10",
        ("robust", "clean"),
        swept="others",
        note="Defenses are trained and tested at the same bound, except for CLIP and FT-Standard, "
        "whose training has no bound.",
    ),
    "s5": Table(
        "The terms, the layer and the distance by dataset: clean and robust accuracy (%) under "
        "PGD-10",
        ("clean", "robust"),
        rows={
            "tecoa": "FT-TeCoA (α = 0, β = 0)",
            "pmg_aft:beta=0": "+ L_general (α = 1, β = 0)",
            "pmg_aft": "+ L_general + L_clean (output + KL)",
            "pmg_aft:distance=l2": "Output + L2",
            "pmg_aft:distance=l2,layer=feature": "Feature + L2",
            "pmg_aft:distance=cosine,layer=feature": "Feature + cosine",
        },
        note="The rows of Tables 4 and 5. The first three add terms of the loss. The last three "
        "have all terms, with another layer or distance of L_general.",
    ),
    "t1": Table(
        "Test-time defenses under attackers who know them: average accuracy (%)",
        attack=ranking.ADAPTIVE,
        rows=ranking.titles(),
        measures=_test_time_defenses,
        with_cost=True,
        ranks=ranking.ranks,
        note=ranking.NOTE,
        every=ranking.EVERY,
    ),
    "z1": Table(
        "Trained defenses: average accuracy (%), clean and robust",
        rows=zoo.titles(),
        measures=_trained_defenses,
        seeded=True,
        note=BUDGET,
    ),
    "z2": Table(
        "Trained defenses at several bounds: average accuracy (%), clean and robust under PGD-10",
        rows=zoo.titles(swept=True),
        swept="all",
        measures=_at_bounds,
        note=f"{BUDGET} They are trained and tested at the same bound, except for CLIP and "
        "FT-Standard, whose training has no bound. All numbers are of the first training seed.",
    ),
}


def find(number: str) -> Table:
    """Return a table by its number; raises ZSRobustError for one that does not exist."""
    if number not in TABLES:
        raise ZSRobustError(
            f"There is no table {number!r}. Tables: {', '.join(TABLES)}. Try: zsrobust table 1 "
            "--suite mini"
        )
    return TABLES[number]


def needs(number: str, suite: Suite) -> list[Need]:
    """Return the rows of cells that a table shows; raises ZSRobustError like `find`.

    It also raises ZSRobustError for a suite without the bounds that the table shows.
    """
    table = find(number)
    return list(dict.fromkeys(need for spec in table.rows for need in table.needs(spec, suite)))


def suite_name(number: str, suite: Suite) -> str:
    """Return the name of a table's suite; raises ZSRobustError if the second one is missing."""
    if not find(number).second or suite.name in suites.firsts():
        return suite.name
    if suite.second is None:
        raise ZSRobustError(
            f"The suite {suite.name} has no second target dataset for Table {number}. Try: "
            "zsrobust table 1"
        )
    return suite.second

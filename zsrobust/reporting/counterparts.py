"""Counterparts: the reported numbers that a reproduction is compared with. No torch here.

They are those of the paper and of later papers, or for suites without a paper, stored results.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple, Protocol

import pandas as pd

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import format_eps
from zsrobust.reporting import contents, reported
from zsrobust.reporting.rows import UNDEFENDED, Finder, Metric, Need
from zsrobust.results.selection import Selection
from zsrobust.settings import suites
from zsrobust.settings.suites import Suite

#: The tables of a reproduction: those of the paper and of its supplement.
TABLES = ("1", "2", "3", "4", "5", "s1", "s2", "s3", "s4", "s5")
#: Our attacks by the names of later papers.
ATTACKS = {"PGD-10": "pgd10", "AutoAttack": "autoattack"}
BACKBONE = "ViT-B/32"  #: as later papers name the paper's backbone


class Place(NamedTuple):
    """Where a cell is, in text."""

    suite: str
    defense: str
    attack: str
    eps: str
    dataset: str


class Number(NamedTuple):
    """A reported number."""

    source: str
    metric: Metric
    share: Fraction  #: in [0, 1]
    counts: tuple[int, int] | None = None  #: correct images and images, if they are known
    notes: tuple[str, ...] = ()  #: doubts
    later: bool = False  #: whether it is not the first source's: a later paper's, or an anchor


@dataclass(frozen=True)
class Line:
    """A line of a table: a defense at a bound, and one of the table's metrics."""

    number: str
    suite: Suite
    title: str
    need: Need
    metric: Metric

    @property
    def eps(self) -> str:
        """The bound as text."""
        own = self.need.eps
        return format_eps(self.suite.attack["eps"] if own is None else own)

    @property
    def usual(self) -> bool:
        """Whether the bound is the suite's own."""
        return self.eps == format_eps(self.suite.attack["eps"])


class Counterparts(Protocol):
    """Where reported numbers come from."""

    title: str  #: heading of their column

    def cell(self, line: Line, dataset: str) -> Sequence[Number]:
        """Return the numbers of a line on a dataset, the first source's at the front."""

    def average(self, line: Line) -> Sequence[Number]:
        """Return the numbers of a line's average over the datasets of its suite."""


def tables_of(suite: Suite) -> list[str]:
    """Return the numbers of the tables that a suite can have."""
    found = []
    for number in TABLES:
        try:
            contents.suite_name(number, suite)
            contents.needs(number, suite)
        except ZSRobustError:  # no second target dataset, or no bounds
            continue
        found.append(number)
    return found


def lines_of(number: str, suite: Suite) -> Iterator[Line]:
    """Yield the lines of a table, by metric and bound; raises ZSRobustError as `needs` does."""
    table = contents.find(number)
    for metric in table.metrics:
        for eps in table.bounds(suite):
            for spec, title in table.rows.items():
                yield Line(number, suite, title, table.need(spec, eps, suite), metric)


def values(tables: Mapping[str, Suite], counterparts: Counterparts) -> dict[Place, Fraction]:
    """Return how many reported numbers each cell is compared with.

    `tables` has the suite of each table by its number. A number that several tables repeat counts
    once. An average counts in equal shares for the cells of its row. The undefended CLIP of a
    second series is that of the first, and counts nothing.
    """
    seconds = suites.firsts()
    own: dict[Place, set[Number]] = {}
    shared: dict[tuple[Place, ...], set[Number]] = {}
    for number, suite in tables.items():
        for line in lines_of(number, suite):
            need = line.need
            if suite.name in seconds and need.defense == UNDEFENDED:
                continue
            row = tuple(
                Place(suite.name, need.defense, need.attack, line.eps, name)
                for name in suite.datasets
            )
            shared.setdefault(row, set()).update(counterparts.average(line))
            if contents.find(number).by_dataset:
                for place in row:
                    own.setdefault(place, set()).update(counterparts.cell(line, place.dataset))
    found = {place: Fraction(len(numbers)) for place, numbers in own.items()}
    for row, numbers in shared.items():
        for place in row:
            found[place] = found.get(place, Fraction(0)) + Fraction(len(numbers), len(row))
    return found


class Paper:
    """The paper's numbers, those of later papers for the same cells, and anchors for CLIP."""

    title = "Paper"

    def cell(self, line: Line, dataset: str) -> Sequence[Number]:
        """Return the numbers of a line on a dataset, the paper's at the front."""
        claim = None
        if line.usual and line.number in line.suite.printed:
            claim = reported.cell(line.number, line.need.defense, dataset)
        anchors = []
        if (line.need.defense, line.metric, line.usual) == (UNDEFENDED, "clean", True):
            anchors = [
                Number(each.source.split()[0], "clean", Fraction(each.percent) / 100, later=True)
                for each in reported.anchors(line.suite.backbone, dataset)
            ]
        return [*_of_paper(claim, line), *_later(line, dataset), *anchors]

    def average(self, line: Line) -> Sequence[Number]:
        """Return the averages of a line, the paper's at the front."""
        claim = None
        if line.usual and line.number in line.suite.printed:
            claim = reported.average(line.number, line.need.defense, line.metric)
        return [*_of_paper(claim, line), *_later(line, "average")]


def _of_paper(claim: reported.Claim | None, line: Line) -> list[Number]:
    if claim is None:
        return []
    notes = tuple(reported.doubts(claim))
    share = Fraction(claim.percent) / 100
    return [Number(f"Table {line.number}", line.metric, share, notes=notes)]


def _later(line: Line, dataset: str) -> list[Number]:
    """Return the numbers of later papers: the same backbone, datasets, training, attack and eps."""
    suite, need, metric = line.suite, line.need, line.metric
    found: dict[Number, None] = {}
    for row in _later_rows().get((need.defense, dataset), ()) if suite.printed else ():
        same = dataset != "average" or (row["eval_sets"], row["n_sets"]) == ("the paper's 16", "16")
        trained = row["source_dataset"] in ("none", suite.train_on)
        trained &= row["train_eps"] in ("", line.eps)
        under = (ATTACKS.get(row["attack"]), row["eps"]) == (need.attack, line.eps)
        printed = row[metric] == row[metric]  # not NaN
        if same and trained and printed and (line.usual if metric == "clean" else under):
            share = Fraction(str(row[metric])) / 100
            found[Number(row["paper"], metric, share, later=True)] = None
    return list(found)


@cache
def _later_rows() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the rows of later papers about the paper's backbone, by defense and dataset."""
    frame = reported.others()
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in frame[frame["backbone"] == BACKBONE].to_dict("records"):
        own = {str(key): each for key, each in row.items()}
        found.setdefault((own["defense"], own["dataset"]), []).append(own)
    return found


class Stored:
    """Stored results, whatever their number of images: for suites that no paper has."""

    title = "Stored"

    def __init__(self, results: pd.DataFrame, chosen: Iterable[Suite], protocol: str) -> None:
        """Take the DataFrame of `load_results`, the suites, and the name of the protocol."""
        self._finders = {
            suite.name: Finder(results, Selection.of(suite, protocol=protocol)) for suite in chosen
        }

    def cell(self, line: Line, dataset: str) -> Sequence[Number]:
        """Return the stored accuracy of a line on a dataset, or nothing."""
        counts = self._finders[line.suite.name].row(line.need).counts(dataset, line.metric)
        return [Number("stored", line.metric, Fraction(*counts), counts)] if counts else []

    def average(self, line: Line) -> Sequence[Number]:
        """Return the mean of a stored row, or nothing if the row is not complete."""
        mean = self._finders[line.suite.name].row(line.need).mean(line.metric)
        return [] if mean is None else [Number("stored", line.metric, mean)]

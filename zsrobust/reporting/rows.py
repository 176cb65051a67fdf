"""Rows: the cells of one defense under one attack over a suite, and their means. No torch here."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from zsrobust.core.intervals import wilson
from zsrobust.core.values import missing
from zsrobust.reporting.statistics import mean_interval
from zsrobust.results.chance import chance, corrected
from zsrobust.results.selection import Selection
from zsrobust.settings.suites import Suite

if TYPE_CHECKING:
    import pandas as pd

Metric = Literal["robust", "clean"]
METRICS: tuple[Metric, ...] = ("robust", "clean")


USUAL = "pgd10"  #: the attack of most tables
UNDEFENDED = "clip"  #: the spec of CLIP itself


class Need(NamedTuple):
    """The cells that a row of a table or a figure needs: one for each of a suite's datasets."""

    defense: str  #: spec in its normal form
    attack: str = USUAL
    eps: float | None = None  #: in pixels of [0, 1]; None for the suite's own
    every: int = 1  #: 4 is every fourth dataset, in the order of the suite, from the first on
    limit: int | None = None  #: images of each dataset; None for the suite's own number

    def datasets(self, suite: Suite) -> tuple[str, ...]:
        """Return the names of the datasets."""
        return suite.datasets[:: self.every]


@dataclass(frozen=True)
class Row:
    """One defense under one attack: its cells by dataset, records of `load_results`."""

    suite: Suite
    cells: Mapping[str, Mapping[Hashable, Any]]

    def counts(self, dataset: str, metric: Metric) -> tuple[int, int] | None:
        """Return the numbers of correct images and of images; None if the cell has no counts."""
        cell = self.cells.get(dataset)
        if cell is None or cell["status"] != "ok":
            return None
        return int(cell[f"{metric}_correct"]), int(cell["images"])

    @property
    def targeted(self) -> bool:
        """Whether its attack has targets, so that its cells count successes."""
        return any(_whole(cell["successes"]) is not None for cell in self.cells.values())

    def successes(self) -> list[tuple[int, int]] | None:
        """Return for each dataset the numbers of successes and of attacked images.

        None if a cell is missing, counts none, or attacked no image, and if the row is mixed.
        """
        found = []
        for name in self.suite.datasets:
            cell = self.cells.get(name)
            reached = None if cell is None or cell["status"] != "ok" else _whole(cell["successes"])
            if cell is None or reached is None or not cell["attacked"] or self.mixed:
                return None
            found.append((reached, int(cell["attacked"])))
        return found

    def chance(self, dataset: str) -> Fraction | None:
        """Return chance on a dataset, in (0, 1]; None if the cell is missing or knows none.

        A result that does not store the images of the most frequent class has chance 1/K.
        """
        cell = self.cells.get(dataset)
        if cell is None:
            return None
        largest, classes = (_whole(cell[name]) for name in ("largest_class", "classes"))
        return chance(int(cell["images"]), largest, classes)

    def uncounted(self, zero_shot: bool = False) -> list[str]:
        """Return the datasets of the mean whose results do not store their most frequent class."""
        cells = {name: self.cells.get(name) for name in self.averaged(zero_shot)}
        return [name for name, cell in cells.items() if cell and not _whole(cell["largest_class"])]

    @cached_property
    def mixed(self) -> bool:
        """Whether the cells mix checkpoints, attacks or switches, so that no mean is printed."""
        made = {cell["made"] for name, cell in self.cells.items() if name in self.suite.datasets}
        return len(made) > 1

    @property
    def deployed(self) -> set[str]:
        """The digests of the defenses of its cells: one, unless checkpoints are mixed."""
        return {str(cell["deployed"]) for cell in self.cells.values()}

    @property
    def oblivious(self) -> bool:
        """Whether the attack ignored a part of the defense; such rows are not ranked."""
        return any(cell["knowledge"] == "oblivious" for cell in self.cells.values())

    def mean(self, metric: Metric, zero_shot: bool = False) -> Fraction | None:
        """Return the mean accuracy, in [0, 1]; None if a cell is missing or the row is mixed."""
        counts = self._all_counts(metric, zero_shot)
        if counts is None:
            return None
        return sum((Fraction(*each) for each in counts), Fraction(0)) / len(counts)

    def mean_above_chance(self, metric: Metric, zero_shot: bool = False) -> Fraction | None:
        """Return the mean of accuracy above chance, in [0, 1]; None like `mean`.

        Each dataset gives (accuracy - chance) / (1 - chance), at least 0. It is also None if chance
        of a dataset is unknown.
        """
        counts, chances = self._all_counts(metric, zero_shot), self._chances(zero_shot)
        if counts is None or chances is None:
            return None
        shares = [corrected(Fraction(*each), at) for each, at in zip(counts, chances, strict=True)]
        return sum(shares, Fraction(0)) / len(shares)

    def interval_above_chance(
        self, metric: Metric, zero_shot: bool = False
    ) -> tuple[float, float] | None:
        """Return the 95% interval of the mean above chance, in [0, 1]: a bootstrap.

        None without the mean, and if all images of a dataset have one class.
        """
        counts, chances = self._all_counts(metric, zero_shot), self._chances(zero_shot)
        if counts is None or chances is None or 1 in chances:
            return None
        return mean_interval(counts, chances=[float(each) for each in chances])

    def interval(self, metric: Metric, zero_shot: bool = False) -> tuple[float, float] | None:
        """Return the mean's 95% interval, in [0, 1]: a bootstrap, or Wilson's for one dataset."""
        counts = self._all_counts(metric, zero_shot)
        if counts is None:
            return None
        return wilson(*counts[0]) if len(counts) == 1 else mean_interval(counts)

    def averaged(self, zero_shot: bool = False) -> list[str]:
        """Return the names of the datasets in the mean; `zero_shot` leaves out the target."""
        left_out = self.suite.train_on if zero_shot else None
        return [name for name in self.suite.datasets if name != left_out]

    def only(self, dataset: str) -> "Row":
        """Return the row of one dataset, whose mean is the accuracy on this dataset."""
        suite = replace(self.suite, datasets=(dataset,))
        return Row(suite, {dataset: self.cells[dataset]})

    def _chances(self, zero_shot: bool) -> list[Fraction] | None:
        chances = [self.chance(name) for name in self.averaged(zero_shot)]
        known = [each for each in chances if each is not None]
        return known if len(known) == len(chances) else None

    def _all_counts(self, metric: Metric, zero_shot: bool) -> list[tuple[int, int]] | None:
        counts = [self.counts(name, metric) for name in self.averaged(zero_shot)]
        complete = [each for each in counts if each is not None]
        return None if self.mixed or len(complete) < len(counts) or not counts else complete


def _whole(count: Any) -> int | None:
    """Return a count of a record; None if it is missing."""
    return None if missing(count) else int(count)


def rows(cells: "pd.DataFrame", suite: Suite) -> dict[str, Row]:
    """Return the rows of a selection's cells by defense, in the order of the specs."""
    return rows_of(cells.to_dict("records"), suite)


def rows_of(cells: Iterable[Mapping[Any, Any]], suite: Suite) -> dict[str, Row]:
    """Return the rows of the records of cells, as `rows` does."""
    found: dict[str, dict[str, Mapping[Hashable, Any]]] = {}
    for cell in cells:
        found.setdefault(str(cell["defense"]), {})[str(cell["dataset"])] = cell
    return {defense: Row(suite, found[defense]) for defense in sorted(found)}


class Finder:
    """Finds the rows of needs among stored results, and knows the cells that it found."""

    def __init__(self, results: "pd.DataFrame", selection: Selection) -> None:
        """Search the DataFrame of `load_results`; needs replace the selection's attack and eps."""
        self.results, self.selection = results, selection
        self._found: dict[Need, Row] = {}

    def row(self, need: Need) -> Row:
        """Return the row of a need over its datasets; without stored cells, `cells` is empty."""
        if need not in self._found:
            self._found[need] = self._find(need)
        return self._found[need]

    def _find(self, need: Need) -> Row:
        eps = self.selection.eps if need.eps is None else need.eps
        asked = replace(self.selection, attack=need.attack, eps=eps)
        if need.limit is not None:
            asked = replace(asked, limit=need.limit)
        cells = asked.cells(self.results)
        suite = replace(self.selection.suite, datasets=need.datasets(self.selection.suite))
        own = asked.matching(need.defense, cells) & cells["dataset"].isin(suite.datasets)
        return next(iter(rows(cells[own], suite).values()), Row(suite, {}))

    @property
    def cells(self) -> "pd.DataFrame":
        """The cells of all rows found so far, in the order of the results."""
        paths = {cell["path"] for row in self._found.values() for cell in row.cells.values()}
        return self.results[self.results["path"].isin(paths)]

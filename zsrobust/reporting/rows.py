"""Rows: the cells of one defense under one attack over a suite, and their means. No torch here."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal, NamedTuple

import pandas as pd

from zsrobust.core.intervals import wilson
from zsrobust.reporting.statistics import mean_interval
from zsrobust.settings.suites import Suite

Metric = Literal["robust", "clean"]
METRICS: tuple[Metric, ...] = ("robust", "clean")


class Need(NamedTuple):
    """The cells that a row of a table or a figure needs: one for each dataset of a suite."""

    defense: str  #: spec in its normal form
    attack: str = "pgd10"
    eps: float | None = None  #: in pixels of [0, 1]; None for the suite's own


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

    @cached_property
    def mixed(self) -> bool:
        """Whether the cells mix checkpoints, attacks or switches, so that no mean is printed."""
        made = {cell["made"] for name, cell in self.cells.items() if name in self.suite.datasets}
        return len(made) > 1

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

    def _all_counts(self, metric: Metric, zero_shot: bool) -> list[tuple[int, int]] | None:
        counts = [self.counts(name, metric) for name in self.averaged(zero_shot)]
        complete = [each for each in counts if each is not None]
        return None if self.mixed or len(complete) < len(counts) or not counts else complete


def rows(cells: pd.DataFrame, suite: Suite) -> dict[str, Row]:
    """Return the rows of a selection's cells by defense, in the order of the specs."""
    found: dict[str, dict[str, Mapping[Hashable, Any]]] = {}
    for cell in cells.to_dict("records"):
        found.setdefault(str(cell["defense"]), {})[str(cell["dataset"])] = cell
    return {defense: Row(suite, found[defense]) for defense in sorted(found)}

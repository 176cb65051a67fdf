"""Verdicts: which cells agree with a baseline, and their words. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from zsrobust.core.errors import counted

#: The ways in which cells agree, and their words in the summary, in its order.
WAYS = {
    "identical": "identical",
    "moved": "of the same weights within tolerance {tolerance} points",
    "retrained": "retrained within tolerance {tolerance} points or the paired test at 1%",
    "interval": "by interval, within tolerance {tolerance} points",
    "paper": "within tolerance {tolerance} points of our 95% interval",
    "anchor": "within {tolerance} points of our 95% interval",
}


@dataclass(frozen=True)
class Verdict:
    """Whether one cell, or the mean of a row, agrees with the baseline."""

    cell: str
    way: str | None  #: a key of WAYS; None if the cell does not agree
    why: str = ""
    ours: str = ""  #: clean and robust in percent; beside the paper, one number and its interval
    baseline: str = ""
    difference: str = ""  #: ours minus the baseline's, in points
    row: bool = False  #: whether it is about the mean of a row, and not about a cell


@dataclass(frozen=True)
class Report:
    """The verdicts on all cells of a baseline."""

    verdicts: Sequence[Verdict]
    tolerance: float
    extra: int = 0  #: cells that only the checked folder has
    notes: Sequence[str] = ()  #: lines on cells that are left out, retrained or doubtful
    against: str = "Baseline"  #: heading of the baseline's column
    whole: bool = False  #: whether the cells that agree are listed, too

    @property
    def ok(self) -> bool:
        """Whether every cell of the baseline is found and agrees."""
        return all(verdict.way for verdict in self.verdicts)

    @property
    def lines(self) -> list[str]:
        """The lines of a table of the cells that do not agree, or of all; [] without such cells."""
        body = [
            [each.cell, each.ours, each.baseline, each.difference, f"{self.tolerance:g}", each.why]
            for each in self.verdicts
            if self.whole or not each.way
        ]
        header = ["Cell", "Ours", self.against, "Difference", "Tolerance", "Why"]
        table = tabulate(body, header, tablefmt="simple", disable_numparse=True)
        return table.splitlines() if body else []

    @property
    def summary(self) -> str:
        """One line: how many cells agree, and in which way; how many do not agree."""
        ways = [verdict.way for verdict in self.verdicts if not verdict.row]
        agree, wrong = len(ways) - ways.count(None), ways.count(None)
        counts = [
            f"{ways.count(way)} {words.format(tolerance=f'{self.tolerance:g}')}"
            for way, words in WAYS.items()
            if way in ways
        ]
        how = f" ({', '.join(counts)})" if counts else ""
        rows = sum(verdict.row for verdict in self.verdicts)
        nor = f", nor {counted(rows, 'row')}" if rows else ""
        return (
            f"{counted(agree, 'cell')} agree{'s' if agree == 1 else ''}{how}; "
            f"{wrong} do{'es' if wrong == 1 else ''} not{nor}; {self.extra} more in the folder"
        )

"""Verdicts: which cells agree with a baseline, and how that is printed. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from zsrobust.core.errors import counted

#: How cells may agree, in the order of the summary, as it says it.
WAYS = {
    "identical": "identical",
    "moved": "of the same weights within tolerance {tolerance} points",
    "retrained": "retrained within tolerance {tolerance} points or the paired test at 1%",
    "interval": "by interval, within tolerance {tolerance} points",
    "paper": "within tolerance {tolerance} points of our 95% interval",
}


@dataclass(frozen=True)
class Verdict:
    """What came of one cell."""

    cell: str
    way: str | None  #: how it agrees, a key of WAYS; None where it does not
    why: str = ""
    ours: str = (
        ""  #: in percent, clean and robust; or against the paper the one number, and its interval
    )
    baseline: str = ""
    difference: str = ""  #: ours minus the baseline's, in points
    row: bool = False  #: it is about the mean of a row, and not about a cell


@dataclass(frozen=True)
class Report:
    """What came of all cells of a baseline."""

    verdicts: Sequence[Verdict]
    tolerance: float
    extra: int = 0  #: cells that only the checked folder has
    notes: Sequence[str] = ()  #: what is no disagreement, and worth a line
    against: str = "Baseline"

    @property
    def ok(self) -> bool:
        """Whether every cell is there and agrees."""
        return all(verdict.way for verdict in self.verdicts)

    @property
    def lines(self) -> list[str]:
        """The lines of a table of the cells that do not agree; none if all do."""
        wrong = [verdict for verdict in self.verdicts if not verdict.way]
        body = [
            [each.cell, each.ours, each.baseline, each.difference, f"{self.tolerance:g}", each.why]
            for each in wrong
        ]
        header = ["Cell", "Ours", self.against, "Difference", "Tolerance", "Why"]
        return (
            tabulate(body, header, tablefmt="simple", disable_numparse=True).splitlines()
            if wrong
            else []
        )

    @property
    def summary(self) -> str:
        """One line: how many cells agree, and how; how many do not."""
        ways = [verdict.way for verdict in self.verdicts if not verdict.row]
        agree, wrong = len(ways) - ways.count(None), ways.count(None)
        rows = sum(verdict.row for verdict in self.verdicts)
        told = [
            f"{ways.count(way)} {words.format(tolerance=f'{self.tolerance:g}')}"
            for way, words in WAYS.items()
            if way in ways
        ]
        how = f" ({', '.join(told)})" if told else ""
        return (
            f"{counted(agree, 'cell')} agree{'s' if agree == 1 else ''}{how}; {wrong} "
            f"do{'es' if wrong == 1 else ''} not"
            + (f", nor {rows} row{'s' if rows > 1 else ''}" if rows else "")
            + f"; {self.extra} more in the folder"
        )

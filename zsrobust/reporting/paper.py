"""Our results against what the paper printed. No torch here."""

from collections.abc import Callable, Hashable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd

from zsrobust.core.errors import ZSRobustError
from zsrobust.reporting import reported, tables
from zsrobust.reporting.columns import percent
from zsrobust.reporting.comparison import points
from zsrobust.reporting.statistics import wilson
from zsrobust.reporting.verdicts import Report, Verdict
from zsrobust.results.selection import Selection
from zsrobust.settings import suites
from zsrobust.settings.suites import Suite

#: The paper's tables that print cells; the clean accuracies of the second are those of the cells of
#: PGD-10.
PRINTED = ("1", "2", "3")


def check(
    results: pd.DataFrame,
    suite: Suite,
    *,
    keep: Callable[[Mapping[str, Any]], bool] = lambda about: True,
    limit: int | None = None,
    tolerance: float = 1.0,
) -> Report:
    """Hold cells against what the paper's Tables 1 to 3 print; `data` is of `load_results`.

    Of whatever protocol, limit (unless one is chosen, see `check`) and seed, at 1/255. What failed
    does not agree, nor does a row with datasets missing. A cell agrees if the printed number, which
    may be off by 0.005 from rounding, lies in our Wilson 95% interval, widened on both sides by
    `tolerance` points. What is doubtful about a printed number stands beside it. Raises
    ZSRobustError where there is nothing to compare.
    """
    cells = results[(results["suite"] == suite.name) & (results["eps"] == "1/255")]
    if limit is not None:
        cells = cells[
            (cells["limit"] == limit) | (cells["limit"].isna() & (cells["images"] <= limit))
        ]
    records = [
        cell
        for cell in cells.to_dict("records")
        if keep({str(name): value for name, value in cell.items()})
    ]
    verdicts: list[Verdict] = []
    notes: dict[str, None] = {}
    used: set[str] = set()
    measured: dict[tuple[str, str], set[str]] = {}
    for number in (each for each in PRINTED if each in suite.printed):
        for cell in records:
            claim = reported.cell(number, cell["defense"], cell["dataset"])
            if claim is None or cell["attack"] != tables.find(number).attack:
                continue
            used.add(cell["path"])
            measured.setdefault((number, cell["defense"]), set()).add(cell["dataset"])
            verdicts.append(_against(claim, number, cell, tolerance))
            notes |= dict.fromkeys(reported.doubts(claim)) if verdicts[-1].way is None else {}
    if not verdicts:
        raise ZSRobustError(
            f"The paper has no numbers on the suite {suite.name}, or on these cells. Its Tables 1, "
            "2 and 3 are of the suite paper, at eps 1/255. "
            f"Next: {Selection.of(suites.load('paper')).command(table='1')}"
        )
    for (number, defense), datasets in measured.items():
        if missing := [name for name in suite.datasets if name not in datasets]:
            verdicts.append(
                Verdict(
                    f"Table {number}: {defense}",
                    None,
                    f"not measured: {', '.join(missing)}",
                    row=True,
                )
            )
    return Report(verdicts, tolerance, len(records) - len(used), list(notes), "Paper")


def _against(
    claim: reported.Claim, number: str, cell: Mapping[Hashable, Any], tolerance: float
) -> Verdict:
    """Return what came of a cell that the paper prints, in one of its tables."""
    (metric,) = tables.find(number).metrics
    name = f"Table {number}: {'/'.join(Path(cell['path']).with_suffix('').parts[-4:])}"
    if cell["status"] != "ok":
        return Verdict(name, None, "failed", baseline=str(claim.percent))
    counts = (int(cell[f"{metric}_correct"]), int(cell["images"]))
    low, high = (100 * end for end in wilson(*counts))
    printed, rounding = float(claim.percent), 0.005
    off = max(low - printed, printed - high) - rounding
    doubt = f"; doubtful: {', '.join(claim.doubt)}" if claim.doubt else ""
    return Verdict(
        name,
        "paper" if off <= tolerance else None,
        f"the paper's number is {off:.2f} points outside of our interval{doubt}"
        if off > tolerance
        else doubt.removeprefix("; "),
        f"{percent(Fraction(*counts))} ({low:.1f}–{high:.1f})",
        str(claim.percent),
        points(Fraction(*counts) - Fraction(claim.percent) / 100),
    )

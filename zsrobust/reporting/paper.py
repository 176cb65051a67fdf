"""The paper as a baseline: our results beside its printed numbers. No torch here."""

import itertools
from collections.abc import Callable, Hashable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.intervals import wilson
from zsrobust.reporting import reported, tables
from zsrobust.reporting.columns import ends, percent, points
from zsrobust.reporting.verdicts import Report, Verdict
from zsrobust.results.selection import Selection
from zsrobust.settings import suites
from zsrobust.settings.suites import Suite

#: The paper's tables with cells. Table 2, clean accuracy, is compared with the cells of PGD-10.
PRINTED = ("1", "2", "3")


def check(
    results: pd.DataFrame,
    suite: Suite,
    *,
    keep: Callable[[Mapping[str, Any]], bool] = lambda about: True,
    limit: int | None = None,
    tolerance: float = 1.0,
) -> Report:
    """Return the verdicts on our cells at 1/255 that the paper's Tables 1 to 3 print.

    `results` is the DataFrame of `load_results`; `keep` and `limit` choose its cells, as in
    `baseline.check`. A cell agrees if the printed number lies in our Wilson 95% interval, widened
    on both sides by `tolerance` points and 0.005 for rounding. Failed cells do not agree, nor do
    rows with missing datasets. Raises ZSRobustError if the paper has none of the cells.
    """
    cells = results[(results["suite"] == suite.name) & (results["eps"] == "1/255")]
    if limit is not None:
        cells = cells[
            (cells["limit"] == limit) | (cells["limit"].isna() & (cells["images"] <= limit))
        ]
    every = cells.to_dict("records")
    records = [cell for cell in every if keep({str(name): each for name, each in cell.items()})]
    verdicts: list[Verdict] = []
    notes: dict[str, None] = {}
    used: set[str] = set()
    measured: dict[tuple[str, str], set[str]] = {}
    printed = [number for number in PRINTED if number in suite.printed]
    for number, cell in itertools.product(printed, records):
        claim = reported.cell(number, cell["defense"], cell["dataset"])
        if claim is None or cell["attack"] != tables.find(number).attack:
            continue
        used.add(cell["path"])
        measured.setdefault((number, cell["defense"]), set()).add(cell["dataset"])
        verdicts.append(_against(claim, number, cell, tolerance))
        if verdicts[-1].way is None:
            notes |= dict.fromkeys(reported.doubts(claim))
    if not verdicts:
        raise ZSRobustError(
            f"The paper has no numbers on the suite {suite.name}, or on these cells. Its Tables 1, "
            "2 and 3 are on the suite paper, at eps 1/255. "
            f"Next: {Selection.of(suites.load('paper')).command(table='1')}"
        )
    for (number, defense), datasets in measured.items():
        if missing := [name for name in suite.datasets if name not in datasets]:
            why = f"not measured: {', '.join(missing)}"
            verdicts.append(Verdict(f"Table {number}: {defense}", None, why, row=True))
    return Report(verdicts, tolerance, len(records) - len(used), list(notes), "Paper")


def _against(
    claim: reported.Claim, number: str, cell: Mapping[Hashable, Any], tolerance: float
) -> Verdict:
    """Return the verdict on a cell that one of the paper's tables prints."""
    (metric,) = tables.find(number).metrics
    name = f"Table {number}: {'/'.join(Path(cell['path']).with_suffix('').parts[-4:])}"
    if cell["status"] != "ok":
        return Verdict(name, None, "failed", baseline=str(claim.percent))
    counts = (int(cell[f"{metric}_correct"]), int(cell["images"]))
    low, high = (100 * end for end in wilson(*counts))
    printed, rounding = float(claim.percent), 0.005
    off = max(low - printed, printed - high) - rounding
    why = []
    if off > tolerance:
        why.append(f"the paper's number is {off:.2f} points outside of our interval")
    if claim.doubt:
        why.append(f"doubtful: {', '.join(claim.doubt)}")
    return Verdict(
        name,
        "paper" if off <= tolerance else None,
        "; ".join(why),
        f"{percent(Fraction(*counts))} ({ends(wilson(*counts))})",
        str(claim.percent),
        points(Fraction(*counts) - Fraction(claim.percent) / 100),
    )

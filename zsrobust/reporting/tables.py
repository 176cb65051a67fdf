"""Tables that mirror the paper's: a pure function of the stored results. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import pandas as pd

from zsrobust.core.errors import ZSRobustError, suggest
from zsrobust.reporting import columns, reported
from zsrobust.reporting.columns import DASH, Column, Entry, filled, two_decimals
from zsrobust.reporting.formats import Page
from zsrobust.reporting.reported import Claim
from zsrobust.reporting.rows import Metric, Need, Row, rows
from zsrobust.results.selection import Selection
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


@dataclass(frozen=True)
class Table:
    """One of the paper's tables, or one that goes with them: which cells it shows."""

    caption: str
    metrics: tuple[Metric, ...] = ("robust",)
    attack: str = (
        "pgd10"  #: the attack whose cells it reads; clean accuracy comes from the same cells
    )
    rows: Mapping[str, str] = field(default_factory=lambda: ROWS)  #: title by the defense's spec
    by_dataset: bool = True  #: a column a dataset; else the averages alone
    second: bool = False  #: over the suite's second, which has another target dataset
    note: str = ""  #: what its rows mean


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
        "Where L_general is taken, and its distance: average accuracy (%), robust under PGD-10",
        ("clean", "robust"),
        rows={
            "pmg_aft": "Output + KL",
            "pmg_aft:distance=l2": "Output + L2",
            "pmg_aft:distance=l2,layer=feature": "Feature + L2",
            "pmg_aft:distance=cosine,layer=feature": "Feature + cosine",
        },
        by_dataset=False,
    ),
    "s1": Table("Second target dataset: zero-shot robust accuracy (%) under PGD-10", second=True),
    "s2": Table("Second target dataset: zero-shot clean accuracy (%)", ("clean",), second=True),
    "t1": Table(
        "Test-time defenses around FT-TeCoA: average accuracy (%), robust under PGD-10",
        ("clean", "robust"),
        rows={
            "tecoa": "FT-TeCoA",
            "tte:of=tecoa": "+ TTE, adaptive",
            "tte:knowledge=oblivious,of=tecoa": "+ TTE, oblivious",
            "ttc:of=tecoa": "+ TTC, adaptive",
            "ttc:knowledge=oblivious,of=tecoa": "+ TTC, oblivious",
        },
        by_dataset=False,
        note="adaptive: the attack sees the test-time defense. "
        "oblivious: it sees FT-TeCoA alone, and the number says "
        "nothing of an attacker who knows what is deployed.",
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


def needs(number: str) -> list[Need]:
    """Return the rows of cells that a table is made of."""
    table = find(number)
    return [Need(defense, table.attack) for defense in table.rows]


def suite_name(number: str, suite: Suite) -> str:
    """Return the suite of a table; raises ZSRobustError if there is no second suite."""
    if not find(number).second or suite.name in suites.firsts():
        return suite.name
    if suite.second is None:
        raise ZSRobustError(
            f"The suite {suite.name} has no second target dataset for Table {number}. Try: "
            "zsrobust table 1"
        )
    return suite.second


def build(
    number: str,
    results: pd.DataFrame,
    selection: Selection,
    *,
    intervals: bool = False,
    compare: bool = False,
    more: Sequence[str] = (),
) -> Page:
    """Return a table over the selected cells, from the DataFrame of `load_results`.

    The attack is the table's own, whatever the selection names; for its suite see `suite_name`. A
    mean is printed only in complete rows. `intervals` adds 95% ones: Wilson's for accuracies, a
    bootstrap's for means. `compare` adds what the paper printed, the difference, and what is
    doubtful about it. `more` holds defenses beyond the paper's. Raises ZSRobustError for a table
    that does not exist, and where there is nothing to show, or to compare with.
    """
    table = find(number)
    selection = replace(selection, attack=table.attack)
    suite, eps = selection.suite, selection.bound
    cells = selection.cells(results)
    chosen = {**table.rows, **_more(more, cells, table, selection)}
    cells = cells[cells["defense"].isin(list(chosen))]
    if cells.empty:
        raise _nothing(number, table, selection)
    own = results[results["suite"] == suite.name]
    titles = dict(zip(own["dataset"], own["dataset_title"], strict=True))
    shown = _columns(table, suite, titles)
    found = rows(cells, suite)
    ours = filled(shown, [found.get(spec, Row(suite, {})) for spec in chosen])
    lines = []
    for spec, entries in zip(chosen, ours, strict=True):
        lines.append((chosen[spec], entries))
        if compare and eps == "1/255" and number in suite.printed:
            lines += _compared(number, spec, dict(zip(shown, entries, strict=True)))
    if compare and len(lines) == len(ours):
        raise ZSRobustError(
            f"The paper prints nothing to compare Table {number} of the suite {suite.name} at eps "
            f"{eps} with. Its numbers "
            "are of the suites paper and paper_cifar100, at 1/255."
        )
    below = _underneath(cells, table, selection, titles, intervals)
    if compare:
        below.append(
            "paper: as printed in arXiv 2401.04350, claims to compare with; difference: ours "
            "minus theirs."
        )
    return Page(
        f"Table {number}. {table.caption}, {suite.name} suite, eps {eps}.",
        ["Method", *(column.title for column in shown)],
        lines,
        below,
        intervals,
    )


def _columns(table: Table, suite: Suite, titles: Mapping[str, str]) -> list[Column]:
    if not table.by_dataset:
        return columns.averages(table.metrics)
    (metric,) = table.metrics
    return columns.by_dataset({name: titles.get(name, name) for name in suite.datasets}, metric)


def _nothing(number: str, table: Table, selection: Selection) -> ZSRobustError:
    subset = f", subsets of {selection.limit} images" if selection.limit else ""
    return ZSRobustError(
        f"Table {number} cannot be built: no cell of its rows under {table.attack}, suite "
        f"{selection.suite.name}, protocol "
        f"{selection.protocol}, eps {selection.bound}, seed {selection.seed}{subset} is stored. "
        f"Next: {selection.command(list(table.rows), table=number)}"
    )


def _more(
    specs: Sequence[str], cells: pd.DataFrame, table: Table, selection: Selection
) -> dict[str, str]:
    """Return the titles of further rows, with the spec where another row has the title."""
    known = dict(zip(cells["defense"], cells["defense_title"], strict=True))
    for spec in specs:
        if spec not in known:
            raise suggest(
                "defense among these results:",
                spec,
                list(known),
                f"Next: {selection.command([spec])}",
            )
    taken = [*table.rows.values(), *(known[spec] for spec in specs)]
    return {
        spec: f"{known[spec]} ({spec})" if taken.count(known[spec]) > 1 else known[spec]
        for spec in specs
    }


def _compared(
    number: str, spec: str, ours: Mapping[Column, Entry]
) -> list[tuple[str, list[Entry]]]:
    """Return what the paper prints beside our row, and the difference."""
    claims = [_claim(number, spec, column) for column in ours]
    if not any(claims):
        return []
    theirs = [Entry() if claim is None else _printed(claim) for claim in claims]
    difference = [
        Entry() if claim is None or entry.share is None else _off(entry.share, claim)
        for entry, claim in zip(ours.values(), claims, strict=True)
    ]
    seconds = reported.seconds(number, spec)
    for place, column in enumerate(ours):
        if column.name == "time" and seconds is not None:
            theirs[place] = Entry(str(seconds))
    return [("· paper", theirs), ("· difference", difference)]


def _claim(number: str, spec: str, column: Column) -> Claim | None:
    if column.name == "average":
        return reported.average(number, spec)
    if column.name in find(number).metrics:
        return reported.average(number, spec, column.name)
    return reported.cell(number, spec, column.name)


def _printed(claim: Claim) -> Entry:
    return Entry(f"{claim.percent:.2f}", notes=tuple(reported.doubts(claim)))


def _off(share: Fraction, claim: Claim) -> Entry:
    return Entry(f"{two_decimals(share * 100 - Fraction(claim.percent)):+.2f}")


def _underneath(
    cells: pd.DataFrame,
    table: Table,
    selection: Selection,
    titles: Mapping[str, str],
    intervals: bool,
) -> list[str]:
    suite = selection.suite
    sizes = {
        str(name): sorted(set(group["images"]))
        for name, group in cells.groupby("dataset", sort=False)
    }
    counted = ", ".join(
        f"{titles[name]} {'/'.join(map(str, sizes[name]))}"
        for name in suite.datasets
        if name in sizes
    )
    versions = sorted(
        {f"{name} {number}" for each in cells["versions"] for name, number in each.items()}
    )
    time = " Time: seconds of one training epoch." if table.by_dataset else ""
    lines = [
        f"Suite {suite.name} ({suite.title}); protocol {selection.protocol}; attack "
        f"{table.attack}, eps {selection.bound}; "
        f"{DASH}: not measured, or failed.{time}",
        f"Means are over the {len(suite.datasets)} datasets; zero-shot ones without "
        f"{titles.get(suite.train_on, suite.train_on)}, which was trained on.",
        *filter(None, [table.note]),
        f"Images: {counted or 'none'}.",
        f"Versions: {', '.join(versions) or 'none'}.",
    ]
    if intervals:
        lines.insert(
            2,
            "In brackets: 95% intervals, Wilson's; for a mean, a bootstrap's over images within "
            "datasets.",
        )
    return lines

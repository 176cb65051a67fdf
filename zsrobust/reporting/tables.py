"""Tables that mirror the paper's: a pure function of the stored results. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import pandas as pd

from zsrobust.core.errors import ZSRobustError, counted, suggest
from zsrobust.reporting import columns, reported
from zsrobust.reporting.columns import DASH, Column, Entry, filled, points
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
    """A table of the paper, or one of ours: the cells that it shows."""

    caption: str
    metrics: tuple[Metric, ...] = ("robust",)
    attack: str = "pgd10"  #: clean accuracy is read from the cells of this attack, too
    rows: Mapping[str, str] = field(default_factory=lambda: ROWS)  #: title by the defense's spec
    by_dataset: bool = True  #: whether each dataset has a column; averages have one anyway
    second: bool = False  #: whether its suite is the one with the second target dataset
    note: str = ""  #: the meaning of its rows


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
        note="adaptive: the attack sees the test-time defense. oblivious: the attack sees FT-TeCoA "
        "alone; the number does not apply to attackers who know the defense.",
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
    """Return the rows of cells that a table shows; raises ZSRobustError like `find`."""
    table = find(number)
    return [Need(defense, table.attack) for defense in table.rows]


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


def build(
    number: str,
    results: pd.DataFrame,
    selection: Selection,
    *,
    intervals: bool = False,
    compare: bool = False,
    more: Sequence[str] = (),
) -> Page:
    """Return a table of the selected cells, from the DataFrame of `load_results`.

    The table's own attack replaces that of the selection. `suite_name` has its suite. Means are
    printed only for complete rows. `intervals` adds 95% intervals. `compare` adds the paper's
    numbers, the differences, and doubts about the paper's numbers. `more` adds rows by their specs.
    Raises ZSRobustError for an unknown table or row, for a table without cells, and for `compare`
    where the paper has no numbers.
    """
    table = find(number)
    selection = replace(selection, attack=table.attack)
    suite, eps = selection.suite, selection.bound
    cells = selection.cells(results)
    chosen = {**table.rows, **_more(more, cells, table, selection)}
    cells = cells[cells["defense"].isin(list(chosen))]
    if cells.empty:
        raise _no_cells(number, table, selection)
    own = results[results["suite"] == suite.name]
    titles = dict(zip(own["dataset"], own["dataset_title"], strict=True))
    shown = _columns(table, suite, titles)
    found = rows(cells, suite)
    ours = filled(shown, [found.get(spec, Row(suite, {})) for spec in chosen])
    lines = []
    for spec, entries in zip(chosen, ours, strict=True):
        lines.append((chosen[spec], entries))
        if compare and eps == "1/255" and number in suite.printed:
            lines += _beside(number, spec, dict(zip(shown, entries, strict=True)))
    if compare and len(lines) == len(ours):
        raise ZSRobustError(
            f"The paper has no numbers for Table {number} of the suite {suite.name} at eps {eps}. "
            "It has numbers for the suites paper and paper_cifar100 at eps 1/255. Try: "
            "zsrobust table 1 --compare paper"
        )
    below = _underneath(cells, table, selection, titles, intervals)
    if compare:
        below.append("paper: as printed in arXiv 2401.04350. difference: ours minus the paper's.")
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


def _no_cells(number: str, table: Table, selection: Selection) -> ZSRobustError:
    subset = f", subsets of {selection.limit} images" if selection.limit else ""
    return ZSRobustError(
        f"Table {number} has no stored cells under {table.attack}: suite {selection.suite.name}, "
        f"protocol {selection.protocol}, eps {selection.bound}, seed {selection.seed}{subset}. "
        f"Next: {selection.command(list(table.rows), table=number)}"
    )


def _more(
    specs: Sequence[str], cells: pd.DataFrame, table: Table, selection: Selection
) -> dict[str, str]:
    """Return the titles of further rows, with their specs if another row has the same title."""
    known = dict(zip(cells["defense"], cells["defense_title"], strict=True))
    for spec in specs:
        if spec not in known:
            see = f"Next: {selection.command([spec])}"
            raise suggest("defense among these results:", spec, list(known), see)
    taken = [*table.rows.values(), *(known[spec] for spec in specs)]
    return {
        spec: f"{known[spec]} ({spec})" if taken.count(known[spec]) > 1 else known[spec]
        for spec in specs
    }


def _beside(number: str, spec: str, ours: Mapping[Column, Entry]) -> list[tuple[str, list[Entry]]]:
    """Return the lines of the paper's numbers and of the differences; none without numbers."""
    claims = [_claim(number, spec, column) for column in ours]
    if not any(claims):
        return []
    theirs, differences = [], []
    seconds = reported.seconds(number, spec)
    for (column, entry), claim in zip(ours.items(), claims, strict=True):
        printed = difference = Entry()
        if column.name == "time" and seconds is not None:
            printed = Entry(str(seconds))
        if claim is not None:
            printed = Entry(f"{claim.percent:.2f}", notes=tuple(reported.doubts(claim)))
            if entry.share is not None:
                difference = Entry(points(entry.share - Fraction(claim.percent) / 100))
        theirs.append(printed)
        differences.append(difference)
    return [("· paper", theirs), ("· difference", differences)]


def _claim(number: str, spec: str, column: Column) -> Claim | None:
    if column.name == "average":
        return reported.average(number, spec)
    if column.name in find(number).metrics:
        return reported.average(number, spec, column.name)
    return reported.cell(number, spec, column.name)


def _underneath(
    cells: pd.DataFrame,
    table: Table,
    selection: Selection,
    titles: Mapping[str, str],
    intervals: bool,
) -> list[str]:
    """Return the paragraphs below a table: what its numbers were measured on, and how."""
    suite = selection.suite
    time = " Time: seconds of one training epoch." if table.by_dataset else ""
    lines = [
        f"Suite {suite.name} ({suite.title}); protocol {selection.protocol}; attack "
        f"{table.attack}, eps {selection.bound}; {DASH}: not measured, or failed.{time}",
        f"Means are over {counted(len(suite.datasets), 'dataset')}. Zero-shot means leave out "
        f"{titles.get(suite.train_on, suite.train_on)}, the target dataset of training. Above "
        "chance: the mean of (accuracy - chance) / (1 - chance), at least 0 for each dataset. "
        "Chance is the share of the most frequent class, which a constant answer scores.",
    ]
    if intervals:
        lines.append(
            "In brackets: 95% intervals, Wilson's for an accuracy, and for a mean from a bootstrap "
            "over the images of each dataset."
        )
    if table.note:
        lines.append(table.note)
    sizes = [
        f"{titles[name]} {'/'.join(map(str, sorted(set(group['images']))))}"
        for name in suite.datasets
        if not (group := cells[cells["dataset"] == name]).empty
    ]
    versions = sorted(
        {f"{name} {number}" for each in cells["versions"] for name, number in each.items()}
    )
    return [
        *lines,
        f"Images: {', '.join(sizes) or 'none'}.",
        f"Versions: {', '.join(versions) or 'none'}.",
    ]

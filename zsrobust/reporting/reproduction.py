"""The page of a reproduction: ours beside reported numbers, and what is missing. No torch here."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pandas as pd

from zsrobust.core.errors import counted
from zsrobust.core.values import missing
from zsrobust.reporting import contents, formats
from zsrobust.reporting.columns import Entry, percent, points
from zsrobust.reporting.counterparts import Counterparts, Line, Number, lines_of
from zsrobust.reporting.formats import Page
from zsrobust.reporting.rows import Finder, Row
from zsrobust.reporting.statistics import newcombe
from zsrobust.results.flags import look_up
from zsrobust.results.selection import Selection
from zsrobust.settings.suites import Suite

OUTSIDE = "≠"  #: beside a difference whose interval does not contain 0
ABOUT = (
    "Ours: accuracy (%) with its 95% interval. Difference: ours minus theirs in points, with the "
    "95% interval that follows from ours (Wilson's for a cell, a bootstrap for an average). If "
    "the counts of their cell are known, it is Newcombe's interval of two independent samples. "
    "Intervals are about images; another training can differ by more. A paper's number counts as "
    "exact. "
    f"{OUTSIDE}: this interval does not contain 0. Of 20 equal numbers, about one is marked. "
    "Doubts are about ours: red flags, robust accuracy at chance, subsets. Footnotes are about "
    "theirs."
)


@dataclass(frozen=True)
class Left:
    """The cells of a table that are missing."""

    cells: int
    of: int  #: cells of the table
    time: str  #: predicted, with the trainings that they need


def build(
    tables: Mapping[str, Suite],
    results: pd.DataFrame,
    counterparts: Counterparts,
    left: Mapping[str, Left],
    *,
    protocol: str,
    limit: int | None = None,
) -> dict[str, Page]:
    """Return a page for each table by its number; `tables` and `left` have its suite and gaps.

    `results` is the DataFrame of `load_results`. A page has a row for each measured cell, and one
    for the average of each complete row. Tables of averages have these alone.
    """
    pages = {}
    for number, suite in tables.items():
        finder = Finder(results, Selection.of(suite, protocol=protocol, limit=limit))
        table = contents.find(number)
        rows = []
        for line in lines_of(number, suite):
            row = finder.row(line.need)
            rows += _cells(line, row, counterparts) if table.by_dataset else []
            rows += _average(line, row, counterparts)
        gap = left[number]
        stored = f"{gap.of - gap.cells} of {counted(gap.of, 'cell')} are stored."
        if gap.cells:
            stored += f" Missing: {gap.cells}, at most {gap.time} with their trainings."
        header = ["Method", "Accuracy", "Eps", "Dataset", "Images", "Ours", counterparts.title]
        pages[number] = Page(
            f"Table {number}. {table.caption}, {suite.name} suite",
            [*header, "Difference", "Others", "Doubts"],
            rows,
            [stored],
            intervals=True,
            leads=3,
        )
    return pages


def markdown(pages: Mapping[str, Page], title: str, summary: Sequence[str]) -> str:
    """Return the pages as one page of Markdown; tables without a row have their gaps alone."""
    outside, compared = _compared(pages)
    parts = [
        f"# {title}",
        *summary,
        f"{outside} of {counted(compared, 'compared number')} differ by more than their 95% "
        "interval.",
        ABOUT,
    ]
    for number, page in pages.items():
        parts.append(f"## Table {number}")
        body = formats.markdown(page).rstrip() if page.rows else "\n\n".join(page.underneath)
        parts.append(body)
    return "\n\n".join(parts) + "\n"


def _compared(pages: Mapping[str, Page]) -> tuple[int, int]:
    """Return how many differences are outside of their interval, and how many there are."""
    place = -3  # of the differences, among the entries of a row
    entries = [entries[place] for page in pages.values() for _, entries in page.rows]
    known = [entry for entry in entries if entry.share is not None]
    return sum(entry.mark == OUTSIDE for entry in known), len(known)


def _cells(line: Line, row: Row, counterparts: Counterparts) -> list[tuple[str, list[Entry]]]:
    """Return the rows of the cells that are stored, failed ones too."""
    found = []
    for name, cell in row.cells.items():
        counts, ours = row.counts(name, line.metric), Entry("failed")
        if counts is not None:
            share, interval = Fraction(*counts), row.only(name).interval(line.metric)
            ours = Entry(percent(share), share, interval)
        where = [Entry(str(cell["dataset_title"])), Entry(str(int(cell["images"])))]
        beside = _beside(ours, counterparts.cell(line, name), counts)
        doubts = Entry("; ".join(_doubts(line, [cell])))
        found.append((line.title, [*_lead(line), *where, *beside, doubts]))
    return found


def _average(line: Line, row: Row, counterparts: Counterparts) -> list[tuple[str, list[Entry]]]:
    """Return the row of an average; [] if the cells of its row are not complete."""
    mean = row.mean(line.metric)
    if mean is None:
        return []
    ours = Entry(percent(mean), mean, row.interval(line.metric))
    images = Entry(str(sum(int(cell["images"]) for cell in row.cells.values())))
    beside = _beside(ours, counterparts.average(line), None)
    doubts = Entry("; ".join(_doubts(line, list(row.cells.values()))))
    return [(line.title, [*_lead(line), Entry("average"), images, *beside, doubts])]


def _lead(line: Line) -> list[Entry]:
    return [Entry(line.metric), Entry(line.eps)]


def _beside(ours: Entry, numbers: Sequence[Number], counts: tuple[int, int] | None) -> list[Entry]:
    """Return our number, the first source's, their difference, and the other reported numbers."""
    first = next((each for each in numbers if not each.later), None)
    theirs = Entry() if first is None else Entry(percent(first.share), notes=first.notes)
    others = "; ".join(f"{each.source} {percent(each.share)}" for each in numbers if each.later)
    return [ours, theirs, _difference(ours, first, counts), Entry(others)]


def _difference(ours: Entry, theirs: Number | None, counts: tuple[int, int] | None) -> Entry:
    """Return ours minus theirs with its 95% interval; a dash without one of the two."""
    if theirs is None or ours.share is None or ours.interval is None:
        return Entry()
    low, high = (end - float(theirs.share) for end in ours.interval)
    if counts is not None and theirs.counts is not None:
        low, high = newcombe(theirs.counts, counts)
    difference = ours.share - theirs.share
    text = f"{points(difference)} ({100 * low:+.2f} to {100 * high:+.2f})"
    return Entry(text, difference, mark="" if low <= 0 <= high else OUTSIDE)


def _doubts(line: Line, cells: Sequence[Mapping[Hashable, Any]]) -> list[str]:
    """Return why our number is doubtful: flags, which are about robust accuracy, and subsets."""
    names = [name for cell in cells for name in cell["flags"] if line.metric == "robust"]
    flags = {name: names.count(name) for name in names}
    found = [
        look_up(name).title + (f" ({times} of {len(cells)})" if len(cells) > 1 else "")
        for name, times in flags.items()
    ]
    if any(not missing(cell["limit"]) for cell in cells):
        found.append("a subset" if len(cells) == 1 else "subsets")
    return found

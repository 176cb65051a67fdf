"""Columns: a title and a function from a row to a printed entry. No torch here.

Tables, the terminal and the report share these columns. To add one to all of them, write its
function and add a `Column` to `DETAILS`.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from zsrobust.core.errors import counted
from zsrobust.reporting.rows import METRICS, Metric, Row
from zsrobust.reporting.statistics import wilson
from zsrobust.results.cell import Outcomes
from zsrobust.results.flags import look_up
from zsrobust.results.store import read

DASH = "—"
_TAKEN = (
    "method",
    "average",
    "zero-shot",
    "time",
)  #: names of columns, which a dataset may have, too
MIXED = (
    "This row has no mean: its cells are of different checkpoints, attacks or switches of the "
    "protocol. "
    "Run them again."
)

#: What shows columns: tables of datasets, tables of averages, the report's leaderboard, and what a
#: run prints of one defense (a line for each dataset) or of several (a line for each defense).
Place = Literal["datasets", "averages", "report", "defense", "defenses"]


@dataclass(frozen=True)
class Entry:
    """One printed number, or a dash where the cell is missing or failed."""

    text: str = DASH
    share: Fraction | None = None  #: what it was printed from, if it is an accuracy of ours
    interval: tuple[float, float] | None = None  #: 95%, in [0, 1]
    best: bool = False
    notes: tuple[str, ...] = ()  #: its footnotes
    about: str = ""  #: what it was counted from, or why it is missing
    cell: str | None = None  #: path of its cell's JSON; None for a mean


@dataclass(frozen=True)
class Column:
    """A title and a function from a row to a printed entry."""

    name: str
    title: str
    entry: Callable[[Row], Entry]
    ranked: bool = False  #: whether the best of its entries is marked
    places: frozenset[Place] = frozenset()  #: of a column in `DETAILS`: what shows it


def by_dataset(datasets: Mapping[str, str], metric: Metric) -> list[Column]:
    """Return the columns of a table of datasets, whose titles are given by name."""
    return [*_accuracies(datasets, metric), *_means(metric), *_details("datasets")]


def averages(metrics: Sequence[Metric]) -> list[Column]:
    """Return the columns of a table of averages, with the red flags of its cells."""
    columns = []
    for metric in metrics:
        average, zero_shot = _means(metric)
        entry = _flagged(average.entry) if metric == "robust" else average.entry
        title = metric.capitalize()
        columns += [
            Column(metric, title, entry),
            Column(f"{metric}-zero-shot", f"{title}, zero-shot", zero_shot.entry),
        ]
    return [*columns, *_details("averages")]


def leaderboard(datasets: Mapping[str, str], metric: Metric, zero_shot: bool) -> list[Column]:
    """Return the leaderboard's columns; `zero_shot`: a dataset was trained on."""
    means = _means(metric) if zero_shot else _means(metric)[:1]
    return [*means, *_accuracies(datasets, metric), *_details("report")]


def terminal(place: Literal["defense", "defenses"]) -> list[Column]:
    """Return the columns that a run prints; a dataset of one defense is a row of its own."""
    return [
        Column("images", "Images", _images),
        *(Column(metric, metric.capitalize(), _mean(metric)) for metric in reversed(METRICS)),
        *_details(place),
    ]


def filled(columns: Sequence[Column], found: Sequence[Row]) -> list[list[Entry]]:
    """Return the entries of every row, with the best of each ranked column marked.

    One number alone is never the best, and neither is a number of an oblivious attack.
    """
    entries = [[column.entry(row) for column in columns] for row in found]
    rivals = [line for line, row in zip(entries, found, strict=True) if not row.oblivious]
    tops = [
        _best([line[place].share for line in rivals]) if column.ranked else None
        for place, column in enumerate(columns)
    ]
    for line in rivals:
        for place, top in enumerate(tops):
            if top is not None and line[place].share == top:
                line[place] = replace(line[place], best=True)
    return entries


def _best(shares: Sequence[Fraction | None]) -> Fraction | None:
    known = [share for share in shares if share is not None]
    return max(known) if len(known) > 1 else None


def percent(share: Fraction) -> str:
    """Return a share as percent with two decimals, rounded half to even, once."""
    return str(two_decimals(share * 100))


def two_decimals(number: Fraction) -> Decimal:
    """Return a number rounded half to even, once."""
    hundredths = round(number * 100)  # of a Fraction: exact, half to even
    return Decimal(hundredths).scaleb(-2).quantize(Decimal("0.01"), rounding=ROUND_HALF_EVEN)


def _accuracies(datasets: Mapping[str, str], metric: Metric) -> list[Column]:
    return [
        Column(
            f"dataset:{name}" if name in _TAKEN else name,
            title,
            _accuracy(name, metric),
            ranked=True,
        )
        for name, title in datasets.items()
    ]


def _accuracy(dataset: str, metric: Metric) -> Callable[[Row], Entry]:
    def entry(row: Row) -> Entry:
        cell = row.cells.get(dataset)
        if cell is None:
            return Entry(about="not measured")
        path = str(cell["path"])
        counts = row.counts(dataset, metric)
        if counts is None:
            return Entry(notes=_footnotes(cell), about="the cell failed", cell=path)
        correct, images = counts
        return Entry(
            percent(share := Fraction(correct, images)),
            share,
            wilson(correct, images),
            notes=_footnotes(cell),
            about=f"{correct} of {images} images",
            cell=path,
        )

    return entry


def _means(metric: Metric) -> list[Column]:
    return [
        Column("average", "Average", _mean(metric), ranked=True),
        Column("zero-shot", "Zero-shot", _mean(metric, zero_shot=True), ranked=True),
    ]


def _mean(metric: Metric, zero_shot: bool = False) -> Callable[[Row], Entry]:
    def entry(row: Row) -> Entry:
        mean = row.mean(metric, zero_shot)
        if mean is None and row.mixed:
            return Entry(notes=(MIXED,), about=MIXED)
        if mean is None:
            return Entry(about="not complete: a number is missing")
        about = (
            f"mean of {counted(len(row.averaged(zero_shot)), 'dataset')}, each weighing the same"
        )
        return Entry(percent(mean), mean, row.interval(metric, zero_shot), about=about)

    return entry


def _flagged(mean: Callable[[Row], Entry]) -> Callable[[Row], Entry]:
    """Return a mean's entries, with red flags of cells that have no column."""

    def entry(row: Row) -> Entry:
        found = mean(row)
        flags = sorted({note for cell in row.cells.values() for note in _footnotes(cell)})
        return replace(found, notes=(*found.notes, *flags))

    return entry


def _footnotes(cell: Mapping[Hashable, Any]) -> tuple[str, ...]:
    return tuple(look_up(flag).sentence for flag in cell["flags"])


def _details(place: Place) -> list[Column]:
    return [column for column in DETAILS if place in column.places]


def _images(row: Row) -> Entry:
    return Entry(str(sum(cell["images"] for cell in row.cells.values())))


def _time(row: Row) -> Entry:
    epochs = (cell["epoch_seconds"] for cell in row.cells.values())
    known = [seconds for seconds in epochs if not pd.isna(seconds)]
    return Entry(f"{known[0]:.1f}") if known else Entry()


def _per_class(row: Row) -> Entry:
    """Return clean and robust percentages, averaged over classes and datasets."""
    if any(cell["status"] != "ok" for cell in row.cells.values()):
        return Entry()
    means = []
    for cell in row.cells.values():
        path = Path(str(cell["path"]))
        means.append(Outcomes.read(path).mean_per_class(read(path).identity.attacks_everything))
    clean, robust = (100 * sum(each) / len(means) for each in zip(*means, strict=True))
    return Entry(f"{clean:.2f}  {robust:.2f}")


#: Columns beside the accuracies, and what shows each.
DETAILS: tuple[Column, ...] = (
    Column("per_class", "Mean per class", _per_class, places=frozenset({"defense"})),
    Column("time", "Time (s)", _time, places=frozenset({"datasets", "report"})),
)

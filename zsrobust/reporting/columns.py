"""Columns: a title and a function from a row to a printed entry. No torch here.

Tables, the terminal and the report share these columns. To add one to all of them, write its
function and add a `Column` to `DETAILS`.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from zsrobust.core.errors import counted
from zsrobust.core.intervals import wilson
from zsrobust.core.values import missing
from zsrobust.reporting.rows import METRICS, Metric, Row
from zsrobust.reporting.statistics import mean_interval
from zsrobust.results.cell import Outcomes
from zsrobust.results.flags import look_up
from zsrobust.results.store import read

DASH = "—"
#: Names that a dataset's column cannot have.
TAKEN = ("method", "average", "zero-shot", "above-chance", "zero-shot-above-chance", "time")
MIXED = (
    "This row has no mean: its cells are of different checkpoints, attacks or switches of the "
    "protocol. Run them again."
)
UNCOUNTED = (
    "Older cells of this row do not store their most frequent class. Chance is 1/K there, with K "
    "classes."
)
OBLIVIOUS = "oblivious"  #: beside a number that such an attack left
UNAWARE = "the attack does not know the defense"

#: Where columns are printed: in tables of datasets, tables of averages, the report's leaderboard,
#: and by a run of one defense (a line for each dataset) or of several (a line for each defense).
Place = Literal["datasets", "averages", "report", "defense", "defenses"]


@dataclass(frozen=True)
class Entry:
    """One printed number, or a dash where the cell is missing or failed."""

    text: str = DASH
    share: Fraction | None = None  #: the accuracy before rounding; None for other numbers
    interval: tuple[float, float] | None = None  #: 95%, in [0, 1]
    best: bool = False
    spread: str = ""  #: the standard deviation over several trainings, as printed
    mark: str = ""  #: a sign behind the number, whose meaning is a footnote
    notes: tuple[str, ...] = ()  #: footnotes
    about: str = ""  #: the images or datasets behind it, or why it is missing
    cell: str | None = None  #: path of its cell's JSON; None for a mean

    @property
    def printed(self) -> str:
        """The number with its standard deviation: "31.25 ± 0.50"."""
        return f"{self.text} ± {self.spread}" if self.spread else self.text

    @property
    def ends(self) -> str:
        """The interval in percent, with the decimals of the number: "2.24–47.09"; "" without."""
        return "" if self.interval is None else ends(self.interval, _decimals(self.text))


@dataclass(frozen=True)
class Column:
    """A title and a function from a row to a printed entry."""

    name: str
    title: str
    entry: Callable[[Row], Entry]
    ranked: bool = False  #: whether its best entry is marked
    places: frozenset[Place] = frozenset()  #: where a column of `DETAILS` is printed


def by_dataset(datasets: Mapping[str, str], metric: Metric) -> list[Column]:
    """Return the columns of a table of datasets; `datasets` maps names to titles."""
    return [*_accuracies(datasets, metric), *_means(metric), *_details("datasets")]


def averages(metrics: Sequence[Metric]) -> list[Column]:
    """Return the columns of a table of averages, with the red flags of all cells."""
    plain: list[Column] = []
    above: list[Column] = []
    for metric in metrics:
        title = metric.capitalize()
        plain_mean, *others = _means(metric)
        entry = flagged(plain_mean.entry) if metric == "robust" else plain_mean.entry
        plain.append(Column(metric, title, entry))
        for column in others:
            group = above if column.name.endswith("above-chance") else plain
            words = f"{title}, {column.title[0].lower()}{column.title[1:]}"
            group.append(Column(f"{metric}-{column.name}", words, column.entry))
    return [*plain, *above, *_details("averages")]


def leaderboard(datasets: Mapping[str, str], metric: Metric, zero_shot: bool) -> list[Column]:
    """Return the leaderboard's columns; `zero_shot` adds the mean over zero-shot datasets."""
    means = [column for column in _means(metric) if zero_shot or "zero-shot" not in column.name]
    return [*means, *_accuracies(datasets, metric), *_details("report")]


def terminal(place: Literal["defense", "defenses"], targeted: bool = False) -> list[Column]:
    """Return the columns that a run prints of one defense or of several.

    With `targeted`, the success of targeted attacks takes the place of the details: a terminal of
    80 characters has no room for both.
    """
    return [
        Column("images", "Images", _images),
        *(Column(metric, metric.capitalize(), average(metric)) for metric in reversed(METRICS)),
        *([Column("success", "Success", success)] if targeted else _details(place)),
    ]


def filled(columns: Sequence[Column], found: Sequence[Row]) -> list[list[Entry]]:
    """Return the entries of every row, with the best of each ranked column marked.

    A single number is not marked, and numbers of oblivious attacks do not count.
    """
    entries = [[column.entry(row) for column in columns] for row in found]
    rivals = [line for line, row in zip(entries, found, strict=True) if not row.oblivious]
    mark_best(rivals, [column.ranked for column in columns])
    return entries


def mark_best(rivals: Sequence[list[Entry]], ranked: Sequence[bool]) -> None:
    """Mark the best entry of each ranked column, in place; a single number is not marked."""
    for place in (place for place, compared in enumerate(ranked) if compared):
        top = _best([line[place].share for line in rivals])
        for line in rivals:
            if top is not None and line[place].share == top:
                line[place] = replace(line[place], best=True)


def _best(shares: Sequence[Fraction | None]) -> Fraction | None:
    known = [share for share in shares if share is not None]
    return max(known) if len(known) > 1 else None


def percent(share: Fraction) -> str:
    """Return a share in percent with two decimals, rounded half to even: "33.33"."""
    return f"{_rounded(share)}"


def ends(interval: tuple[float, float], decimals: int = 2) -> str:
    """Return an interval of shares in percent, with the decimals of `percent`: "2.24–47.09"."""
    low, high = (f"{100 * end:.{decimals}f}" for end in interval)
    return f"{low}–{high}"


def _decimals(number: str) -> int:
    return len(number.partition(".")[2])


def points(share: Fraction) -> str:
    """Return a difference of shares in points with its sign, rounded half to even: "+3.33"."""
    return f"{_rounded(share):+}"


def _rounded(share: Fraction) -> Decimal:
    return Decimal(round(share * 10_000)).scaleb(-2)  # exact: a Fraction rounds half to even


def _accuracies(datasets: Mapping[str, str], metric: Metric) -> list[Column]:
    return [
        Column(_column_name(name), title, _accuracy(name, metric), ranked=True)
        for name, title in datasets.items()
    ]


def _column_name(dataset: str) -> str:
    return f"dataset:{dataset}" if dataset in TAKEN else dataset


def _accuracy(dataset: str, metric: Metric) -> Callable[[Row], Entry]:
    def entry(row: Row) -> Entry:
        cell = row.cells.get(dataset)
        if cell is None:
            return Entry(about="not measured")
        path, notes = str(cell["path"]), _footnotes(cell)
        counts = row.counts(dataset, metric)
        if counts is None:
            return Entry(notes=notes, about="the cell failed", cell=path)
        correct, images = counts
        share, about = Fraction(correct, images), f"{correct} of {images} images"
        interval = wilson(correct, images)
        return Entry(percent(share), share, interval, notes=notes, about=about, cell=path)

    return entry


def _means(metric: Metric) -> list[Column]:
    return [
        Column("average", "Average", average(metric), ranked=True),
        Column("zero-shot", "Zero-shot", average(metric, zero_shot=True), ranked=True),
        Column("above-chance", "Above chance", above_chance(metric), ranked=True),
        Column(
            "zero-shot-above-chance",
            "Zero-shot, above chance",
            above_chance(metric, zero_shot=True),
            ranked=True,
        ),
    ]


def average(metric: Metric, zero_shot: bool = False) -> Callable[[Row], Entry]:
    """Return a function from a row to its mean accuracy."""

    def entry(row: Row) -> Entry:
        mean = row.mean(metric, zero_shot)
        if mean is None and row.mixed:
            return Entry(notes=(MIXED,), about=MIXED)
        if mean is None:
            return Entry(about="not complete: a number is missing")
        datasets = counted(len(row.averaged(zero_shot)), "dataset")
        about = f"mean of {datasets}, each weighing the same"
        return Entry(percent(mean), mean, row.interval(metric, zero_shot), about=about)

    return entry


def success(row: Row) -> Entry:
    """Return the share of attacked images that are predicted as the attack's target; the mean."""
    counts = row.successes()
    if not counts:
        return Entry(about="not measured, or no image was attacked")
    mean = sum((Fraction(*each) for each in counts), Fraction(0)) / len(counts)
    interval = wilson(*counts[0]) if len(counts) == 1 else mean_interval(counts)
    return Entry(percent(mean), mean, interval, about="share of the attacked images")


def above_chance(metric: Metric, zero_shot: bool = False) -> Callable[[Row], Entry]:
    """Return a function from a row to its mean accuracy above chance."""
    plain = average(metric, zero_shot)

    def entry(row: Row) -> Entry:
        if row.mean(metric, zero_shot) is None:
            return plain(row)  # its dash and its reason
        mean = row.mean_above_chance(metric, zero_shot)
        if mean is None:
            return Entry(about="the number of classes of a dataset is not stored")
        notes = (UNCOUNTED,) if row.uncounted(zero_shot) else ()
        datasets = counted(len(row.averaged(zero_shot)), "dataset")
        about = f"mean of {datasets}: (accuracy - chance) / (1 - chance), at least 0"
        interval = row.interval_above_chance(metric, zero_shot)
        return Entry(percent(mean), mean, interval, notes=notes, about=about)

    return entry


def flagged(mean: Callable[[Row], Entry]) -> Callable[[Row], Entry]:
    """Return a mean's entries with the red flags of all cells, which have no columns."""

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


def epoch_time(row: Row) -> Entry:
    """Return the seconds of one training epoch."""
    epochs = (cell["epoch_seconds"] for cell in row.cells.values())
    known = [seconds for seconds in epochs if not missing(seconds)]
    return Entry(f"{known[0]:.1f}") if known else Entry()


def memory(row: Row) -> Entry:
    """Return the peak memory of a training step in MiB; a dash if it was not measured."""
    known = [cell["memory"] for cell in row.cells.values() if not missing(cell["memory"])]
    return Entry(f"{known[0] / 2**20:.0f}") if known else Entry(about="not measured")


def _cost(row: Row, name: str) -> float | None:
    """Return the mean over the cells of what a test-time defense costs; None if not measured."""
    known = [cell["cost"][name] for cell in row.cells.values() if isinstance(cell["cost"], dict)]
    return sum(known) / len(known) if known else None


def passes(row: Row) -> Entry:
    """Return the passes through the image tower for one prediction of a test-time defense."""
    found = _cost(row, "passes")
    return Entry(f"{found:.0f}") if found is not None else Entry(about="no test-time defense")


def added_time(row: Row) -> Entry:
    """Return the milliseconds that a test-time defense adds to one image."""
    with_it, without = _cost(row, "seconds"), _cost(row, "plain_seconds")
    if with_it is None or without is None:
        return Entry(about="no test-time defense")
    added = round(1000 * (with_it - without), 1)
    return Entry(f"{added + 0.0:.1f}")  # + 0.0: a small negative time is no "-0.0"


def deployed_memory(row: Row) -> Entry:
    """Return the peak memory of one image through a test-time defense, in MiB."""
    found = _cost(row, "memory")
    return Entry(f"{found / 2**20:.1f}") if found is not None else Entry(about="not measured")


def cost_in_words(row: Row) -> str:
    """Return what a test-time defense costs, as "10 passes, 11.5 ms more an image, 0.2 MiB".

    It is "" for a defense of the weights, and "not measured" for older cells.
    """
    if _cost(row, "passes") is None:
        return "not measured" if any(cell["knowledge"] for cell in row.cells.values()) else ""
    number, added, size = (each(row).text for each in (passes, added_time, deployed_memory))
    return f"{number} pass{'' if number == '1' else 'es'}, {added} ms more an image, {size} MiB"


def costs(found: Iterable[tuple[str, Row]]) -> list[str]:
    """Return a paragraph with the cost of each test-time defense among titled rows, or none.

    Rows with the same title share their first cost.
    """
    known: dict[str, str] = {}
    for title, row in found:
        if words := cost_in_words(row):
            known.setdefault(title, words)
    if not known:
        return []
    listed = "; ".join(f"{title}: {words}" for title, words in known.items())
    return [f"Cost at test time: {listed}. Passes are those of one deployed prediction."]


def verdict(found: Sequence[Row]) -> Entry:
    """Return "doubtful" if a cell of the rows has a red flag, which `at_chance` is not.

    It is a dash if a row has no cells.
    """
    if not all(row.cells for row in found):
        return Entry()
    flags = {flag for row in found for cell in row.cells.values() for flag in cell["flags"]}
    red = sorted(name for name in flags if look_up(name).red)
    return Entry("doubtful", about=", ".join(red)) if red else Entry("no flag")


def unaware(read: Callable[[Row], Entry]) -> Callable[[Row], Entry]:
    """Return a number's entries, each marked where the attack does not know the defense."""

    def entry(row: Row) -> Entry:
        found = read(row)
        if not row.oblivious:
            return found
        note = f"{OBLIVIOUS}: {UNAWARE}. Such numbers are usually published; they are not ranked."
        return replace(found, mark=OBLIVIOUS, notes=(*found.notes, note))

    return entry


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


#: Columns beside the accuracies, and where each is printed.
DETAILS: tuple[Column, ...] = (
    Column("per_class", "Mean per class", _per_class, places=frozenset({"defense"})),
    Column("time", "Time (s)", epoch_time, places=frozenset({"datasets", "report"})),
)

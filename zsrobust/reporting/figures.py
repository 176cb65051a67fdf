"""Figures that mirror the paper's: a pure function of the stored results, without torch."""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.intervals import wilson
from zsrobust.core.specs import format_eps
from zsrobust.reporting import painting, zoo
from zsrobust.reporting.columns import percent
from zsrobust.reporting.painting import CURVE
from zsrobust.reporting.rows import METRICS, Finder, Metric, Need, Row
from zsrobust.reporting.tables import ROWS
from zsrobust.results.selection import Selection
from zsrobust.settings.suites import Suite

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

WIDTH = 3.25  #: inches: one column
COLUMNS = ["series", "title", "spec", "x", "dataset", "dataset_title"]
COLUMNS += ["metric", "value", "low", "high", "text"]


class Series(NamedTuple):
    """A line or a kind of marker: the rows of cells that it shows."""

    name: str
    title: str
    points: Sequence[tuple[float | None, Need]]  #: place on the x axis, and the row


Record = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One of the paper's figures: its rows, the numbers that it shows of each, and its looks."""

    caption: str
    series: Callable[[Suite], list[Series]]
    read: Callable[[Row], list[Record] | None]  #: the numbers of a row; None if it is incomplete
    paint: Callable[["Drawn", pd.DataFrame, str], None]
    height: float  #: inches
    where: Callable[[Mapping[Any, Any]], str]  #: the words that `describe` adds to a number
    swept: bool = False  #: whether it shows the bounds of the suite's sweep, and not one eps


@dataclass(frozen=True)
class _Found:
    """The numbers and the words of a figure."""

    frame: pd.DataFrame
    left_out: list[str]  #: titles of the incomplete series
    bounds: str  #: eps, as printed
    title: str
    text: str  #: description


def find(number: str) -> Figure:
    """Return a figure by its number; raises ZSRobustError for one that does not exist."""
    if number not in FIGURES:
        raise ZSRobustError(
            f"There is no figure {number!r}. Figures: {', '.join(FIGURES)}. Try: zsrobust figure "
            "1 --suite mini"
        )
    return FIGURES[number]


def needs(number: str, suite: Suite) -> list[Need]:
    """Return the rows of cells of a figure; raises ZSRobustError if a suite lacks its sweep."""
    every = [need for series in find(number).series(suite) for _, need in series.points]
    return list(dict.fromkeys(every))


def data(number: str, results: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    """Return the numbers that a figure draws of the selected cells, one in each row.

    `results` is the DataFrame of `load_results`. The figure's own attack replaces that of the
    selection, and incomplete series are left out. `COLUMNS` names the columns:
    * `series` is a name, and `spec` the defense.
    * `x` is the epoch (Figure 2), the bound in pixels of [0, 1] (4) or the weight (5).
    * `dataset` is a name or "average". `metric` is robust, clean or distance.
    * `value` is in percent or a relative distance, with its 95% interval from `low` to `high`.
      `text` is the value as printed.

    Raises ZSRobustError for an unknown figure, and if no series is complete.
    """
    return _found(number, results, selection).frame


def describe(number: str, results: pd.DataFrame, selection: Selection) -> str:
    """Return a figure in words and numbers, for blind readers; raises like `data`."""
    found = _found(number, results, selection)
    return f"{found.title}\n{found.text}"


def draw(number: str, results: pd.DataFrame, selection: Selection) -> "Drawn":
    """Return one of the paper's figures, one column wide; raises like `data`."""
    import matplotlib.figure
    import matplotlib.style

    found = _found(number, results, selection)
    with matplotlib.style.context(["default", painting.STYLE]):
        drawn = matplotlib.figure.Figure((WIDTH, FIGURES[number].height), layout="constrained")
        if found.left_out:
            line = textwrap.fill(_not_drawn(found.left_out), 66, break_on_hyphens=False)
            drawn.supxlabel(line, x=0.01, ha="left", fontsize=6)
        FIGURES[number].paint(drawn, found.frame, found.bounds)
    drawn.set_label(f"{found.title}\n{found.text}")
    return drawn


def render(drawn: "Drawn", suffix: str) -> bytes:
    """Return the bytes of a figure's file; raises ZSRobustError for an unknown suffix."""
    import matplotlib.style

    title, _, text = str(drawn.get_label()).partition("\n")
    metadata: dict[str, dict[str, Any]] = {
        ".svg": {"Title": title, "Description": text, "Date": None},
        ".png": {"Title": title, "Description": text},
        ".pdf": {"Title": title, "Subject": text, "CreationDate": None},
    }
    if suffix not in metadata:
        raise ZSRobustError(
            f"The suffix {suffix!r} is not a figure format. Write to a file that ends in "
            f"{', '.join(metadata)}."
        )
    with matplotlib.style.context(["default", painting.STYLE]):
        drawn.savefig(content := io.BytesIO(), format=suffix[1:], metadata=metadata[suffix])
    return content.getvalue()


def _found(number: str, results: pd.DataFrame, selection: Selection) -> _Found:
    figure, suite = find(number), selection.suite
    if figure.swept and not selection.usual:
        raise ZSRobustError(
            f"Figure {number} shows all bounds of the suite's `sweep`. Leave out --eps."
        )
    records: list[Record] = []
    left_out = []
    for series in figure.series(suite):
        found = _records(figure, series, results, selection)
        if isinstance(found, str):
            left_out.append(found)
        else:
            records += found
    if not records:
        raise _no_series(number, selection, left_out)
    frame = pd.DataFrame(records, columns=COLUMNS)
    bounds = ", ".join(map(format_eps, suite.sweep)) if figure.swept else selection.bound
    lines = [_under(frame, selection, bounds), *_in_words(figure, frame)]
    if left_out:
        lines.append(f"({_not_drawn(left_out)})")
    return _Found(frame, left_out, bounds, f"Figure {number}. {figure.caption}.", "\n".join(lines))


def _records(
    figure: Figure, series: Series, results: pd.DataFrame, selection: Selection
) -> list[Record] | str:
    """Return the numbers of a series, or its title if it is incomplete."""
    found, finder = [], Finder(results, selection)
    for x, need in series.points:
        row = finder.row(need)
        read = figure.read(row)
        if read is None:
            return f"{series.title} (of different checkpoints)" if row.mixed else series.title
        same = {"series": series.name, "title": series.title, "spec": need.defense, "x": x}
        found += [{**same, **record} for record in read]
    return found


def _under(frame: pd.DataFrame, selection: Selection, bounds: str) -> str:
    """Return the first line of a description: the suite, the protocol and the bounds."""
    suite = selection.suite
    under = (
        f"Suite {suite.name} ({suite.title}); trained on {suite.train_on}; "
        f"protocol {selection.protocol}; eps {bounds}"
    )
    if selection.limit is not None:
        under += f"; on subsets of {selection.limit} images"
    if frame["low"].notna().any():
        under += "; thin lines are 95% intervals"
    return f"{under}."


def _no_series(number: str, selection: Selection, left_out: list[str]) -> ZSRobustError:
    wanted = needs(number, selection.suite)
    of_figure = replace(selection, attack=wanted[0].attack)
    command = of_figure.command([need.defense for need in wanted], figure=number)
    return ZSRobustError(
        f"Figure {number} has no complete row for the suite {selection.suite.name}. "
        f"Incomplete: {', '.join(left_out)}. Next: {command}"
    )


def _not_drawn(left_out: list[str]) -> str:
    return f"not drawn, incomplete: {', '.join(left_out)}"


def _in_words(figure: Figure, frame: pd.DataFrame) -> list[str]:
    lines = []
    for title, series in frame.groupby("title", sort=False):
        parts = []
        for metric, part in series.groupby("metric", sort=False):
            numbers = [f"{each['text']}{figure.where(each)}" for each in part.to_dict("records")]
            parts.append(f"{metric} {', '.join(numbers)}")
        lines.append(f"{title}: {'; '.join(parts)}.")
    return lines


def _methods(*specs: str) -> list[Series]:
    return [Series(spec, ROWS[spec], [(None, Need(spec))]) for spec in specs]


def _sweep(suite: Suite) -> list[Series]:
    """Return the series of Figure 4: defenses trained and tested at the same bound."""
    bounds = zoo.bounds(suite, "Figure 4")
    return [
        Series(spec, ROWS[spec], [(eps, zoo.at_bound(spec, eps, suite)) for eps in bounds])
        for spec in ("tecoa", "pmg_aft")
    ]


def _trade_off(suite: Suite) -> list[Series]:
    """Return the series of Figure 5: methods, and the curve from CLIP (0) to FT-TeCoA (1)."""
    weights = (0.2, 0.4, 0.6, 0.8)
    between = [(weight, Need(f"interpolation:of=tecoa,weight={weight}")) for weight in weights]
    points = [(0.0, Need("clip")), *between, (1.0, Need("tecoa"))]
    return [*_methods(*ROWS), Series(CURVE, CURVE, points)]


def _averages(row: Row) -> list[Record] | None:
    return [
        _record("average", "Average", metric, mean, interval)
        for metric in METRICS
        if (mean := row.mean(metric)) is not None and (interval := row.interval(metric))
    ] or None


def _accuracies(row: Row) -> list[Record] | None:
    averages = _averages(row)
    if averages is None:
        return None
    cells = [
        _record(name, row.cells[name]["dataset_title"], metric, Fraction(*counts), wilson(*counts))
        for metric in METRICS
        for name in row.suite.datasets
        if (counts := row.counts(name, metric))  # never None in a row with an average
    ]
    return cells + averages


def _record(
    dataset: str, title: str, metric: Metric, share: Fraction, interval: tuple[float, float]
) -> Record:
    low, high = (100 * end for end in interval)
    number = {"value": float(100 * share), "low": low, "high": high, "text": percent(share)}
    return {"dataset": dataset, "dataset_title": title, "metric": metric, **number}


def _distances(row: Row) -> list[Record] | None:
    """Return the distance after each epoch; every cell of a checkpoint stores its history."""
    histories = [cell["history"] for cell in row.cells.values()]
    known = [history for history in histories if isinstance(history, list)]
    if row.mixed or not known:
        return None
    distances = [0.0, *(epoch["distance"] for epoch in known[0])]
    return [
        {"x": epoch, "metric": "distance", "value": value, "text": f"{value:.4f}"}
        for epoch, value in enumerate(distances)
    ]


def _on_dataset(record: Mapping[Any, Any]) -> str:
    return f" on {record['dataset_title']}" if record["dataset"] != "average" else " on average"


def _at_weight(record: Mapping[Any, Any]) -> str:
    return f" at weight {record['x']:g}" if record["series"] == CURVE else ""


FIGURES = {
    "1": Figure(
        caption="Robust and clean accuracy (%) by dataset, under PGD-10",
        series=lambda suite: _methods("clip", "ft_standard", "tecoa", "pmg_aft"),
        read=_accuracies,
        paint=painting.paint_datasets,
        height=4.6,
        where=_on_dataset,
    ),
    "2": Figure(
        caption="Relative L2 distance of the weights to the original CLIP during training",
        series=lambda suite: _methods("ft_standard", "tecoa", "pmg_aft"),
        read=_distances,
        paint=painting.paint_training,
        height=1.9,
        where=lambda record: f" at epoch {record['x']:g}",
    ),
    "4": Figure(
        caption="Average robust (a) and clean (b) accuracy (%), trained and tested at the same "
        "bound, under PGD-10",
        series=_sweep,
        swept=True,
        read=_averages,
        paint=painting.paint_bounds,
        height=1.8,
        where=lambda record: f" at eps {format_eps(record['x'])}",
    ),
    "5": Figure(
        caption="Average robust against average clean accuracy (%), under PGD-10",
        series=_trade_off,
        read=_averages,
        paint=painting.paint_trade_off,
        height=2.8,
        where=_at_weight,
    ),
}

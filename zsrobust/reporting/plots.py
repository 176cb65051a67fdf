"""Plots: the series, the numbers and the looks of each figure, as data. No torch here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from zsrobust.core.intervals import wilson
from zsrobust.core.specs import format_eps
from zsrobust.reporting import painting, trade_off, zoo
from zsrobust.reporting.columns import percent
from zsrobust.reporting.contents import ROWS
from zsrobust.reporting.painting import CURVE
from zsrobust.reporting.rows import METRICS, Metric, Need, Row
from zsrobust.settings.suites import Suite

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

COLUMN, PAGE = 3.25, 6.75  #: inches: the width of one column, and of two


class Series(NamedTuple):
    """A line or a kind of marker: the rows of cells that it shows."""

    name: str
    title: str
    points: Sequence[tuple[float | None, Need]]  #: place on the x axis, and the row


Record = dict[str, Any]
#: Draws the frame of numbers; the text is the eps, as printed.
Paint = Callable[["Drawn", pd.DataFrame, str], None]
Where = Callable[[Mapping[Any, Any]], str]  #: the words that a description adds to a number


@dataclass(frozen=True)
class Figure:
    """One of the paper's figures: its rows, the numbers that it shows of each, and its looks."""

    caption: str
    series: Callable[[Suite], list[Series]]
    read: Callable[[Row], list[Record] | None]  #: the numbers of a row; None if it is incomplete
    paint: Paint
    height: float  #: inches
    where: Where
    swept: bool = False  #: whether it shows the bounds of the suite's sweep, and not one eps
    width: float = COLUMN  #: inches
    #: a last line of the description
    remark: Callable[[pd.DataFrame], str] | None = None


def _methods(*specs: str) -> list[Series]:
    return [Series(spec, zoo.title(spec), [(None, Need(spec))]) for spec in specs]


def _sweep(suite: Suite) -> list[Series]:
    """Return the series of Figure 4: defenses trained and tested at the same bound."""
    bounds = zoo.bounds(suite, "Figure 4")
    return [
        Series(spec, ROWS[spec], [(eps, zoo.at_bound(spec, eps, suite)) for eps in bounds])
        for spec in ("tecoa", "pmg_aft")
    ]


def _trade_off(suite: Suite) -> list[Series]:
    """Return the series of Figure 5: the paper's methods, those of the zoo, and a curve.

    The curve leads from CLIP (0) to FT-TeCoA (1).
    """
    weights = (0.2, 0.4, 0.6, 0.8)
    between = [(weight, Need(f"interpolation:of=tecoa,weight={weight}")) for weight in weights]
    points = [(0.0, Need("clip")), *between, (1.0, Need("tecoa"))]
    return [*_methods(*{**ROWS, **zoo.titles()}), Series(CURVE, CURVE, points)]


def _averages(row: Row) -> list[Record] | None:
    return [
        measured("average", "Average", metric, mean, interval)
        for metric in METRICS
        if (mean := row.mean(metric)) is not None and (interval := row.interval(metric))
    ] or None


def _accuracies(row: Row) -> list[Record] | None:
    averages = _averages(row)
    if averages is None:
        return None
    cells = [
        measured(name, row.cells[name]["dataset_title"], metric, Fraction(*counts), wilson(*counts))
        for metric in METRICS
        for name in row.suite.datasets
        if (counts := row.counts(name, metric))  # never None in a row with an average
    ]
    return cells + averages


def measured(
    dataset: str, title: str, metric: Metric, share: Fraction, interval: tuple[float, float]
) -> Record:
    """Return a share in [0, 1] and its interval as a row of numbers, in percent."""
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
        paint=trade_off.paint_trade_off,
        height=4.6,
        width=PAGE,
        where=_at_weight,
        remark=trade_off.front_in_words,
    ),
}

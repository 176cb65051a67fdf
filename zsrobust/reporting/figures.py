"""Figures that mirror the paper's: a pure function of the stored results. No torch here; matplotlib only where it draws."""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import format_eps
from zsrobust.reporting.columns import percent
from zsrobust.reporting.rows import METRICS, Metric, Need, Row, rows
from zsrobust.reporting.statistics import wilson
from zsrobust.reporting.tables import ROWS
from zsrobust.results.selection import Selection
from zsrobust.settings.suites import Suite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawn
    from matplotlib.path import Path
    from matplotlib.transforms import Bbox

WIDTH = 3.25  #: inches: one column
CURVE = "interpolation"  #: the series of Figure 5 that is a curve
COLUMNS = [
    "series",
    "title",
    "spec",
    "x",
    "dataset",
    "dataset_title",
    "metric",
    "value",
    "low",
    "high",
    "text",
]

#: On top of matplotlib's defaults, whatever the user's matplotlibrc says: fonts embedded, and the same bytes every time.
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "0.88",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.2,
    "legend.borderpad": 0,
    "savefig.dpi": 300,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "zsrobust",
}


class Look(NamedTuple):
    """How a series is drawn. The colors are of Okabe and Ito's palette; marker and line tell as much in black and white."""

    color: str
    marker: str
    size: float  #: of the marker, in points
    line: str = "none"
    filled: bool = True  #: where the tower's weights were trained

    def marks(self, scale: float = 1.0) -> dict[str, Any]:
        """Return the arguments of `Axes.plot` for the markers; filled ones have a white edge, to stay apart."""
        edge = (
            {"markeredgecolor": "white", "markeredgewidth": 0.4}
            if self.filled
            else {"markeredgewidth": 0.8}
        )
        face = self.color if self.filled else "white"
        return {
            "color": self.color,
            "marker": self.marker,
            "markersize": scale * self.size,
            "markerfacecolor": face,
            **edge,
        }


LOOKS = {
    "clip": Look("black", "o", 3.8, filled=False),
    "ft_standard": Look("#009E73", "s", 4.2, ":"),
    "tecoa": Look("#0072B2", "^", 5.0, "--"),
    "pmg_aft": Look("#D55E00", "D", 4.2, "-"),
    "vpt_tecoa": Look("#0072B2", "^", 4.2, filled=False),
    "vpt_pmg_aft": Look("#D55E00", "D", 3.5, filled=False),
    CURVE: Look("0.4", "o", 3.0, "-"),
}


class Series(NamedTuple):
    """What one line, or one kind of marker, shows: rows of cells, each with its place on the x axis if it has one."""

    name: str
    title: str
    points: Sequence[tuple[float | None, Need]]


Record = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One of the paper's figures: which rows it shows, what it reads from each, and how that is drawn."""

    caption: str
    series: Callable[[Suite], list[Series]]
    read: Callable[
        [Row], list[Record] | None
    ]  #: what is drawn of a row; None where that is not complete
    paint: Callable[["Drawn", pd.DataFrame, str], None]
    height: float  #: inches
    where: Callable[[Mapping[Any, Any]], str]  #: what `describe` says after a number
    swept: bool = False  #: whether it is over bounds of its own, so that eps is not to be chosen


@dataclass(frozen=True)
class _Found:
    """What there is to draw of a figure."""

    frame: pd.DataFrame
    left_out: list[str]  #: titles of the series that are not complete
    bounds: str  #: eps, as printed
    title: str
    text: str  #: the description


def find(number: str) -> Figure:
    """Return a figure by its number; raises ZSRobustError for one that does not exist."""
    if number not in FIGURES:
        raise ZSRobustError(
            f"There is no figure {number!r}. Figures: {', '.join(FIGURES)}. Try: zsrobust figure 1 --suite mini"
        )
    return FIGURES[number]


def needs(number: str, suite: Suite) -> list[Need]:
    """Return the rows of cells that a figure is made of; raises ZSRobustError for Figure 4 of a suite without a sweep."""
    return list(
        dict.fromkeys(need for series in find(number).series(suite) for _, need in series.points)
    )


def data(number: str, results: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    """Return exactly what a figure draws of the selected cells, a number a row, from the DataFrame of `load_results`.

    Columns: series title spec x dataset dataset_title metric value low high text. `series` is a name, `spec` the defense;
    `x` is the epoch (Figure 2), the bound in pixels of [0, 1] (4) or the weight (5); `dataset` a name, or "average";
    `metric` is robust, clean or distance; `value` in percent, or a relative distance, `low` and `high` its 95% interval,
    `text` how it is printed. A series with missing cells is left out.
    The attack is the figure's own. Raises ZSRobustError for a figure that does not exist, and where no series is complete.
    """
    return _found(number, results, selection).frame


def describe(number: str, results: pd.DataFrame, selection: Selection) -> str:
    """Return a figure in words and numbers, for those who do not see it; raises as `data` does."""
    found = _found(number, results, selection)
    return f"{found.title}\n{found.text}"


def draw(number: str, results: pd.DataFrame, selection: Selection) -> "Drawn":
    """Return one of the paper's figures, one column wide; raises as `data` does."""
    import matplotlib.figure
    import matplotlib.style

    found = _found(number, results, selection)
    with matplotlib.style.context(["default", STYLE]):
        drawn = matplotlib.figure.Figure((WIDTH, FIGURES[number].height), layout="constrained")
        if found.left_out:
            line = textwrap.fill(_not_drawn(found.left_out), 66, break_on_hyphens=False)
            drawn.supxlabel(line, x=0.01, ha="left", fontsize=6)
        FIGURES[number].paint(drawn, found.frame, found.bounds)
    drawn.set_label(f"{found.title}\n{found.text}")
    return drawn


def render(drawn: "Drawn", suffix: str) -> bytes:
    """Return a figure as the bytes of a file, the same every time; raises ZSRobustError for an unknown suffix."""
    import matplotlib.style

    title, _, text = str(drawn.get_label()).partition("\n")
    metadata: dict[str, dict[str, Any]] = {
        ".svg": {"Title": title, "Description": text, "Date": None},
        ".png": {"Title": title, "Description": text},
        ".pdf": {"Title": title, "Subject": text, "CreationDate": None},
    }
    if suffix not in metadata:
        raise ZSRobustError(
            f"No figure format {suffix or 'without suffix'!r}. Write to a file that ends in {', '.join(metadata)}."
        )
    with matplotlib.style.context(["default", STYLE]):
        drawn.savefig(content := io.BytesIO(), format=suffix[1:], metadata=metadata[suffix])
    return content.getvalue()


def _found(number: str, results: pd.DataFrame, selection: Selection) -> _Found:
    figure, suite = find(number), selection.suite
    series = figure.series(suite)
    if figure.swept and not selection.usual:
        raise ZSRobustError(
            f"Figure {number} is over the bounds that the suite names in `sweep`: leave out --eps."
        )
    records: list[Record] = []
    left_out = []
    for each in series:
        found = []
        for x, need in each.points:
            eps = selection.eps if need.eps is None else need.eps
            cells = replace(selection, attack=need.attack, eps=eps).cells(results)
            row = rows(cells[cells["defense"] == need.defense], suite).get(
                need.defense, Row(suite, {})
            )
            read = figure.read(row)
            if read is None:
                left_out.append(
                    f"{each.title} (of different checkpoints)" if row.mixed else each.title
                )
                break
            found += [
                {"series": each.name, "title": each.title, "spec": need.defense, "x": x, **record}
                for record in read
            ]
        else:
            records += found
    if not records:
        raise _nothing(number, selection, left_out)
    frame = pd.DataFrame(records, columns=COLUMNS)
    bounds = ", ".join(map(format_eps, suite.sweep)) if figure.swept else selection.bound
    under = f"Suite {suite.name} ({suite.title}); trained on {suite.train_on}; protocol {selection.protocol}; eps {bounds}"
    if selection.limit is not None:
        under += f"; on subsets of {selection.limit} images"
    if frame["low"].notna().any():
        under += "; thin lines are 95% intervals"
    lines = [
        f"{under}.",
        *_in_words(figure, frame),
        *([f"({_not_drawn(left_out)})"] if left_out else []),
    ]
    return _Found(frame, left_out, bounds, f"Figure {number}. {figure.caption}.", "\n".join(lines))


def _nothing(number: str, selection: Selection, left_out: list[str]) -> ZSRobustError:
    wanted = needs(number, selection.suite)
    of_figure = replace(selection, attack=wanted[0].attack)
    command = of_figure.command([need.defense for need in wanted], figure=number)
    return ZSRobustError(
        f"Nothing to draw in Figure {number}: the suite {selection.suite.name} has no complete row of "
        f"{', '.join(left_out)}. Next: {command}"
    )


def _not_drawn(left_out: list[str]) -> str:
    return f"not drawn, incomplete: {', '.join(left_out)}"


def _in_words(figure: Figure, frame: pd.DataFrame) -> list[str]:
    lines = []
    for title, series in frame.groupby("title", sort=False):
        parts = [
            f"{metric} "
            + ", ".join(
                f"{record['text']}{figure.where(record)}" for record in part.to_dict("records")
            )
            for metric, part in series.groupby("metric", sort=False)
        ]
        lines.append(f"{title}: {'; '.join(parts)}.")
    return lines


def _methods(*specs: str) -> list[Series]:
    return [Series(spec, ROWS[spec], [(None, Need(spec))]) for spec in specs]


def _sweep(suite: Suite) -> list[Series]:
    """Return the series of Figure 4, which train and test at the same bound; the suite's own needs no mention."""
    if not suite.sweep:
        raise ZSRobustError(
            f'The suite {suite.name} names no bounds for Figure 4. Add some: sweep = ["1/255", "2/255"]'
        )

    def need(spec: str, eps: float) -> Need:
        trained = spec if same(eps, suite.recipe.get("eps")) else f"{spec}:eps={format_eps(eps)}"
        return Need(trained, eps=None if same(eps, suite.attack["eps"]) else eps)

    def same(eps: float, other: float | None) -> bool:
        return other is not None and format_eps(eps) == format_eps(other)

    return [
        Series(spec, ROWS[spec], [(eps, need(spec, eps)) for eps in sorted(suite.sweep)])
        for spec in ("tecoa", "pmg_aft")
    ]


def _trade_off(suite: Suite) -> list[Series]:
    """Return the series of Figure 5: the methods, and the curve from CLIP (weight 0) to FT-TeCoA (weight 1)."""
    between = [
        (weight, Need(f"interpolation:of=tecoa,weight={weight}")) for weight in (0.2, 0.4, 0.6, 0.8)
    ]
    return [
        *_methods(*ROWS),
        Series(CURVE, CURVE, [(0.0, Need("clip")), *between, (1.0, Need("tecoa"))]),
    ]


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
        if (counts := row.counts(name, metric))  # always, where there is an average
    ]
    return cells + averages


def _record(
    dataset: str, title: str, metric: Metric, share: Fraction, interval: tuple[float, float]
) -> Record:
    low, high = (100 * end for end in interval)
    number = {"value": float(100 * share), "low": low, "high": high, "text": percent(share)}
    return {"dataset": dataset, "dataset_title": title, "metric": metric, **number}


def _distances(row: Row) -> list[Record] | None:
    """Return the distance after each epoch. Any cell knows it: all of a row are of one checkpoint."""
    histories = [
        cell["history"] for cell in row.cells.values() if isinstance(cell["history"], list)
    ]
    if row.mixed or not histories:
        return None
    distances = enumerate([0.0, *(epoch["distance"] for epoch in histories[0])])
    return [
        {"x": epoch, "metric": "distance", "value": value, "text": f"{value:.4f}"}
        for epoch, value in distances
    ]


def _paint_datasets(drawn: "Drawn", frame: pd.DataFrame, bounds: str) -> None:
    """Dot plots side by side, robust and clean, a band a dataset, with 95% intervals."""
    cells = frame.drop_duplicates("dataset")
    places = {name: place for place, name in enumerate(cells["dataset"])}
    panels = drawn.subplots(1, 2, sharey=True)
    for axes, metric in zip(panels, METRICS, strict=True):
        for place in range(0, len(places), 2):
            axes.axhspan(place - 0.5, place + 0.5, color="0.95", linewidth=0, zorder=0)
        axes.axhline(len(places) - 1.5, color="black", linewidth=0.5)
        groups = list(frame[frame["metric"] == metric].groupby("series", sort=False))
        for index, (name, part) in enumerate(groups):
            look = LOOKS[str(name)]
            y = part["dataset"].map(places) + 0.8 * ((index + 0.5) / len(groups) - 0.5)
            axes.hlines(y, part["low"], part["high"], color=look.color, linewidth=0.6, zorder=2)
            axes.plot(
                part["value"],
                y,
                linestyle="none",
                label=part["title"].iloc[0],
                clip_on=False,
                **look.marks(0.85),
            )
        axes.set(xlim=(-2, 102), xticks=range(0, 101, 25), xlabel=f"{metric} accuracy (%)")
        axes.set(
            yticks=range(len(places)),
            yticklabels=cells["dataset_title"],
            ylim=(len(places) - 0.5, -0.5),
        )
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
    panels[0].set_xlabel(f"robust accuracy (%),\nPGD-10, eps {bounds}")
    panels[0].get_yticklabels()[-1].set_fontweight("bold")
    drawn.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, handlelength=1
    )


def _paint_training(drawn: "Drawn", frame: pd.DataFrame, bounds: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes = drawn.subplots()
    for name, part in frame.groupby("series", sort=False):
        look = LOOKS[str(name)]
        drawing: dict[str, Any] = {
            "linestyle": look.line,
            "markevery": slice(1, None),
            "clip_on": False,
        }
        axes.plot(part["x"], part["value"], label=part["title"].iloc[0], **drawing, **look.marks())
    axes.set(xlabel="epoch", ylabel="distance from CLIP,\n‖θ − θ₀‖ / ‖θ₀‖")
    axes.set(xlim=(0, None), ylim=(0, 1.05 * frame["value"].max()))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    drawn.legend(loc="outside upper center", ncols=3)


def _paint_bounds(drawn: "Drawn", frame: pd.DataFrame, bounds: str) -> None:
    panels = drawn.subplots(1, 2)
    for axes, metric, letter in zip(panels, METRICS, "ab", strict=True):
        shown = frame[frame["metric"] == metric]
        for name, part in shown.groupby("series", sort=False):
            look = LOOKS[str(name)]
            axes.vlines(part["x"], part["low"], part["high"], color=look.color, linewidth=0.6)
            axes.plot(
                part["x"],
                part["value"],
                linestyle=look.line,
                label=part["title"].iloc[0],
                **look.marks(),
            )
        ticks = sorted(set(shown["x"]))
        axes.set(
            xlabel="eps of training and test", xticks=ticks, xticklabels=map(format_eps, ticks)
        )
        axes.set_title(f"({letter}) {metric} accuracy (%)", loc="left")
        axes.set_ylim(0, 1.05 * shown["high"].max())
        axes.margins(x=0.1)
        axes.grid(axis="y")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)


def _paint_trade_off(drawn: "Drawn", frame: pd.DataFrame, bounds: str) -> None:
    """Points with 95% intervals as crosses, their titles beside them; and the curve, with its weights."""
    from matplotlib.ticker import MaxNLocator

    axes = drawn.subplots()
    robust, clean = (frame[frame["metric"] == metric].reset_index(drop=True) for metric in METRICS)
    points = clean.join(robust[["value", "low", "high"]].add_suffix("_robust"))
    for name, part in points.groupby("series", sort=False):
        look = LOOKS[str(name)]
        line, order = (
            (look.line, 1) if name == CURVE else ("none", 2)
        )  # the curve is below the points it joins
        cross: dict[str, Any] = {"color": look.color, "linewidth": 0.6, "zorder": order - 0.4}
        axes.hlines(part["value_robust"], part["low"], part["high"], **cross)
        axes.vlines(part["value"], part["low_robust"], part["high_robust"], **cross)
        marks = look.marks() | {
            "markeredgecolor": look.color
        }  # no white edge: it would cut the crosses
        (drawing,) = axes.plot(
            part["value"], part["value_robust"], linestyle=line, zorder=order, **marks
        )
        if name == CURVE:
            drawn.legend(
                [drawing], [f"{CURVE}, by the weight of {ROWS['tecoa']}"], loc="outside upper right"
            )
    axes.set(
        xlabel="average clean accuracy (%)",
        ylabel=f"average robust accuracy (%),\nPGD-10, eps {bounds}",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.margins(0.08)
    axes.grid()
    drawn.draw_without_rendering()  # from here on, the places on the page are known
    lines = _lines(axes, points)
    taken: list[Bbox] = []
    for point in points.to_dict("records"):
        if point["series"] != CURVE or 0 < point["x"] < 1:
            text, size = (f"{point['x']:g}", 6) if point["series"] == CURVE else (point["title"], 7)
            at = (point["value"], point["value_robust"])
            taken.append(
                _write_beside(
                    axes, text, at, lines, taken, color=LOOKS[point["series"]].color, fontsize=size
                )
            )


def _lines(axes: "Axes", points: pd.DataFrame) -> list["Path"]:
    """Return the lines, in dots of the page, that no text may hide: crosses, at least as large as markers, and the curve."""
    from matplotlib.path import Path

    radius = 3 * axes.figure.dpi / 72
    low, middle, high = (
        axes.transData.transform(points[[end, f"{end}_robust"]]) for end in ("low", "value", "high")
    )
    ends = list(zip(low - radius, middle, high + radius, strict=True))
    lines = [Path([(left, y), (right, y)]) for (left, _), (_, y), (right, _) in ends]
    lines += [Path([(x, bottom), (x, top)]) for (_, bottom), (x, _), (_, top) in ends]
    curve = middle[points["series"] == CURVE]
    return [*lines, Path(curve)] if len(curve) else lines


def _write_beside(
    axes: "Axes",
    text: str,
    at: tuple[float, float],
    lines: list["Path"],
    taken: list["Bbox"],
    **look: Any,
) -> "Bbox":
    """Write a text at the first side of a point where it hides nothing, or least; return its box, in dots of the page."""
    label = axes.annotate(text, xy=at, xytext=(0, 0), textcoords="offset points", **look)

    def put(right: int, up: int) -> "Bbox":
        aligned = {
            "ha": ("center", "left", "right")[np.sign(right)],
            "va": ("center", "bottom", "top")[np.sign(up)],
        }
        label.set(position=(right, up), **aligned)
        return label.get_window_extent().padded(axes.figure.dpi / 72)

    def hides(place: tuple[int, int]) -> tuple[bool, bool, int]:
        box = put(*place)
        outside = not (axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max))
        return (
            outside,
            any(map(box.overlaps, taken)),
            sum(line.intersects_bbox(box, filled=False) for line in lines),
        )

    sides = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
    return put(*min(((far * right, far * up) for right, up in sides for far in (5, 8)), key=hides))


def _on_dataset(record: Mapping[Any, Any]) -> str:
    return f" on {record['dataset_title']}" if record["dataset"] != "average" else " on average"


def _at_weight(record: Mapping[Any, Any]) -> str:
    return f" at weight {record['x']:g}" if record["series"] == CURVE else ""


FIGURES = {
    "1": Figure(
        caption="Robust and clean accuracy (%) by dataset, under PGD-10",
        series=lambda suite: _methods("clip", "ft_standard", "tecoa", "pmg_aft"),
        read=_accuracies,
        paint=_paint_datasets,
        height=4.6,
        where=_on_dataset,
    ),
    "2": Figure(
        caption="Relative L2 distance of the weights to the original CLIP, along training",
        series=lambda suite: _methods("ft_standard", "tecoa", "pmg_aft"),
        read=_distances,
        paint=_paint_training,
        height=1.9,
        where=lambda record: f" at epoch {record['x']:g}",
    ),
    "4": Figure(
        caption="Average robust (a) and clean (b) accuracy (%), trained and tested at the same bound, under PGD-10",
        series=_sweep,
        swept=True,
        read=_averages,
        paint=_paint_bounds,
        height=1.8,
        where=lambda record: f" at eps {format_eps(record['x'])}",
    ),
    "5": Figure(
        caption="Average robust against average clean accuracy (%), under PGD-10",
        series=_trade_off,
        read=_averages,
        paint=_paint_trade_off,
        height=2.8,
        where=_at_weight,
    ),
}

"""Figures that mirror the paper's: a pure function of the stored results, without torch."""

import io
import textwrap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import format_eps
from zsrobust.reporting import painting
from zsrobust.reporting.plots import FIGURES, Figure, Paint, Record, Series, Where
from zsrobust.reporting.rows import Finder, Need
from zsrobust.results.selection import Selection
from zsrobust.settings.suites import Suite

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

__all__ = ["COLUMNS", "FIGURES", "Found", "data", "describe"]
__all__ += ["draw", "find", "needs", "on_page", "render"]

COLUMNS = ["series", "title", "spec", "x", "dataset", "dataset_title"]
COLUMNS += ["metric", "value", "low", "high", "text"]


@dataclass(frozen=True)
class Found:
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
    figure = find(number)
    return on_page(_found(number, results, selection), figure.width, figure.height, figure.paint)


def on_page(found: Found, width: float, height: float, paint: Paint) -> "Drawn":
    """Return a figure of this size in inches, which `paint` draws; it names what is not drawn."""
    import matplotlib.figure
    import matplotlib.style

    with matplotlib.style.context(["default", painting.STYLE]):
        drawn = matplotlib.figure.Figure((width, height), layout="constrained")
        if found.left_out:
            line = _wrapped(_not_drawn(found.left_out), width)
            drawn.supxlabel(line, x=0.01, ha="left", fontsize=6)
        paint(drawn, found.frame, found.bounds)
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


def _found(number: str, results: pd.DataFrame, selection: Selection) -> Found:
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
    lines = [under(frame, selection, bounds), *in_words(frame, figure.where)]
    if figure.remark is not None:
        lines.append(figure.remark(frame))
    if left_out:
        lines.append(f"({_not_drawn(left_out)})")
    return Found(frame, left_out, bounds, f"Figure {number}. {figure.caption}.", "\n".join(lines))


def _records(
    figure: Figure, series: Series, results: pd.DataFrame, selection: Selection
) -> list[Record] | str:
    """Return the numbers of a series, or its title if it is incomplete."""
    found, finder = [], Finder(results, selection)
    for x, need in series.points:
        row = finder.row(need)
        if row.oblivious:
            return f"{series.title} (oblivious attack)"
        read = figure.read(row)
        if read is None:
            return f"{series.title} (of different checkpoints)" if row.mixed else series.title
        same = {"series": series.name, "title": series.title, "spec": need.defense, "x": x}
        found += [{**same, **record} for record in read]
    return found


def under(
    frame: pd.DataFrame, selection: Selection, bounds: str, intervals: str = "thin lines"
) -> str:
    """Return the first line of a description: the suite, the protocol and the bounds."""
    suite = selection.suite
    line = (
        f"Suite {suite.name} ({suite.title}); trained on {suite.train_on}; "
        f"protocol {selection.protocol}; eps {bounds}"
    )
    if selection.limit is not None:
        line += f"; on subsets of {selection.limit} images"
    if frame["low"].notna().any():
        line += f"; {intervals} are 95% intervals"
    return f"{line}."


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


def _wrapped(line: str, width: float) -> str:
    """Return a line in lines of a width in inches: 20 small characters are an inch."""
    return textwrap.fill(line, round(20.3 * width), break_on_hyphens=False)


def in_words(frame: pd.DataFrame, where: Where) -> list[str]:
    """Return a line for each series: its numbers, and with the words of `where` their places."""
    lines = []
    for title, series in frame.groupby("title", sort=False):
        parts = []
        for metric, part in series.groupby("metric", sort=False):
            numbers = [f"{each['text']}{where(each)}" for each in part.to_dict("records")]
            parts.append(f"{metric} {', '.join(numbers)}")
        lines.append(f"{title}: {'; '.join(parts)}.")
    return lines

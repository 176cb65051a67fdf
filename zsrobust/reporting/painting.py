"""Painting of figures: the looks of the series, panels, lines and texts."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from zsrobust.core.specs import format_eps
from zsrobust.reporting.rows import METRICS
from zsrobust.reporting.tables import ROWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawn
    from matplotlib.path import Path
    from matplotlib.transforms import Bbox

CURVE = "interpolation"  #: the series of Figure 5 that is a curve

#: Changes to matplotlib's defaults, which replace the user's matplotlibrc. They embed the fonts,
#: and make the same bytes every time.
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
    """The look of a series: a color of Okabe and Ito; marker and line for black and white."""

    color: str
    marker: str
    size: float  #: of the marker, in points
    line: str = "none"
    filled: bool = True  #: whether the tower's weights were trained

    def marks(self, scale: float = 1.0) -> dict[str, Any]:
        """Return the arguments of `Axes.plot` for the markers; filled ones have a white edge."""
        look: dict[str, Any] = {"color": self.color, "marker": self.marker}
        look["markersize"] = scale * self.size
        if self.filled:
            edge = {"markeredgecolor": "white", "markeredgewidth": 0.4}
            return {**look, "markerfacecolor": self.color, **edge}
        return {**look, "markerfacecolor": "white", "markeredgewidth": 0.8}


LOOKS = {
    "clip": Look("black", "o", 3.8, filled=False),
    "ft_standard": Look("#009E73", "s", 4.2, ":"),
    "tecoa": Look("#0072B2", "^", 5.0, "--"),
    "pmg_aft": Look("#D55E00", "D", 4.2, "-"),
    "vpt_tecoa": Look("#0072B2", "^", 4.2, filled=False),
    "vpt_pmg_aft": Look("#D55E00", "D", 3.5, filled=False),
    CURVE: Look("0.4", "o", 3.0, "-"),
}


def paint_datasets(drawn: "Drawn", frame: pd.DataFrame, bounds: str) -> None:
    """Draw robust and clean accuracy side by side, one band for each dataset, with intervals."""
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
            drawing = {"linestyle": "none", "clip_on": False, **look.marks(0.85)}
            axes.plot(part["value"], y, label=part["title"].iloc[0], **drawing)
        axes.set(xlim=(-2, 102), xticks=range(0, 101, 25), xlabel=f"{metric} accuracy (%)")
        axes.set(yticks=range(len(places)), yticklabels=cells["dataset_title"])
        axes.set(ylim=(len(places) - 0.5, -0.5))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
    panels[0].set_xlabel(f"robust accuracy (%),\nPGD-10, eps {bounds}")
    panels[0].get_yticklabels()[-1].set_fontweight("bold")
    shown = panels[0].get_legend_handles_labels()
    drawn.legend(*shown, loc="outside upper center", ncols=4, handlelength=1)


def paint_training(drawn: "Drawn", frame: pd.DataFrame, bounds: str) -> None:
    """Draw one panel: a line for each method, a marker for each epoch."""
    from matplotlib.ticker import MaxNLocator

    axes = drawn.subplots()
    for name, part in frame.groupby("series", sort=False):
        look = LOOKS[str(name)]
        drawing = {"markevery": slice(1, None), "clip_on": False, **look.marks()}
        title = part["title"].iloc[0]
        axes.plot(part["x"], part["value"], linestyle=look.line, label=title, **drawing)
    axes.set(xlabel="epoch", ylabel="distance from CLIP,\n‖θ − θ₀‖ / ‖θ₀‖")
    axes.set(xlim=(0, None), ylim=(0, 1.05 * frame["value"].max()))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    drawn.legend(loc="outside upper center", ncols=3)


def paint_bounds(drawn: "Drawn", frame: pd.DataFrame, bounds: str) -> None:
    """Draw two panels, robust and clean: a line for each method over the bounds."""
    panels = drawn.subplots(1, 2)
    for axes, metric, letter in zip(panels, METRICS, "ab", strict=True):
        shown = frame[frame["metric"] == metric]
        for name, part in shown.groupby("series", sort=False):
            look = LOOKS[str(name)]
            axes.vlines(part["x"], part["low"], part["high"], color=look.color, linewidth=0.6)
            title = part["title"].iloc[0]
            axes.plot(part["x"], part["value"], linestyle=look.line, label=title, **look.marks())
        ticks = sorted(set(shown["x"]))
        axes.set(xticks=ticks, xticklabels=map(format_eps, ticks))
        axes.set_xlabel("eps of training and test")
        axes.set_title(f"({letter}) {metric} accuracy (%)", loc="left")
        axes.set_ylim(0, 1.05 * shown["high"].max())
        axes.margins(x=0.1)
        axes.grid(axis="y")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)


def paint_trade_off(drawn: "Drawn", frame: pd.DataFrame, bounds: str) -> None:
    """Draw points with crosses as intervals, their titles, and the curve with its weights."""
    axes = drawn.subplots()
    robust, clean = (frame[frame["metric"] == metric].reset_index(drop=True) for metric in METRICS)
    points = clean.join(robust[["value", "low", "high"]].add_suffix("_robust"))
    for name, part in points.groupby("series", sort=False):
        look = LOOKS[str(name)]
        order = 1 if name == CURVE else 2  # the curve is below the points that it joins
        cross: dict[str, Any] = {"color": look.color, "linewidth": 0.6, "zorder": order - 0.4}
        axes.hlines(part["value_robust"], part["low"], part["high"], **cross)
        axes.vlines(part["value"], part["low_robust"], part["high_robust"], **cross)
        marks = {**look.marks(), "markeredgecolor": look.color}  # a white edge would cut the cross
        line = look.line if name == CURVE else "none"
        (drawing,) = axes.plot(
            part["value"], part["value_robust"], linestyle=line, zorder=order, **marks
        )
        if name == CURVE:
            title = f"{CURVE}, by the weight of {ROWS['tecoa']}"
            drawn.legend([drawing], [title], loc="outside upper right")
    axes.set_xlabel("average clean accuracy (%)")
    axes.set_ylabel(f"average robust accuracy (%),\nPGD-10, eps {bounds}")
    _finish_trade_off(drawn, axes, points)


def _finish_trade_off(drawn: "Drawn", axes: "Axes", points: pd.DataFrame) -> None:
    """Draw the grid, and write the titles and weights beside the points."""
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.margins(0.08)
    axes.grid()
    drawn.draw_without_rendering()  # now the positions on the page are known
    lines = _lines(axes, points)
    taken: list[Bbox] = []
    for point in points.to_dict("records"):
        text, size = point["title"], 7
        if point["series"] == CURVE:
            if not 0 < point["x"] < 1:
                continue  # the ends of the curve are methods with titles
            text, size = f"{point['x']:g}", 6
        at, color = (point["value"], point["value_robust"]), LOOKS[point["series"]].color
        taken.append(_write_beside(axes, text, at, lines, taken, color=color, fontsize=size))


def _lines(axes: "Axes", points: pd.DataFrame) -> list["Path"]:
    """Return the lines that no text may hide, in dots of the page: the crosses and the curve."""
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
    """Write a text on the side of a point where it hides least; return its box, in dots."""
    label = axes.annotate(text, xy=at, xytext=(0, 0), textcoords="offset points", **look)

    def put(right: int, up: int) -> "Bbox":
        horizontal = ("center", "left", "right")[np.sign(right)]
        vertical = ("center", "bottom", "top")[np.sign(up)]
        label.set(position=(right, up), ha=horizontal, va=vertical)
        return label.get_window_extent().padded(axes.figure.dpi / 72)

    def hides(place: tuple[int, int]) -> tuple[bool, bool, int]:
        box = put(*place)
        outside = not (axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max))
        crossed = sum(line.intersects_bbox(box, filled=False) for line in lines)
        return outside, any(map(box.overlaps, taken)), crossed

    sides = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
    return put(*min(((far * right, far * up) for right, up in sides for far in (5, 8)), key=hides))

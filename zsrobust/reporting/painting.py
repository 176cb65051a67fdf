"""How figures are painted: looks of the series, panels, lines and texts."""

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

#: On top of matplotlib's defaults, whatever the user's matplotlibrc says: fonts embedded, and the
#: same bytes every time.
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
    """How a series is drawn: Okabe and Ito's colors; marker and line for black and white."""

    color: str
    marker: str
    size: float  #: of the marker, in points
    line: str = "none"
    filled: bool = True  #: where the tower's weights were trained

    def marks(self, scale: float = 1.0) -> dict[str, Any]:
        """Return the arguments of `Axes.plot` for the markers; filled ones have a white edge."""
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


def paint_datasets(drawn: "Drawn", frame: pd.DataFrame, bounds: str) -> None:
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


def paint_training(drawn: "Drawn", frame: pd.DataFrame, bounds: str) -> None:
    """One panel: a line for each method, a marker for each epoch."""
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


def paint_bounds(drawn: "Drawn", frame: pd.DataFrame, bounds: str) -> None:
    """Two panels, robust and clean: a line for each method over the bounds, with 95% intervals."""
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


def paint_trade_off(drawn: "Drawn", frame: pd.DataFrame, bounds: str) -> None:
    """Draw points with 95% intervals as crosses, their titles, and the curve with its weights."""
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
    """Write a text at the side of a point where it hides least; return its box, in dots."""
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

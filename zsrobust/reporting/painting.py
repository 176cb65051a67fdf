"""Painting of figures: the looks of the series, panels, lines and texts."""

from collections.abc import Callable
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from zsrobust.core.specs import format_eps
from zsrobust.reporting.rows import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

CURVE = "interpolation"  #: the series of Figure 5 that is a curve
CHANCE = "chance"  #: the series of a figure that is a line

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
    line: str | tuple[int, tuple[int, ...]] = "none"  #: a name of matplotlib, or dashes
    filled: bool = True  #: whether the tower's weights were trained

    def marks(self, scale: float = 1.0) -> dict[str, Any]:
        """Return the arguments of `Axes.plot` for the markers; filled ones have a white edge."""
        look: dict[str, Any] = {"color": self.color, "marker": self.marker}
        look["markersize"] = scale * self.size
        if self.filled:
            edge = {"markeredgecolor": "white", "markeredgewidth": 0.4}
            return {**look, "markerfacecolor": self.color, **edge}
        return {**look, "markerfacecolor": "white", "markeredgewidth": 0.8}

    def ring(self, place: int, count: int) -> dict[str, Any]:
        """Return the arguments of `Axes.plot` for the open markers of series `place` of `count`.

        Each series has smaller markers than the one before, so that none hides another, even on
        the same point.
        """
        size = RINGS[0] if count == 1 else np.interp(place, (0, count - 1), RINGS)
        marks = {"color": self.color, "marker": self.marker, "markersize": size}
        return {**marks, "markerfacecolor": "none", "markeredgewidth": 0.9}


RINGS = (6.6, 2.8)  #: sizes of the markers of the first and of the last series, in points

LOOKS = {
    "clip": Look("black", "o", 3.8, filled=False),
    "ft_standard": Look("#009E73", "s", 4.2, ":"),
    "tecoa": Look("#0072B2", "^", 5.0, "--"),
    "pmg_aft": Look("#D55E00", "D", 4.2, "-"),
}


#: The looks of other series, in their order.
OTHERS = [
    Look("#56B4E9", "v", 4.2, "-."),
    Look("#CC79A7", "p", 4.2, (0, (5, 1))),
    Look("#E69F00", "P", 4.2, (0, (3, 1, 1, 1))),
    Look("0.45", "X", 4.2, (0, (1, 1))),
    Look("#8C510A", "h", 4.2, (0, (4, 2, 1, 2, 1, 2))),
]


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
            drawing: dict[str, Any]
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
        groups = list(shown.groupby("series", sort=False))
        for place, (name, part) in enumerate(groups):
            look = LOOKS[str(name)]
            axes.vlines(part["x"], part["low"], part["high"], color=look.color, linewidth=0.6)
            marks = look.ring(place, len(groups))
            title = part["title"].iloc[0]
            axes.plot(part["x"], part["value"], linestyle=look.line, label=title, **marks)
        ticks = sorted(set(shown["x"]))
        axes.set(xticks=ticks, xticklabels=map(format_eps, ticks))
        axes.set_xlabel("eps of training and test")
        axes.set_title(f"({letter}) {metric} accuracy (%)", loc="left")
        axes.set_ylim(0, 1.05 * shown["high"].max())
        axes.margins(x=0.1)
        axes.grid(axis="y")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)


def paint_curves(against: str) -> "Callable[[Drawn, pd.DataFrame, str], None]":
    """Return the painting of accuracy against `against`: eps, or a number of steps or queries."""

    def paint(drawn: "Drawn", frame: pd.DataFrame, attack: str) -> None:
        axes = drawn.subplots()
        groups = list(frame[frame["series"] != CHANCE].groupby("series", sort=False))
        others = cycle(OTHERS)
        for place, (name, part) in enumerate(groups):
            look = LOOKS.get(str(name)) or next(others)
            band: dict[str, Any] = {"color": look.color, "alpha": 0.15, "linewidth": 0}
            axes.fill_between(part["x"], part["low"], part["high"], **band)
            line = look.line if look.line != "none" else "-"
            marks = look.ring(place, len(groups))
            axes.plot(
                part["x"], part["value"], linestyle=line, label=part["title"].iloc[0], **marks
            )
        chance = frame[frame["series"] == CHANCE]
        if len(chance):
            dots: dict[str, Any] = {"color": "0.4", "linewidth": 0.8, "linestyle": (0, (1, 1.5))}
            axes.plot(chance["x"], chance["value"], label=CHANCE, **dots)
        ticks = sorted(set(frame["x"]))
        unit, texts = "", [f"{x:g}" for x in ticks]
        if against != "eps":
            axes.set_xscale("symlog", linthresh=1)
        elif all(format_eps(x).endswith("/255") for x in ticks if x):
            unit, texts = " in 1/255", [f"{255 * x:.0f}" for x in ticks]
        axes.set(xticks=ticks, xticklabels=texts)
        axes.minorticks_off()
        axes.set_xlabel(f"{against} of the attack{unit} ({attack})")
        axes.set_ylabel("accuracy (%)")
        axes.set_ylim(0, min(100, 1.05 * frame["high"].max()))
        axes.grid(axis="y")
        drawn.legend(loc="outside upper center", ncols=3)

    return paint

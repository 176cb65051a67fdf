"""The painting of Figure 5: robust against clean accuracy, with the front of what is best."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from zsrobust.reporting import labels, zoo
from zsrobust.reporting.labels import Label
from zsrobust.reporting.painting import CURVE, Look
from zsrobust.reporting.rows import METRICS
from zsrobust.reporting.zoo import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawn

#: The look of a kind of method. Markers differ in form and filling, for black and white.
LOOKS: dict[Kind, Look] = {
    "reference": Look("black", "o", 4.2, filled=False),
    "tower": Look("#0072B2", "^", 4.8),
    "prompts": Look("#A6480B", "D", 3.6, filled=False),
    "mixture": Look("#00694E", "s", 3.8),
}
KINDS: dict[Kind, str] = {
    "reference": "not trained against attacks",
    "tower": "tower trained",
    "prompts": "prompts trained",
    "mixture": "mixture of weights",
}
LINE = Look("0.4", "o", 3.0)  #: of the curve
SHORTER = {"(released code)": "(code)"}  #: words of a title in the figure


def positions(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the points, one in each row: clean numbers, and robust ones with the suffix _robust.

    `frame` has the columns of `figures.data`. `inner` marks points that are not an end of the
    curve: its ends are methods with points of their own.
    """
    robust, clean = (frame[frame["metric"] == metric].reset_index(drop=True) for metric in METRICS)
    points = clean.join(robust[["value", "low", "high"]].add_suffix("_robust"))
    points["inner"] = (points["series"] != CURVE) | points["x"].between(0, 1, inclusive="neither")
    return points


def front(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points that no other point dominates, from the most robust to the cleanest.

    A point dominates another one if it is at least as good in both accuracies, and better in one.
    """
    points = points[points["inner"]]
    clean, robust = (points[name].to_numpy() for name in ("value", "value_robust"))
    as_good = (clean[:, None] >= clean) & (robust[:, None] >= robust)
    better = (clean[:, None] > clean) | (robust[:, None] > robust)
    best = points.iloc[np.flatnonzero(~(as_good & better).any(axis=0))]
    return best.sort_values(["value", "value_robust"], kind="stable")


def front_in_words(frame: pd.DataFrame) -> str:
    """Return the names of the points on the front, for the description."""
    best = front(positions(frame)).to_dict("records")
    names = [
        f"{each['title']} at weight {each['x']:g}" if each["series"] == CURVE else each["title"]
        for each in best
    ]
    return f"No other point is better in both, from robust to clean: {', '.join(names)}."


def paint_trade_off(drawn: "Drawn", frame: pd.DataFrame, bounds: str) -> None:
    """Draw points with crosses as intervals, their titles, the front, and the curve of weights."""
    axes = drawn.subplots()
    points = positions(frame)
    shown: list[tuple[Any, str]] = []
    for kind, part in points[points["series"] != CURVE].groupby(
        points["series"].map(lambda name: zoo.method(name).kind), sort=False
    ):
        drawing = _crosses(axes, part, LOOKS[kind], "none", 2.0)
        shown.append((drawing, KINDS[kind]))
    curve = points[points["series"] == CURVE]
    if len(curve):
        title = f"{CURVE}, by the weight of {zoo.title(curve['spec'].iloc[-1])}"
        shown.append((_crosses(axes, curve, LINE, "-", 1.0), title))
    best = front(points)
    (steps,) = axes.plot(
        best["value"],
        best["value_robust"],
        color="black",
        linestyle=(0, (1, 1.5)),
        linewidth=0.8,
        drawstyle="steps-pre",
        zorder=0.9,
    )
    shown.append((steps, "front: no point is better in both"))
    drawn.legend(*zip(*shown, strict=True), loc="outside upper left", ncols=3)
    axes.set_xlabel("average clean accuracy (%)")
    axes.set_ylabel(f"average robust accuracy (%), PGD-10, eps {bounds}")
    _finish(drawn, axes, points)


def _crosses(axes: "Axes", part: pd.DataFrame, look: Look, line: str, order: float) -> Any:
    """Draw points with their intervals and a line; return the drawing of the points."""
    cross: dict[str, Any] = {"color": look.color, "linewidth": 0.4, "zorder": order - 0.4}
    axes.hlines(part["value_robust"], part["low"], part["high"], **cross)
    axes.vlines(part["value"], part["low_robust"], part["high_robust"], **cross)
    marks = {**look.marks(), "markeredgecolor": look.color}  # a white edge would cut the cross
    (drawing,) = axes.plot(
        part["value"], part["value_robust"], linestyle=line, zorder=order, **marks
    )
    return drawing


def _finish(drawn: "Drawn", axes: "Axes", points: pd.DataFrame) -> None:
    """Draw the grid, and write the titles and weights beside the points."""
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.margins(0.08)
    axes.grid()
    drawn.draw_without_rendering()  # now the positions on the page are known
    named = points[points["inner"]].to_dict("records")
    labels.write(axes, [_label(point) for point in named], _lines(axes, points))


def _label(point: dict[Any, Any]) -> Label:
    at = (point["value"], point["value_robust"])
    if point["series"] == CURVE:
        return Label(f"{point['x']:g}", at, LINE.color, 6)
    text = point["title"]
    for words, short in SHORTER.items():
        text = text.replace(words, short)
    return Label(text, at, LOOKS[zoo.method(point["series"]).kind].color, 7)


def _lines(axes: "Axes", points: pd.DataFrame) -> list[labels.Points]:
    """Return the lines to keep visible, in dots of the page: crosses, the curve and the front."""
    low, middle, high = (
        axes.transData.transform(points[[end, f"{end}_robust"]]) for end in ("low", "value", "high")
    )
    ends = list(zip(low, middle, high, strict=True))
    lines = [np.array([(left, y), (right, y)]) for (left, _), (_, y), (right, _) in ends]
    lines += [np.array([(x, bottom), (x, top)]) for (_, bottom), (x, _), (_, top) in ends]
    best = axes.transData.transform(front(points)[["value", "value_robust"]])
    corners = np.column_stack([best[:-1, 0], best[1:, 1]])  # each step goes down, then right
    steps = np.empty((2 * len(best) - 1, 2))
    steps[::2], steps[1::2] = best, corners
    curve = middle[points["series"] == CURVE]
    return [*lines, steps, curve] if len(curve) else [*lines, steps]

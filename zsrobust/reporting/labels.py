"""Labels: texts beside the points of a figure, placed so that they hide as little as possible."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = NDArray[np.float64]  #: (N, 2)

FAR = 9.0  #: points; a text that is farther from its point gets a leader line
DISTANCES = (5.0, 7.0, 9.0, 13.0, 18.0, 24.0, 31.0, 39.0)  #: points, between a text and its point
DIRECTIONS = 16
PASSES = 4  #: how often each text is placed again, with the others where they are
#: Costs: a text outside of the axes, on another text, on a dot of a line (of `STEP`), nearer to
#: another point than to its own; a leader line through a text, beside another point; a point of
#: distance.
OUTSIDE, ON_TEXT, ON_LINE, AMBIGUOUS = 1e4, 1e3, 1.0, 20.0
THROUGH_TEXT, AT_POINT, DISTANCE = 300.0, 30.0, 0.6
STEP = 2.0  #: dots between the samples of a line
SAMPLES = 24  #: of a leader line


class Label(NamedTuple):
    """A text and the point that it names."""

    text: str
    at: tuple[float, float]  #: in the data's coordinates
    color: str
    size: float  #: of the font, in points


class _Places(NamedTuple):
    """The C places of a text around its point, the near ones first, in dots of the page."""

    low: Points  #: (C, 2): the corners of the text's box
    high: Points  #: (C, 2)
    end: Points  #: (C, 2): where a leader line ends, on the border of the box
    distance: Points  #: (C,): in points
    leader: Points  #: (C, SAMPLES, 2)

    @property
    def far(self) -> NDArray[np.bool_]:
        return self.distance > FAR

    def holds(self, points: Points) -> NDArray[np.bool_]:
        """Return which of (N, 2) points each box contains: (C, N)."""
        inside = (points > self.low[:, None]) & (points < self.high[:, None])
        return np.asarray(inside.all(axis=2))


def write(axes: "Axes", labels: Sequence[Label], lines: Iterable[Points]) -> None:
    """Write the texts and their leader lines; `lines`, in dots of the page, stay visible.

    The limits and the layout of the axes must be final.
    """
    axes.autoscale(False)
    dot = axes.figure.dpi / 72  # dots in a point
    written = [_annotate(axes, label) for label in labels]
    anchors = axes.transData.transform([label.at for label in labels])
    taken = np.vstack([*map(_sampled, lines), _discs(anchors, 3 * dot)])
    frame = np.array([axes.bbox.min, axes.bbox.max])
    places, costs = [], []
    for anchor, text in zip(anchors, written, strict=True):
        extent = text.get_window_extent()
        own = _around(anchor, np.array([extent.width, extent.height]) + 2 * dot, dot)
        places.append(own)
        costs.append(_cost_alone(own, anchor, taken, anchors, frame))
    for number, chosen in enumerate(_chosen(anchors, places, costs)):
        own, anchor = places[number], anchors[number]
        center = (own.low[chosen] + own.high[chosen]) / 2
        written[number].set(position=tuple((center - anchor) / dot))
        if own.far[chosen]:
            _lead(axes, anchor, own.end[chosen], labels[number].color)


def _annotate(axes: "Axes", label: Label) -> Any:
    return axes.annotate(
        label.text,
        xy=label.at,
        xytext=(0, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        color=label.color,
        fontsize=label.size,
    )


def _lead(axes: "Axes", anchor: Points, end: Points, color: str) -> None:
    ends = axes.transData.inverted().transform([anchor, end])
    axes.plot(*ends.T, color=color, linewidth=0.4, zorder=1.5)


def _around(anchor: Points, size: Points, dot: float) -> _Places:
    """Return the places of a text of a size around a point."""
    angles = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    toward = np.tile(np.stack([np.cos(angles), np.sin(angles)], axis=1), (len(DISTANCES), 1))
    distance = np.repeat(DISTANCES, DIRECTIONS)
    center = anchor + toward * distance[:, None] * dot + np.clip(1.5 * toward, -1, 1) * size / 2
    low, high = center - size / 2, center + size / 2
    end = np.clip(anchor, low, high)
    steps = np.linspace(0, 1, SAMPLES)[None, :, None]
    return _Places(low, high, end, distance, anchor + (end - anchor)[:, None] * steps)


def _chosen(anchors: Points, places: Sequence[_Places], alone: Sequence[Points]) -> list[int]:
    """Return a place for each text: crowded points first, then each again among the others."""
    apart = np.linalg.norm(anchors[:, None] - anchors[None], axis=2)
    order = np.argsort(np.sort(apart, axis=1)[:, :4].sum(axis=1), kind="stable")
    chosen: dict[int, int] = {}
    for number in [*order] * PASSES:
        others = [(places[each], at) for each, at in chosen.items() if each != number]
        costs = sum((_cost_beside(places[number], *other) for other in others), alone[number])
        chosen[number] = int(np.argmin(costs))
    return [chosen[number] for number in range(len(anchors))]


def _cost_alone(
    own: _Places, anchor: Points, taken: Points, anchors: Points, frame: Points
) -> Points:
    """Return what each place hides, apart from other texts, and what its distance costs: (C,)."""
    outside = (own.low < frame[0]).any(axis=1) | (own.high > frame[1]).any(axis=1)
    cost = OUTSIDE * outside + ON_LINE * own.holds(taken).sum(axis=1) + DISTANCE * own.distance
    others = anchors[(anchors != anchor).any(axis=1)]
    if not len(others):
        return np.asarray(cost)
    gaps = np.linalg.norm(others - own.leader[:, :, None], axis=3).min(axis=1)  # (C, others)
    cost += AT_POINT * own.far * (gaps < 2 * STEP).sum(axis=1)
    nearest = np.clip(others, own.low[:, None], own.high[:, None])
    to_others = np.linalg.norm(others - nearest, axis=2).min(axis=1)
    to_own = np.linalg.norm(anchor - own.end, axis=1)
    return np.asarray(cost + AMBIGUOUS * (~own.far & (to_others < to_own)))


def _cost_beside(own: _Places, other: _Places, at: int) -> Points:
    """Return the cost of each place beside another text with its leader line: (C,)."""
    low, high = other.low[at], other.high[at]
    cost = ON_TEXT * ((own.low < high) & (low < own.high)).all(axis=1)
    through = ((own.leader > low) & (own.leader < high)).all(axis=2).any(axis=1)
    cost = cost + THROUGH_TEXT * (own.far & through)
    if other.far[at]:
        cost = cost + THROUGH_TEXT * own.holds(other.leader[at]).any(axis=1)
    return np.asarray(cost)


def _sampled(line: Points) -> Points:
    """Return points along a line through (N, 2) points, at most `STEP` dots apart."""
    parts = [line[:1]]
    for start, end in itertools.pairwise(line):
        steps = max(1, math.ceil(float(np.linalg.norm(end - start)) / STEP))
        parts.append(start + (end - start) * np.arange(1, steps + 1)[:, None] / steps)
    return np.vstack(parts)


def _discs(anchors: Points, radius: float) -> Points:
    """Return points that stand for the markers."""
    ring = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]) * radius
    repeated = np.repeat(ring, 4, axis=0)  # a hidden marker is worse than a hidden line
    return np.asarray((anchors[:, None] + repeated[None]).reshape(-1, 2))

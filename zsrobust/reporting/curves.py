"""Curves of accuracy against the strength of an attack, at a fixed defense. No torch here.

The strength is eps, or a number of steps or queries. The points are what is stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, get_args

import pandas as pd

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import format_eps, join_spec, parse_eps, parse_value, split_spec
from zsrobust.reporting import figures, painting
from zsrobust.reporting.figures import COLUMNS, Found
from zsrobust.reporting.plots import COLUMN, Record, measured
from zsrobust.reporting.rows import Metric, Row, rows
from zsrobust.results.registered import registered
from zsrobust.results.selection import Selection

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

Axis = Literal["eps", "steps", "queries"]
AXES: tuple[Axis, ...] = get_args(Axis)

#: The attack of each axis, if none is named.
USUAL: Mapping[Axis, str] = {"eps": "pgd10", "steps": "pgd10", "queries": "square"}
CHANCE = painting.CHANCE
HEIGHT = 2.4  #: inches
MOST = 8  #: gaps that are named; the others are counted
DIGITS = "0123456789"


@dataclass(frozen=True)
class Curves:
    """The numbers of several defenses against one strength, and what is missing."""

    against: Axis
    found: Found
    missing: str  #: one line that names missing points and the command of their cells, or ""

    def draw(self) -> "Drawn":
        """Return the figure, one column wide."""
        paint = painting.paint_curves(self.against)
        return figures.on_page(self.found, COLUMN, HEIGHT, paint)


def build(
    results: pd.DataFrame,
    selection: Selection,
    against: Axis,
    defenses: Sequence[str] = (),
    datasets: Sequence[str] = (),
) -> Curves:
    """Return accuracy against the strength of the selection's attack, for each defense.

    `results` is the DataFrame of `load_results`. Each strength with a stored cell of a shown
    defense is a point, and strength 0 is accuracy without attack. All points have the same images:
    all of each dataset, or the selection's subset. Without `defenses`, those with two complete
    points or more are shown. `datasets` replaces those of the suite.

    The frame has the columns of `figures.COLUMNS`. `x` is eps in pixels of [0, 1], or a number of
    steps or queries. The last series is chance.

    Raises ZSRobustError if the attack has no such strength, and if no point is complete.
    """
    suite = selection.suite
    limit = selection.limit or suite.limits.get(split_spec(selection.attack)[0])
    # At every strength, and in the command of missing cells, the images are the same.
    suite = replace(suite, datasets=tuple(datasets) or suite.datasets, limits={})
    selection = replace(selection, suite=suite, limit=limit)
    points = _points(results, selection, against)
    chosen = list(dict.fromkeys(defenses)) or sorted(
        {name for each in points for name in each.rows}
    )
    points = [point for point in points if point.rows.keys() & set(chosen)]
    lines = [_line(defense, points) for defense in chosen]
    if not defenses:
        lines = [line for line in lines if len(line.rows) > 1]
    records = [record for line in lines for record in line.records()]
    names = [name for line in lines for name in line.names(against)]
    missing = _missing(names, lines, selection, against, datasets)
    if not records:
        command = selection.command(
            defenses or ["clip"], **_weaker(selection, against), datasets=datasets
        )
        raise ZSRobustError(
            missing
            or f"No cells for a curve of {selection.attack} against {against} are complete on the "
            f"suite {selection.suite.name}. Next: {command}"
        )
    chance = next(_chance(row) for line in lines for row in line.rows.values())
    if chance is not None:
        records += [_chance_at(x, chance) for x in (0.0, max(each["x"] for each in records))]
    found = _found(records, selection, against)
    text = "\n".join([found.text, missing] if missing else [found.text])
    return Curves(against, replace(found, left_out=_short(names), text=text), missing)


@dataclass(frozen=True)
class _Point:
    """A strength of the attack, and the rows of the defenses that are stored there."""

    x: float
    selection: Selection  #: under the attack and the eps of this point
    rows: Mapping[str, Row]


def _points(results: pd.DataFrame, selection: Selection, against: Axis) -> list[_Point]:
    """Return the stored strengths of the selection's attack, from the weakest."""
    results = results[results["dataset"].isin(selection.suite.datasets)]
    asked = _strength(selection.attack, against)
    if asked is None:
        raise ZSRobustError(
            f"The attack {selection.attack} has no field {against!r}. Expected an attack that has "
            f"it. Try: --attack {USUAL[against]}"
        )
    found = []
    for attack, bound in dict.fromkeys(zip(results["attack"], results["eps"], strict=True)):
        strength = _strength(attack, against)
        if strength is None or strength.same != asked.same:
            continue
        if against != "eps" and bound != selection.bound:
            continue
        eps = parse_eps(bound, None)
        at = replace(selection, attack=attack, eps=eps)
        x = eps if strength.x is None else strength.x
        if there := rows(at.cells(results), selection.suite):
            found.append(_Point(x, at, there))
    return sorted(found, key=lambda point: point.x)


@dataclass(frozen=True)
class _Strength:
    """What all attacks of a curve share, and the steps or queries of this one."""

    same: tuple[Any, ...]
    x: float | None = None  #: None on the axis of eps


def _strength(spec: str, against: Axis) -> _Strength | None:
    """Return the strength of an attack; None if it does not have the field.

    pgd2 and pgd:steps=100 differ in their steps alone, by the fields of `registered.toml`.
    """
    if against == "eps":
        return _Strength((spec,))
    name, own = split_spec(spec)
    fields = {**registered()["attacks"].get(name, {}), **own}
    value = fields.pop(against, None)
    if value is None:
        return None
    texts = tuple(sorted((key, str(each).lower()) for key, each in fields.items()))
    return _Strength((name.rstrip(DIGITS), *texts), float(parse_value(str(value), int)))


@dataclass(frozen=True)
class _Line:
    """A defense: its complete rows by strength, and the points that are not complete."""

    defense: str
    rows: Mapping[float, Row]
    gaps: Sequence[_Point]
    mixed: bool  #: whether its cells are of different checkpoints, so that there is no curve

    def records(self) -> list[Record]:
        """Return the points; 0 is accuracy without attack. [] if there is no curve."""
        if self.mixed or not self.rows:
            return []
        first = next(iter(self.rows.values()))
        cell = next(iter(first.cells.values()))
        title = f"{cell['defense_title']}{' (oblivious attack)' if first.oblivious else ''}"
        same = {"series": self.defense, "title": title, "spec": self.defense}
        clean = {**same, "x": 0.0, **_average(first, "clean")}
        return [
            clean,
            *({**same, "x": x, **_average(row, "robust")} for x, row in self.rows.items()),
        ]

    def names(self, against: Axis) -> list[str]:
        """Return the words for what is not drawn."""
        if self.mixed:
            return [f"{self.defense} (of different checkpoints)"]
        return [f"{self.defense} at {_named(point.x, against)}" for point in self.gaps]


def _line(defense: str, points: Sequence[_Point]) -> _Line:
    """Return the line of a defense over the points."""
    found: dict[float, Row] = {}
    for point in points:
        row = point.rows.get(defense)
        if row and point.x not in found and row.mean("robust") is not None:
            found[point.x] = row
    mixed = len({digest for row in found.values() for digest in row.deployed}) > 1
    gaps = [point for point in points if mixed or point.x not in found]
    return _Line(defense, found, gaps, mixed)


def _average(row: Row, metric: Metric) -> Record:
    """Return a complete row's mean, or the accuracy on its only dataset, with its interval."""
    mean, interval = row.mean(metric), row.interval(metric)
    assert mean is not None
    assert interval is not None
    return measured(*_place(row), metric, mean, interval)


def _place(row: Row) -> tuple[str, str]:
    if len(row.suite.datasets) > 1:
        return "average", "Average"
    (name,) = row.suite.datasets
    return name, str(row.cells[name]["dataset_title"])


def _chance(row: Row) -> Fraction | None:
    """Return the mean of chance over the datasets, in (0, 1]; None if one is unknown."""
    found = [row.chance(name) for name in row.suite.datasets]
    known = [each for each in found if each is not None]
    return sum(known, Fraction(0)) / len(known) if known and len(known) == len(found) else None


def _chance_at(x: float, share: Fraction) -> Record:
    number = measured("average", "Average", "robust", share, (float(share), float(share)))
    return {"series": CHANCE, "title": CHANCE, "spec": "", "x": x, **number}


def _found(records: list[Record], selection: Selection, against: Axis) -> Found:
    frame = pd.DataFrame(records, columns=COLUMNS)
    attack, datasets = selection.attack, selection.suite.datasets
    strengths = sorted({x for x in frame["x"] if x})
    bounds = ", ".join(map(format_eps, strengths)) if against == "eps" else selection.bound
    if against != "eps":
        attack = f"{split_spec(attack)[0].rstrip(DIGITS)}, eps {bounds}"
    on = f"on {datasets[0]}" if len(datasets) == 1 else f"on average of {len(datasets)} datasets"
    drawn = frame[frame["series"] != CHANCE]
    lines = [figures.under(drawn, selection, bounds, "bands")]
    lines += figures.in_words(drawn, lambda point: _where(point, against))
    lines += [f"{CHANCE}: {text}." for text in frame[frame["series"] == CHANCE]["text"][:1]]
    title = f"Accuracy (%) {on} against {against} of the attack ({attack})."
    return Found(frame, [], attack, title, "\n".join(lines))


def _where(point: Mapping[Any, Any], against: Axis) -> str:
    return f" at {_named(point['x'], against)}" if point["x"] else " without attack"


def _named(x: float, against: Axis) -> str:
    return f"eps {format_eps(x)}" if against == "eps" else f"{x:.0f} {against}"


def _short(names: Sequence[str]) -> list[str]:
    more = [f"and {len(names) - MOST} more"] if len(names) > MOST else []
    return [*names[:MOST], *more]


def _missing(
    names: Sequence[str],
    lines: Sequence[_Line],
    selection: Selection,
    against: Axis,
    datasets: Sequence[str],
) -> str:
    """Return what is not drawn, and the command of its cells; "" if everything is drawn."""
    if not names:
        return ""
    lines = [line for line in lines if line.gaps]
    wanted = [point.selection for line in lines for point in line.gaps]
    command = selection.command(
        [line.defense for line in lines],
        attacks=list(dict.fromkeys(each.attack for each in wanted)),
        bounds=list(dict.fromkeys(each.eps for each in wanted)) if against == "eps" else (),
        datasets=datasets,
    )
    return f"Not drawn, incomplete: {', '.join(_short(names))}. Next: {command}"


def _weaker(selection: Selection, against: Axis) -> dict[str, Any]:
    """Return the arguments of `Selection.command` for two strengths: a half, and the whole."""
    if against == "eps":
        return {"bounds": [selection.eps / 2, selection.eps]}
    name, fields = split_spec(selection.attack)
    strength = _strength(selection.attack, against)
    assert strength is not None
    assert strength.x is not None
    half = join_spec(name, {**fields, against: max(1, int(strength.x) // 2)})
    return {"attacks": [half, selection.attack]}

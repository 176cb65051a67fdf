"""Measures: columns over several rows of cells, such as training seeds, attacks and bounds.

A column of `columns` reads one row of cells. A measure reads the rows that its `needs` name, for
each method of a table. No torch here.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsrobust.core.intervals import wilson
from zsrobust.core.specs import format_eps
from zsrobust.reporting import zoo
from zsrobust.reporting.columns import Entry, percent, points
from zsrobust.reporting.comparison import LEVEL, paired_counts, verified
from zsrobust.reporting.rows import USUAL, Metric, Need, Row
from zsrobust.reporting.seeds import across
from zsrobust.reporting.statistics import holm, mcnemar
from zsrobust.results import read as read_result
from zsrobust.settings.suites import Suite

OTHER_CHECKPOINT = (
    "These cells are of another checkpoint of the same recipe than the cells under {attack}."
)
INSIGNIFICANT = "≈"

Read = Callable[[Row], Entry]


@dataclass(frozen=True)
class Measure:
    """A column: the rows of cells that it reads of each method, and a function of all of them."""

    title: str
    needs: Callable[[str], Sequence[Need]]  #: by the spec of a method
    #: from the rows of every method, by spec and in the order of `needs`, to an entry each
    entries: Callable[[Mapping[str, Sequence[Row]]], list[Entry]]
    ranked: bool = False  #: whether its best entry is marked
    #: whether it takes the worst over its rows, which one of an oblivious attack cannot lift
    worst: bool = False
    note: str = ""  #: a paragraph below the table: the rules of its numbers


def _each(entry: Callable[[Sequence[Row]], Entry]) -> Callable[..., list[Entry]]:
    return lambda found: [entry(rows) for rows in found.values()]


def first_seed(title: str, read: Read, note: str = "") -> Measure:
    """Return the column of a number of the first training seed, under PGD-10."""
    return Measure(title, lambda spec: [Need(spec)], _each(lambda rows: read(rows[0])), note=note)


def any_row(title: str, read: Read, attack: str, note: str = "") -> Measure:
    """Return the column of a number that hardly depends on the training: the first one stored.

    It is read under PGD-10 at every training seed, then under `attack` at the first seed.
    """

    def entry(rows: Sequence[Row]) -> Entry:
        found = [read(row) for row in rows]
        return next((each for each in found if each.text != Entry().text), found[0])

    def needs(spec: str) -> list[Need]:
        return [*_seeds(spec), Need(spec, attack)]

    return Measure(title, needs, _each(entry), note=note)


def over_seeds(title: str, read: Read) -> Measure:
    """Return the column of a mean over the training seeds, with its sample standard deviation.

    A footnote names missing seeds. One seed has no deviation.
    """

    def entry(rows: Sequence[Row]) -> Entry:
        names = [str(seed) for seed in range(len(rows))]
        about = "mean of the averages of {} training seeds"
        return across([read(row) for row in rows], names, about)

    return Measure(
        title,
        _seeds,
        _each(entry),
        ranked=True,
        note="With ±: mean and sample standard deviation of the averages of several training "
        "seeds. The other columns are of the first seed, except for memory.",
    )


def _seeds(spec: str) -> list[Need]:
    return [Need(each) for each in zoo.seeded(spec)]


def under(title: str, read: Read, attack: str, suite: Suite, every: int = 1) -> Measure:
    """Return the column of a number of the first training seed under another attack.

    A footnote reports cells of another checkpoint than the cells under PGD-10.
    """

    def entry(rows: Sequence[Row]) -> Entry:
        usual, row = rows
        found = read(row)
        if usual.deployed and row.deployed and usual.deployed != row.deployed:
            note = OTHER_CHECKPOINT.format(attack=USUAL)
            return replace(found, notes=(*found.notes, note))
        return found

    limit = suite.limits.get(attack)
    images = f"a fixed, class-balanced subset of {limit} images" if limit else "all images"
    which = "each dataset" if every == 1 else f"one dataset in {every}, from the first on"
    return Measure(
        title,
        lambda spec: [Need(spec), Need(spec, attack, every=every)],
        _each(entry),
        ranked=True,
        note=f"Under {attack}: the first seed, {images} of {which}. This rule was fixed before the "
        "zoo was measured.",
    )


def difference(reference: str, metric: Metric = "robust") -> Measure:
    """Return the column of differences from a reference, in points, on the first seed.

    Insignificant ones have a mark. The exact McNemar test is on all images, pooled over the
    datasets, with Holm's correction over the compared rows. Rows on other images are not compared.
    """
    name = zoo.title(reference)

    def entries(found: Mapping[str, Sequence[Row]]) -> list[Entry]:
        pairs = {spec: _discordant(reference, spec, rows, metric) for spec, rows in found.items()}
        known = {spec: pair for spec, pair in pairs.items() if not isinstance(pair, str)}
        tested = {spec: pair for spec, pair in known.items() if spec != reference}
        adjusted = holm([mcnemar(*pair) for pair in tested.values()])
        p_values = dict(zip(tested, adjusted, strict=True))
        return [
            _difference(found[spec], metric, p_values.get(spec), len(tested), name)
            if not isinstance(pair, str)
            else _not_compared(found[spec], metric, pair, name)
            for spec, pair in pairs.items()
        ]

    return Measure(
        f"Difference from {name}",
        lambda spec: [Need(spec), Need(reference)],
        entries,
        note=f"Difference: of the {metric} average from that of {name}, in points, under "
        f"{USUAL}. {INSIGNIFICANT}: not significant at {LEVEL:.0%}.",
    )


def _discordant(
    reference: str, spec: str, rows: Sequence[Row], metric: Metric
) -> tuple[int, int] | str:
    """Return on how many images only the reference, and only the method, is right; or why not."""
    row, usual = rows
    only_reference = only_method = 0
    for dataset in row.averaged():
        cells = [(reference, usual.cells.get(dataset)), (spec, row.cells.get(dataset))]
        counts = paired_counts(cells, metric)
        if isinstance(counts, str):
            return counts
        only_reference += counts[3]
        only_method += counts[4]
    return only_reference, only_method


def _difference(
    rows: Sequence[Row], metric: Metric, p: float | None, tested: int, name: str
) -> Entry:
    """Return the entry of a compared row; `p` is adjusted, and None for the reference itself."""
    ours, theirs = (row.mean(metric) for row in rows)
    if ours is None or theirs is None:
        return Entry(about="not complete: a number is missing")
    if p is None:
        return Entry(percent(Fraction(0)), about="the reference")
    text = points(ours - theirs)
    if p <= LEVEL:
        return Entry(text, about=f"p = {p:.3g}")
    note = (
        f"{INSIGNIFICANT}: not significantly different from {name}. The exact McNemar test is on "
        f"all images, pooled over the datasets, with Holm's correction over {tested} rows."
    )
    return Entry(text, mark=INSIGNIFICANT, notes=(note,), about=f"p = {p:.3g}")


def _not_compared(rows: Sequence[Row], metric: Metric, why: str, name: str) -> Entry:
    """Return the dash of a row; a complete one has a footnote with the reason."""
    complete = all(row.mean(metric) is not None for row in rows)
    return Entry(about=why, notes=(f"Not compared with {name}: {why}.",) if complete else ())


def at_bounds(title: str, read: Read, suite: Suite, shown: str) -> list[Measure]:
    """Return a column for each bound of the sweep, where a method is trained and tested.

    Raises ZSRobustError for a suite without bounds for `shown`, a table.
    """
    return [
        Measure(
            f"{title}, {format_eps(eps)}",
            lambda spec, eps=eps: [zoo.at_bound(spec, eps, suite)],  # type: ignore[misc]
            _each(lambda rows: read(rows[0])),
            ranked=True,
        )
        for eps in zoo.bounds(suite, shown)
    ]


def crossing(suite: Suite, shown: str) -> Measure:
    """Return the column of the smallest bound at which a method crosses chance.

    There, on half of the datasets or more, the 95% interval (Wilson's) of robust accuracy reaches
    down to chance. Raises ZSRobustError like `at_bounds`.
    """
    bounds = zoo.bounds(suite, shown)

    def entry(rows: Sequence[Row]) -> Entry:
        for eps, row in zip(bounds, rows, strict=True):
            crossed = _crosses(row)
            if crossed is None:
                return Entry(about=f"not complete at {format_eps(eps)}")
            if crossed:
                return Entry(format_eps(eps))
        return Entry(f"not in {format_eps(bounds[0])}–{format_eps(bounds[-1])}")

    return Measure(
        "Crosses chance at",
        lambda spec: [zoo.at_bound(spec, eps, suite) for eps in bounds],
        _each(entry),
        note="Crosses chance at: the smallest of these bounds at which the 95% interval (Wilson's) "
        "of robust accuracy reaches down to chance on half of the datasets or more. This rule was "
        "fixed before the zoo was measured. The interval of the mean above chance is not used: it "
        "reaches 0 only if nearly all datasets are at chance, because no dataset counts below 0.",
    )


def _crosses(row: Row) -> bool | None:
    """Return whether robust accuracy is at chance on half of the datasets; None if unknown."""
    if row.mixed:
        return None
    reached = 0
    for dataset in row.averaged():
        counts, chance = row.counts(dataset, "robust"), row.chance(dataset)
        if counts is None or chance is None:
            return None
        reached += wilson(*counts)[0] <= chance
    return 2 * reached >= len(row.averaged())


def single(title: str, read: Read, need: Callable[[str], Need], note: str = "") -> Measure:
    """Return the column of a number of one row of cells, which is not ranked."""
    return Measure(title, lambda spec: [need(spec)], _each(lambda rows: read(rows[0])), note=note)


def joint(
    title: str,
    read: Callable[[Sequence[Row]], Entry],
    needs: Callable[[str], Sequence[Need]],
    note: str,
) -> Measure:
    """Return the column of an entry of several rows of cells, which is not ranked."""
    return Measure(title, needs, _each(read), note=note)


def worst(title: str, read: Read, needs: Callable[[str], Sequence[Need]], note: str) -> Measure:
    """Return the ranked column of the worst case: an image counts if it survives every attack."""
    return Measure(
        title,
        needs,
        _each(lambda rows: read(worst_of(rows))),
        ranked=True,
        worst=True,
        note=note,
    )


def worst_of(rows: Sequence[Row]) -> Row:
    """Return a row of cells whose robust images are robust in the cells of every row.

    All rows are of one checkpoint and of the same images; what the attack knows may differ. A
    dataset is left out where a cell is missing, failed or damaged, or is of another one.
    """
    first, cells = rows[0], dict[str, Mapping[Hashable, Any]]()
    for dataset in first.averaged():
        found = [row.cells.get(dataset) for row in rows]
        counted = _worst_cell([each for each in found if each is not None])
        if counted is not None and None not in found:
            cells[dataset] = counted
    return Row(first.suite, cells)


def _worst_cell(cells: Sequence[Mapping[Hashable, Any]]) -> Mapping[Hashable, Any] | None:
    right: list[NDArray[np.bool_]] = []
    made: list[dict[str, Any]] = []
    images = []
    for cell in cells:
        path = Path(str(cell["path"]))
        result = read_result(path)
        outcomes = verified(result, path) if cell["status"] == "ok" else "failed"
        if isinstance(outcomes, str):
            return None
        right.append(outcomes.right.robust)
        details = result.identity.defense.details
        made.append({name: value for name, value in details.items() if name != "knowledge"})
        images.append((result.identity.dataset, outcomes.labels.tolist()))
    if not cells or any(each != made[0] for each in made) or any(e != images[0] for e in images):
        return None
    flags = sorted({flag for cell in cells for flag in cell["flags"]})
    robust = int(np.logical_and.reduce(right).sum())
    return {
        **cells[-1],
        "robust_correct": robust,
        "flags": flags,
        "made": repr(made[0]),
        "knowledge": "",
    }

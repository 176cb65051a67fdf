"""Comparisons: two defenses image by image. No torch here."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zsrobust.core.errors import ZSRobustError, suggest
from zsrobust.core.files import exists
from zsrobust.reporting.rows import Metric, Row, rows
from zsrobust.reporting.statistics import difference_interval, holm, mcnemar
from zsrobust.results.cell import Outcomes, Result, Right
from zsrobust.results.chance import corrected
from zsrobust.results.identity import Identity
from zsrobust.results.selection import Selection
from zsrobust.results.store import outcomes_match, read

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.05  #: a difference is significant if its adjusted p-value is at most this

#: The fields of an identity that specify the images.
IMAGES = ("dataset.digest", "dataset.images", "dataset.limit")

#: The first six numbers of a `Line`, from `images` on.
Counts = tuple[int, int, int, int, int, int]


class Verified(NamedTuple):
    """The outcomes of a stored cell, in the order of its images."""

    labels: NDArray[np.int64]  #: (N,)
    right: Right


def verified(result: Result, path: Path) -> Verified | str:
    """Return the outcomes of a stored cell, or why they do not belong to its counts."""
    if not exists(path.with_suffix(".npz")):
        return "the outcomes are missing"
    if not outcomes_match(result, path):
        return "the outcomes are of another run"
    try:
        outcomes = Outcomes.read(path)
    except ZSRobustError:
        return "the outcomes are not valid"
    right = outcomes.right(result.identity.attacks_everything)
    counts = (len(outcomes.labels), int(right.clean.sum()), int(right.robust.sum()))
    if counts != (result.images, result.clean_correct, result.robust_correct):
        return "the counts do not follow from the outcomes"
    return Verified(outcomes.labels, right)


@dataclass(frozen=True)
class Line:
    """Two defenses on one dataset."""

    dataset: str
    title: str
    images: int
    first: int  #: images that the first classifies correctly
    second: int
    only_first: int  #: images that the first classifies correctly, and the second does not
    only_second: int
    largest_class: int  #: images of the most frequent label
    p: float  #: of the exact McNemar test
    adjusted: float  #: p after Holm's correction over all lines

    @property
    def difference(self) -> Fraction:
        """The second's share minus the first's, in [-1, 1]."""
        return Fraction(self.second - self.first, self.images)

    @property
    def above_chance(self) -> tuple[Fraction, Fraction]:
        """Accuracy above chance of both, in [0, 1]: (accuracy - chance) / (1 - chance), or 0."""
        at = Fraction(self.largest_class, self.images)
        first, second = (Fraction(each, self.images) for each in (self.first, self.second))
        return corrected(first, at), corrected(second, at)

    @property
    def significant(self) -> bool:
        """Whether the difference is significant after the correction."""
        return self.adjusted <= LEVEL


@dataclass(frozen=True)
class Comparison:
    """Two defenses on the datasets of a suite."""

    caption: str
    first: str  #: title
    second: str
    lines: Sequence[Line]
    apart: Sequence[tuple[str, str]]  #: titles of datasets that are not compared, and the reasons
    #: The 95% interval of the mean difference; None unless all datasets are compared.
    interval: tuple[float, float] | None

    @property
    def difference(self) -> Fraction | None:
        """The second's mean share minus the first's; None unless all datasets are compared."""
        if self.interval is None:
            return None
        return sum((line.difference for line in self.lines), Fraction(0)) / len(self.lines)

    @property
    def above_chance(self) -> tuple[Fraction, Fraction] | None:
        """The mean accuracy above chance of both; None unless all datasets are compared."""
        if self.interval is None:
            return None
        sides = zip(*(line.above_chance for line in self.lines), strict=True)
        first, second = (sum(side, Fraction(0)) / len(self.lines) for side in sides)
        return first, second


def compare(
    results: "pd.DataFrame",
    first: str,
    second: str,
    selection: Selection,
    *,
    metric: Metric = "robust",
) -> Comparison:
    """Return how two defenses, by their specs, differ on the images of the selected cells.

    A dataset is compared if both cells are stored and their identities differ only in the defense.
    Raises ZSRobustError, with the next run, if a defense has no cells or no dataset is compared.
    """
    suite = selection.suite
    pair = _pair_of(results, first, second, selection)
    titles = {name: str(cell["dataset_title"]) for row in pair for name, cell in row.cells.items()}
    counted: dict[str, Counts] = {}
    apart: list[tuple[str, str]] = []
    for name in suite.datasets:
        cells = (row.cells.get(name) for row in pair)
        counts = paired_counts(list(zip((first, second), cells, strict=True)), metric)
        if isinstance(counts, str):
            apart.append((titles.get(name, name), counts))
        else:
            counted[name] = counts
    if not counted:
        why = "; ".join(dict.fromkeys(reason for _, reason in apart))
        raise ZSRobustError(
            f"{first} and {second} cannot be compared: {why}. Next: "
            f"{selection.command((first, second))}"
        )
    lines = _lines(counted, titles)
    whole = not apart and not any(row.mixed for row in pair)
    return Comparison(
        f"{metric.capitalize()} accuracy (%) under {_under(selection)}: {suite.name} suite, "
        f"protocol {selection.protocol}.",
        *_titles(*pair, first, second),
        lines,
        apart,
        _interval(lines, first > second) if whole else None,
    )


def _under(selection: Selection) -> str:
    return f"{selection.attack}, eps {selection.bound}"


def _pair_of(
    results: "pd.DataFrame", first: str, second: str, selection: Selection
) -> tuple[Row, Row]:
    """Return the rows of two defenses; raises ZSRobustError if they are one, or one is missing."""
    if first == second:
        raise ZSRobustError(
            f"{first} is compared with itself. Name two defenses. See: zsrobust list defenses"
        )
    found = rows(selection.cells(results), selection.suite)
    if not found:
        raise ZSRobustError(
            f"No cells under {_under(selection)}, seed {selection.seed} are stored. "
            f"Next: {selection.command((first, second))}"
        )
    for spec in (first, second):
        if spec not in found:
            see = f"Next: {selection.command([spec])}"
            raise suggest("defense among these results:", spec, list(found), see)
    return found[first], found[second]


def _titles(first: Row, second: Row, *specs: str) -> tuple[str, str]:
    """Return the titles of two defenses, or their specs if both have the same title."""
    one, other = (str(next(iter(row.cells.values()))["defense_title"]) for row in (first, second))
    return (one, other) if one != other else (specs[0], specs[1])


def paired_counts(
    cells: Sequence[tuple[str, Mapping[Hashable, Any] | None]], metric: Metric
) -> Counts | str:
    """Return the counts of two cells, each with its defense, or why they cannot be compared."""
    found: list[Verified] = []
    identities: list[Identity] = []
    for spec, cell in cells:
        if cell is None:
            return f"the cell of {spec} is missing"
        if cell["status"] != "ok":
            return f"the cell of {spec} failed"
        path = Path(str(cell["path"]))
        result = read(path)
        outcomes = verified(result, path)
        if isinstance(outcomes, str):
            return f"in the cell of {spec}, {outcomes}"
        found.append(outcomes)
        identities.append(result.identity)
    names = [each.name for each in identities[0].differences(identities[1])]
    differing = [name for name in names if not name.startswith("defense.")]
    if other := [name for name in differing if name not in IMAGES]:
        return f"another {', '.join(other)}"
    if differing or not np.array_equal(found[0].labels, found[1].labels):
        return "other images"
    one, two = (getattr(each.right, metric) for each in found)
    only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
    largest = int(np.unique(found[0].labels, return_counts=True)[1].max())
    return len(one), int(one.sum()), int(two.sum()), only_first, only_second, largest


def _lines(counted: Mapping[str, Counts], titles: Mapping[str, str]) -> list[Line]:
    p_values = [
        mcnemar(only_first, only_second) for *_, only_first, only_second, _ in counted.values()
    ]
    tested = zip(counted.items(), p_values, holm(p_values), strict=True)
    return [
        Line(name, titles[name], *counts, p, adjusted) for (name, counts), p, adjusted in tested
    ]


def _interval(lines: Sequence[Line], swapped: bool) -> tuple[float, float]:
    """Return the interval of the mean difference; `swapped` draws it for the other order.

    So comparing B with A gives exactly the negated interval of A with B.
    """
    counts = [(line.only_first, line.only_second, line.images) for line in lines]
    if not swapped:
        return difference_interval(counts)
    low, high = difference_interval([(second, first, images) for first, second, images in counts])
    return 0.0 - high, 0.0 - low  # never -0.0

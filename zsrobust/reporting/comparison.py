"""Comparisons: two defenses image by image. No torch here."""

import csv
import io
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tabulate import tabulate

from zsrobust.core.errors import ZSRobustError, suggest
from zsrobust.reporting.formats import escaped
from zsrobust.reporting.rows import Metric, Row, rows
from zsrobust.reporting.statistics import holm, mcnemar
from zsrobust.results.cell import Outcomes, Result, Right
from zsrobust.results.identity import Identity
from zsrobust.results.selection import Selection
from zsrobust.results.store import outcomes_match, read

#: Below it a p-value, adjusted, is called significant.
LEVEL = 0.05

#: The fields of an identity that say which images were looked at.
IMAGES = ("dataset.digest", "dataset.images", "dataset.limit")


#: Images, those that the first and the second got right, and those that only the first, or only the
#: second, did.
Counts = tuple[int, int, int, int, int]


class Looked(NamedTuple):
    """A cell's images in order: labels, (N,), and which are correct."""

    labels: NDArray[np.int64]
    right: Right


def look(result: Result, path: Path) -> Looked | str:
    """Return the outcomes of a stored cell, or why they cannot be trusted."""
    if not path.with_suffix(".npz").exists():
        return "it has no outcomes beside it"
    if not outcomes_match(result, path):
        return "its outcomes are another run's"
    outcomes = Outcomes.read(path)
    right = outcomes.right(result.identity.attacks_everything)
    counts = (len(outcomes.labels), int(right.clean.sum()), int(right.robust.sum()))
    if counts != (result.images, result.clean_correct, result.robust_correct):
        return "its counts are not those of its outcomes"
    return Looked(outcomes.labels, right)


@dataclass(frozen=True)
class Line:
    """Two defenses on one dataset."""

    dataset: str
    title: str
    images: int
    first: int  #: images that the first got right
    second: int
    only_first: int  #: images that the first got right, and the second did not
    only_second: int
    p: float  #: of the exact McNemar test
    adjusted: float  #: the same after Holm's correction over all lines

    @property
    def difference(self) -> Fraction:
        """The second's share minus the first's, in [-1, 1]."""
        return Fraction(self.second - self.first, self.images)

    @property
    def significant(self) -> bool:
        """Whether the difference stands after the correction."""
        return self.adjusted <= LEVEL


@dataclass(frozen=True)
class Comparison:
    """Two defenses on the datasets of a suite."""

    caption: str
    first: str  #: title
    second: str
    lines: Sequence[Line]
    apart: Sequence[tuple[str, str]]  #: the datasets that are not compared, by title, and why
    interval: (
        tuple[float, float] | None
    )  #: 95% interval of the mean difference; None unless all datasets are compared

    @property
    def difference(self) -> Fraction | None:
        """The second's mean share minus the first's; None unless all datasets are compared."""
        if self.interval is None:
            return None
        return sum((line.difference for line in self.lines), Fraction(0)) / len(self.lines)


def compare(
    results: pd.DataFrame,
    first: str,
    second: str,
    selection: Selection,
    *,
    metric: Metric = "robust",
) -> Comparison:
    """Return how two defenses, by their specs, differ on the selected cells' images.

    A dataset is compared where both cells are there, and their identities differ in nothing but the
    defense: the images, the attack, the prompts are the same. Raises ZSRobustError, with the run
    that would help, where a defense has no cells, or no dataset can be compared.
    """
    suite = selection.suite
    under = f"{selection.attack}, eps {selection.bound}"
    found = rows(selection.cells(results), suite)
    if first == second:
        raise ZSRobustError(
            f"{first} is compared with itself: name two defenses. See: zsrobust list defenses"
        )
    for spec in (first, second):
        if not found:
            raise ZSRobustError(
                f"No cells under {under}, seed {selection.seed} are stored. "
                f"Next: {selection.command((first, second))}"
            )
        if spec not in found:
            raise suggest(
                "defense among these results:",
                spec,
                list(found),
                f"Next: {selection.command([spec])}",
            )
    pair = (found[first], found[second])
    pairs = {
        name: _counted({first: pair[0].cells.get(name), second: pair[1].cells.get(name)}, metric)
        for name in suite.datasets
    }
    titles = {name: str(cell["dataset_title"]) for row in pair for name, cell in row.cells.items()}
    lines = _lines(
        {name: each for name, each in pairs.items() if not isinstance(each, str)}, titles
    )
    apart = [
        (titles.get(name, name), each) for name, each in pairs.items() if isinstance(each, str)
    ]
    if not lines:
        why = "; ".join(dict.fromkeys(reason for _, reason in apart))
        raise ZSRobustError(
            f"{first} and {second} cannot be compared: {why}. Next: "
            f"{selection.command((first, second))}"
        )
    whole = not apart and not any(row.mixed for row in pair)
    return Comparison(
        f"{metric.capitalize()} accuracy (%) under {under}: {suite.name} suite, protocol "
        f"{selection.protocol}.",
        *_titles(*pair, first, second),
        lines,
        apart,
        _interval(lines, first > second) if whole else None,
    )


def _titles(first: Row, second: Row, *specs: str) -> tuple[str, str]:
    """Return what to call the two: their titles, or where these are the same their specs."""
    one, other = (str(next(iter(row.cells.values()))["defense_title"]) for row in (first, second))
    return (one, other) if one != other else (specs[0], specs[1])


def _counted(cells: Mapping[str, Mapping[Hashable, Any] | None], metric: Metric) -> Counts | str:
    """Return the counts of two cells, or why they cannot be compared."""
    found: list[Looked] = []
    identities: list[Identity] = []
    for spec, cell in cells.items():
        if cell is None or cell["status"] != "ok":
            return f"no cell of {spec}" if cell is None else f"the cell of {spec} failed"
        path = Path(str(cell["path"]))
        result = read(path)
        known = look(result, path)
        if isinstance(known, str):
            return f"of {spec}, {known}"
        found.append(known)
        identities.append(result.identity)
    names = [each.name for each in identities[0].differences(identities[1])]
    differing = [name for name in names if not name.startswith("defense.")]
    if other := [name for name in differing if name not in IMAGES]:
        return f"another {', '.join(other)}"
    if differing or not np.array_equal(found[0].labels, found[1].labels):
        return "other images"
    one, two = (getattr(each.right, metric) for each in found)
    return (
        len(one),
        int(one.sum()),
        int(two.sum()),
        int((one & ~two).sum()),
        int((two & ~one).sum()),
    )


def _lines(counted: Mapping[str, Counts], titles: Mapping[str, str]) -> list[Line]:
    p_values = [
        mcnemar(only_first, only_second) for *_, only_first, only_second in counted.values()
    ]
    return [
        Line(name, titles[name], *counts, p, adjusted)
        for (name, counts), p, adjusted in zip(
            counted.items(), p_values, holm(p_values), strict=True
        )
    ]


def _interval(lines: Sequence[Line], swapped: bool) -> tuple[float, float]:
    """Return the interval of the mean difference; swapping the defenses flips its sign."""
    if not swapped:
        return difference_interval(
            [(line.only_first, line.only_second, line.images) for line in lines]
        )
    low, high = difference_interval(
        [(line.only_second, line.only_first, line.images) for line in lines]
    )
    return 0.0 - high, 0.0 - low  # never -0.0


def difference_interval(
    counts: Sequence[tuple[int, int, int]], draws: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean difference, in [-1, 1].

    `counts` are (only the first right, only the second right, images), one a dataset; every dataset
    weighs the same. As in `statistics.mean_interval` images are resampled within each dataset, and
    the datasets stay: here pairs of outcomes, whose difference is -1, 1 or 0, so that one draw of a
    multinomial is the whole resample.
    """
    state = np.random.RandomState(seed)
    means = np.zeros(draws)
    for only_first, only_second, images in counts:
        shares = np.array([only_first, only_second, images - only_first - only_second]) / images
        drawn = state.multinomial(images, shares, size=draws)
        means += (drawn[:, 1] - drawn[:, 0]) / images
    low, high = np.quantile(means / len(counts), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def text(comparison: Comparison) -> str:
    """Return the comparison as Markdown; significant differences are bold."""

    def show(line: Line) -> list[str]:
        difference = points(line.difference)
        return [
            escaped(line.title),
            str(line.images),
            _percent(line.first, line),
            _percent(line.second, line),
            f"**{difference}**" if line.significant else difference,
            str(line.only_first),
            str(line.only_second),
            f"{line.p:.2g}",
            f"{line.adjusted:.2g}",
        ]

    first, second = comparison.first, comparison.second
    header = [
        "Dataset",
        "Images",
        first,
        second,
        "Difference",
        f"{first} alone",
        f"{second} alone",
        "p",
        "p, Holm",
    ]
    header = [escaped(title) for title in header]
    body = [show(line) for line in comparison.lines]
    align = ["left"] + ["right"] * (len(header) - 1)
    table = tabulate(body, header, tablefmt="pipe", disable_numparse=True, colalign=align)
    return "\n\n".join([f"**{comparison.caption}**", table, *_underneath(comparison)]) + "\n"


def _underneath(comparison: Comparison) -> list[str]:
    first, second, lines = comparison.first, comparison.second, comparison.lines
    significant = [line for line in lines if line.significant]
    better = {
        second: [line.title for line in significant if line.difference > 0],
        first: [line.title for line in significant if line.difference < 0],
    }
    told = "; ".join(
        f"{who} better on {', '.join(names)}" for who, names in better.items() if names
    )
    count = f"{len(lines)} dataset{'s' if len(lines) > 1 else ''}"
    found = [f"Significant at {LEVEL:.0%} after Holm's correction over {count}: {told or 'none'}."]
    mean, interval = comparison.difference, comparison.interval
    if mean is not None and interval is not None:
        ends = f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}"
        found.append(
            f"Mean difference over {count}: {points(mean)} points (95%: {ends}; a paired "
            "bootstrap over images in datasets)."
        )
    else:
        found.append(
            "No mean: it stands where both defenses have all cells of the suite, each of one "
            "checkpoint."
        )
    if comparison.apart:
        found.append(
            f"Not compared: {'; '.join(f'{title}: {why}' for title, why in comparison.apart)}."
        )
    found.append(
        f"Difference: {second} minus {first}, in points. Alone: images that only this one got "
        "right. p: McNemar's exact "
        "two-sided test on the same images."
    )
    return found


def comma_separated(comparison: Comparison) -> str:
    """Return the comparison as CSV: a line per dataset, and one for the mean."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    first, second = comparison.first, comparison.second
    alone = [f"{first} alone", f"{second} alone"]
    writer.writerow(
        [
            "Dataset",
            "Images",
            first,
            second,
            "Difference",
            "low",
            "high",
            *alone,
            "p",
            "p Holm",
            "significant",
        ]
    )
    for line in comparison.lines:
        shares = [_percent(line.first, line), _percent(line.second, line), points(line.difference)]
        tested = [
            line.only_first,
            line.only_second,
            line.p,
            line.adjusted,
            "yes" if line.significant else "no",
        ]
        writer.writerow([line.title, line.images, *shares, "", "", *tested])
    if comparison.difference is not None and comparison.interval is not None:
        ends = [f"{100 * end:+.2f}" for end in comparison.interval]
        writer.writerow(["Mean", "", "", "", points(comparison.difference), *ends, *[""] * 5])
    return out.getvalue()


def _percent(correct: int, line: Line) -> str:
    return points(Fraction(correct, line.images)).removeprefix("+")


def points(share: Fraction) -> str:
    """Return a difference in points with its sign, as "+3.33", rounded half to even."""
    return f"{float(round(share * 100, 2)):+.2f}"


FORMATS: dict[str, Callable[[Comparison], str]] = {".md": text, ".csv": comma_separated}


def render(comparison: Comparison, suffix: str) -> str:
    """Return the comparison in a suffix's format; raises ZSRobustError for an unknown one."""
    if suffix not in FORMATS:
        raise ZSRobustError(
            f"No format {suffix or 'without suffix'!r} of a comparison. Write to a file that ends "
            f"in {', '.join(FORMATS)}."
        )
    return FORMATS[suffix](comparison)

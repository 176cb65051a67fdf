"""Regression: stored results compared with a baseline, cell by cell. No torch here.

The baseline is another folder of results, such as the one in git. `check` has the rules. `paper`
compares results with the paper.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from zsrobust.core.errors import ZSRobustError, counted, last_line
from zsrobust.core.files import exists
from zsrobust.reporting.columns import percent, points
from zsrobust.reporting.comparison import IMAGES, Verified, verified
from zsrobust.reporting.matching import (
    METRICS,
    Match,
    Stored,
    at_limit,
    readable,
    stored,
    without_subsets,
)
from zsrobust.reporting.origins import origins
from zsrobust.reporting.rows import Metric
from zsrobust.reporting.statistics import holm, mcnemar, newcombe
from zsrobust.reporting.verdicts import Report, Verdict
from zsrobust.results.cell import Right

#: Two trainings of one recipe differ, and the images of a row of the same weights moved in one
#: direction, if the p-value after Holm's correction is at most this.
LEVEL = 0.01

Group = TypeVar("Group", bound=Hashable)


def check(
    folder: Path,
    baseline: Path,
    *,
    keep: Callable[[Mapping[str, Any]], bool] = lambda about: True,
    limit: int | None = None,
    tolerance: float = 1.0,
) -> Report:
    """Return the verdicts on the cells of `folder`: whether they agree with those of `baseline`.

    `keep` chooses cells by `Identity.about`. `limit` chooses cells of the folder on subsets of
    that many images, or on whole sets that are not larger.

    Each cell of the baseline must be in the folder. Cells are matched by suite, protocol, attack,
    eps, defense, dataset and seed, and by limit if the baseline has several limits. Cells that
    failed in the baseline are left out with a note. Cells that only the folder has are counted.
    Cells agree if their identities differ only as named here, and:

    * Same images (digest, labels, outcomes on both sides) and same weights: at most `tolerance`
      percent of the images, rounded down, have another clean or robust outcome.
    * A row of such cells, of one defense under one attack: the exact McNemar test on all its images
      is not significant at 1%, clean and robust. Holm's correction is over both tests of all rows.
      Floating-point ties move images in both directions; a shift of the row in one direction does
      not come from ties, however small it is.
    * Same images, but retrained (another checkpoint of the same recipe and sources): the count of
      clean images differs by at most `tolerance` percent of the images, or the exact McNemar test
      is not significant at 1%. The same applies to the count of robust images. Holm's correction
      is over both tests of all retrained cells.
    * A row of such cells, of one defense under one attack: its mean differs by at most `tolerance`
      points, or the same test on all its images is not significant, corrected over the rows.
    * Other images (digest, number or limit), or outcomes missing on a side: Newcombe's 95% interval
      of each difference, clean and robust, reaches into ±`tolerance` points.

    In the folder, damaged files, outcomes of another run, counts that do not follow from the
    outcomes, and failed cells do not agree. In the baseline, they raise ZSRobustError, except for
    failed cells. So do a missing folder, and a baseline without a cell to compare. Notes report
    cells of other checkpoints, datasets and versions, also where counts agree.
    """
    whole = stored(baseline)
    theirs = [cell for cell in whole if keep(cell.result.identity.about)]
    if all(cell.result.status == "failed" for cell in theirs):
        raise ZSRobustError(
            f"The baseline {baseline} has no such cells, or only failed ones. List its cells: "
            f"ls {baseline}/*/*/*"
        )
    ours, damaged = readable(folder)
    if limit is not None:
        ours, theirs = at_limit(ours, theirs, limit)
    else:
        theirs = without_subsets(ours, theirs)
    match = Match(ours, theirs)
    verdicts: list[Verdict] = []
    pairs: list[_Pair] = []
    notes: list[str] = []
    matched: list[tuple[Stored, Stored]] = []
    for cell in theirs:
        found = match.find(cell)
        if found is not None and cell.result.status != "failed":
            matched.append((found, cell))
        if cell.result.status == "failed":
            notes.append(f"{cell.name} failed in the baseline, and is left out.")
        elif cell.name in damaged:
            why = damaged.pop(cell.name)
            verdicts.append(Verdict(cell.name, None, why, baseline=cell.accuracies))
        elif found is None:
            why = match.missing(cell)
            verdicts.append(Verdict(cell.name, None, why, baseline=cell.accuracies))
        elif isinstance(pair := _pair(found, cell), str):
            verdicts.append(_verdict(found, cell, None, pair))
        else:
            pairs.append(pair)
    verdicts += _judge_pairs(pairs, tolerance)
    retrained, moved = _judge_rows(pairs, tolerance)
    # A damaged file counts only if the baseline lacks its cell. Other such cells were not chosen.
    known = {cell.name for cell in whole}
    extra_damaged = [(name, why) for name, why in damaged.items() if name not in known]
    verdicts += [
        *moved,
        *_judge_directions(pairs),
        *(Verdict(name, None, why) for name, why in extra_damaged),
    ]
    extra = sum(keep(cell.result.identity.about) and cell.name not in match.used for cell in ours)
    verdicts.sort(key=lambda verdict: verdict.cell)
    return Report(verdicts, tolerance, extra, [*notes, *retrained, *origins(matched)])


@dataclass(frozen=True)
class _Pair:
    """A cell of both sides; `images` is None if outcomes are not compared."""

    ours: Stored
    theirs: Stored
    retrained: bool
    images: tuple[Right, Right] | None

    def discordant(self, metric: Metric) -> tuple[int, int]:
        """Return how many images only the baseline, and only our cell, classifies correctly."""
        assert self.images is not None
        ours, theirs = (getattr(each, metric) for each in self.images)
        return int((theirs & ~ours).sum()), int((ours & ~theirs).sum())

    @property
    def moved(self) -> int:
        """The number of images with another clean or robust outcome."""
        assert self.images is not None
        ours, theirs = self.images
        return int(((ours.clean != theirs.clean) | (ours.robust != theirs.robust)).sum())

    def allowed(self, tolerance: float) -> Fraction:
        """Return the tolerance as a number of images."""
        return Fraction(str(tolerance)) * self.ours.result.images / 100


def _pair(ours: Stored, theirs: Stored) -> _Pair | str:
    """Return two matched cells as a pair, or why they do not agree whatever their counts are."""
    if ours.result.status == "failed":
        return f"failed: {last_line(ours.result.error)}"
    found = theirs.result.identity.differences(ours.result.identity)
    differing = {each.name for each in found}
    checkpoints = {f"{place}.checkpoint" for place in ours.result.identity.defense.trained}
    retrained, other_images = bool(differing & checkpoints), bool(differing & set(IMAGES))
    other = differing - checkpoints - set(IMAGES)
    if other:
        return f"another {', '.join(sorted(name.removeprefix('defense.') for name in other))}"
    one, two = _outcomes(ours), _outcomes(theirs)
    if isinstance(two, str):
        raise ZSRobustError(
            f"{theirs.path} is not a valid baseline: {two}. Run the cell again, or restore it."
        )
    if isinstance(one, str):
        return one
    if other_images or one is None or two is None or not np.array_equal(one.labels, two.labels):
        return _Pair(ours, theirs, retrained, None)
    return _Pair(ours, theirs, retrained, (one.right, two.right))


def _outcomes(cell: Stored) -> Verified | str | None:
    """Return a cell's outcomes, None without their file, or why they are not valid."""
    return verified(cell.result, cell.path) if exists(cell.path.with_suffix(".npz")) else None


def _p_values(groups: Mapping[Group, Sequence[_Pair]]) -> dict[tuple[Group, Metric], float]:
    """Return McNemar's p-value of each group and metric, over all its images, after Holm."""
    tested = [(group, metric) for group in groups for metric in METRICS]
    p_values = []
    for group, metric in tested:
        lost, gained = zip(*(pair.discordant(metric) for pair in groups[group]), strict=True)
        p_values.append(mcnemar(sum(lost), sum(gained)))
    return dict(zip(tested, holm(p_values), strict=True))


def _judge_pairs(pairs: Sequence[_Pair], tolerance: float) -> list[Verdict]:
    """Return the verdicts on the pairs; the correction is over all retrained ones."""
    retrained = {n: [pair] for n, pair in enumerate(pairs) if pair.retrained and pair.images}
    p_values = _p_values(retrained)
    verdicts = []
    for number, pair in enumerate(pairs):
        if pair.images is None:
            way, why = _by_interval(pair, tolerance)
        elif pair.retrained:
            own = {metric: p_values[number, metric] for metric in METRICS}
            way, why = _by_test(pair, own, tolerance)
        else:
            way, why = _by_image(pair, tolerance)
        verdicts.append(_verdict(pair.ours, pair.theirs, way, why))
    return verdicts


def _by_image(pair: _Pair, tolerance: float) -> tuple[str | None, str]:
    moved, allowed = pair.moved, math.floor(pair.allowed(tolerance))
    if moved <= allowed:
        return ("moved" if moved else "identical"), ""
    images = pair.ours.result.images
    return None, (
        f"{moved} of {images} images have another outcome with the same weights; at most "
        f"{allowed} are allowed"
    )


def _by_test(
    pair: _Pair, p_values: Mapping[Metric, float], tolerance: float
) -> tuple[str | None, str]:
    found = []
    for metric, p in p_values.items():
        lost, gained = pair.discordant(metric)
        if abs(gained - lost) > pair.allowed(tolerance) and p <= LEVEL:
            found.append(
                f"{metric} {gained - lost:+d} of {pair.ours.result.images} images, p {p:.1g} "
                "after Holm's correction"
            )
    return (None, f"retrained: {'; '.join(found)}") if found else ("retrained", "")


def _by_interval(pair: _Pair, tolerance: float) -> tuple[str | None, str]:
    found = []
    for metric in METRICS:
        interval = newcombe(pair.theirs.counts(metric), pair.ours.counts(metric))
        low, high = (100 * end for end in interval)
        if low > tolerance or high < -tolerance:
            found.append(f"{metric} differs by {low:+.2f} to {high:+.2f}")
    retrained = "retrained, " if pair.retrained else ""
    return (None, f"{retrained}by interval: {'; '.join(found)}") if found else ("interval", "")


def _verdict(ours: Stored, theirs: Stored, way: str | None, why: str) -> Verdict:
    if ours.result.status == "failed":
        return Verdict(theirs.name, way, why, baseline=theirs.accuracies)
    changes = " / ".join(points(ours.share(metric) - theirs.share(metric)) for metric in METRICS)
    return Verdict(theirs.name, way, why, ours.accuracies, theirs.accuracies, changes)


def _judge_directions(pairs: Sequence[_Pair]) -> list[Verdict]:
    """Return a verdict on each row of the same weights whose images moved in one direction.

    Each cell may be within its tolerance. Under the null hypothesis, that only ties moved images,
    an image that moved was lost or gained with probability 1/2.
    """
    rows = _rows(pair for pair in pairs if pair.images and not pair.retrained)
    p_values = _p_values(rows)
    verdicts = []
    for name, row in rows.items():
        found = []
        for metric in METRICS:
            counts = [pair.discordant(metric) for pair in row]
            lost, gained = (sum(each) for each in zip(*counts, strict=True))
            if (p := p_values[name, metric]) <= LEVEL:
                found.append(f"{metric} {gained} gained, {lost} lost, p {p:.1g}")
        if found:
            why = f"same weights, but moved in one direction: {'; '.join(found)} after Holm"
            verdicts.append(_row_verdict(name, row, why))
    return verdicts


def _rows(pairs: Iterable[_Pair]) -> dict[str, list[_Pair]]:
    """Return the pairs by their row: one defense under one attack."""
    rows: dict[str, list[_Pair]] = {}
    for pair in pairs:
        rows.setdefault(pair.theirs.result.path.parent.as_posix(), []).append(pair)
    return rows


def _row_verdict(name: str, row: Sequence[_Pair], why: str) -> Verdict:
    """Return the verdict that a row does not agree, with its means."""
    ours = [_mean([pair.ours for pair in row], metric) for metric in METRICS]
    theirs = [_mean([pair.theirs for pair in row], metric) for metric in METRICS]
    moved = " / ".join(points(one - two) for one, two in zip(ours, theirs, strict=True))
    one, two = (" / ".join(map(percent, each)) for each in (ours, theirs))
    return Verdict(name, None, why, one, two, moved, row=True)


def _judge_rows(pairs: Sequence[_Pair], tolerance: float) -> tuple[list[str], list[Verdict]]:
    """Return a note on each retrained row, and a verdict on each mean that moved too far.

    Small moves in one direction, which no single cell separates from chance, add up over a row.
    """
    rows = _rows(pair for pair in pairs if pair.retrained and pair.images)
    p_values = _p_values(rows)
    notes, verdicts = [], []
    for name, row in rows.items():
        ours = [_mean([pair.ours for pair in row], metric) for metric in METRICS]
        theirs = [_mean([pair.theirs for pair in row], metric) for metric in METRICS]
        changes = [one - two for one, two in zip(ours, theirs, strict=True)]
        moved = " / ".join(map(points, changes))
        cells = counted(len(row), "cell")
        notes.append(
            f"{name} was retrained: {moved} points in the mean of {cells}, clean / robust."
        )
        allowed = Fraction(str(tolerance)) / 100
        far = [m for m, change in zip(METRICS, changes, strict=True) if abs(change) > allowed]
        p = min((p_values[name, metric] for metric in far), default=1.0)
        if len(row) > 1 and p <= LEVEL:
            why = f"retrained: the mean of {cells} moved, p {p:.1g} after Holm's correction"
            verdicts.append(_row_verdict(name, row, why))
    return notes, verdicts


def _mean(cells: Sequence[Stored], metric: Metric) -> Fraction:
    return sum((cell.share(metric) for cell in cells), Fraction(0)) / len(cells)

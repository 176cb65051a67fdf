"""Regression: stored results compared with a baseline, cell by cell. No torch here.

The baseline is another folder of results, such as the one in git. `check` has the rules; for the
paper as a baseline see `paper`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zsrobust.core.errors import ZSRobustError, counted, last_line
from zsrobust.reporting.columns import percent
from zsrobust.reporting.comparison import IMAGES, Looked, look, points
from zsrobust.reporting.rows import Metric
from zsrobust.reporting.statistics import holm, mcnemar, newcombe
from zsrobust.reporting.verdicts import Report, Verdict
from zsrobust.results.cell import Result, Right
from zsrobust.results.store import check_folder, paths, read

#: Below it a p-value, adjusted, says that two trainings of one recipe did not come to the same.
LEVEL = 0.01

METRICS: tuple[Metric, ...] = ("clean", "robust")


class Key(NamedTuple):
    """What makes two cells the same one; for what a filter sees, see `Identity.about`."""

    suite: str
    protocol: str
    attack: str
    eps: str
    defense: str
    dataset: str
    seed: int


@dataclass(frozen=True)
class Stored:
    """One cell, and where it is."""

    path: Path
    result: Result

    @property
    def key(self) -> Key:
        """What the cell is matched by, its limit apart."""
        return Key(
            **{name: value for name, value in self.result.identity.about.items() if name != "limit"}
        )

    @property
    def limit(self) -> int | None:
        """The size of the subset; None for the whole set."""
        return self.result.identity.dataset.limit

    @property
    def name(self) -> str:
        """The cell's place in its folder."""
        return self.result.path.as_posix()

    def counts(self, metric: Metric) -> tuple[int, int]:
        """Return how many images were right, of how many."""
        return getattr(self.result, f"{metric}_correct"), self.result.images


def check(
    folder: Path,
    baseline: Path,
    *,
    keep: Callable[[Mapping[str, Any]], bool] = lambda about: True,
    limit: int | None = None,
    tolerance: float = 1.0,
) -> Report:
    """Hold the cells in `folder` against those in `baseline` for which `keep` holds.

    `keep` gets `Identity.about`. With `limit`, the folder counts only with cells on subsets of so
    many images, or on whole sets that are no larger.

    Every cell of the baseline must be in the folder, by suite, protocol, attack, eps, defense,
    dataset and seed; where the baseline has several limits of one, by the limit, too. Cells that
    failed in the baseline are left out, with a note; cells that only the folder has are counted. A
    cell agrees if nothing of its identity differs but what is named here, and:

    * On the same images (digest, labels, outcomes on both sides), with the same weights: at most
      `tolerance` percent of the images, rounded down, have another outcome, clean or robust.
    * On the same images, retrained (another checkpoint of the same recipe and sources): the counts
      of clean and of robust images each differ by at most `tolerance` percent of the images. More
      is allowed where the exact McNemar test does not tell the counts apart at 1%, after Holm's
      correction over both tests of all retrained cells. The means of a row, over all such cells of
      a defense under an attack, differ by at most `tolerance` points. More is allowed where the
      same test on all their images does not tell the rows apart, corrected over the rows.
    * On other images (digest, number or limit), or without outcomes on a side: Newcombe's 95%
      interval of the difference reaches into ±`tolerance` points, for clean and for robust.

    In the folder a file that does not read, outcomes of another run, counts that are not those of
    the outcomes, and a failed cell do not agree. In the baseline such files are no baseline:
    ZSRobustError, as for a folder that is not there and for a baseline with nothing that `keep`
    keeps.
    """
    whole = _stored(baseline)
    theirs = [cell for cell in whole if keep(cell.result.identity.about)]
    if all(cell.result.status == "failed" for cell in theirs):
        raise ZSRobustError(
            f"The baseline {baseline} has no such cells, or only failed ones. Its cells: ls "
            f"{baseline}/*/*/*"
        )
    ours, damaged = _readable(folder)
    if limit is not None:
        ours = [
            cell
            for cell in ours
            if cell.limit == limit or (cell.limit is None and cell.result.images <= limit)
        ]
        same = {cell.key for cell in theirs if cell.limit == limit}
        theirs = [cell for cell in theirs if cell.limit == limit or cell.key not in same]
    match = _Match(ours, theirs)
    verdicts: list[Verdict] = []
    pairs: list[_Pair] = []
    notes: list[str] = []
    for cell in theirs:
        found = match.find(cell)
        if cell.result.status == "failed":
            notes.append(f"{cell.name} failed in the baseline, and is left out.")
        elif cell.name in damaged:
            verdicts.append(Verdict(cell.name, None, damaged.pop(cell.name), baseline=_shown(cell)))
        elif found is None:
            verdicts.append(Verdict(cell.name, None, match.missing(cell), baseline=_shown(cell)))
        elif isinstance(pair := _pair(found, cell), str):
            verdicts.append(_verdict(found, cell, None, pair))
        else:
            pairs.append(pair)
    verdicts += _judged(pairs, tolerance)
    told, moved = _rows(pairs, tolerance)
    there = {cell.name for cell in whole}  # what is damaged and was not asked for
    verdicts += [
        *moved,
        *(Verdict(name, None, why) for name, why in damaged.items() if name not in there),
    ]
    extra = sum(keep(cell.result.identity.about) and cell.name not in match.used for cell in ours)
    return Report(sorted(verdicts, key=lambda each: each.cell), tolerance, extra, [*notes, *told])


def _stored(folder: Path) -> list[Stored]:
    """Return a folder's cells; raises ZSRobustError if it is missing or a file is damaged."""
    return [Stored(path, read(path)) for path in _paths(folder)]


def _paths(folder: Path) -> list[Path]:
    check_folder(folder)
    return paths(folder)


def _readable(folder: Path) -> tuple[list[Stored], dict[str, str]]:
    """Return the cells in a folder, and by their places those that do not read, and why."""
    cells, damaged = [], {}
    for path in _paths(folder):
        try:
            cells.append(Stored(path, read(path)))
        except ZSRobustError as error:
            damaged["/".join(path.resolve().parts[-5:]).removesuffix(".json")] = str(error)
    return cells, damaged


class _Match:
    """Finds in a folder the cells of a baseline."""

    def __init__(self, ours: Iterable[Stored], theirs: Sequence[Stored]) -> None:
        self.used: set[str] = set()
        self._ours: dict[Key, list[Stored]] = {}
        for cell in ours:
            self._ours.setdefault(cell.key, []).append(cell)
        keys = [cell.key for cell in theirs]
        self._several = {key for key, times in Counter(keys).items() if times > 1}

    def find(self, cell: Stored) -> Stored | None:
        """Return the cell of the same limit, or else the one with most images."""
        there = self._ours.get(cell.key, [])
        same = [each for each in there if each.limit == cell.limit]
        if not same and cell.key not in self._several:
            same = sorted(there, key=lambda each: -each.result.images)[:1]
        self.used.update(each.name for each in same)
        return same[0] if same else None

    def missing(self, cell: Stored) -> str:
        """Say that a cell is missing, and where else it is."""
        if limits := [each.limit for each in self._ours.get(cell.key, [])]:
            return f"missing; there with limit {', '.join(sorted(map(str, limits)))}"
        others = sorted(
            key.protocol
            for key in self._ours
            if key._replace(protocol=cell.key.protocol) == cell.key
        )
        return f"missing; there under protocol {', '.join(others)}" if others else "missing"


@dataclass(frozen=True)
class _Pair:
    """A cell of both sides; `images` is None where outcomes are not compared."""

    ours: Stored
    theirs: Stored
    retrained: bool
    images: tuple[Right, Right] | None

    def discordant(self, metric: Metric) -> tuple[int, int]:
        """Return how many of the images only the baseline, and only ours, got right."""
        assert self.images is not None
        ours, theirs = (getattr(each, metric) for each in self.images)
        return int((theirs & ~ours).sum()), int((ours & ~theirs).sum())

    @property
    def moved(self) -> int:
        """Number of images with another outcome, clean or robust."""
        assert self.images is not None
        ours, theirs = self.images
        return int(((ours.clean != theirs.clean) | (ours.robust != theirs.robust)).sum())


def _pair(ours: Stored, theirs: Stored) -> _Pair | str:
    """Return two cells of one name as a pair, or why they do not agree whatever they counted."""
    if ours.result.status == "failed":
        return f"failed: {last_line(ours.result.error)}"
    found = theirs.result.identity.differences(ours.result.identity)
    differing = {each.name for each in found}
    checkpoint, images = "defense.checkpoint" in differing, bool(differing & set(IMAGES))
    other = differing - {*IMAGES, "defense.checkpoint"}
    if checkpoint and not other and ours.result.identity.defense.recipe is None:
        other = {"defense.checkpoint"}
    if other:
        return f"another {', '.join(sorted(name.removeprefix('defense.') for name in other))}"
    one, two = _looked_at(ours), _looked_at(theirs)
    if isinstance(two, str):
        raise ZSRobustError(
            f"{theirs.path} is no baseline: {two}. Run the cell again, or restore it."
        )
    if isinstance(one, str):
        return one
    if images or one is None or two is None or not np.array_equal(one.labels, two.labels):
        return _Pair(ours, theirs, checkpoint, None)
    return _Pair(ours, theirs, checkpoint, (one.right, two.right))


def _looked_at(cell: Stored) -> Looked | str | None:
    """Return a cell's outcomes, None without a file, or why they cannot be trusted."""
    return look(cell.result, cell.path) if cell.path.with_suffix(".npz").exists() else None


def _judged(pairs: Sequence[_Pair], tolerance: float) -> list[Verdict]:
    """Return what came of the pairs; the retrained ones are tested together."""
    tested = [
        (number, metric)
        for number, pair in enumerate(pairs)
        if pair.retrained and pair.images
        for metric in METRICS
    ]
    adjusted = holm([mcnemar(*pairs[number].discordant(metric)) for number, metric in tested])
    p_values = dict(zip(tested, adjusted, strict=True))
    found = []
    for number, pair in enumerate(pairs):
        if pair.images is None:
            way, why = _by_interval(pair, tolerance)
        elif pair.retrained:
            way, why = _by_test(
                pair, {metric: p_values[number, metric] for metric in METRICS}, tolerance
            )
        else:
            way, why = _by_image(pair, tolerance)
        found.append(_verdict(pair.ours, pair.theirs, way, why))
    return found


def _by_image(pair: _Pair, tolerance: float) -> tuple[str | None, str]:
    moved, allowed = pair.moved, math.floor(_images(tolerance, pair))
    if moved <= allowed:
        return ("moved" if moved else "identical"), ""
    return (
        None,
        f"{moved} of {pair.ours.result.images} images have another outcome, of the same weights; "
        f"{allowed} may",
    )


def _by_test(
    pair: _Pair, p_values: Mapping[Metric, float], tolerance: float
) -> tuple[str | None, str]:
    found = []
    for metric, p in p_values.items():
        lost, gained = pair.discordant(metric)
        if abs(gained - lost) > _images(tolerance, pair) and p <= LEVEL:
            found.append(
                f"{metric} {gained - lost:+d} of {pair.ours.result.images} images, p {p:.1g} "
                "after Holm's correction"
            )
    return (None, f"retrained: {'; '.join(found)}") if found else ("retrained", "")


def _by_interval(pair: _Pair, tolerance: float) -> tuple[str | None, str]:
    found = []
    for metric in METRICS:
        low, high = (
            100 * end for end in newcombe(pair.theirs.counts(metric), pair.ours.counts(metric))
        )
        if low > tolerance or high < -tolerance:
            found.append(f"{metric} differs by {low:+.2f} to {high:+.2f}")
    retrained = "retrained, " if pair.retrained else ""
    return (None, f"{retrained}by interval: {'; '.join(found)}") if found else ("interval", "")


def _images(tolerance: float, pair: _Pair) -> Fraction:
    """Return the tolerance as a number of images."""
    return Fraction(str(tolerance)) * pair.ours.result.images / 100


def _verdict(ours: Stored, theirs: Stored, way: str | None, why: str) -> Verdict:
    if ours.result.status == "failed":
        return Verdict(theirs.name, way, why, baseline=_shown(theirs))
    changes = [
        Fraction(*ours.counts(metric)) - Fraction(*theirs.counts(metric)) for metric in METRICS
    ]
    return Verdict(
        theirs.name, way, why, _shown(ours), _shown(theirs), " / ".join(map(points, changes))
    )


def _shown(cell: Stored) -> str:
    return " / ".join(percent(Fraction(*cell.counts(metric))) for metric in METRICS)


def _rows(pairs: Sequence[_Pair], tolerance: float) -> tuple[list[str], list[Verdict]]:
    """Return a note for every retrained row, and a verdict on means that moved too far.

    Small moves in one direction, none of which its cell can tell from chance, show in all cells
    together.
    """
    rows: dict[str, list[_Pair]] = {}
    for pair in pairs:
        if pair.retrained and pair.images:
            rows.setdefault(pair.theirs.result.path.parent.as_posix(), []).append(pair)
    tested = [(name, metric) for name in rows for metric in METRICS]
    sums = [
        zip(*(pair.discordant(metric) for pair in rows[name]), strict=True)
        for name, metric in tested
    ]
    p_values = dict(zip(tested, holm([mcnemar(*map(sum, each)) for each in sums]), strict=True))
    notes, verdicts = [], []
    for name, row in rows.items():
        ours, theirs = (
            [_mean(row, side, metric) for metric in METRICS] for side in ("ours", "theirs")
        )
        changes = [one - two for one, two in zip(ours, theirs, strict=True)]
        moved = " / ".join(map(points, changes))
        notes.append(
            f"{name} was retrained: {moved} points in the mean of {counted(len(row), 'cell')}, "
            "clean / robust."
        )
        allowed = Fraction(str(tolerance)) / 100
        far = [
            metric for metric, change in zip(METRICS, changes, strict=True) if abs(change) > allowed
        ]
        p = min((p_values[name, metric] for metric in far), default=1.0)
        if len(row) > 1 and p <= LEVEL:
            why = (
                f"retrained: the mean of {len(row)} cells moved, p {p:.1g} after Holm's correction"
            )
            shown = [" / ".join(map(percent, each)) for each in (ours, theirs)]
            verdicts.append(Verdict(name, None, why, shown[0], shown[1], moved, row=True))
    return notes, verdicts


def _mean(row: Sequence[_Pair], side: str, metric: Metric) -> Fraction:
    return sum((Fraction(*getattr(pair, side).counts(metric)) for pair in row), Fraction(0)) / len(
        row
    )

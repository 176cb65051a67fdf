"""Matching: the cells of a folder, and the same cells of its baseline. No torch here."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from zsrobust.core.errors import ZSRobustError
from zsrobust.reporting.columns import percent
from zsrobust.reporting.rows import Metric
from zsrobust.results.cell import Result
from zsrobust.results.store import check_folder, paths, place_of, read

METRICS: tuple[Metric, ...] = ("clean", "robust")  #: in the order in which both are printed


class Key(NamedTuple):
    """The fields of `Identity.about` that match a cell: all except the limit."""

    suite: str
    protocol: str
    attack: str
    eps: str
    defense: str
    dataset: str
    seed: int


@dataclass(frozen=True)
class Stored:
    """A cell and the path of its file."""

    path: Path
    result: Result

    @property
    def key(self) -> Key:
        """The fields by which the cell is matched."""
        about = self.result.identity.about
        return Key(**{name: about[name] for name in Key._fields})

    @property
    def limit(self) -> int | None:
        """The size of the subset; None for the whole set."""
        return self.result.identity.dataset.limit

    @property
    def name(self) -> str:
        """The cell's place in its folder."""
        return self.result.path.as_posix()

    @property
    def accuracies(self) -> str:
        """Clean and robust accuracy in percent: "66.67 / 33.33"."""
        return " / ".join(percent(self.share(metric)) for metric in METRICS)

    def counts(self, metric: Metric) -> tuple[int, int]:
        """Return the numbers of correct images and of images."""
        return getattr(self.result, f"{metric}_correct"), self.result.images

    def share(self, metric: Metric) -> Fraction:
        """Return the accuracy, in [0, 1]."""
        return Fraction(*self.counts(metric))


def stored(folder: Path) -> list[Stored]:
    """Return the cells of a folder; raises ZSRobustError if the folder or a file is not valid."""
    check_folder(folder)
    return [Stored(path, read(path)) for path in paths(folder)]


def readable(folder: Path) -> tuple[list[Stored], dict[str, str]]:
    """Return the valid cells of a folder, and the errors of its other files by their places."""
    check_folder(folder)
    cells, damaged = [], {}
    for path in paths(folder):
        try:
            cells.append(Stored(path, read(path)))
        except ZSRobustError as error:
            damaged["/".join(place_of(path))] = str(error)
    return cells, damaged


def at_limit(
    ours: Sequence[Stored], theirs: Sequence[Stored], limit: int
) -> tuple[list[Stored], list[Stored]]:
    """Return our cells on subsets of `limit` images or smaller sets, and their counterparts.

    A counterpart has the same limit, or any other limit if the baseline has no cell of this one.
    """
    ours = [
        cell
        for cell in ours
        if cell.limit == limit or (cell.limit is None and cell.result.images <= limit)
    ]
    same = {cell.key for cell in theirs if cell.limit == limit}
    return ours, [cell for cell in theirs if cell.limit == limit or cell.key not in same]


def without_subsets(ours: Sequence[Stored], theirs: Sequence[Stored]) -> list[Stored]:
    """Return their cells without the subsets that we do not have, where both have all images.

    A baseline can store a cell on all images and on subsets, for tables of different size.
    """
    whole = [{cell.key for cell in cells if cell.limit is None} for cells in (ours, theirs)]
    have = {(cell.key, cell.limit) for cell in ours}
    both = whole[0] & whole[1]
    return [cell for cell in theirs if cell.key not in both or (cell.key, cell.limit) in have]


class Match:
    """Finds the cells of a baseline in a folder."""

    def __init__(self, ours: Iterable[Stored], theirs: Sequence[Stored]) -> None:
        """Index our cells by their keys."""
        self.used: set[str] = set()  #: names of our cells that were found
        self._ours: dict[Key, list[Stored]] = {}
        for cell in ours:
            self._ours.setdefault(cell.key, []).append(cell)
        times = Counter(cell.key for cell in theirs)
        self._several = {key for key in times if times[key] > 1}

    def find(self, cell: Stored) -> Stored | None:
        """Return our cell of the same limit, or else the one with the most images."""
        found = self._ours.get(cell.key, [])
        same = [each for each in found if each.limit == cell.limit]
        if not same and cell.key not in self._several:
            same = sorted(found, key=lambda each: -each.result.images)[:1]
        self.used.update(each.name for each in same)
        return same[0] if same else None

    def missing(self, cell: Stored) -> str:
        """Return that a cell is missing, and the limits or protocols of similar cells."""
        if limits := [each.limit for each in self._ours.get(cell.key, [])]:
            return f"missing; stored with limit {', '.join(sorted(map(str, limits)))}"
        protocol = cell.key.protocol
        others = sorted(
            key.protocol for key in self._ours if key._replace(protocol=protocol) == cell.key
        )
        return f"missing; stored under protocol {', '.join(others)}" if others else "missing"

"""The rows of an attack, pooled: what each library broke, and what all of them broke together."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05  # of the test; below it, seeds and images do not explain a difference

OURS = "zsrobust"

Row = dict[str, Any]


@dataclass(frozen=True)
class Pool:
    """The runs of all libraries on the same images of some classifiers."""

    broken: dict[str, NDArray[np.bool_]]  #: by library, (seeds, images)
    classifiers: list[str]  #: (images,) whose image it is
    rows: dict[str, list[Row]]  #: by library
    failed: dict[str, str] = field(default_factory=dict)  #: by library, why it is not in the pool

    @property
    def union(self) -> NDArray[np.bool_]:
        """Which images any library broke under any seed: the pooled best, (images,)."""
        return np.any([each.any(0) for each in self.broken.values()], axis=0)

    def optimality(self, library: str) -> float:
        """Return the share of the pooled best that a library breaks, as a mean over seeds."""
        return float(self.broken[library].sum(1).mean() / max(1, self.union.sum()))

    def alone(self, library: str) -> int:
        """Return how many images a library breaks under some seed and no other under any."""
        others = [each.any(0) for name, each in self.broken.items() if name != library]
        return int((self.broken[library].any(0) & ~np.any(others, axis=0)).sum())

    def robust(self, library: str, classifier: str) -> NDArray[np.float64]:
        """Return the robust accuracy on a classifier in percent, (seeds,)."""
        mine = np.array(self.classifiers) == classifier
        return np.asarray(100 - 100 * self.broken[library][:, mine].mean(1))

    def against_ours(self, library: str) -> tuple[int, int]:
        """Return how many images a library breaks under more of its seeds than we, and fewer."""
        difference = self.broken[library].mean(0) - self.broken[OURS].mean(0)
        return int((difference > 1e-9).sum()), int((difference < -1e-9).sum())

    def mean(self, library: str, counted: str) -> float:
        """Return a counted field of the rows, by attacked image."""
        rows = self.rows[library]
        return sum(row[counted] for row in rows) / sum(row["images"] for row in rows)

    def seconds(self, library: str) -> float:
        """Return the seconds for all images, as a mean over seeds."""
        seeds = len(self.broken[library])
        return float(sum(row["seconds"] for row in self.rows[library]) / seeds)


def pool(rows: list[Row], classifiers: set[str]) -> Pool | None:
    """Return the rows on these classifiers, pooled; None if ours are missing or not complete.

    A library that failed, or whose rows are not those of ours, is named and left out.
    """
    chosen: dict[str, list[Row]] = {}
    for row in rows:
        if row["classifier"] in classifiers:
            chosen.setdefault(row["library"], []).append(row)
    wanted = {_key(row) for row in chosen.get(OURS, [])}
    seeds = sorted({row["seed"] for row in chosen.get(OURS, [])})
    if len(wanted) != len(seeds) * len({each[1:] for each in wanted}) or not wanted:
        return None
    failed = {}
    for library, each in chosen.items():
        errors = [row["error"] for row in each if "error" in row]
        if errors or {_key(row) for row in each} != wanted:
            failed[library] = errors[0] if errors else "not all of its runs are stored"
    kept = {name: sorted(each, key=_key) for name, each in chosen.items() if name not in failed}
    broken = {
        name: np.array(
            [
                [bit == "1" for row in each if row["seed"] == seed for bit in row["broken"]]
                for seed in seeds
            ]
        )
        for name, each in kept.items()
    }
    first = [row for row in kept[OURS] if row["seed"] == seeds[0]]
    names = [row["classifier"] for row in first for _ in row["broken"]]
    return Pool(broken, names, kept, failed)


def _key(row: Row) -> tuple[Any, ...]:
    """Return the seed, and what a row was measured on; without the row's numbers."""
    fields = ("seed", "classifier", "dataset", "images", "eps", "steps", "queries", "targets")
    return tuple(row[field] for field in fields)


def p_value(more: int, fewer: int) -> float:
    """Return the exact chance of so many images or more for the peer, if both were equally good.

    This is McNemar's test, one-sided: images that differ are tosses of a fair coin.
    """
    total = more + fewer
    return sum(math.comb(total, count) for count in range(more, total + 1)) / 2**total

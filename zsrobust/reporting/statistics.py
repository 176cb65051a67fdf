"""Statistics: intervals and p-values of counts. `core/intervals.py` has the Wilson interval.

A pair (correct, images) is the count of one cell: two integers, 0 <= correct <= images.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from zsrobust.core.intervals import wilson


def newcombe(
    first: tuple[int, int], second: tuple[int, int], z: float = 1.959964
) -> tuple[float, float]:
    """Return the interval (95% by default) of the second proportion minus the first, in [-1, 1].

    `first` and `second` are (correct, images) of independent samples. For the same images, see
    `mcnemar`. Without images on a side, the interval is (-1, 1). Newcombe (1998), Interval
    estimation for the difference between independent proportions: comparison of eleven methods.
    This is method 10: it adds the squared distances to Wilson's limits.
    """
    if first[1] == 0 or second[1] == 0:
        return -1.0, 1.0
    share1, share2 = first[0] / first[1], second[0] / second[1]
    (low1, high1), (low2, high2) = wilson(*first, z), wilson(*second, z)
    difference = share2 - share1
    low = difference - math.hypot(share2 - low2, high1 - share1)
    high = difference + math.hypot(high2 - share2, share1 - low1)
    return max(-1.0, low), min(1.0, high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test on paired images, in [0, 1].

    `only_first` counts the images that only the first classifies correctly, and `only_second`
    those of the second. McNemar (1947), Note on the sampling error of the difference between
    correlated proportions or percentages. The exact form is the binomial test of these images at
    1/2. It is counted in integers and rounded once, so p is 0 only below 2.5e-324.
    """
    pairs, fewer = only_first + only_second, min(only_first, only_second)
    if 5 * fewer < 2 * pairs:  # both formulas are exact; here the sum over the tails is faster
        return 2 * _ways(pairs, range(fewer + 1)) / (1 << pairs)
    return ((1 << pairs) - _ways(pairs, range(fewer + 1, pairs - fewer))) / (1 << pairs)


def _ways(pairs: int, chosen: range) -> int:
    """Return the exact sum of the binomial coefficients "pairs choose i" over i in `chosen`."""
    ways, total = math.comb(pairs, chosen.start), 0
    for i in chosen:
        total += ways
        ways = ways * (pairs - i) // (i + 1)
    return total


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for multiple tests, each in [0, 1], in the order given.

    Rejecting what is at or below a level gives at most that probability of any false rejection.
    Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def mean_interval(
    counts: Sequence[tuple[int, int]],
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    chances: Sequence[float] | None = None,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean accuracy, in [0, 1].

    `counts` has one pair (correct, images) for each dataset, and all datasets weigh the same.
    Images are resampled within each dataset. If k of n images are correct, the number of correct
    ones in a resample is one draw of Binomial(n, k/n): counts suffice. numpy freezes the stream of
    RandomState, so that a seed gives the same interval in every version. Without datasets, or
    without images of one, the interval is (0, 1). Efron (1979), Bootstrap methods: another look at
    the jackknife.

    `chances`, one in [0, 1) for each dataset, asks for the mean above chance: each resampled
    accuracy becomes (accuracy - chance) / (1 - chance), at least 0.

    If every dataset has none or all of its images correct, resampling changes nothing. Then
    Wilson's limits of the datasets are combined instead, as `newcombe` combines two: squared
    distances are added. Zou, Huang & Zhang (2009), A note on confidence interval estimation for a
    linear function of binomial proportions. For one dataset, these are Wilson's limits.
    """
    if not counts or any(images == 0 for _, images in counts):
        return 0.0, 1.0
    floors = np.zeros((len(counts), 1)) if chances is None else np.array(chances)[:, None]
    if all(correct in (0, images) for correct, images in counts):
        return _of_limits(counts, floors, level)
    correct, images = np.array(counts).T[..., None]  # (datasets, 1) each
    size = (len(counts), draws)
    resampled = np.random.RandomState(seed).binomial(images, correct / images, size=size)
    shares = resampled / images
    if chances is not None:
        shares = _above(shares, floors)
    return _quantiles(shares.mean(axis=0), level)


def _of_limits(
    counts: Sequence[tuple[int, int]], floors: np.ndarray, level: float
) -> tuple[float, float]:
    """Return the interval of the mean above the floors, (datasets, 1), from Wilson's limits."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    limits = [(correct / images, *wilson(correct, images, z)) for correct, images in counts]
    shares, lows, highs = _above(np.array(limits), floors).T
    down, up = (float(np.hypot.reduce(each - shares)) / len(counts) for each in (lows, highs))
    mean = float(shares.mean())
    return max(0.0, mean - down), min(1.0, mean + up)


def _above(shares: np.ndarray, floors: np.ndarray) -> np.ndarray:
    """Return accuracies above chance, at least 0."""
    above: np.ndarray = np.maximum(0, (shares - floors) / (1 - floors))
    return above


def difference_interval(
    counts: Sequence[tuple[int, int, int]], draws: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean difference, in [-1, 1].

    `counts` has (only the first correct, only the second correct, images) for each dataset. As in
    `mean_interval`, images are resampled within each dataset, and all datasets weigh the same. The
    outcomes of an image form a pair, whose difference is -1, 0 or 1: a resample is one multinomial
    draw.
    """
    state = np.random.RandomState(seed)
    means = np.zeros(draws)
    for only_first, only_second, images in counts:
        shares = np.array([only_first, only_second, images - only_first - only_second]) / images
        drawn = state.multinomial(images, shares, size=draws)
        means += (drawn[:, 1] - drawn[:, 0]) / images
    return _quantiles(means / len(counts), level)


def _quantiles(means: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

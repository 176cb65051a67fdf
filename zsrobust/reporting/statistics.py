"""Statistics: intervals and p-values of counts. No torch here, nothing of zsrobust.

A pair (correct, images) is the count of one cell: two integers, 0 <= correct <= images.
"""

import math
from collections.abc import Sequence

import numpy as np


def wilson(correct: int, images: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (95% by default), each end in [0, 1].

    Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    if images == 0:
        return 0.0, 1.0
    share = correct / images
    center = share + z * z / (2 * images)
    spread = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    scale = 1 + z * z / images
    # At the ends, rounding must not push the interval off the share.
    return max(0.0, min(share, (center - spread) / scale)), min(
        1.0, max(share, (center + spread) / scale)
    )


def newcombe(
    first: tuple[int, int], second: tuple[int, int], z: float = 1.959964
) -> tuple[float, float]:
    """Return the interval of the difference of two proportions (95%), in [-1, 1].

    `first` and `second` are (correct, images) of independent samples: other images, or another draw
    of them. On the same images the samples are paired: there see `mcnemar`. (-1, 1) where one has
    no images. Newcombe (1998), Interval estimation for the difference between independent
    proportions: comparison of eleven methods; method 10, which squares and adds the distances to
    Wilson's limits.
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

    `only_first` and `only_second` count the images that only the first, or only the second, gets
    right; where both agree an image says nothing. 1 where nothing differs; 0 only where p rounds to
    it, below 2.5e-324. McNemar (1947), Note on the sampling error of the difference between
    correlated proportions or percentages; in its exact form, the binomial test of the discordant
    pairs at 1/2. Counted in integers and rounded once.
    """
    pairs, fewer = only_first + only_second, min(only_first, only_second)
    if 5 * fewer < 2 * pairs:  # either way is exact; here the tails are the faster one
        return 2 * _ways(pairs, range(fewer + 1)) / (1 << pairs)
    return ((1 << pairs) - _ways(pairs, range(fewer + 1, pairs - fewer))) / (1 << pairs)


def _ways(pairs: int, chosen: range) -> int:
    """Return the sum of the binomial coefficients "pairs choose i" over i in `chosen`, exactly."""
    ways, total = math.comb(pairs, chosen.start), 0
    for i in chosen:
        total += ways
        ways = ways * (pairs - i) // (i + 1)
    return total


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for being asked together, each in [0, 1], in the order given.

    What stays at or below a level is rejected there, with the chance of any false rejection at most
    that level. Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def mean_interval(
    counts: Sequence[tuple[int, int]], draws: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean accuracy, in [0, 1].

    `counts` are (correct, images), one a dataset; every dataset weighs the same. Images are
    resampled within each dataset; the datasets stay. To draw n images with replacement, k of n
    being correct, and to count the correct ones is exactly one draw of Binomial(n, k/n): so counts
    suffice. numpy freezes the stream of RandomState: a seed gives the same interval in every
    version. (0, 1) where a dataset has no images, or where there is no dataset. Efron (1979),
    Bootstrap methods: another look at the jackknife.
    """
    if not counts or any(images == 0 for _, images in counts):
        return 0.0, 1.0
    correct, images = np.array(counts).T[..., None]  # (datasets, 1) each
    resampled = np.random.RandomState(seed).binomial(
        images, correct / images, size=(len(counts), draws)
    )
    low, high = np.quantile((resampled / images).mean(axis=0), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

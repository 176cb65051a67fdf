import ast
import math
import sys
import time
from fractions import Fraction
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsrobust.core.intervals import wilson
from zsrobust.reporting import statistics
from zsrobust.reporting.statistics import holm, mcnemar, mean_interval, newcombe

Z = NormalDist().inv_cdf(0.975)
COUNTS = st.integers(1, 60_000).flatmap(
    lambda images: st.tuples(st.integers(0, images), st.just(images))
)
P_VALUES = st.lists(st.floats(0, 1), max_size=12)


def test_it_imports_numpy_the_standard_library_and_one_interval():
    names = set()
    for node in ast.walk(ast.parse(Path(statistics.__file__).read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= (
                {node.module}
                if isinstance(node, ast.ImportFrom)
                else {alias.name for alias in node.names}
            )
    found = names - {"zsrobust.core.intervals"}  # the Wilson interval, which results need, too
    assert {name.split(".")[0] for name in found} - set(sys.stdlib_module_names) == {"numpy"}


def test_it_does_not_hide_the_statistics_of_python():
    assert sys.modules["statistics"] is not statistics
    assert statistics.__name__ == "zsrobust.reporting.statistics"


@given(COUNTS)
def test_wilson_contains_the_share_and_solves_its_equation(counts):
    correct, images = counts
    low, high = wilson(correct, images)
    assert 0 <= low <= correct / images <= high <= 1
    for end in (low, high):
        if 0 < end < 1:  # (p̂ - p)² = z² p (1 - p) / n
            assert (correct / images - end) ** 2 == pytest.approx(
                1.959964**2 * end * (1 - end) / images, abs=1e-9
            )


def test_wilson_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for correct, images in [
        (0, 1),
        (1, 1),
        (0, 500),
        (500, 500),
        (81, 263),
        (1, 10_000),
        (31_337, 50_000),
    ]:
        expected = stats.binomtest(correct, images).proportion_ci(method="wilson")
        assert wilson(correct, images, Z) == pytest.approx(tuple(expected), abs=1e-12)
        assert wilson(correct, images) == pytest.approx(tuple(expected), abs=1e-7)


def test_wilson_of_a_published_example():
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe (1998), table I


def test_wilson_of_no_images_knows_nothing():
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(
    ("second", "first", "expected"),
    [
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((6, 7), (2, 7), (0.0582, 0.8062)),
        ((5, 56), (0, 29), (-0.0381, 0.1926)),
        ((0, 10), (0, 20), (-0.1611, 0.2775)),
        ((0, 10), (0, 10), (-0.2775, 0.2775)),
        ((10, 10), (0, 20), (0.6791, 1.0000)),
        ((10, 10), (0, 10), (0.6075, 1.0000)),
    ],
)
def test_newcombe_of_the_published_examples(second, first, expected):
    assert newcombe(first, second) == pytest.approx(
        expected, abs=5e-5
    )  # Newcombe (1998), table II, method 10


@settings(max_examples=50)
@given(COUNTS, COUNTS)
def test_newcombe_contains_the_difference_and_turns_with_its_sides(first, second):
    low, high = newcombe(first, second)
    assert -1 <= low <= second[0] / second[1] - first[0] / first[1] <= high <= 1
    assert newcombe(second, first) == (-high, -low)


@settings(max_examples=50)
@given(COUNTS)
def test_newcombe_against_what_is_known_for_sure_is_wilson(counts):
    assert newcombe((0, 10**15), counts) == pytest.approx(wilson(*counts), abs=1e-6)


def test_newcombe_without_images_knows_nothing():
    assert newcombe((0, 0), (3, 4)) == newcombe((3, 4), (0, 0)) == (-1, 1)


@settings(max_examples=50)
@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_the_exact_binomial_test(only_first, only_second):
    pairs, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(Fraction(math.comb(pairs, i), 2**pairs) for i in range(fewer + 1))
    assert (
        mcnemar(only_first, only_second)
        == mcnemar(only_second, only_first)
        == float(min(Fraction(1), 2 * tail))
    )


@settings(max_examples=50)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_mcnemar_is_that_of_scipy(only_first, only_second):
    stats = pytest.importorskip("scipy.stats")
    pairs = only_first + only_second
    expected = stats.binomtest(min(only_first, only_second), pairs, 0.5).pvalue if pairs else 1.0
    assert mcnemar(only_first, only_second) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(st.integers(1, 1074))
def test_mcnemar_where_all_are_on_one_side(pairs):
    assert mcnemar(0, pairs) == mcnemar(pairs, 0) == 2.0 ** (1 - pairs)


@given(st.integers(0, 2000))
def test_mcnemar_of_a_draw_is_one(each):
    assert mcnemar(each, each) == 1
    assert mcnemar(each, each + 1) == 1  # the two tails are everything


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_falls_as_the_sides_part(fewer, more):
    fewer, more = sorted((fewer, more))
    assert mcnemar(fewer, more + 1) <= mcnemar(fewer, more) <= 1


@pytest.mark.parametrize("only_first", [0, 19_999, 24_800])
def test_mcnemar_of_all_of_imagenet(only_first):
    stats = pytest.importorskip("scipy.stats")
    start = time.process_time()
    found = mcnemar(only_first, 50_000 - only_first)
    assert (
        time.process_time() - start < 2
    )  # a quarter of a second at worst; the rest is for a slow machine
    assert found == pytest.approx(
        stats.binomtest(only_first, 50_000, 0.5).pvalue, rel=1e-9, abs=1e-300
    )


def test_holm_by_hand():
    # Sorted: 0.005, 0.01, 0.03, 0.04; times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; the last may not fall below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@settings(max_examples=50)
@given(P_VALUES)
def test_holm_never_helps_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert len(adjusted) == len(p_values)
    for p, after in zip(p_values, adjusted, strict=True):
        assert p <= after <= min(1, len(p_values) * p)  # between nothing done and Bonferroni
    ranked = [after for _, after in sorted(zip(p_values, adjusted, strict=True))]
    assert ranked == sorted(ranked)
    assert holm(p_values[::-1]) == adjusted[::-1]  # so that ties are adjusted alike


@settings(max_examples=50)
@given(P_VALUES, st.floats(0, 0.99))
def test_holm_rejects_what_stepping_down_rejects(p_values, level):
    rejected = set()
    for index in sorted(range(len(p_values)), key=lambda index: p_values[index]):
        if (len(p_values) - len(rejected)) * p_values[index] > level:
            break
        rejected.add(index)
    assert {index for index, after in enumerate(holm(p_values)) if after <= level} == rejected


@settings(max_examples=25)
@given(st.lists(COUNTS, min_size=1, max_size=16), st.integers(0, 2**32 - 1))
def test_the_mean_lies_in_its_interval(counts, seed):
    low, high = mean_interval(counts, draws=500, seed=seed)
    mean = np.mean([correct / images for correct, images in counts])
    assert 0 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1
    assert (low, high) == mean_interval(counts, draws=500, seed=seed)


def test_where_resampling_changes_nothing_wilsons_limits_are_combined():
    assert mean_interval([(0, 500)]) == pytest.approx(wilson(0, 500), abs=1e-7)
    for images in (1, 300):
        _, high = wilson(0, images)
        assert mean_interval([(0, images)] * 16) == pytest.approx((0, high / 4), abs=1e-7)
        assert mean_interval([(images, images)] * 16) == pytest.approx((1 - high / 4, 1), abs=1e-7)
    low, high = mean_interval([(7, 7), (0, 10_000)])  # every dataset weighs the same
    assert low == pytest.approx(0.5 - (1 - wilson(7, 7)[0]) / 2, abs=1e-7)
    assert high == pytest.approx(0.5 + wilson(0, 10_000)[1] / 2, abs=1e-7)
    # Above chance, a limit below chance is at it.
    assert mean_interval([(0, 300)] * 2, chances=[0.5, 0.1]) == (0, 0)
    low, high = mean_interval([(0, 4)] * 4, chances=[0.25] * 4)
    assert (low, high) == pytest.approx((0, (wilson(0, 4)[1] - 0.25) / 0.75 / 2), abs=1e-7)


def test_without_datasets_or_images_nothing_is_known():
    assert mean_interval([]) == mean_interval([(3, 4), (0, 0)]) == (0, 1)


@pytest.mark.parametrize(
    ("correct", "images"), [(1, 20), (700, 1000), (4_321, 10_000), (49_900, 50_000)]
)
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_of_one_dataset_the_interval_is_the_binomials_quantiles(correct, images, level):
    stats = pytest.importorskip("scipy.stats")
    tail, draws = (1 - level) / 2, 2000
    error = 4 * math.sqrt(tail * (1 - tail) / draws)  # of the share of draws below a quantile
    for end, share in zip(
        mean_interval([(correct, images)], draws, level=level), (tail, 1 - tail), strict=True
    ):
        below, above = stats.binom.ppf([share - error, share + error], images, correct / images)
        assert below <= end * images <= above


def test_the_interval_is_that_of_resampling_the_images_themselves():
    counts, draws = [(30, 40), (20, 200), (90, 100)], 4000
    random = np.random.RandomState(1)
    means = np.zeros(draws)
    for correct, images in counts:
        right = np.arange(images) < correct
        means += right[random.randint(images, size=(draws, images))].mean(axis=1) / len(counts)
    assert mean_interval(counts, draws) == pytest.approx(
        tuple(np.quantile(means, [0.025, 0.975])), abs=0.004
    )


@settings(max_examples=25)
@given(st.integers(1, 9), st.integers(10, 1000), st.integers(0, 2**32 - 1))
def test_the_interval_narrows_with_more_images(tenths, images, seed):
    low, high = mean_interval([(tenths * images, 10 * images)], draws=1000, seed=seed)
    more_low, more_high = mean_interval([(4 * tenths * images, 40 * images)], draws=1000, seed=seed)
    assert more_high - more_low < high - low


def test_a_seed_gives_the_same_interval_for_good():
    counts = [(812, 1000), (40, 100), (7_003, 10_000)]
    assert mean_interval(counts) == mean_interval(counts, seed=0) != mean_interval(counts, seed=1)
    assert mean_interval(counts) == pytest.approx(
        (0.6046991666666667, 0.6722008333333334), abs=1e-12
    )

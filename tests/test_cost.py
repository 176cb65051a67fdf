"""The cost of a suite's tables: sums over cells, and what more GPUs can and cannot do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsrobust.defenses.workshop import Workshop
from zsrobust.reporting import contents
from zsrobust.running.bench import Bench
from zsrobust.running.costs import forecast
from zsrobust.running.costs.forecast import Forecast, Work, merged
from zsrobust.running.costs.model import Speed, cost_of, cost_of_flags, passes_of_training
from zsrobust.running.plan import Key, plan
from zsrobust.settings import protocols, suites

SPEED = Speed(2.0, 1.0)  #: half a second forward, half a second backward
COUNTS = st.integers(0, 10_000)


def made(cells: list[tuple[int, int]], trainings: dict[str, int]) -> Forecast:
    """Return a forecast of cells of (passes, number of needed trainings)."""
    names = list(trainings)
    return Forecast(
        trainings={name: (size, size) for name, size in trainings.items()},
        cells={
            ("tiny", Key(f"d{number}", "pgd", 0.1, "x", None, 0)): Work(
                (size, size), frozenset(names[:needed])
            )
            for number, (size, needed) in enumerate(cells)
        },
    )


@given(
    cells=st.lists(st.tuples(COUNTS, st.integers(0, 3)), min_size=1, max_size=12),
    trainings=st.dictionaries(st.sampled_from("abc"), COUNTS),
    gpus=st.integers(1, 70),
)
def test_hours_are_sums_on_one_gpu_and_never_beat_the_longest_cell_or_the_share(
    cells, trainings, gpus
):
    found = made(cells, trainings)
    one, several = found.hours(SPEED), found.hours(SPEED, gpus)
    total = sum(size for size, _ in cells) + sum(trainings.values())
    assert one == pytest.approx(total / 3600)
    assert several >= max(found.longest(SPEED), one / gpus) * (1 - 1e-9)
    assert several <= one * (1 + 1e-9)


def test_hours_of_a_small_table():
    found = made([(4, 1), (2, 0), (2, 0), (3, 1)], {"a": 5})
    # One GPU trains for 5 s and takes the cell of 4 s; the other one takes 2 + 2 s, waits, and 3 s.
    assert found.hours(SPEED, 2) * 3600 == pytest.approx(9)
    assert found.longest(SPEED) * 3600 == pytest.approx(9)
    assert found.hours(SPEED, 1) * 3600 == pytest.approx(16)
    assert found.passes == (16, 16)
    assert merged([found, found]) == found


def test_the_forecast_of_a_table_is_the_sum_of_its_cells_and_trainings(tmp_path):
    suite = suites.load("mini")
    bench = Bench(suite, protocols.load("sound"), Workshop(suite, tmp_path, "cpu"))
    cells = plan(suite, bench.protocol, ["clip", "tecoa"], ["pgd10"], ["mini_shapes"], limit=8)
    found = forecast.of_cells(bench, cells)
    (recipe,) = cells[-1].defense.recipes(suite)
    costs = [cost_of(bench, cell) for cell in cells]
    trained = passes_of_training(recipe)
    assert [cost.images for cost in costs] == [8, 8]
    flags = [cost_of_flags(bench, cell) for cell in cells]
    assert all(min(each) > 0 for each in flags)
    assert found.passes == tuple(
        sum(each[place] for each in [*(cost.tower for cost in costs), *flags, trained])
        for place in (0, 1)
    )
    train, test = (bench.suite.train_on, "mini_shapes")
    pictures = forecast.datasets[train].train_size + forecast.datasets[test].size
    assert found.bytes(4, 1000) == pictures * 3 * 16 + 1000 + 16 * forecast.OUTCOME


def test_an_assumed_rate_is_marked_and_gives_the_hours(zsrobust, monkeypatch):
    tables = {number: contents.TABLES[number] for number in ("1", "3")}
    monkeypatch.setattr(contents, "TABLES", tables)
    lines = zsrobust("cost", "--suite", "mini", "--rate", "1000").stdout.splitlines()
    split = [line.split() for line in lines]
    rows = {row[0]: row for row in split if row[0] in ("1", "3", "all") and row[1].isdigit()}
    assert int(rows["all"][1]) >= int(rows["1"][1]) + int(rows["3"][1])
    for row in rows.values():
        hours = [float(row[place]) for place in (4, 6, 8, 10)]
        assert hours[0] >= hours[1] >= hours[2] >= hours[3] - 0.01
        assert hours[1] >= hours[0] / 8 - 0.01
    assert any("1,000 image-steps a second" in line and "ASSUMED" in line for line in lines)
    assert not any("measured just now" in line or "ImageNet" in line for line in lines)

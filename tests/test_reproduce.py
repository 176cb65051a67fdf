"""A reproduction: its order is a pure function, its budget is kept, and its page is exact."""

import dataclasses
import math
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_comparison import store

from zsrobust import load_results
from zsrobust.cli import main
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.intervals import wilson
from zsrobust.defenses.workshop import Workshop
from zsrobust.reporting import contents, counterparts, reported, reproduction
from zsrobust.reporting.counterparts import Paper, Place, Stored
from zsrobust.results.store import Store
from zsrobust.running import budget
from zsrobust.running.bench import Bench
from zsrobust.running.budget import Agenda, Job, order
from zsrobust.running.costs.model import Speed
from zsrobust.running.reporter import Reporter
from zsrobust.settings import protocols, suites

ROOT = Path(__file__).parents[1]
SPEED = Speed(1000.0, 400.0)


def job(name, value, seconds, *trainings, first=False):
    return Job(name, Fraction(value), float(seconds), frozenset(trainings), first)


def names(jobs):
    return [each.name for each in jobs]


def agenda(jobs, trainings=()):
    prices = dict(trainings)
    return Agenda(order(jobs, prices), prices, {}, {})


def test_the_undefended_comes_first_then_value_per_second_then_cost_then_name():
    jobs = [
        job("b", 2, 4),
        job("a", 2, 4),
        job("small", 1, 2),  # the same value per second, but cheaper
        job("best", 3, 3),
        job("worthless", 0, 1),
        job("worthless and dear", 0, 2),
        job("clip", 1, 100, first=True),
    ]
    expected = ["clip", "best", "small", "a", "b", "worthless", "worthless and dear"]
    assert names(order(jobs, {})) == expected
    assert names(order(jobs[::-1], {})) == expected


def test_a_training_is_shared_until_the_first_of_its_cells_pays_for_it():
    trained = [job("t1", 2, 1, "t"), job("t2", 2, 3, "t")]
    # Alone, t1 costs 1 + 10 / 2 = 6 seconds: 1/3 a second. `between` has 2/5, `less` has 3/10.
    plain = [job("between", 2, 5), job("less", 3, 10)]
    found = agenda([*trained, *plain], {"t": 10.0})
    # Once the training is paid for, t2 costs 3 seconds: 2/3 a second, more than `less`.
    assert names(found.jobs) == ["between", "t1", "t2", "less"]
    assert found.seconds(found.jobs) == 5 + 11 + 3 + 10
    assert [found.seconds([each], {"t"}) for each in found.jobs] == [5, 1, 3, 10]
    assert names(found.within(15.9)) == ["between"]
    assert names(found.within(16)) == ["between", "t1"]
    assert found.within(4.9) == []
    assert found.within(29) == found.jobs


JOBS = st.lists(
    st.builds(
        Job,
        st.text("abcdef", min_size=1, max_size=3),
        st.fractions(0, 5, max_denominator=4),
        st.integers(1, 50).map(float),
        st.frozensets(st.sampled_from("xyz")),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda each: each.name,
)


@settings(max_examples=25)
@given(JOBS, st.integers(0, 200), st.integers(0, 200), st.randoms(use_true_random=False))
def test_a_budget_is_kept_and_a_smaller_one_gives_a_prefix(jobs, one, other, random):
    prices = {"x": 7.0, "y": 20.0, "z": 1.0}
    found = agenda(jobs, prices)
    assert sorted(names(found.jobs)) == sorted(names(jobs))
    shuffled = random.sample(jobs, len(jobs))
    assert order(shuffled, prices) == found.jobs
    small, large = sorted([one, other])
    fewer, more = found.within(small), found.within(large)
    assert more[: len(fewer)] == fewer
    for budget_, chosen in ((small, fewer), (large, more)):
        trained = set().union(*(each.trainings for each in chosen))
        spent = sum(each.seconds for each in chosen) + sum(prices[each] for each in trained)
        assert spent == found.seconds(chosen) <= budget_
        assert chosen == found.jobs or found.seconds(found.jobs[: len(chosen) + 1]) > budget_
    firsts = [each.first for each in found.jobs]
    assert firsts == sorted(firsts, reverse=True)


@pytest.fixture
def benches(tmp_path):
    """Return the benches of tables of a suite, by number; nothing is loaded."""

    def made(suite, *numbers):
        workshop = Workshop(suite, tmp_path / "checkpoints", "cpu")
        bench = Bench(suite, protocols.load("sound"), workshop)
        return dict.fromkeys(numbers, bench)

    return made


def test_the_paper_begins_with_clip_and_its_values_are_the_reported_numbers(benches, tmp_path):
    suite = suites.load("paper")
    assert counterparts.tables_of(suite) == list(counterparts.TABLES)
    tables = dict.fromkeys(("1", "2", "3", "4"), suite)
    values = counterparts.values(tables, Paper())
    place = Place("paper", "ft_standard", "pgd10", "1/255", "cifar10")
    # Tables 1 and 2 print the cell, and an average each; no later paper measured this method.
    assert values[place] == 2 + Fraction(2, 16)
    # Table 4 has two averages, and Table 1 does not have the row.
    assert values[place._replace(defense="pmg_aft:beta=0")] == Fraction(2, 16)
    clip = place._replace(defense="clip")
    assert values[clip] >= values[place] + 1  # anchors, and TGA-ZSR's clean accuracy
    second = counterparts.values({"s2": suites.load("paper_cifar100")}, Paper())
    assert {place.defense for place in second} == {*contents.ROWS} - {"clip"}
    found = budget.draw_up(benches(suite, *tables), Store(tmp_path / "runs"), values, SPEED)
    keys = [found.cells[each.name][1].key for each in found.jobs]
    assert {(key.defense, key.attack) for key in keys[:16]} == {("clip", "pgd10")}
    assert len({key.dataset for key in keys[:16]}) == 16
    assert (keys[16].defense, keys[16].attack) != ("clip", "pgd10")
    assert len(found.jobs) == 6 * 16 + 3 * 16 + 16  # Table 4 adds one row
    assert len(found.trainings) == 6
    assert found.left("3").of == 48


def test_later_numbers_are_about_the_same_cell():
    suite = suites.load("paper")
    by_metric = {
        (line.number, line.need.defense): line
        for number in ("1", "2", "3", "s4")
        for line in counterparts.lines_of(number, suite)
        if line.usual
    }
    attacked = Paper().cell(by_metric["3", "tecoa"], "cifar10")
    assert [(each.source, each.share) for each in attacked if each.later] == [
        ("TGA-ZSR", Fraction("0.2818"))
    ]
    clean = Paper().cell(by_metric["2", "pmg_aft"], "cifar10")
    later = {each.source: each.share for each in clean if each.later}
    assert later["TGA-ZSR"] == Fraction("0.7462")
    assert Fraction("0.5366") not in later.values()  # trained on ImageNet
    assert not any(each.later for each in Paper().cell(by_metric["1", "tecoa"], "cifar10"))


class Clock:
    """A clock that a computed cell moves by its own seconds."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_cell_starts_if_its_prediction_still_fits_and_is_finished(monkeypatch, benches, tmp_path):
    suite = dataclasses.replace(suites.load("mini"), datasets=("mini_shapes", "mini_flags"))
    plain = Store(tmp_path / "runs")
    found = budget.draw_up(benches(suite, "1"), plain, {}, SPEED, limit=4)
    jobs = [each._replace(seconds=10.0) for each in found.jobs]
    found = dataclasses.replace(found, jobs=jobs, trainings=dict.fromkeys(found.trainings, 10.0))
    clock, ran = Clock(), []
    taken = iter([3.0, 12.0, 100.0])

    def run(bench, cells, store, reporter):
        ran.append(cells[0].key)
        clock.now += next(taken)
        return [], []

    monkeypatch.setattr(budget, "run", run)
    spent = budget.spend(found, 45.0, plain, Reporter(), clock)
    # 3, then 15, and the third needs 10 and 10 for its training: 35 of 45. It takes 100.
    assert [key.defense for key in ran] == ["clip", "clip", ran[2].defense]
    assert ran[2].defense != "clip"
    assert (spent.seconds, spent.errors) == (115.0, {})
    clock.now, taken = 100.0, iter([26.0])
    budget.spend(found, 35.0, plain, Reporter(), clock)
    assert len(ran) == 4  # 26 used, and 10 more do not fit


def test_a_defense_or_dataset_that_fails_is_skipped_and_the_others_go_on(
    monkeypatch, benches, tmp_path
):
    suite = dataclasses.replace(suites.load("mini"), datasets=("mini_shapes", "mini_flags"))
    found = budget.draw_up(benches(suite, "1"), Store(tmp_path), {}, SPEED, limit=4)
    ran = []

    def run(bench, cells, store, reporter):
        key = cells[0].key
        ran.append(key)
        if key.dataset == "mini_flags":
            raise ZSRobustError("no such pictures")
        return [], [ZSRobustError("no such weights")] if key.defense == "tecoa" else []

    monkeypatch.setattr(budget, "run", run)
    spent = budget.spend(found, 1e9, Store(tmp_path), Reporter(), Clock())
    assert set(spent.errors) == {"mini_flags", "tecoa"}
    assert [key.dataset for key in ran].count("mini_flags") == 1
    assert len(ran) == 1 + 6


def test_the_page_has_differences_with_intervals_doubts_and_gaps(tmp_path):
    suite = dataclasses.replace(suites.load("mini"), datasets=("mini_shapes",))
    store(tmp_path / "theirs", "clip", "mini_shapes", range(30), range(240), 300)
    store(tmp_path / "ours", "clip", "mini_shapes", range(90), range(240), 300)
    tables = {"1": suite, "2": suite}
    stored = Stored(load_results(tmp_path / "theirs"), [suite], "sound")
    left = {number: reproduction.Left(5, 6, "3.0 h") for number in tables}
    pages = reproduction.build(
        tables, load_results(tmp_path / "ours"), stored, left, protocol="sound"
    )
    (_, robust), (_, average) = pages["1"].rows
    ours, theirs, difference = robust[4:7]
    assert (ours.text, theirs.text) == ("30.00", "10.00")
    # Newcombe's method 10, written out.
    (l1, u1), (l2, u2) = wilson(30, 300), wilson(90, 300)
    low = 20 - 100 * math.hypot(0.3 - l2, u1 - 0.1)
    high = 20 + 100 * math.hypot(u2 - 0.3, 0.1 - l1)
    assert difference.text == f"+20.00 ({low:+.2f} to {high:+.2f})"
    assert difference.mark == "≠"
    assert (average[2].text, average[4].text) == ("average", "30.00")
    (_, clean), _ = pages["2"].rows
    assert clean[6].text.startswith("+0.00 (")
    assert clean[6].mark == ""
    page = reproduction.markdown(pages, "Title", ["Next: `zsrobust`"])
    assert "2 of 4 compared numbers differ" in page
    assert "1 of 6 cells are stored. Missing: 5, at most 3.0 h with their trainings." in page


def test_doubts_about_the_papers_number_are_footnotes_and_about_ours_a_column(tmp_path):
    suite = suites.load("paper")
    cell = {"suite": "paper", "attack__eps": "1/255", "limit": 300}
    store(tmp_path, "tecoa", "pcam", range(150), range(240), 300, **cell)
    pages = reproduction.build(
        {"1": suite, "2": suite},
        load_results(tmp_path),
        Paper(),
        {number: reproduction.Left(95, 96, "9.0 h") for number in ("1", "2")},
        protocol="sound",
        limit=300,
    )
    claim = reported.cell("2", "tecoa", "pcam")
    ((_, entries),) = pages["2"].rows  # the row is not complete: no average
    assert (entries[5].text, entries[8].text) == (f"{claim.percent}", "a subset")
    assert entries[5].notes
    low, high = (100 * end - float(claim.percent) for end in wilson(240, 300))
    assert entries[6].text.endswith(f" ({low:+.2f} to {high:+.2f})")
    assert all(note in pages["2"].underneath[-1] for note in entries[5].notes)


def test_mini_is_reproduced_within_seconds_and_continues(zsrobust, tmp_path):
    what = ("reproduce", "mini", "--table", "1", "--limit", "4", "--against", "none-stored")
    (tmp_path / "none-stored").mkdir()
    first = zsrobust(*what, "--budget", "3s")
    stored = (tmp_path / "results").rglob("*.json")
    cells = [path.stem.removesuffix(".limit=4") for path in stored]
    assert cells
    page = (tmp_path / "reproduction.md").read_text()
    assert f"{len(cells)} of 96 cells are stored" in page
    given = "--budget 3s --table 1 --limit 4 --against none-stored"
    assert f"Next: `zsrobust reproduce mini {given}`" in page
    assert f"{len(cells)} of 96 cells are stored" in first.stdout
    again = zsrobust(*what, "--budget", "90m", "--dry-run", "--out", "other.md").stdout
    assert f"{len(cells)} of 96 cells are stored" in again
    left = re.findall(r"mini: clip under pgd10 6/255 on (\w+)$", again, re.MULTILINE)
    assert sorted([*cells, *left]) == sorted(suites.load("mini").datasets)
    assert not (tmp_path / "other.md").exists()


def test_a_budget_has_a_unit_and_the_tables_are_the_papers(zsrobust):
    assert "is not a duration" in zsrobust("reproduce", "mini", "--budget", "8", ok=2).stderr
    wrong = zsrobust("reproduce", "mini", "--budget", "8h", "--table", "t1", ok=2).stderr
    assert "Next: zsrobust run --table t1" in wrong
    page = zsrobust("reproduce", "mini", "--budget", "5m", "--out", "page.html", ok=2).stderr
    assert "page.html is not a name for the page, which is Markdown. Use: --out page.md" in page


def test_the_workflow_calls_the_command_with_options_that_exist():
    text = (ROOT / ".github/workflows/paper.yml").read_text()
    (call,) = re.findall(r"zsrobust reproduce paper (.*)$", text, re.MULTILINE)
    known = {option for each in main.commands["reproduce"].params for option in each.opts}
    assert set(re.findall(r"--[a-z-]+", call + text.split("options:")[1])) <= known
    assert "schedule:" in text
    for name in set(re.findall(r"ZSROBUST_[A-Z_]+", text)):
        assert f"`{name}`" in (ROOT / "docs/reproducing.md").read_text()

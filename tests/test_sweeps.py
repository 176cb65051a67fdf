"""Sweeps: several bounds and seeds in one run, steps that follow a bound, and training seeds."""

import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsrobust import load_results
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import format_eps, parse_eps
from zsrobust.core.sweeps import StepSize, format_seeds, parse_bounds, parse_seeds
from zsrobust.defenses import Defense, defenses
from zsrobust.models.clip import Clip
from zsrobust.running.plan import plan, trained_with
from zsrobust.settings import protocols, suites

MINI, SOUND = suites.load("mini"), protocols.load("sound")


@given(st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 20), unique=True))
def test_seeds_as_text_are_the_same_seeds(seeds):
    assert parse_seeds(format_seeds(seeds)) == tuple(seeds)


@given(st.integers(0, 2**62), st.integers(0, 999))
def test_a_range_of_seeds_has_both_ends(first, more):
    assert parse_seeds([f"{first}..{first + more}"]) == tuple(range(first, first + more + 1))


@given(st.integers(2, 1000).flatmap(lambda n: st.tuples(st.just(n), *[st.integers(1, n - 1)] * 2)))
def test_a_range_of_bounds_has_the_unit_of_its_denominator(drawn):
    unit, low, high = drawn[0], *sorted(drawn[1:])
    found = parse_bounds([f"{low}/{unit}..{high}/{unit}"])
    assert found == tuple(float(Fraction(each, unit)) for each in range(low, high + 1))
    assert tuple(parse_eps(format_eps(eps)) for eps in found) == found


def test_values_are_kept_once_and_in_their_order():
    assert parse_seeds(["7", "0..2", "1"]) == (7, 0, 1, 2)
    assert parse_bounds(["6/255", "5/255..7/255"]) == (6 / 255, 5 / 255, 7 / 255)
    assert parse_bounds(["12..14"]) == (12.0, 13.0, 14.0)  # in l1
    assert format_seeds((0, 1, 2, 7)) == ["0..2", "7"]


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_seeds, "4..0", "'4..0' ends before it begins"),
        (parse_seeds, "0..1000", "'0..1000' has more than 1000 values"),
        (parse_seeds, "0..", "The seed '' is not a whole number"),
        (parse_seeds, "-1", "The seed '-1' is not a whole number"),
        (parse_seeds, "0..٤", "is not a whole number"),
        (parse_seeds, f"0..{2**63}", "is not below 2^63"),
        (parse_bounds, "8/255..1/255", "ends before it begins"),
        (parse_bounds, "1/255..8/256", "does not have two bounds with the same denominator"),
        (parse_bounds, "0.1..0.2", "does not have two bounds with the same denominator"),
        (parse_bounds, "1/255..", "does not have two bounds with the same denominator"),
        (parse_bounds, "0/255..1/255", "eps '0/255' is not a bound"),
        (parse_bounds, "1/0..2/0", "does not have two bounds with the same denominator"),
    ],
)
def test_a_bad_range_is_one_line_that_names_it(parse, text, message):
    with pytest.raises(ZSRobustError) as error:
        parse([text])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["eps", "eps:", "eps:0", "eps/0", "0", "-1/255", "nan", "eps:x"])
def test_a_step_size_is_positive(text):
    with pytest.raises(ZSRobustError, match=r"is not a positive number\. Write"):
        StepSize.parse(text)


def test_a_step_follows_eps_exactly():
    for text in ("eps:1/4", "eps:0.25", "eps/4"):
        assert StepSize.parse(text).at(8 / 255) == "2/255"
        assert StepSize.parse(text).at(6 / 255) == "1/170"  # 1.5/255
    assert StepSize.parse("2/255").at(8 / 255) == "2/255"
    assert StepSize.parse("eps:1/4").at(12.0) == "3"


def keys(defenses, attacks=("pgd10",), **more):
    found = plan(MINI, SOUND, defenses, attacks, ["mini_cells"], limit=4, **more)
    return [(cell.key.defense, cell.key.attack, cell.key.eps, cell.key.seed) for cell in found]


def test_a_plan_is_the_product_of_its_values():
    bounds, seeds = (1 / 255, 6 / 255), (0, 3)
    found = keys(["clip", "tecoa"], ["pgd10", "square"], eps=bounds, seed=seeds)
    assert found == [
        (defense, attack, eps, seed)
        for defense in ("clip", "tecoa")
        for attack in ("pgd10", "square")
        for eps in bounds
        for seed in seeds
    ]
    assert keys(["clip"]) == keys(["clip"], eps=(), seed=()) == [("clip", "pgd10", 6 / 255, 0)]
    assert keys(["clip"], eps=1 / 255, seed=3) == keys(["clip"], eps=[1 / 255], seed=[3])


def test_training_seeds_are_another_factor_which_untrained_defenses_ignore():
    found = keys(["clip", "tecoa", "ttc:of=clip"], seed=(0, 1), train_seeds=(0, 2))
    assert [(defense, seed) for defense, _, _, seed in found] == [
        *(("clip", seed) for seed in (0, 1)),
        *(("tecoa", seed) for seed in (0, 1)),
        *(("tecoa:seed=2", seed) for seed in (0, 1)),
        *(("ttc:of=clip", seed) for seed in (0, 1)),
    ]


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("clip", "clip"),
        ("tecoa", "tecoa:seed=2"),
        ("tecoa:seed=2", "tecoa:seed=2"),
        ("pmg_aft:beta=0", "pmg_aft:beta=0,seed=2"),
        ("soup", "soup:seed=2"),
        ("interpolation:of=tecoa,weight=0.2", "interpolation:of=tecoa,seed=2,weight=0.2"),
        ("clipure_cos:of=tecoa", "clipure_cos:of=tecoa,seed=2"),
        ("tte:of=clip", "tte:of=clip"),
        ("ttc:of=tecoa", "ttc:of=tecoa:seed=2"),  # TTC has random numbers of its own
        ("ttc:of=tecoa,seed=5", "ttc:of=tecoa:seed=2,seed=5"),
        ("apt", "apt:seed=2"),
        ("apt:of=tecoa", "apt:of=tecoa,seed=2"),  # as in Table z1: of the context alone
        ("tte:of=apt", "tte:of=apt:seed=2"),
    ],
)
def test_a_training_seed_is_passed_on_to_what_is_trained(spec, found):
    assert trained_with(spec, 2, MINI) == found
    recipes = defenses.create(found).recipes(MINI)
    assert not recipes or recipes[-1].seed == 2
    if spec != "tecoa:seed=2":
        assert trained_with(spec, 0, MINI) == spec  # 0 is the recipes' own


@pytest.mark.parametrize(
    "spec", ["tecoa:seed=1", "tte:of=tecoa:seed=1", "soup:of=tecoa+tecoa:seed=1"]
)
def test_a_spec_with_another_training_seed_is_refused(spec):
    with pytest.raises(ZSRobustError, match="seed"):
        trained_with(spec, 2, MINI)


def test_steps_that_an_attack_takes_anyway_keep_its_spec():
    half = StepSize.parse("eps:1/2")  # as the suite: 3/255 at 6/255
    found = keys(["clip"], ["pgd10", "square"], eps=(4 / 255, 6 / 255), step_size=half)
    assert [(attack, format_eps(eps)) for _, attack, eps, _ in found] == [
        ("pgd10:step_size=2/255", "4/255"),
        ("pgd10", "6/255"),
        ("square", "4/255"),
        ("square", "6/255"),
    ]
    with pytest.raises(ZSRobustError, match=r"None of these attacks has a step size\."):
        keys(["clip"], ["square"], step_size=half)
    with pytest.raises(ZSRobustError, match="sets a step size itself"):
        keys(["clip"], ["pgd10:step_size=1/255"], step_size=half)


SWEEP = (
    *("run", "--suite", "mini", "--dataset", "mini_cells", "--limit", "4", "--attack", "pgd2"),
    *("--defense", "clip", "--eps", "5/255..6/255", "--seed", "0..1", "--seed", "4"),
)


def test_one_process_computes_the_product_with_one_tower_and_one_text(zsrobust, monkeypatch):
    towers, texts = [], []
    tower, tokenize = Defense.tower, Clip.__dict__["head"]

    def made(self, workshop):
        towers.append(self.title)
        return tower(self, workshop)

    def head(self, prompts, scale=None):
        known = len(self._heads)
        found = tokenize(self, prompts, scale)
        texts.extend([prompts] * (len(self._heads) - known))
        return found

    monkeypatch.setattr(Defense, "tower", made)
    monkeypatch.setattr(Clip, "head", head)
    done = zsrobust(*SWEEP, "--step-size", "eps:1/2")
    assert "6 cells in results; 24 images attacked." in done.stdout
    assert len(towers) == len(texts) == 1
    frame = load_results("results")
    assert sorted(zip(frame["attack"], frame["eps"], frame["seed"], strict=True)) == [
        *(("pgd2", "6/255", seed) for seed in (0, 1, 4)),
        *(("pgd2:step_size=1/102", "5/255", seed) for seed in (0, 1, 4)),
    ]
    assert "clip" in done.stdout
    assert "seed 4" in done.stdout  # each seed has a line of its own
    again = zsrobust(*SWEEP, "--step-size", "eps:1/2")
    assert "6 cells in results; 0 images attacked." in again.stdout
    # Each bound has the step of its rule, in its identity and in its spec.
    one = zsrobust(*SWEEP[:-6], "--eps", "6/255", "--seed", "4")
    assert "1 cell in results; 0 images attacked." in one.stdout


def test_the_command_line_prints_a_table_over_seeds(zsrobust):
    options = ("--suite", "mini", "--limit", "4")
    run = ("run", *options, "--defense", "clip", "--attack", "pgd10", "--dataset", "mini_cells")
    zsrobust(*run, "--seed", "0..1")
    table = ("table", "1", *options, "--seed", "0..2")
    printed = zsrobust(*table).stdout
    assert "over 3 attack seeds (0..2)" in printed
    assert "2 of 3 seeds; missing: 2." in printed
    assert re.search(r"\| CLIP +\|.* \d+\.\d\d ± \d+\.\d\d \[", printed)
    zsrobust(*table, "--out", "table1.tex")
    assert r" $\pm$ " in Path("table1.tex").read_text()
    assert "Leave out --seed" in zsrobust(*table, "--compare", "claims", ok=2).stderr


def test_tables_set_what_a_sweep_would_change(zsrobust):
    refused = zsrobust("run", "--suite", "mini", "--table", "1", "--step-size", "eps/2", ok=2)
    assert "Leave out --defense, --attack, --eps and --step-size." in refused.stderr

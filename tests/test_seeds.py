"""Seeds: means and deviations over attack and training seeds, in tables, in the frame, in LaTeX."""

import itertools
import math
import statistics

import numpy as np
import pytest
from test_measures import CHOSEN, SUITE, put

from zsrobust import load_results
from zsrobust.core.errors import ZSRobustError
from zsrobust.reporting import tables
from zsrobust.reporting.formats import render
from zsrobust.results import over_seeds
from zsrobust.results.identity import DefenseIdentity
from zsrobust.results.seeds import method, train_seed

ROBUST = {0: (1, 3), 1: (2, 4), 4: (4, 6)}  #: of 8 images, by attack seed
CLIP = {0: (0, 0), 1: (1, 0), 4: (0, 2)}


def trained(folder, spec, robust, seed=0, drawn=0, **changes):
    """Store the row of a training seed, under an attack seed."""
    identity = {"defense.recipe": {"seed": seed}, "defense.checkpoint": f"of seed {seed}"}
    put(folder, spec, robust, identity={**identity, "seed": drawn}, **changes)


@pytest.fixture
def folder(tmp_path):
    """Three attack seeds of CLIP and of FT-TeCoA, and two more trainings at attack seed 0."""
    for seed, robust in ROBUST.items():
        trained(tmp_path, "tecoa", robust, drawn=seed)
        put(tmp_path, "clip", CLIP[seed], identity={"seed": seed})
    trained(tmp_path, "tecoa:seed=1", (3, 5), 1)
    trained(tmp_path, "tecoa:seed=2", (8, 8), 2)
    return tmp_path


def page_of(folder, number="1", **seeds):
    page = tables.build(number, load_results(folder), CHOSEN, **seeds)
    lines = {
        title: dict(zip(page.header[1:], entries, strict=True)) for title, entries in page.rows
    }
    return page, lines


def printed(shares):
    return f"{100 * statistics.mean(shares):.2f} ± {100 * statistics.stdev(shares):.2f}"


def test_a_table_over_attack_seeds_has_their_mean_and_sample_deviation(folder):
    page, lines = page_of(folder, seeds=(0, 1, 4))
    averages = [(a + b) / 16 for a, b in ROBUST.values()]
    assert lines["FT-TeCoA"]["Average"].printed == printed(averages)
    assert lines["FT-TeCoA"]["A"].printed == printed([a / 8 for a, _ in ROBUST.values()])
    assert lines["CLIP"]["Average"].printed == printed([(a + b) / 16 for a, b in CLIP.values()])
    assert lines["FT-TeCoA"]["Average"].best
    assert not lines["CLIP"]["Average"].best
    assert lines["PMG-AFT"]["Average"].text == "—"
    (note,) = [line for line in page.lines if line.startswith("With ±")]
    assert "over 3 attack seeds (0..1, 4), each combination once." in note


def test_a_table_over_training_seeds_takes_an_untrained_row_once(folder):
    page, lines = page_of(folder, train_seeds=(0, 1, 2))
    assert lines["FT-TeCoA"]["Average"].printed == printed([4 / 16, 8 / 16, 16 / 16])
    assert lines["FT-TeCoA"]["Average"].notes == ()
    assert lines["CLIP"]["Average"].printed == "0.00"
    assert "3 training seeds (0..2)" in " ".join(page.lines)
    assert not page.notes


def test_missing_seeds_are_named_in_the_table(folder):
    page, lines = page_of(folder, seeds=(0, 2, 4))
    assert lines["FT-TeCoA"]["Average"].printed == printed([4 / 16, 10 / 16])
    assert page.notes == ["2 of 3 seeds; missing: 2."]
    _, lines = page_of(folder, seeds=(0, 4), train_seeds=(0, 2))
    assert lines["FT-TeCoA"]["Average"].printed == printed([4 / 16, 10 / 16, 16 / 16])
    assert lines["FT-TeCoA"]["Average"].notes == ("3 of 4 seeds; missing: 4 of training 2.",)
    assert lines["CLIP"]["Average"].printed == printed([0, 2 / 16])
    _, lines = page_of(folder, seeds=(4, 7))
    assert lines["CLIP"]["Average"].printed == "12.50"  # one seed has no deviation
    assert lines["CLIP"]["Average"].notes == ("1 of 2 seeds; missing: 7.",)


def test_one_seed_is_the_table_as_it_was(folder):
    plain, lines = page_of(folder)
    again, _ = page_of(folder, seeds=(0,))
    assert plain == again
    assert lines["FT-TeCoA"]["Average"].printed == "25.00"
    assert not any(line.startswith("With ±") for line in plain.lines)


def test_latex_prints_pm_and_csv_has_a_column_of_deviations(folder):
    page, lines = page_of(folder, seeds=(0, 1, 4))
    mean, deviation = lines["FT-TeCoA"]["Average"].printed.split(" ± ")
    assert rf"{mean} $\pm$ {deviation}" in render(page, ".tex")
    assert f"{mean} ± {deviation}" in render(page, ".md")
    first, *_ = render(page, ".csv").splitlines()
    assert "Average,Average sd" in first


def test_a_table_of_seeds_takes_no_others(folder):
    with pytest.raises(ZSRobustError, match="Table z1 is over training seeds itself"):
        page_of(folder, "z1", train_seeds=(0, 1))
    with pytest.raises(ZSRobustError) as error:
        page_of(folder, "3", seeds=(5, 6), train_seeds=(1, 2))
    assert "seeds 5..6, training seed 1..2" in str(error.value)
    assert str(error.value).endswith("--table 3 --seed 5..6 --train-seed 1..2")


def test_the_frame_over_seeds_has_mean_deviation_number_and_missing(folder):
    found = over_seeds(load_results(folder), seeds=(0, 1, 2), train_seeds=(0, 1))
    rows = {(row["method"], row["dataset"]): row for row in found.to_dict("records")}
    assert set(rows) == set(itertools.product(("clip", "tecoa"), SUITE.datasets))
    tecoa = rows["tecoa", "mini_a"]
    shares = [1 / 8, 2 / 8, 3 / 8]  # of (training, attack) seeds (0, 0), (0, 1) and (1, 0)
    assert tecoa["robust_mean"] == pytest.approx(np.mean(shares), abs=1e-15)
    assert tecoa["robust_std"] == pytest.approx(np.std(shares, ddof=1), abs=1e-15)
    assert (tecoa["clean_mean"], tecoa["clean_std"], tecoa["n"]) == (1, 0, 3)
    assert tecoa["missing"] == [(0, 2), (1, 1), (1, 2)]
    assert rows["clip", "mini_a"]["missing"] == [(None, 2)]
    (one,) = over_seeds(load_results(folder), seeds=[0], train_seeds=[2]).query(
        "method == 'tecoa' and dataset == 'mini_b'"
    )["robust_std"]
    assert math.isnan(one)
    assert over_seeds(load_results(folder / "nothing")).empty


def test_a_failed_cell_is_a_missing_seed(folder):
    trained(folder, "tecoa", (0, 0), drawn=1, status="failed", error="it failed")
    _, lines = page_of(folder, seeds=(0, 1))
    assert "1 of 2 seeds; missing: 1." in lines["FT-TeCoA"]["Average"].notes
    found = over_seeds(load_results(folder), seeds=(0, 1), train_seeds=(0,))
    assert list(found.query("method == 'tecoa'")["missing"]) == [[(0, 1)], [(0, 1)]]


@pytest.mark.parametrize(
    ("spec", "details", "seed", "without"),
    [
        ("clip", {}, None, "clip"),
        ("tecoa", {"recipe": {"seed": 0}}, 0, "tecoa"),
        ("pmg_aft:beta=0,seed=2", {"recipe": {"seed": 2}}, 2, "pmg_aft:beta=0"),
        ("ttc:of=clip,seed=2", {"wrapper": {"seed": 2}}, None, "ttc:of=clip,seed=2"),
        (
            "ttc:of=tecoa:seed=1,seed=2",
            {"recipe": {"seed": 1}, "wrapper": {"seed": 2}},
            1,
            "ttc:of=tecoa,seed=2",
        ),
        (
            "clipure_cos:of=tecoa:seed=1",
            {"recipe": {"seed": 1}, "wrapper": {"steps": 10}},
            1,
            "clipure_cos:of=tecoa",
        ),
        (
            "soup:seed=1",
            {"towers": {"tecoa": {"recipe": {"seed": 1}}, "fare": {"recipe": {"seed": 1}}}},
            1,
            "soup",
        ),
        (
            "soup:of=tecoa+tecoa:seed=1",
            {"towers": {"tecoa": {"recipe": {"seed": 0}}, "b": {"recipe": {"seed": 1}}}},
            None,
            "soup:of=tecoa+tecoa:seed=1",
        ),
        (
            "apt:seed=1",
            {"recipe": {"seed": 1}, "towers": {"tecoa": {"recipe": {"seed": 0}}}},
            1,
            "apt",
        ),
    ],
)
def test_a_method_is_a_defense_without_its_training_seed(spec, details, seed, without):
    defense = DefenseIdentity(spec, "title", details)
    assert train_seed(defense) == seed
    assert method(defense) == without

"""Tables z1 and z2: columns over seeds, attacks and bounds, on results whose numbers are known."""

import csv
import dataclasses
import io

import numpy as np
import pytest
from edits import edited
from test_results import make, outcomes

from zsrobust import load_results, results
from zsrobust.core.errors import ZSRobustError
from zsrobust.reporting import tables, zoo
from zsrobust.reporting.formats import render
from zsrobust.reporting.measures import OTHER_CHECKPOINT
from zsrobust.reporting.rows import Need
from zsrobust.reporting.statistics import mcnemar
from zsrobust.results import Outcomes
from zsrobust.results.selection import Selection
from zsrobust.settings import suites

SUITE = suites.Suite(
    name="mini",
    title="two sets",
    backbone="none",
    train_on="mini_a",
    datasets=("mini_a", "mini_b"),
    attack={"eps": 6 / 255},
    recipe={"eps": 6 / 255},
    limits={"autoattack": 4, "pgd100": 4},
    sweep=(12 / 255, 3 / 255, 6 / 255),
)
CHOSEN = Selection.of(SUITE)


def put(folder, spec, robust, attack="pgd10", datasets=SUITE.datasets, identity=None, **changes):
    """Store a row: the robust images of 8 on each dataset."""
    for dataset, correct in zip(datasets, robust, strict=True):
        given = {"clean_correct": 8, "robust_correct": correct, "largest_class": 2, **changes}
        cell = edited(make(spec, dataset, attack, **given), identity or {})
        results.write(cell, outcomes(), folder)


def shown(folder, number, spec):
    """Return the entries of a row by the title of the column."""
    page = tables.build(number, load_results(folder), CHOSEN)
    place = list(tables.TABLES[number].rows).index(spec)
    return dict(zip(page.header[1:], page.rows[place][1], strict=True)), page


def test_three_seeds_have_a_mean_and_a_sample_deviation(tmp_path):
    for seed, robust in (("", (1, 3)), (":seed=1", (2, 4)), (":seed=2", (4, 4))):
        put(tmp_path, f"tecoa{seed}", robust)  # averages of 25, 37.5 and 50 percent
    entries, page = shown(tmp_path, "z1", "tecoa")
    assert entries["PGD-10"].printed == "37.50 ± 12.50"
    # Above chance of 1/4: 8.33, 16.67, 33.33; the first has one dataset below chance.
    assert entries["PGD-10, above chance"].printed == "19.44 ± 12.73"
    assert entries["Clean"].printed == "100.00 ± 0.00"
    assert entries["PGD-10"].notes == ()
    assert r"37.50 $\pm$ 12.50" in render(page, ".tex")
    assert "37.50 ± 12.50" in render(page, ".md")
    assert "37.50 ± 12.50" in render(page, ".html")
    (row,) = (
        row for row in csv.DictReader(io.StringIO(render(page, ".csv"))) if row["PGD-10"] == "37.50"
    )
    assert row["PGD-10 sd"] == "12.50"
    assert row["PGD-100"] == ""
    assert "PGD-100 sd" not in row


def test_missing_seeds_are_named(tmp_path):
    put(tmp_path, "clip", (0, 0))
    put(tmp_path, "tecoa", (2, 2))
    put(tmp_path, "tecoa:seed=2", (4, 4))
    put(tmp_path, "soup", (1, 3))
    put(tmp_path, "pmg_aft:seed=1", (8, 8))
    entries, _ = shown(tmp_path, "z1", "tecoa")
    assert entries["PGD-10"].printed == "37.50 ± 17.68"
    assert entries["PGD-10"].notes == ("2 of 3 seeds; missing: 1.",)
    entries, _ = shown(tmp_path, "z1", "soup")
    assert entries["PGD-10"].printed == "25.00"
    assert entries["PGD-10"].notes == ("1 of 3 seeds; missing: 1, 2.",)
    entries, _ = shown(tmp_path, "z1", "clip")
    assert (entries["PGD-10"].printed, entries["PGD-10"].notes) == ("0.00", ())
    entries, _ = shown(tmp_path, "z1", "pmg_aft")
    assert (entries["PGD-10"].printed, entries["PGD-10"].best) == ("100.00", True)
    assert entries["PGD-10"].notes == ("1 of 3 seeds; missing: 0, 2.",)
    assert entries["Difference from FT-TeCoA"].text == "—"  # it is of the first seed


def test_a_row_of_nothing_is_dashes(tmp_path):
    put(tmp_path, "clip", (0, 0))
    entries, page = shown(tmp_path, "z1", "fare")
    assert {(entry.printed, entry.notes) for entry in entries.values()} == {("—", ())}
    assert [title for title, _ in page.rows][:5] == ["CLIP", "FT-Standard", "FT-TeCoA", "PMG-AFT", "FARE"]  # fmt: skip


def test_other_attacks_are_on_their_subsets(tmp_path):
    small = {"images": 4, "clean_correct": 4}
    put(tmp_path, "tecoa", (2, 2))
    put(tmp_path, "tecoa", (1, 3), "pgd100", identity={"dataset.limit": 4}, **small)
    put(tmp_path, "tecoa", (3,), "autoattack", ["mini_a"], {"dataset.limit": 4}, **small)
    entries, page = shown(tmp_path, "z1", "tecoa")
    assert (entries["PGD-100"].text, entries["AutoAttack"].text) == ("50.00", "75.00")
    assert entries["PGD-100"].notes == entries["AutoAttack"].notes == ()
    below = "\n".join(page.lines)
    assert (
        "Under autoattack: the first seed, a fixed, class-balanced subset of 4 images of one"
        in below
    )
    assert "attacks pgd10, autoattack, pgd100, eps 6/255" in below


def test_cells_of_another_checkpoint_have_a_footnote(tmp_path):
    small = {"images": 4, "clean_correct": 4}
    put(tmp_path, "tecoa", (2, 2), identity={"defense.checkpoint": "one"})
    for attack, checkpoint in (("pgd100", "two"), ("autoattack", "one")):
        identity = {"dataset.limit": 4, "defense.checkpoint": checkpoint}
        names = SUITE.datasets if attack == "pgd100" else ["mini_a"]
        put(tmp_path, "tecoa", (1, 3)[: len(names)], attack, names, identity, **small)
    entries, _ = shown(tmp_path, "z1", "tecoa")
    note = OTHER_CHECKPOINT.format(attack="pgd10")
    assert (entries["PGD-100"].text, entries["PGD-100"].notes) == ("50.00", (note,))
    assert (entries["AutoAttack"].text, entries["AutoAttack"].notes) == ("25.00", ())


def attacked(folder, spec, right, **identity):
    """Store a row of ten images on each dataset, of which those in `right` are robust."""
    for dataset, robust in zip(SUITE.datasets, right, strict=True):
        labels = np.arange(10) % 2
        adversarial = np.where(np.isin(np.arange(10), robust), labels, 1 - labels)
        found = Outcomes(labels, labels, adversarial, np.full(10, 0.1, np.float32))
        counts = {"images": 10, "clean_correct": 10, "robust_correct": len(robust)}
        results.write(edited(make(spec, dataset, **counts), identity), found, folder)


def test_differences_are_tested_on_all_images_and_corrected_over_the_rows(tmp_path):
    attacked(tmp_path, "tecoa", ([0], [0, 1]))
    attacked(tmp_path, "pmg_aft", ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6]))  # 0 and 10
    attacked(tmp_path, "fare", ([1, 2], [0, 2, 3]))  # 2 and 4
    attacked(tmp_path, "clip", ([0], [0]), **{"dataset.digest": "other"})
    assert mcnemar(0, 10) == 2 / 2**10
    assert mcnemar(2, 4) == 0.6875
    page_rows = {
        spec: shown(tmp_path, "z1", spec)[0] for spec in ("tecoa", "pmg_aft", "fare", "clip")
    }
    entries = {spec: row["Difference from FT-TeCoA"] for spec, row in page_rows.items()}
    assert (entries["pmg_aft"].text, entries["pmg_aft"].mark) == ("+50.00", "")
    assert entries["pmg_aft"].about == f"p = {2 * 2 / 2**10:.3g}"  # of two rows
    assert (entries["fare"].text, entries["fare"].mark) == ("+10.00", "≈")
    assert entries["fare"].about == "p = 0.688"
    assert "Holm's correction over 2 rows" in entries["fare"].notes[0]
    assert (entries["tecoa"].text, entries["tecoa"].mark) == ("0.00", "")
    assert (entries["clip"].text, entries["clip"].notes) == (
        "—",
        ("Not compared with FT-TeCoA: other images.",),
    )
    page = tables.build("z1", load_results(tmp_path), CHOSEN)
    assert "+10.00 ≈ [" in render(page, ".md")
    assert r"+10.00 $\approx$" in render(page, ".tex")
    assert [row["Difference from FT-TeCoA mark"] for row in csv.DictReader(io.StringIO(render(page, ".csv")))].count("≈") == 1  # fmt: skip


def test_holm_can_take_significance_away(tmp_path):
    attacked(tmp_path, "tecoa", ([], []))
    for spec in ("pmg_aft", "fare"):
        attacked(tmp_path, spec, ([0, 1, 2], [0, 1, 2]))
    assert mcnemar(0, 6) == 0.03125
    entries, _ = shown(tmp_path, "z1", "fare")
    assert entries["Difference from FT-TeCoA"].mark == "≈"  # 0.0625 of two rows


def test_time_and_memory(tmp_path):
    history = [{"distance": 0.0, "memory": 2.0**24}, {"distance": 0.0, "memory": 3.0 * 2**20}]
    training = {"epoch_seconds": 1.25, "history": history}
    put(tmp_path, "tecoa", (2, 2), training={"epoch_seconds": 2.5, "history": [{"distance": 0.1}]})
    put(tmp_path, "tecoa:seed=1", (2, 2), training=training)
    put(tmp_path, "fare", (2, 2), training=training)
    entries, _ = shown(tmp_path, "z1", "tecoa")
    assert (entries["Time (s)"].text, entries["Memory (MiB)"].text) == ("2.5", "16")
    put(tmp_path, "tecoa:seed=1", (2, 2))
    assert shown(tmp_path, "z1", "tecoa")[0]["Memory (MiB)"].text == "—"
    frame = load_results(tmp_path)
    assert set(frame[frame["defense"] == "fare"]["memory"]) == {2.0**24}


def test_the_needs_of_the_table_of_seeds():
    mini = suites.load("mini")
    needs = tables.needs("z1", mini)
    of_fare = [need for need in needs if need.defense.partition(":")[0] == "fare"]
    assert set(of_fare) == {
        Need("fare"),
        Need("fare:seed=1"),
        Need("fare:seed=2"),
        Need("fare", "pgd100"),
        Need("fare", "autoattack", every=4),
    }
    assert {need for need in needs if need.defense == "clip"} == {
        Need("clip"),
        Need("clip", "pgd100"),
        Need("clip", "autoattack", every=4),
    }
    assert len(needs) == len(set(needs))
    assert Need("fare").datasets(mini) == mini.datasets
    assert len(Need("fare", every=4).datasets(mini)) == 4


def test_crossing_chance_is_at_the_smallest_bound_where_half_of_the_sets_reach_it(tmp_path):
    # Of 8 images with chance 2/8: Wilson's interval of 5 begins above it at 0.31, of 4 below at 0.22.
    for eps, robust in (("3/255", (5, 8)), ("6/255", (4, 8)), ("12/255", (8, 8))):
        spec = "tecoa" if eps == "6/255" else f"tecoa:eps={eps}"
        put(tmp_path, spec, robust, identity={"attack.eps": eps})
        strong = "fare" if eps == "6/255" else f"fare:eps={eps}"
        put(tmp_path, strong, (5, 5), identity={"attack.eps": eps})
        if eps != "3/255":
            put(tmp_path, "clip", (0, 0), identity={"attack.eps": eps})
    put(tmp_path, "pmg_aft:eps=3/255", (2, 2), identity={"attack.eps": "3/255"})
    crossed = {
        spec: shown(tmp_path, "z2", spec)[0]["Crosses chance at"].text
        for spec in ("tecoa", "fare", "clip", "pmg_aft")
    }
    assert crossed == {
        "tecoa": "6/255",
        "fare": "not in 3/255–12/255",
        "clip": "—",  # not measured at the smallest bound
        "pmg_aft": "3/255",  # whatever larger bounds give
    }
    entries, page = shown(tmp_path, "z2", "tecoa")
    assert entries["Robust, 3/255"].text == "81.25"
    assert entries["Robust, 12/255"].text == "100.00"
    assert page.caption.endswith("mini suite, eps 3/255, 6/255, 12/255.")
    assert Need("ft_standard", eps=3 / 255) in tables.needs("z2", SUITE)
    assert Need("fare:eps=3/255", eps=3 / 255) in tables.needs("z2", SUITE)
    assert Need("fare") in tables.needs("z2", SUITE)


def test_a_suite_without_bounds_has_no_table_of_bounds():
    bare = dataclasses.replace(SUITE, sweep=())
    with pytest.raises(ZSRobustError, match="The suite mini has no bounds for Table z2"):
        tables.needs("z2", bare)


def test_specs_at_seeds_and_bounds_are_in_their_normal_form():
    assert zoo.seeded("pmg_aft:beta=0") == [
        "pmg_aft:beta=0",
        "pmg_aft:beta=0,seed=1",
        "pmg_aft:beta=0,seed=2",
    ]
    assert zoo.seeded("tecoa:seed=1") == ["tecoa:seed=1"]
    assert zoo.seeded("clip") == ["clip"]
    assert zoo.at_bound("soup", 3 / 255, SUITE) == Need("soup:eps=3/255", eps=3 / 255)
    assert zoo.at_bound("clip", 3 / 255, SUITE) == Need("clip", eps=3 / 255)
    assert zoo.at_bound("tecoa", 6 / 255, SUITE) == Need("tecoa")
    assert zoo.title("nowhere:a=1") == "nowhere:a=1"


def test_the_listed_methods_are_defenses_that_take_a_seed_and_a_bound():
    from zsrobust.defenses import defenses

    for method in zoo.methods():
        for spec in zoo.seeded(method.spec):
            defenses.create(spec)
        defenses.create(zoo.at_bound(method.spec, 3 / 255, SUITE).defense)

"""Anchors: published clean accuracies, beside ours and never a gate."""

from decimal import Decimal

import pytest
from edits import edited
from test_results import make

from zsrobust import load_results, results
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.intervals import wilson
from zsrobust.reporting import reported
from zsrobust.reporting.anchors import TOLERANCE, check, nearest, off
from zsrobust.reporting.claims import published
from zsrobust.settings import suites

PAPER = suites.load("paper")
B32 = PAPER.backbone


def store(folder, dataset="cifar10", correct=8980, images=10000, defense="clip", **changes):
    result = edited(
        make(defense, dataset, **changes),
        {"suite": "paper", "attack.eps": "1/255"},
        images=images,
        clean_correct=correct,
        robust_correct=0,
    )
    return results.write(result, None, folder)


def test_anchors_are_the_two_files_numbers_under_either_name_of_the_architecture():
    found = reported.anchors(B32, "cifar10")
    assert [str(each.percent) for each in found] == ["89.82", "89.83"]
    assert reported.anchors("ViT-B-32/openai", "cifar10") == found
    assert reported.anchors("ViT-B-32/laion2b_s34b_b79k", "cifar10") != found
    assert reported.anchors("package:zsrobust.mini/clip", "mini_shapes") == ()
    assert reported.anchors(B32, "caltech256") == ()
    assert {len(reported.anchors(B32, name)) for name in PAPER.datasets} == {0, 1, 2}


def test_caltech101_is_there_twice_and_open_clips_number_is_near_the_mean_over_classes():
    rows = [row for row in reported._rows("anchors_clean.csv") if row["dataset"] == "caltech101"]
    for model in ("ViT-B-32", "ViT-B-16", "ViT-L-14"):
        top, mean = (
            float(row["accuracy"])
            for metric in ("clean", "clean mean per class")
            for row in rows
            if (row["model"], row["dataset_there"], row["metric"])
            == (model, "vtab/caltech101", metric)
        )
        theirs = max(
            map(float, (a.percent for a in reported.anchors(f"{model}/openai", "caltech101")))
        )
        assert abs(theirs / 100 - mean) < 0.02 < 0.05 < abs(theirs / 100 - top)


def test_robust_anchors_repeat_the_claims_of_published_weights():
    rows = reported.robust_anchors()
    assert len(rows) == 10
    compared = 0
    for row in rows:
        (entry,) = [each for each in published().values() if row["weights"].endswith(each["where"])]
        if "claims" not in entry:
            continue
        compared += 1
        (claim,) = entry["claims"]
        assert claim["clean"] == row["clean"]
        assert claim["robust"] == {f"{eps}/255": row[f"adv_{eps}_255"] for eps in (1, 2, 4)}
    assert compared == 6


def test_the_distance_is_measured_from_the_interval():
    low, high = wilson(300, 500)
    for theirs, expected in (
        (60, 0),
        (100 * high + 2, 2),
        (100 * low - 3, 3),
        (100 * low + 0.1, 0),
    ):
        assert off(300, 500, Decimal(theirs)) == pytest.approx(expected, abs=1e-9)


def test_where_sources_disagree_the_nearest_counts():
    caltech = reported.anchors(B32, "caltech101")
    assert [str(nearest(share, 100, caltech).percent) for share in (80, 84, 86, 99)] == [
        "81.92",
        "81.92",
        "87.58",
        "87.58",
    ]


def test_cells_agree_within_the_stated_tolerance(tmp_path):
    low = 100 * wilson(8450, 10000)[1]
    assert 89.82 - low < TOLERANCE
    store(tmp_path, correct=8450)
    store(tmp_path, "cifar100", correct=1000)
    store(tmp_path, "caltech256", correct=1000)  # nobody published it
    report = check(load_results(tmp_path), PAPER)
    assert [each.way for each in report.verdicts] == ["anchor", None]
    assert report.extra == 1
    assert len(report.lines) == 4
    assert "agrees; vtab/cifar10 of CLIP_benchmark; others print 89.83" in report.lines[2]
    assert not check(load_results(tmp_path), PAPER, tolerance=1).verdicts[0].way


def test_the_attack_does_not_matter_and_the_most_images_count(tmp_path):
    store(tmp_path, images=500, correct=100, limit=500)
    store(tmp_path, attack="pgd2")
    (verdict,) = check(load_results(tmp_path), PAPER).verdicts
    assert verdict.ours.startswith("89.80 (")
    (small,) = check(load_results(tmp_path), PAPER, limit=500).verdicts
    assert small.ours.startswith("20.00 (")


@pytest.mark.parametrize("defense", ["tecoa4_vit_b32", "weights:/x/vitb32_tecoa_eps_4.pt"])
def test_a_robust_checkpoint_is_beside_its_authors_average(tmp_path, defense):
    store(tmp_path, correct=4500, defense=defense)
    store(tmp_path, "stl10", correct=4400, defense=defense)
    store(tmp_path, "dtd", correct=4400, defense="weights:/x/mine.pt")
    report = check(load_results(tmp_path), PAPER)
    (row,) = report.verdicts
    assert (row.ours, row.baseline, row.difference, row.way) == ("44.50", "44.0", "+0.50", "anchor")
    assert "does not name the averaged datasets" in report.notes[1]


def test_without_anchors_there_is_one_line(tmp_path):
    results.write(make(), None, tmp_path)
    with pytest.raises(ZSRobustError, match="No anchor is about these cells"):
        check(load_results(tmp_path), suites.load("mini"))


def test_the_command_is_no_gate(zsrobust, tmp_path):
    store(tmp_path / "mine", "cifar100", correct=1000)
    done = zsrobust("check", "mine", "--against", "anchors")
    assert "Anchors are compared with, and are no gate." in done.stdout
    assert "points outside of our interval; CIFAR-100 of open_clip" in done.stdout
    zsrobust("check", "mine", "--against", "anchors", "--strict", ok=1)
    zsrobust("check", "mine", "--against", "anchors", "--strict", "--tolerance", "80")
    assert (
        "No anchor"
        in zsrobust("check", "mine", "--against", "anchors", "--defense", "tecoa", ok=2).stderr
    )

"""Chance: what a constant classifier scores, which cells are no better, and means above chance."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from edits import edited
from hypothesis import assume, given
from hypothesis import strategies as st
from test_results import make
from torch import nn

import zsrobust as package
from zsrobust import load_results, results
from zsrobust.datasets import Dataset, Images, datasets
from zsrobust.evaluation.referee import Judged
from zsrobust.reporting import tables
from zsrobust.reporting.columns import UNCOUNTED
from zsrobust.reporting.rows import rows
from zsrobust.reporting.statistics import mean_interval
from zsrobust.results.cell import Outcomes
from zsrobust.results.chance import AT_CHANCE, chance, completed, corrected, is_at_chance
from zsrobust.results.selection import Selection
from zsrobust.results.verification import verify
from zsrobust.running.compute import Examined, build_result
from zsrobust.running.shares import joined
from zsrobust.settings import suites

SHARES = st.fractions(0, 1)
SUITE = dataclasses.replace(suites.load("mini"), datasets=("mini_cells", "mini_train"))


class Constant(nn.Module):
    """A classifier that answers the first of three classes, with a gradient of zero."""

    def forward(self, images):
        zeros = 0 * images.sum((1, 2, 3))
        return nn.functional.pad(zeros[:, None] + 1, (0, 2))


def judged(labels, adversarial, clean=None):
    labels, adversarial = np.asarray(labels), np.asarray(adversarial)
    clean = labels if clean is None else np.asarray(clean)
    return Outcomes(labels, clean, adversarial, np.zeros(len(labels), np.float32))


def cell(found: Outcomes, **changes):
    counts = {
        "images": len(found.labels),
        "clean_correct": found.clean_correct,
        "robust_correct": found.robust_correct,
    }
    identity = {"attack.norm": "linf", "dataset.classes": 6}
    return completed(edited(make(**{**counts, **changes}), identity), found)


def counted(images, correct, largest, predicted):
    return make(
        images=images,
        clean_correct=images,
        robust_correct=correct,
        largest_class=largest,
        most_predicted=predicted,
    )


@pytest.fixture
def skewed():
    """A dataset of three classes whose first has 32 of 40 images."""
    labels = np.repeat([0, 1, 2], [32, 5, 3])
    pixels = np.random.RandomState(0).randint(0, 256, (40, 3, 8, 8)).astype(np.uint8)
    datasets.register("skewed")(
        Dataset(
            title="Skewed",
            group="general",
            about="",
            classes=("a", "b", "c"),
            templates=("{}",),
            size=40,
            side=8,
            load=lambda split: Images(pixels=pixels, labels=labels),
        )
    )
    yield "skewed"
    del datasets._entries["skewed"]


def test_a_constant_classifier_on_a_skewed_dataset_is_at_chance(skewed):
    result = package.evaluate(Constant(), dataset=skewed, attack="pgd2")
    assert (result.clean_correct, result.robust_correct) == (32, 32)  # perfectly robust
    assert (result.largest_class, result.most_predicted) == (32, 40)
    assert result.identity.dataset.classes == 3
    assert AT_CHANCE in result.flags


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60))
def test_the_counts_are_those_of_the_outcomes(pairs):
    labels, adversarial = np.array(pairs).T
    result = cell(judged(labels, adversarial))
    assert result.largest_class == max(list(labels).count(each) for each in range(6))
    assert result.most_predicted == max(list(adversarial).count(each) for each in range(6))
    assert chance(len(pairs), result.largest_class, 6) >= Fraction(1, 6)
    assert completed(result, judged(labels, adversarial)) == result


@given(SHARES, SHARES, SHARES)
def test_accuracy_above_chance_is_a_share_that_keeps_the_order(one, other, at):
    assume(at < 1)
    low, high = (corrected(each, at) for each in sorted((one, other)))
    assert 0 <= low <= high <= 1
    assert corrected(at, at) == corrected(Fraction(0), at) == 0
    assert corrected(Fraction(1), at) == 1
    assert corrected(one, Fraction(0)) == one
    if one > at:
        assert corrected(one, at) * (1 - at) + at == one
    assert corrected(one, Fraction(1)) == 0  # one class alone distinguishes nothing


def test_chance_is_one_class_of_k_where_the_labels_were_not_counted():
    assert chance(10, 4, 5) == Fraction(2, 5)
    assert chance(10, None, 5) == Fraction(1, 5)
    assert chance(10, None, None) is None


@pytest.mark.parametrize(
    ("images", "correct", "largest", "predicted", "raised"),
    [
        (300, 150, 150, 200, True),  # two classes, half of the images
        (300, 143, 150, 200, True),  # its interval reaches chance from below
        (300, 166, 150, 200, True),  # ... and from above
        (300, 167, 150, 200, False),
        (300, 130, 150, 200, False),  # broken: below chance
        (300, 0, 30, 60, False),  # an undefended model under a strong attack
        (300, 300, 150, 150, False),
        (30000, 15600, 15000, 29400, True),  # above chance, and 98% of the answers are one class
        (30000, 15600, 15000, 29000, False),
        (1000, 1000, 980, 980, False),  # the labels are as skewed as the answers
        (300, 6, 30, 300, True),  # always a rare class
        (8, 4, 4, 4, True),  # few images
        (5, 5, 5, 5, True),  # images of one class
    ],
)
def test_which_counts_are_at_chance(images, correct, largest, predicted, raised):
    assert is_at_chance(counted(images, correct, largest, predicted)) == raised


@given(st.integers(2, 400), st.data())
def test_nearly_all_answers_of_one_class_bound_accuracy_above_chance(images, data):
    """The second rule is raised only where accuracy above chance is 5% at most."""
    draw = st.lists(st.sampled_from([0] * 9 + [1, 2]), min_size=images, max_size=images)
    labels, answers = np.array(data.draw(draw)), np.array(data.draw(draw))
    largest, predicted = judged(labels, answers).class_counts.values()
    if largest < images and images - predicted <= Fraction(1, 20) * (images - largest):
        accuracy = Fraction(int((labels == answers).sum()), images)
        assert corrected(accuracy, Fraction(largest, images)) <= Fraction(1, 20)


def test_failed_and_older_cells_are_not_at_chance():
    assert not is_at_chance(make(images=8, clean_correct=4, robust_correct=4))
    found = judged([0, 1] * 4, [0] * 8)
    failed = build_result(make().identity, Judged(images=8, error="no"), Examined())
    assert (failed.largest_class, failed.most_predicted) == (None, None)
    assert AT_CHANCE not in failed.flags
    again = completed(edited(cell(found), status="failed", flags=[AT_CHANCE]), None)
    assert (again.largest_class, again.flags) == (None, [])


def test_shares_of_several_processes_count_the_whole_cell():
    labels, answers = [0, 1] * 10, [0] * 20  # each share of two has one label
    parts = [
        Judged(
            images=10,
            clean_correct=10,
            robust_correct=int(10 * (number == 0)),
            outcomes=judged(labels[number::2], answers[number::2]),
        )
        for number in range(2)
    ]
    result = build_result(make().identity, joined(parts), Examined())
    assert (result.largest_class, result.most_predicted) == (10, 20)
    assert result.flags == [AT_CHANCE]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"largest_class": 9}, "largest_class is 9, but its outcomes give 10"),
        ({"most_predicted": 19}, "most_predicted is 19, but its outcomes give 20"),
        ({"flags": []}, "its outcomes raise the flag at_chance, which is missing"),
    ],
)
def test_verify_counts_classes_again(tmp_path, change, words):
    found = judged([0, 1] * 10, [0] * 20)
    results.write(cell(found), found, tmp_path)
    assert not verify(tmp_path).findings
    results.write(edited(cell(found), **change), found, tmp_path)
    (finding,) = verify(tmp_path).findings
    assert finding.wrong == words


def test_verify_finds_a_flag_that_the_outcomes_do_not_raise(tmp_path):
    found = judged([0, 1] * 10, [0, 1] * 10)
    results.write(edited(cell(found), flags=[AT_CHANCE]), found, tmp_path)
    (finding,) = verify(tmp_path).findings
    assert finding.wrong == "its outcomes do not raise the flag at_chance"


def test_older_results_without_the_counts_still_verify_and_can_be_completed(tmp_path):
    found = judged([0, 1] * 10, [0] * 20)
    nothing = {"largest_class": None, "most_predicted": None, "flags": []}
    older = edited(cell(found), **nothing)
    path = results.write(older, found, tmp_path)
    assert not verify(tmp_path).findings
    whole = completed(results.read(path), Outcomes.read(path))
    assert (whole.largest_class, whole.most_predicted, whole.flags) == (10, 20, [AT_CHANCE])
    results.write(whole, Outcomes.read(path), tmp_path)
    assert results.read(path) == whole
    assert not verify(tmp_path).findings


def stored(folder, counts=None):
    """Store CLIP on two classes, three quarters robust, and on four classes, a quarter robust."""
    for dataset, classes, correct in (("mini_cells", 2, 60), ("mini_train", 4, 20)):
        found = judged(
            np.arange(80) % classes, (np.arange(80) + (np.arange(80) >= correct)) % classes
        )
        whole = edited(cell(found, dataset=dataset), {"dataset.classes": classes}, **(counts or {}))
        results.write(whole, found, folder)
    return load_results(folder)


def entries(frame, number="1"):
    page = tables.build(number, frame, Selection.of(SUITE))
    return dict(zip(page.header[1:], page.rows[0][1], strict=True))


def test_tables_have_means_above_chance_beside_the_plain_ones(tmp_path):
    shown = entries(stored(tmp_path))
    assert [each for each in shown if "verage" in each or "hot" in each or "hance" in each] == [
        "Average",
        "Zero-shot",
        "Above chance",
        "Zero-shot, above chance",
    ]
    assert [shown[each].text for each in ("Average", "Zero-shot")] == ["50.00", "75.00"]
    assert shown["Above chance"].text == "25.00"  # the mean of 1/2 and 0
    assert shown["Zero-shot, above chance"].text == "50.00"
    low, high = shown["Zero-shot, above chance"].interval
    assert 0.25 < low < 0.5 < high < 0.7
    assert "At chance: " in shown["Train"].notes[0]
    assert not shown["Cells"].notes
    clean = entries(load_results(tmp_path), "2")
    assert clean["Above chance"].text == "100.00"


def test_older_cells_have_one_class_of_k_as_chance_and_say_so(tmp_path):
    nothing = {"largest_class": None, "most_predicted": None, "flags": []}
    shown = entries(stored(tmp_path, nothing))
    assert (shown["Average"].notes, shown["Above chance"].notes) == ((), (UNCOUNTED,))
    assert shown["Above chance"].text == "25.00"
    (row,) = rows(load_results(tmp_path), SUITE).values()
    assert row.uncounted() == ["mini_cells", "mini_train"]
    assert row.chance("mini_cells") == Fraction(1, 2)


def test_images_of_one_class_have_a_mean_of_zero_and_no_interval(tmp_path):
    found = judged([0] * 8, [0] * 8)
    for name in SUITE.datasets:
        results.write(cell(found, dataset=name), found, tmp_path)
    shown = entries(load_results(tmp_path))
    assert (shown["Average"].text, shown["Above chance"].text) == ("100.00", "0.00")
    assert shown["Above chance"].interval is None


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 39)), min_size=1, max_size=4))
def test_the_interval_above_chance_contains_that_of_certain_images(pairs):
    counts = [(correct, 40) for correct, _ in pairs]
    floors = [at / 40 for _, at in pairs]
    low, high = mean_interval(counts, chances=floors)
    assert 0 <= low <= high <= 1
    certain = [(40, 40)] * len(pairs)
    low, high = mean_interval(certain, chances=floors)
    assert low < high == 1  # 40 of 40 images leave room for some that fail
    nothing = [0.0] * len(pairs)
    assert mean_interval(counts, chances=nothing) == mean_interval(counts)

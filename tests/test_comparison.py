import csv
import dataclasses
import io
from fractions import Fraction

import numpy as np
import pytest
from edits import edited
from test_results import make

from zsrobust import load_results, results
from zsrobust.core.errors import ZSRobustError
from zsrobust.reporting.comparison import compare, verified
from zsrobust.reporting.comparison_formats import markdown, render
from zsrobust.reporting.statistics import difference_interval
from zsrobust.results.cell import Outcomes
from zsrobust.results.selection import Selection
from zsrobust.settings import suites

SUITE = dataclasses.replace(suites.load("mini"), datasets=("mini_shapes", "mini_flags"))
ALL = range(10)


def store(
    folder,
    defense="clip",
    dataset="mini_shapes",
    robust=(),
    clean=ALL,
    images=10,
    labels=0,
    **changes,
):
    """Store a cell in which the images at the positions `robust` and `clean` come out right; `changes` go into its identity."""
    result = make(
        defense, dataset, attack=changes.pop("attack", "pgd10"), limit=changes.pop("limit", None)
    )
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    result = edited(result, {"dataset.digest": "d1", "dataset.images": images, **changes})
    right_clean, safe = (np.isin(np.arange(images), list(each)) for each in (clean, robust))
    truth = np.full(images, labels)
    found = Outcomes(truth, truth + ~right_clean, truth + ~safe, np.zeros(images, np.float32))
    right = found.right(result.identity.attacks_everything)
    counts = {"clean_correct": int(right.clean.sum()), "robust_correct": int(right.robust.sum())}
    return results.write(edited(result, images=images, **counts), found, folder)


def compared(folder, first="clip", second="tecoa", *, metric="robust", **chosen):
    selection = Selection.of(SUITE, **chosen)
    return compare(load_results(folder), first, second, selection, metric=metric)


@pytest.fixture
def pair(tmp_path):
    store(tmp_path, "clip", "mini_shapes", range(8))
    store(tmp_path, "tecoa", "mini_shapes", [0, 1, 2, 8])
    store(tmp_path, "clip", "mini_flags", [])
    store(tmp_path, "tecoa", "mini_flags", range(8))
    return tmp_path


def test_discordant_images_and_p_values_in_closed_form(pair):
    shapes, flags = compared(pair).lines
    assert (shapes.title, shapes.images, shapes.first, shapes.second) == ("Shapes", 10, 8, 4)
    assert (shapes.only_first, shapes.only_second, flags.only_first, flags.only_second) == (
        5,
        1,
        0,
        8,
    )
    assert (shapes.p, flags.p) == (2 * (1 + 6) / 2**6, 2 / 2**8)
    assert (shapes.adjusted, flags.adjusted) == (shapes.p, 2 * flags.p)
    assert (shapes.significant, flags.significant) == (False, True)
    assert (shapes.difference, flags.difference) == (Fraction(-2, 5), Fraction(4, 5))
    assert compared(pair).difference == Fraction(1, 5)


def test_swapped_defenses_swap_the_sign_and_nothing_else(pair):
    one, other = compared(pair), compared(pair, "tecoa", "clip")
    assert other.difference == -one.difference
    for line, swapped in zip(one.lines, other.lines, strict=True):
        assert (line.p, line.adjusted, line.difference) == (
            swapped.p,
            swapped.adjusted,
            -swapped.difference,
        )
        assert (line.only_first, line.only_second) == (swapped.only_second, swapped.only_first)
    assert other.interval == (-one.interval[1], -one.interval[0])


def test_the_interval_of_the_mean_difference():
    assert difference_interval([(0, 0, 9), (0, 0, 5)]) == (0, 0)
    assert difference_interval([(0, 7, 7)]) == (1, 1)
    assert difference_interval([(7, 0, 7), (0, 5, 5)]) == (0, 0)
    assert difference_interval([(30, 90, 300)]) == difference_interval([(30, 90, 300)])
    low, high = difference_interval([(300, 900, 3000), (300, 900, 3000)])
    spread = 1.96 * np.sqrt((0.4 - 0.2**2) / 6000)
    assert (low, high) == pytest.approx((0.2 - spread, 0.2 + spread), abs=0.002)


def test_robust_is_right_without_attack_too_unless_everything_was_attacked(tmp_path):
    for defense, clean in (("clip", range(5)), ("tecoa", range(10))):
        store(tmp_path, defense, robust=range(10), clean=clean)
        store(
            tmp_path,
            defense,
            robust=range(10),
            clean=clean,
            protocol="reference",
            switches={"attacked": "all"},
        )
    assert [line.only_second for line in compared(tmp_path).lines] == [5]
    assert [line.only_second for line in compared(tmp_path, metric="clean").lines] == [5]
    assert [line.only_second for line in compared(tmp_path, protocol="reference").lines] == [0]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dataset__digest": "d2"}, "other images"),
        ({"labels": 3}, "other images"),
        ({"attack__steps": 20}, "another attack.steps"),
        ({"dataset__prompts": "ab"}, "another dataset.prompts"),
    ],
)
def test_a_dataset_is_compared_on_the_same_images_under_the_same_attack_only(pair, changes, why):
    store(pair, "tecoa", "mini_flags", range(8), **changes)
    found = compared(pair)
    assert (found.apart, found.interval, found.difference) == ([("Flags", why)], None, None)
    assert [line.adjusted for line in found.lines] == [found.lines[0].p]
    assert f"Not compared: Flags: {why}." in markdown(found)
    assert "The mean difference is not printed" in markdown(found)


def test_missing_failed_and_foreign_cells_are_not_compared(pair):
    path = next(pair.glob("mini/sound/*/tecoa/mini_flags.json"))
    store(pair, "tecoa", "mini_shapes", [1])
    other = pair / "mini/sound/pgd10-eps=6-255/tecoa/mini_shapes.npz"
    path.with_suffix(".npz").write_bytes(other.read_bytes())
    assert compared(pair).apart == [
        ("Flags", "in the cell of tecoa, the outcomes are of another run")
    ]
    path.with_suffix(".npz").unlink()
    assert compared(pair).apart == [("Flags", "in the cell of tecoa, the outcomes are missing")]
    results.write(make("tecoa", "mini_flags", status="failed", error="no"), None, pair)
    assert compared(pair).apart == [("Flags", "the cell of tecoa failed")]
    path.unlink()
    assert compared(pair).apart == [("Flags", "the cell of tecoa is missing")]


def test_counts_must_be_those_of_the_outcomes(tmp_path):
    path = store(tmp_path, robust=range(3))
    result = results.read(path)
    assert verified(result, path).right.robust.tolist() == [True] * 3 + [False] * 7
    edited_by_hand = dataclasses.replace(result, robust_correct=4)
    assert verified(edited_by_hand, path) == "the counts do not follow from the outcomes"


def test_no_mean_over_two_checkpoints(pair):
    store(pair, "tecoa", "mini_flags", range(8), defense__checkpoint="another")
    assert len(compared(pair).lines) == 2
    assert compared(pair).interval is None


def test_what_cannot_be_compared_is_one_line_with_the_next_command(pair):
    with pytest.raises(
        ZSRobustError,
        match="'teco'. Did you mean tecoa. Next: zsrobust run --suite mini --defense teco --attack pgd10$",
    ):
        compared(pair, second="teco")
    with pytest.raises(
        ZSRobustError,
        match="--protocol reference --defense clip --defense tecoa --attack autoattack --eps 8/255 --limit 4$",
    ):
        compared(pair, attack="autoattack", eps=8 / 255, protocol="reference", limit=4)
    with pytest.raises(ZSRobustError, match="compared with itself"):
        compared(pair, second="clip")
    for path in pair.glob("**/tecoa/*.npz"):
        path.unlink()
    with pytest.raises(
        ZSRobustError,
        match="the outcomes are missing. Next: zsrobust run .* --defense clip --defense tecoa --attack pgd10$",
    ):
        compared(pair)


def test_the_page(pair):
    low, high = (f"{100 * end:+.2f}" for end in compared(pair).interval)
    assert (
        render(compared(pair), ".md")
        == (
            "**Robust accuracy (%) under pgd10, eps 6/255: mini suite, protocol sound.**\n\n"
            "| Dataset   |   Images |   CLIP |   TECOA |   Difference |   CLIP alone |   TECOA alone |      p |   p, Holm |\n"
            "|:----------|---------:|-------:|--------:|-------------:|-------------:|--------------:|-------:|----------:|\n"
            "| Shapes    |       10 |  80.00 |   40.00 |       -40.00 |            5 |             1 |   0.22 |      0.22 |\n"
            "| Flags     |       10 |   0.00 |   80.00 |   **+80.00** |            0 |             8 | 0.0078 |     0.016 |\n\n"
            "Significant at 5% after Holm's correction over 2 datasets: TECOA better on Flags.\n\n"
            f"Mean difference over 2 datasets: +20.00 points (95% interval: {low} to {high}, from a paired bootstrap over the images of "
            "each dataset).\n\n"
            "Above chance: CLIP 0.00, TECOA 0.00, difference +0.00 points. These are means of (accuracy - chance) / (1 - chance), at "
            "least 0, and chance is the share of the most frequent class.\n\n"  # all labels are one class
            "Difference: TECOA minus CLIP, in points. Alone: number of images that only this defense classifies correctly. "
            "p: McNemar's exact two-sided test on the same images.\n"
        )
    )
    shapes, flags, mean, above = csv.DictReader(io.StringIO(render(compared(pair), ".csv")))
    assert (shapes["Difference"], shapes["CLIP alone"], shapes["p"], shapes["significant"]) == (
        "-40.00",
        "5",
        "0.21875",
        "no",
    )
    assert (flags["TECOA"], flags["p Holm"], flags["significant"]) == ("80.00", "0.015625", "yes")
    assert (mean["Dataset"], mean["Difference"], mean["low"], mean["high"]) == (
        "Mean",
        "+20.00",
        low,
        high,
    )
    assert (above["Dataset"], above["CLIP"], above["Difference"]) == (
        "Mean above chance",
        "0.00",
        "+0.00",
    )
    with pytest.raises(ZSRobustError, match="The suffix '.pdf' is not a format of comparisons"):
        render(compared(pair), ".pdf")


def test_defenses_of_one_title_go_by_their_specs(tmp_path):
    for defense in ("tecoa", "tecoa:lr=1"):
        store(tmp_path, defense, robust=[1], defense__title="FT-TeCoA")
    found = compared(tmp_path, "tecoa", "tecoa:lr=1")
    assert (found.first, found.second) == ("tecoa", "tecoa:lr=1")
    assert "over 1 dataset: no difference." in markdown(found)

"""Curves: which stored cells are points, what is missing, and the command line."""

import shlex

import pandas as pd
import pytest
from edits import edited
from test_figures import CHOSEN, SUITE
from test_results import make, outcomes

from zsrobust import load_results, results
from zsrobust.cli import main
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.intervals import wilson
from zsrobust.reporting import curves
from zsrobust.results.selection import Selection
from zsrobust.settings import suites


def put(folder, robust, defense="clip", attack="pgd10", eps="6/255", datasets=None, **changes):
    """Store cells of 8 images on each dataset, of which 6 are correct without attack."""
    limit, identity = changes.pop("limit", None), changes.pop("identity", {})
    for dataset in datasets or SUITE.datasets:
        cell = make(
            defense, dataset, attack, limit, robust_correct=robust, clean_correct=6, **changes
        )
        results.write(edited(cell, {"attack.eps": eps, **identity}), outcomes(), folder)


def points(made, series="clip"):
    """Return the points of a series: x and percent."""
    part = made.found.frame[made.found.frame["series"] == series]
    return list(zip(part["x"], part["value"], strict=True))


def test_every_stored_bound_is_a_point_and_zero_is_clean(tmp_path):
    for eps, robust in (("6/255", 1), ("1/255", 5), ("0.01", 4)):
        put(tmp_path, robust, eps=eps)
    put(tmp_path, 6, attack="pgd2", eps="2/255")  # another attack
    made = curves.build(load_results(tmp_path), CHOSEN, "eps")
    assert points(made) == [(0, 75), (1 / 255, 62.5), (0.01, 50), (6 / 255, 12.5)]
    assert made.missing == ""


def test_intervals_on_one_dataset_are_wilsons(tmp_path):
    put(tmp_path, 2, datasets=["mini_a"])
    put(tmp_path, 4, eps="1/255", datasets=["mini_a"])
    frame = curves.build(load_results(tmp_path), CHOSEN, "eps", datasets=["mini_a"]).found.frame
    shown = frame[frame["series"] == "clip"]
    for (_, row), correct in zip(shown.iterrows(), (6, 4, 2), strict=True):
        assert (row["low"] / 100, row["high"] / 100) == pytest.approx(wilson(correct, 8))
        assert row["dataset"] == "mini_a"


def test_attacks_that_differ_in_steps_alone_are_one_curve(tmp_path):
    for attack, robust in (("pgd2", 5), ("pgd10", 3), ("pgd:steps=20", 2)):
        put(tmp_path, robust, attack=attack)
    for attack in ("unrolled", "cw", "pgd:loss=margin,steps=5", "pgd:restarts=2", "mim"):
        put(tmp_path, 0, attack=attack)
    put(tmp_path, 0, attack="pgd:steps=7", eps="3/255")
    made = curves.build(load_results(tmp_path), CHOSEN, "steps")
    assert points(made) == [(0, 75), (2, 62.5), (10, 37.5), (20, 25)]


def test_queries_of_square(tmp_path):
    for queries, robust in ((200, 4), (5000, 1)):
        put(tmp_path, robust, attack=f"square:queries={queries}" if queries < 5000 else "square")
    selection = Selection.of(SUITE, attack="square")
    made = curves.build(load_results(tmp_path), selection, "queries")
    assert points(made) == [(0, 75), (200, 50), (5000, 12.5)]
    with pytest.raises(ZSRobustError, match=r"pgd10 has no field 'queries'.*--attack square$"):
        curves.build(load_results(tmp_path), CHOSEN, "queries")


def test_all_points_have_the_same_images(tmp_path):
    put(tmp_path, 3)
    put(tmp_path, 2, attack="pgd100", limit=4)
    put(tmp_path, 1, attack="pgd:steps=20")
    limited = Selection.of(suites.Suite(**{**vars(SUITE), "limits": {"pgd100": 4}}))
    made = curves.build(load_results(tmp_path), limited, "steps")
    assert [x for x, _ in points(made)] == [0, 10, 20]
    asked = Selection.of(SUITE, limit=4)
    made = curves.build(load_results(tmp_path), asked, "steps", ["clip"])
    assert [x for x, _ in points(made)] == [0, 100]


def test_what_is_missing_is_named_with_the_command_that_computes_it(tmp_path):
    for eps in ("1/255", "6/255"):
        put(tmp_path, 1, eps=eps)
    put(tmp_path, 2, "tecoa", datasets=["mini_a"])
    put(tmp_path, 2, "tecoa", eps="3/255")
    put(tmp_path, 4, "pmg_aft", status="failed")
    stored = load_results(tmp_path)
    made = curves.build(stored, CHOSEN, "eps", ["clip", "tecoa"])
    assert points(made, "tecoa") == [(0, 75), (3 / 255, 25)]
    what, command = made.missing.split(". Next: ")
    assert what == (
        "Not drawn, incomplete: clip at eps 3/255, tecoa at eps 1/255, tecoa at eps 6/255"
    )
    words = shlex.split(command)
    assert words[:4] == ["zsrobust", "run", "--suite", "mini"]
    pairs = list(zip(words[4::2], words[5::2], strict=True))
    assert pairs == [
        *(("--defense", "clip"), ("--defense", "tecoa"), ("--attack", "pgd10")),
        *(("--eps", "3/255"), ("--eps", "1/255"), ("--eps", "6/255")),
    ]
    main.commands["run"].make_context("run", words[2:])  # its options exist, and repeat
    assert made.missing in str(made.draw().get_label())
    with pytest.raises(ZSRobustError, match="incomplete: pmg_aft at eps 6/255. Next: zsrobust run"):
        curves.build(stored, CHOSEN, "eps", ["pmg_aft"])
    with pytest.raises(ZSRobustError, match=r"No cells .* --eps 3/255 --eps 6/255$"):
        curves.build(stored, CHOSEN, "eps", ["fare"])


def test_a_curve_is_of_one_checkpoint(tmp_path):
    for eps in ("1/255", "6/255"):
        put(tmp_path, 1, eps=eps)
        put(tmp_path, 2, "tecoa", eps=eps, identity={"defense.checkpoint": eps})
    made = curves.build(load_results(tmp_path), CHOSEN, "eps")
    assert "tecoa" not in set(made.found.frame["series"])
    assert made.missing.startswith("Not drawn, incomplete: tecoa (of different checkpoints). Next")


def test_chance_is_a_line_and_no_marker_hides_another(tmp_path):
    for eps in ("1/255", "6/255"):
        for defense in ("clip", "tecoa", "fare", "pmg_aft"):
            put(tmp_path, 3, defense, eps=eps, largest_class=2)
    made = curves.build(load_results(tmp_path), CHOSEN, "eps")
    assert points(made, "chance") == [(0, 25), (6 / 255, 25)]
    (axes,) = made.draw().axes
    *lines, chance = axes.lines
    assert list(chance.get_ydata()) == [25, 25]
    sizes = [line.get_markersize() for line in lines]
    assert sizes == sorted(set(sizes), reverse=True)
    assert len({line.get_marker() for line in lines}) == len(lines) == 4
    assert len(axes.collections) == 4  # a band each


def test_the_command_line(zsrobust, tmp_path):
    for eps in ("1/255", "2/255"):
        zsrobust(
            *("run", "--suite", "mini", "--defense", "clip", "--attack", "pgd:steps=1"),
            *("--dataset", "mini_shapes", "--limit", "4", "--eps", eps, "--results", "runs"),
        )
    asked = ("curve", "--attack", "pgd:steps=1", "--dataset", "mini_shapes", "--limit", "4")
    done = zsrobust(*asked, "--results", "runs", "--out", "curve.csv")
    assert done.stdout == "curve.csv written\n"
    assert done.stderr == ""
    frame = pd.read_csv("curve.csv")
    found = load_results("runs").sort_values("eps")
    stored = 100 * found["robust_correct"] / found["images"]
    shown = frame[(frame["series"] == "clip") & (frame["x"] > 0)]
    assert list(shown["value"]) == list(stored)
    for suffix, start in ((".svg", b"<?xml"), (".pdf", b"%PDF"), (".png", b"\x89PNG")):
        zsrobust(*asked, "--results", "runs", "--out", f"curve{suffix}")
        assert (tmp_path / f"curve{suffix}").read_bytes().startswith(start)
    failed = zsrobust(*asked, "--results", "runs", "--eps", "1/255", ok=2)
    assert "Leave out --eps" in failed.stderr
    failed = zsrobust(*asked, "--results", "runs", "--against", "queries", ok=2)
    assert "has no field 'queries'" in failed.stderr

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edits import edited
from test_comparison import store
from test_results import make

from zsrobust import load_results, results
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.intervals import wilson
from zsrobust.reporting import reported, statistics
from zsrobust.reporting.baseline import check
from zsrobust.reporting.paper import check as check_paper
from zsrobust.settings import suites

RECIPE = {"objective": "tecoa", "lr": 0.003}
N = 300


def trained(
    folder,
    dataset="mini_shapes",
    robust=range(100),
    clean=range(200),
    checkpoint="c1",
    recipe=RECIPE,
    **changes,
):
    """Store a cell of a trained defense on 300 images, of which by default 100 are robust."""
    about = {
        "defense__backbone": "b1",
        "defense__checkpoint": checkpoint,
        "defense__recipe": recipe,
    }
    return store(folder, "tecoa", dataset, robust, clean, N, **{**about, **changes})


@pytest.fixture
def baseline(tmp_path):
    trained(tmp_path / "baseline")
    return tmp_path / "baseline"


@pytest.fixture
def ours(tmp_path):
    return tmp_path / "ours"


def only(report):
    """Return the one verdict of a report, which does not agree."""
    assert not report.ok
    (verdict,) = [each for each in report.verdicts if each.way is None]
    assert verdict.cell in report.lines[2]
    assert verdict.why in report.lines[2]
    return verdict


def ways(report):
    return [verdict.way for verdict in report.verdicts]


def test_a_copy_agrees_and_more_cells_are_counted(baseline, ours):
    shutil.copytree(baseline, ours)
    trained(ours, "mini_flags")
    report = check(ours, baseline, tolerance=0)
    assert (report.ok, report.lines, ways(report)) == (True, [], ["identical"])
    assert report.summary == "1 cell agrees (1 identical); 0 do not; 1 more in the folder"
    assert check(ours / "mini", baseline / "mini").ok


def test_outcomes_of_the_same_weights_may_change_within_the_tolerance(baseline, ours):
    trained(ours, robust=range(103))
    assert ways(check(ours, baseline)) == ["moved"]
    trained(ours, robust=range(104))
    verdict = only(check(ours, baseline))
    assert verdict.why == (
        "4 of 300 images have another outcome with the same weights; at most 3 are allowed"
    )
    assert (verdict.ours, verdict.baseline, verdict.difference) == (
        "66.67 / 34.67",
        "66.67 / 33.33",
        "+0.00 / +1.33",
    )
    assert check(ours, baseline, tolerance=1.34).ok
    trained(ours, robust=range(101))
    assert only(check(ours, baseline, tolerance=0)).why.startswith("1 of 300")
    trained(ours, clean=range(201))
    assert only(check(ours, baseline, tolerance=0.3)).why.startswith("1 of 300")


def test_opposite_changes_do_not_cancel(baseline, ours):
    trained(ours, robust=range(1, 101))
    assert only(check(ours, baseline, tolerance=0.5)).why.startswith("2 of 300")
    assert only(check(ours, baseline, tolerance=0.5)).difference == "+0.00 / +0.00"


def test_a_missing_cell_and_where_else_it_is(baseline, ours):
    trained(ours, "mini_flags")
    verdict = only(check(ours, baseline))
    assert (verdict.cell, verdict.why) == (
        "mini/sound/pgd10-eps=6-255/tecoa/mini_shapes",
        "missing",
    )
    trained(ours, protocol="reference")
    report = check(ours, baseline)
    assert only(report).why == "missing; stored under protocol reference"
    assert report.summary == "0 cells agree; 1 does not; 2 more in the folder"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"recipe": {**RECIPE, "lr": 0.01}, "checkpoint": "c2"}, "another recipe.lr"),
        ({"attack__steps": 20}, "another attack.steps"),
        ({"switches": {"zoom": 1.1}}, "another switches"),
        ({"defense__backbone": "b2", "checkpoint": "c2"}, "another backbone"),
        ({"dataset__prompts": "p2", "dataset__digest": "d2"}, "another dataset.prompts"),
    ],
)
def test_another_recipe_attack_or_wording_does_not_agree(baseline, ours, changes, why):
    trained(ours, **changes)
    assert only(check(ours, baseline, tolerance=100)).why == why


def test_a_member_of_a_mixture_may_be_retrained_if_it_has_a_recipe(tmp_path, ours):
    for folder, checkpoint in ((tmp_path / "baseline", "c1"), (ours, "c2")):
        fixed = {"tecoa": {"checkpoint": "c0", "recipe": RECIPE}}
        for dataset, recipe in (("mini_shapes", {"recipe": RECIPE}), ("mini_flags", {})):
            members = fixed | {"fare": {"checkpoint": checkpoint, **recipe}}
            store(folder, "soup", dataset, robust=range(5), defense__towers=members)
    report = check(ours, tmp_path / "baseline", tolerance=100)
    assert [verdict.why for verdict in report.verdicts if verdict.way is None] == [
        "another towers.fare.checkpoint"
    ]
    assert len(report.verdicts) == 2


def test_weights_without_a_recipe_are_never_retrained(tmp_path, ours):
    for folder, checkpoint in ((tmp_path / "baseline", "c1"), (ours, "c2")):
        store(folder, "weights:a", robust=range(5), defense__checkpoint=checkpoint)
    assert only(check(ours, tmp_path / "baseline", tolerance=100)).why == "another checkpoint"


def test_titles_seconds_and_versions_do_not_matter(baseline, ours):
    trained(ours, defense__title="New", dataset__title="Newer")
    path = next(ours.glob("*/*/*/*/*.json"))
    result = edited(results.read(path), seconds=99.0, versions={"torch": "9"})
    results.write(result, results.Outcomes.read(path), ours)
    assert ways(check(ours, baseline, tolerance=0)) == ["identical"]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("metric", ["clean", "robust"])
def test_a_row_of_the_same_weights_may_not_move_in_one_direction(tmp_path, sign, metric):
    """Every cell moves by one point, within its tolerance; ties would move images both ways."""
    size = {"robust": 100, "clean": 200}[metric]
    for name in DATASETS:
        trained(tmp_path / "baseline", name)
        trained(tmp_path / "ours", name, **{metric: range(size + 3 * sign)})
    verdict = only(check(tmp_path / "ours", tmp_path / "baseline"))
    assert (verdict.cell, verdict.row) == ("mini/sound/pgd10-eps=6-255/tecoa", True)
    gained, lost = (45, 0) if sign > 0 else (0, 45)
    p = 2 * statistics.mcnemar(0, 45)  # both tests of one row
    assert f"{metric} {gained} gained, {lost} lost, p {p:.1g} after Holm" in verdict.why
    assert f"{sign * 1.0:+.2f}" in verdict.difference


def test_a_row_of_the_same_weights_may_move_in_both_directions(tmp_path):
    for number, name in enumerate(DATASETS):
        trained(tmp_path / "baseline", name)
        moved = range(103) if number % 2 else range(97)
        trained(tmp_path / "ours", name, moved)
    report = check(tmp_path / "ours", tmp_path / "baseline")
    assert report.ok
    assert report.summary.startswith(f"{len(DATASETS)} cells agree")


@pytest.mark.parametrize(("moved", "agrees"), [(8, True), (9, False)])
def test_the_level_is_one_percent_over_both_tests_of_the_row(tmp_path, moved, agrees):
    """One direction: p is 2 / 2**8 for 8 images, and twice that after Holm's correction."""
    for name in DATASETS[:3]:
        trained(tmp_path / "baseline", name)
        trained(
            tmp_path / "ours", name, range(100 + moved // 3 + (name == DATASETS[0]) * (moved % 3))
        )
    assert check(tmp_path / "ours", tmp_path / "baseline", tolerance=2).ok is agrees
    assert 2 * statistics.mcnemar(0, 9) < 0.01 < 2 * statistics.mcnemar(0, 8)


def test_other_versions_checkpoints_and_datasets_are_reported_where_counts_agree(tmp_path):
    for name in DATASETS[:3]:
        trained(tmp_path / "baseline", name)
        path = trained(tmp_path / "ours", name, checkpoint="c2", dataset__digest="other")
        result = edited(results.read(path), versions={"zsrobust": "0.1.0", "torch": "9"})
        results.write(result, results.Outcomes.read(path), tmp_path / "ours")
    report = check(tmp_path / "ours", tmp_path / "baseline")
    assert report.ok
    first = "mini/sound/pgd10-eps=6-255/tecoa"
    assert (
        f"Another checkpoint of tecoa (3 cells, first {first}/{min(DATASETS[:3])})." in report.notes
    )
    assert any(
        note.startswith("Another version of torch: 9, in the baseline not stored (3 cells, first ")
        for note in report.notes
    )
    images = [note for note in report.notes if note.startswith("Another dataset")]
    assert images == [
        f"Another dataset {name}: digest (1 cell, first {first}/{name})."
        for name in sorted(DATASETS[:3])
    ]


DATASETS = [name for name in suites.load("mini").datasets if name != "mini_train"]


def retrained(tmp_path, lost, gained, count):
    """Store a baseline, and its cells trained again: of 100 robust images `lost` go, of the others `gained` come."""
    for name in DATASETS[:count]:
        trained(tmp_path / "baseline", name)
        trained(
            tmp_path / "ours", name, [*range(lost, 100), *range(100, 100 + gained)], checkpoint="c2"
        )
    return check(tmp_path / "ours", tmp_path / "baseline")


def test_a_training_repeated_may_flip_images_at_random(tmp_path):
    generator = np.random.default_rng(0)
    for name in DATASETS:
        trained(tmp_path / "baseline", name)
        flipped = set(range(100)) ^ set(generator.choice(200, 20, replace=False))
        trained(tmp_path / "ours", name, flipped, checkpoint="c2")
    report = check(tmp_path / "ours", tmp_path / "baseline")
    assert report.ok
    assert report.summary == (
        "15 cells agree (15 retrained within tolerance 1 points or the paired test at 1%); 0 do not; 0 more in the folder"
    )
    note, origin = report.notes
    assert note.startswith("mini/sound/pgd10-eps=6-255/tecoa was retrained: +0.00 / ")
    assert origin.startswith("Another checkpoint of tecoa (15 cells, first mini/sound/")


def test_a_training_repeated_may_not_lose_a_tenth(tmp_path):
    report = retrained(tmp_path, lost=30, gained=0, count=3)
    assert ways(report) == [None] * 4
    p = 6 * 2 / 2**30  # of three cells, clean and robust
    assert {each.why for each in report.verdicts[1:]} == {
        f"retrained: robust -30 of 300 images, p {p:.1g} after Holm's correction"
    }


def test_within_the_tolerance_a_retrained_cell_is_not_tested(tmp_path):
    retrained(tmp_path, lost=12, gained=0, count=1)
    assert only(check(tmp_path / "ours", tmp_path / "baseline", tolerance=3.9)).why.startswith(
        "retrained: robust -12 of 300"
    )
    assert check(tmp_path / "ours", tmp_path / "baseline", tolerance=4).ok


def test_losses_that_no_cell_can_tell_from_chance_show_in_the_mean(tmp_path):
    verdict = only(retrained(tmp_path, lost=8, gained=2, count=15))
    assert verdict.cell == "mini/sound/pgd10-eps=6-255/tecoa"
    assert verdict.why.startswith("retrained: the mean of 15 cells moved, p ")
    assert (verdict.ours, verdict.baseline, verdict.difference) == (
        "66.67 / 31.33",
        "66.67 / 33.33",
        "+0.00 / -2.00",
    )


def test_clean_images_count_as_robust_ones_do(tmp_path):
    trained(tmp_path / "baseline")
    trained(tmp_path / "ours", clean=range(170), checkpoint="c2")
    assert only(check(tmp_path / "ours", tmp_path / "baseline")).why.startswith(
        "retrained: clean -30 of 300 images"
    )


@pytest.mark.parametrize("changes", [{"dataset__digest": "d2"}, {"labels": 1}, {"limit": 200}])
@pytest.mark.parametrize("checkpoint", ["c1", "c2"])
def test_other_images_are_compared_by_interval(baseline, ours, changes, checkpoint):
    trained(ours, robust=range(120), checkpoint=checkpoint, **changes)
    assert ways(check(ours, baseline)) == ["interval"]
    trained(ours, robust=range(150), checkpoint=checkpoint, **changes)
    verdict = only(check(ours, baseline))
    low, high = (100 * end for end in statistics.newcombe((100, 300), (150, 300)))
    how = "retrained, by interval" if checkpoint == "c2" else "by interval"
    assert verdict.why == f"{how}: robust differs by {low:+.2f} to {high:+.2f}"
    assert low > 1
    assert check(ours, baseline, tolerance=low + 0.01).ok
    assert not check(ours, baseline, tolerance=low - 0.01).ok


def test_without_outcomes_on_a_side_the_interval_decides(baseline, ours):
    trained(ours, robust=range(110))
    for folder in (baseline, ours):
        next(folder.glob("**/*.npz")).unlink()
        assert ways(check(ours, baseline)) == ["interval"]
    assert "1 by interval" in check(ours, baseline).summary


def test_limits_are_matched_where_the_baseline_has_several(baseline, ours):
    trained(baseline, limit=30)
    trained(ours, limit=30)
    report = check(ours, baseline)
    assert [(each.cell.rpartition("/")[2], each.way) for each in report.verdicts] == [
        ("mini_shapes", None),
        ("mini_shapes.limit=30", "identical"),
    ]
    assert only(report).why == "missing; stored with limit 30"


def test_a_file_that_was_edited_by_hand_does_not_agree(baseline, ours):
    path = trained(ours)
    stored = json.loads(path.read_text())
    stored["robust_correct"] = 120
    path.write_text(json.dumps(stored))
    report = check(ours, baseline, tolerance=100)
    assert "edited: its digest does not fit" in only(report).why
    with pytest.raises(ZSRobustError, match="edited"):
        check(baseline, ours)


def test_damaged_files_count_unless_the_baseline_has_them_and_was_not_asked(baseline, ours):
    shutil.copytree(baseline, ours)
    extra = trained(ours, "mini_flags")
    extra.write_text("{}")
    assert only(check(ours, baseline)).cell == "mini/sound/pgd10-eps=6-255/tecoa/mini_flags"
    trained(baseline, "mini_flags")
    assert len(check(ours, baseline).verdicts) == 2
    assert check(ours, baseline, keep=lambda about: about["dataset"] == "mini_shapes").ok


def test_outcomes_must_be_those_that_were_counted(baseline, ours):
    path = trained(ours)
    other = trained(ours, "mini_flags", robust=range(50))
    path.with_suffix(".npz").write_bytes(other.with_suffix(".npz").read_bytes())
    assert only(check(ours, baseline)).why == "the outcomes are of another run"
    with pytest.raises(
        ZSRobustError, match="is not a valid baseline: the outcomes are of another run"
    ):
        check(baseline, ours, keep=lambda about: about["dataset"] == "mini_shapes")
    result = results.read(other)
    results.write(
        result, results.Outcomes.read(trained(ours)), ours
    )  # a wrong count, and a digest that fits
    trained(baseline, "mini_flags")
    assert only(check(ours, baseline)).why == "the counts do not follow from the outcomes"


def test_failed_cells(baseline, ours):
    path = trained(ours)
    error = "Traceback\nValueError: no\n"
    result = edited(results.read(path), status="failed", error=error, outcomes=None)
    results.write(result, None, ours)
    assert only(check(ours, baseline)).why == "failed: ValueError: no"
    with pytest.raises(ZSRobustError, match="only failed ones"):
        check(baseline, ours)
    trained(ours, "mini_flags")
    trained(baseline, "mini_flags")
    report = check(baseline, ours)
    assert (report.ok, ways(report), report.extra) == (True, ["identical"], 0)
    assert report.notes == [
        "mini/sound/pgd10-eps=6-255/tecoa/mini_shapes failed in the baseline, and is left out."
    ]


@pytest.mark.parametrize("error", ["", " \n"])
def test_a_failed_cell_without_a_stored_error_does_not_agree(baseline, ours, error):
    path = trained(ours)
    result = edited(results.read(path), status="failed", error=error, outcomes=None)
    results.write(result, None, ours)
    assert only(check(ours, baseline)).why == "failed: no error is stored"


def test_a_filter_sees_what_a_cell_is(baseline, ours):
    shutil.copytree(baseline, ours)
    store(baseline, "clip", "mini_shapes", attack="autoattack", limit=32)
    seen = []
    assert check(
        ours, baseline, keep=lambda about: seen.append(about) or about["defense"] == "tecoa"
    ).ok
    assert {
        "suite": "mini",
        "protocol": "sound",
        "attack": "autoattack",
        "eps": "6/255",
        "defense": "clip",
        "dataset": "mini_shapes",
        "seed": 0,
        "limit": 32,
    } in seen


def test_nothing_to_compare_is_an_error(baseline, ours):
    with pytest.raises(ZSRobustError, match="The results folder .*ours is missing"):
        check(ours, baseline)
    with pytest.raises(ZSRobustError, match="The results folder .*ours is missing"):
        check(baseline, ours)
    with pytest.raises(ZSRobustError, match="has no such cells"):
        check(baseline, baseline, keep=lambda about: False)


PAPER = suites.load("paper")


def measured(
    folder,
    counts,
    dataset="cifar10",
    defense="clip",
    attack="pgd10",
    eps="1/255",
    suite="paper",
    status="ok",
):
    """Store counts (images, clean, robust) as a cell of the paper's suite."""
    images, clean, robust = counts
    result = make(
        defense,
        dataset,
        attack,
        images=images,
        clean_correct=clean,
        robust_correct=robust,
        status=status,
    )
    results.write(edited(result, {"suite": suite, "attack.eps": eps}), None, folder)


def cells_of(report):
    return [each for each in report.verdicts if not each.row]


def test_the_papers_numbers_are_held_against_our_intervals(tmp_path):
    robust, clean = (reported.cell(number, "clip", "cifar10").percent for number in "12")
    measured(tmp_path, (10_000, round(clean * 100), round(robust * 100)))
    report = check_paper(load_results(tmp_path), PAPER, tolerance=0)
    assert [each.way for each in cells_of(report)] == ["paper", "paper"]
    assert report.summary.startswith(
        "2 cells agree (2 within tolerance 0 points of our 95% interval); 0 do not, nor 2 rows"
    )
    assert not report.ok  # fifteen datasets are missing
    assert [each.why[:22] for each in report.verdicts if each.row] == ["not measured: cifar100"] * 2
    measured(tmp_path, (10_000, round(clean * 100), 1000))
    (verdict,) = (
        each for each in cells_of(check_paper(load_results(tmp_path), PAPER)) if each.way is None
    )
    assert verdict.cell == "Table 1: sound/pgd10-eps=1-255/clip/cifar10"
    assert (verdict.ours, verdict.baseline) == ("10.00 (9.43–10.60)", str(robust))
    assert verdict.difference == f"{10 - robust:+.2f}"


def test_the_bound_of_agreement_with_the_paper(tmp_path):
    printed = float(reported.cell("1", "clip", "cifar10").percent)
    measured(tmp_path, (10_000, 10_000, 1000))
    off = printed - 0.005 - 100 * wilson(1000, 10_000)[1]
    keep = {"keep": lambda about: about["attack"] == "pgd10"}
    for tolerance, way in ((off + 0.001, "paper"), (off - 0.001, None)):
        found = check_paper(load_results(tmp_path), PAPER, tolerance=tolerance, **keep).verdicts
        assert next(each for each in found if each.cell.startswith("Table 1")).way == way


def test_what_is_doubtful_stands_beside_the_papers_number(tmp_path):
    doubtful = reported.cells().query("doubt != '' and table == '1'").iloc[0]
    measured(tmp_path, (1000, 1000, 1000), doubtful["dataset"], doubtful["defense"])
    report = check_paper(load_results(tmp_path), PAPER)
    (verdict,) = [each for each in cells_of(report) if each.cell.startswith("Table 1")]
    first = doubtful["doubt"].split(";")[0]
    assert f"doubtful: {first}" in verdict.why
    assert any(note.startswith(f"{first}: printed") for note in report.notes)


def test_tables_1_to_3_are_compared_at_one_bound_of_one_suite(tmp_path):
    measured(tmp_path, (10, 5, 5), attack="autoattack")
    measured(tmp_path, (10, 5, 5), attack="pgd:steps=3")
    report = check_paper(load_results(tmp_path), PAPER, tolerance=100)
    assert [each.cell[:7] for each in cells_of(report)] == ["Table 3"]
    assert report.extra == 1
    measured(tmp_path, (10, 5, 5), eps="4/255", defense="tecoa")
    assert len(cells_of(check_paper(load_results(tmp_path), PAPER, tolerance=100))) == 1
    measured(tmp_path, (10, 5, 5), status="failed", defense="ft_standard")
    failed = check_paper(load_results(tmp_path), PAPER, tolerance=100)
    assert [each.why for each in cells_of(failed) if each.way is None] == ["failed", "failed"]
    with pytest.raises(
        ZSRobustError, match="The paper has no numbers on the suite paper, or on these cells"
    ):
        check_paper(load_results(tmp_path), PAPER, keep=lambda about: about["defense"] == "tecoa")
    measured(tmp_path, (10, 5, 5), suite="mini")
    with pytest.raises(ZSRobustError, match="The paper has no numbers on the suite mini"):
        check_paper(load_results(tmp_path), suites.load("mini"))


def test_a_limit_chooses_among_ours_and_whole_sets_of_the_baseline_are_compared_by_interval(
    tmp_path,
):
    ours, baseline = tmp_path / "ours", tmp_path / "baseline"
    for folder in (ours, baseline):
        results.write(
            make("clip", "mini_a", images=8, clean_correct=5, robust_correct=2), None, folder
        )
    results.write(
        make("clip", "mini_b", images=100, clean_correct=50, robust_correct=20), None, baseline
    )
    results.write(
        make("clip", "mini_b", limit=20, images=20, clean_correct=10, robust_correct=4), None, ours
    )
    assert not check(ours, baseline, limit=10).ok
    report = check(ours, baseline, limit=20)
    assert report.ok
    assert [each.way for each in report.verdicts] == ["interval", "interval"]


def test_the_command_of_tox_recomputes_and_compares_with_its_own_tolerance(zsrobust, tmp_path):
    root = Path(__file__).parents[1]
    (command,) = re.findall(
        r"python (benchmarks/regression\.py) .*\{posargs\}", (root / "tox.ini").read_text()
    )
    assert "`tox -e regression -- --tolerance 0`" in (root / "CONTRIBUTING.md").read_text()
    (tmp_path / "small.toml").write_text('like = "mini"\ndatasets = ["mini_cells"]\n')
    part = ("--suite", "small.toml", "--defense", "clip", "--attack", "pgd:steps=1", "--limit", "4")
    zsrobust("run", *part, "--results", "before")

    def run(tolerance: str) -> subprocess.CompletedProcess[str]:
        what = ("--results", "again", "--against", "before", "--tolerance", tolerance, *part)
        words = [sys.executable, str(root / command), *what]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    done = run("0")
    assert done.returncode == 0, done.stderr
    assert "4 images attacked" in done.stdout
    assert "1 cell agrees" in done.stdout or "1 cells agree" in done.stdout
    refused = run("101")  # the option reaches `check`
    assert refused.returncode == 2
    assert "101" in refused.stderr

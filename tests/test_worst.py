"""Table t1's worst case: counted from the outcomes of several attacks, image by image."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from zsrobust.reporting import columns, formats, measures, ranking
from zsrobust.reporting.contents import TABLES
from zsrobust.reporting.rows import Row
from zsrobust.reporting.tables import build
from zsrobust.results import Outcomes, Result, load_results, write
from zsrobust.results.flags import look_up
from zsrobust.results.identity import AttackIdentity, DatasetIdentity, DefenseIdentity, Identity
from zsrobust.results.selection import Selection
from zsrobust.settings import suites

MINI = suites.load("mini")
#: Which of eight images survive, by attack; each attack alone leaves five or more.
SURVIVORS = {
    "pgd10": "11111110",
    ranking.ADAPTIVE: "11111000",
    "transfer": "11101111",
    "square:queries=200": "11011111",
}
TITLES = {
    "clip": "CLIP",
    "tte:of=clip": "TTE (CLIP)",
    "tte:knowledge=oblivious,of=clip": "TTE (CLIP), oblivious attack",
}
WORST = 3  # images 0, 1 and 4


def stored(
    folder, spec, attack, dataset, survivors, labels=None, digest="a", checkpoint="c", flags=()
):
    """Store a cell of eight images, all of them classified correctly before the attack."""
    labels = np.arange(8) % 4 if labels is None else labels
    right = np.array([each == "1" for each in survivors])
    outcomes = Outcomes(labels, labels, np.where(right, labels, (labels + 1) % 4), np.ones(8, "f4"))
    knowledge = {"knowledge": "oblivious" if "oblivious" in spec else "adaptive"}
    identity = Identity(
        suite="mini",
        protocol="sound",
        defense=DefenseIdentity(
            spec,
            TITLES[spec],
            {"checkpoint": checkpoint, **(knowledge if ":" in spec else {})},
        ),
        attack=AttackIdentity(attack, 6 / 255),
        dataset=DatasetIdentity(
            dataset, dataset, None, {"images": 8, "classes": 4, "digest": digest}
        ),
        seed=0,
    )
    result = Result(
        identity=identity,
        images=8,
        clean_correct=8,
        robust_correct=int(right.sum()),
        largest_class=2,
        flags=list(flags),
        cost={"passes": 10, "seconds": 0.03, "plain_seconds": 0.01, "memory": 2**21},
    )
    write(result, outcomes, folder)


def specs(attack):
    return "tte:knowledge=oblivious,of=clip" if attack == "pgd10" else "tte:of=clip"


def filled(folder, **other):
    for attack, survivors in SURVIVORS.items():
        for name in MINI.datasets[:: ranking.EVERY]:
            stored(folder, specs(attack), attack, name, survivors, **other.get(attack, {}))
    return load_results(folder)


def line(frame):
    table = build("t1", frame, Selection.of(MINI))
    entries = dict(table.rows)["TTE (CLIP)"]
    return dict(zip(table.header[1:], entries, strict=True))


def test_an_image_counts_if_it_survives_every_attack(tmp_path):
    found = line(filled(tmp_path))
    assert found["Clean"].text == "100.00"
    assert found["Oblivious"].text == f"{100 * 7 / 8:.2f}"
    assert found["Adaptive"].text == f"{100 * 5 / 8:.2f}"
    assert found["Worst"].text == f"{100 * WORST / 8:.2f}"
    assert found["Worst, above chance"].text == f"{100 * (WORST / 8 - 1 / 4) / (3 / 4):.2f}"
    assert found["Passes"].text == "10"
    assert found["Added (ms)"].text == "20.0"
    assert found["Memory (MiB)"].text == "2.0"


def test_the_worst_is_marked_and_oblivious_numbers_are_not(tmp_path):
    frame = filled(tmp_path)
    for attack in SURVIVORS:
        for name in MINI.datasets[:: ranking.EVERY]:
            stored(tmp_path, "clip", attack, name, "11000000")
    frame = load_results(tmp_path)
    found = line(frame)
    assert found["Worst"].best
    assert not found["Oblivious"].best
    table = build("t1", frame, Selection.of(MINI))
    base = dict(zip(table.header[1:], dict(table.rows)["CLIP"], strict=True))
    # Without a wrapper, the oblivious cell is the cell itself, and the attack knows all there is.
    assert (base["Oblivious"].text, base["Oblivious"].mark) == ("25.00", "")
    assert (base["Rank"].text, found["Rank"].text) == ("", "1")


@pytest.mark.parametrize("suffix", [".md", ".tex", ".csv", ".html"])
def test_a_row_says_that_the_attack_does_not_know_the_defense(tmp_path, suffix):
    frame = filled(tmp_path)
    page = build("t1", frame, Selection.of(MINI))
    entry = line(frame)["Oblivious"]
    assert entry.mark == "oblivious"
    assert columns.UNAWARE in entry.notes[-1]
    (row,) = (each for each in formats.render(page, suffix).split("\n") if "TTE (CLIP)" in each)
    assert row.count("oblivious") == 1


def test_a_row_of_oblivious_attacks_alone_has_no_rank(tmp_path):
    spec = "tte:knowledge=oblivious,of=clip"
    filled(tmp_path)
    for attack in SURVIVORS:
        for name in MINI.datasets[:: ranking.EVERY]:
            stored(tmp_path, spec, attack, name, "11111111")
    page = build("t1", load_results(tmp_path), Selection.of(MINI), more=[spec])
    title, (rank, *entries) = page.rows[-1]
    assert title == f"{TITLES[spec]}: {columns.UNAWARE}"
    assert (rank.text, entries[1].text, entries[1].best) == ("", "100.00", False)
    assert dict(page.rows)["TTE (CLIP)"][0].text == "1"


def scored(worst, clean):
    shares = dict(zip((ranking.WORST, ranking.CLEAN), (worst, clean), strict=True))
    return {title: columns.Entry(share=share) for title, share in shares.items()}


def test_defenses_are_ranked_around_each_classifier_by_worst_then_clean():
    half, third, quarter = Fraction(1, 2), Fraction(1, 3), Fraction(1, 4)
    found = {
        "low:of=clip": scored(quarter, half),
        "missing:of=clip": scored(None, half),
        "clip": scored(half, half),
        "tie:of=clip": scored(third, half),
        "top:of=clip": scored(third, third + half),
        "other:of=tecoa": scored(quarter, quarter),
        "twin:of=clip": scored(third, half),
        "mine": scored(half, half),
    }
    ranks = ranking.ranks(found)
    assert [(spec, entry.text) for spec, entry in ranks.items()] == [
        ("clip", ""),
        ("top:of=clip", "1"),
        ("tie:of=clip", "2"),
        ("twin:of=clip", "2"),
        ("low:of=clip", "4"),
        ("missing:of=clip", "—"),
        ("other:of=tecoa", "1"),
        ("mine", ""),
    ]


def test_no_oblivious_number_is_read_by_the_rank():
    found = {f"{name}:of=clip": scored(Fraction(1, 2), Fraction(1, 2)) for name in "ab"}
    found["b:of=clip"]["Oblivious"] = columns.Entry(share=Fraction(1))
    assert {entry.text for entry in ranking.ranks(found).values()} == {"1"}


@pytest.mark.parametrize("attack", ["transfer", "adaptive"])
def test_a_missing_attack_leaves_a_dash(tmp_path, attack):
    filled(tmp_path)
    for path in tmp_path.rglob("*.json"):
        if attack in str(path.relative_to(tmp_path)):
            path.unlink()
    assert line(load_results(tmp_path))["Worst"].text == "—"


@pytest.mark.parametrize(
    "other", [{"labels": (np.arange(8) + 1) % 4}, {"digest": "b"}, {"checkpoint": "d"}]
)
def test_other_images_and_other_checkpoints_are_not_combined(tmp_path, other):
    assert line(filled(tmp_path, transfer=other))["Worst"].text == "—"


def test_edited_outcomes_are_not_combined(tmp_path):
    frame = filled(tmp_path)
    path = next(tmp_path.rglob("transfer*/**/*.npz"))
    path.write_bytes(path.read_bytes() + b"x")
    assert line(frame)["Worst"].text == "—"


def test_a_red_flag_makes_the_verdict_doubtful():
    def row(*flags):
        return Row(MINI, {"mini_shapes": {"flags": list(flags)}})

    assert columns.verdict([row()]).text == "no flag"
    assert columns.verdict([row("at_chance")]).text == "no flag"
    assert columns.verdict([row(), row("at_chance", "vanishing")]).text == "doubtful"
    assert columns.verdict([row("vanishing"), Row(MINI, {})]).text == "—"


@pytest.mark.parametrize(
    ("attack", "verdict"),
    [
        (ranking.ADAPTIVE, "doubtful"),
        ("square:queries=200", "doubtful"),
        ("transfer", "no flag"),
        ("pgd10", "no flag"),
    ],
)
def test_the_verdict_reads_the_flags_of_attacks_that_see_the_defense(tmp_path, attack, verdict):
    found = line(filled(tmp_path, **{attack: {"flags": ["cliffs"]}}))
    assert found["Verdict"].text == verdict
    assert look_up("cliffs").sentence in found["Worst"].notes


def test_every_attack_of_the_ranking_sees_the_same_images():
    table = TABLES["t1"]
    for spec in table.rows:
        needs = {(need.every, need.limit) for need in table.needs(spec, MINI)}
        assert needs == {(4, MINI.limits["adaptive"])}
        assert len(ranking.needs(spec, MINI)) == len(set(ranking.needs(spec, MINI))) == 4


def test_the_worst_of_one_row_is_the_row(tmp_path):
    frame = filled(tmp_path)
    cells = frame[frame["attack"] == ranking.ADAPTIVE].to_dict("records")
    suite = dataclasses.replace(MINI, datasets=MINI.datasets[::4])
    row = Row(suite, {cell["dataset"]: cell for cell in cells})
    assert measures.worst_of([row]).mean("robust") == row.mean("robust")

"""The leaderboard: an image counts if it survives every attack, and only attackers who know a defense give it a rank."""

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from zsrobust.defenses import defenses
from zsrobust.reporting.standings import REMARK, Ranking, Standing, _sources, kind, rankings
from zsrobust.results.cell import Outcomes, Result
from zsrobust.results.identity import Identity
from zsrobust.results.store import load_results, write
from zsrobust.settings import suites

MINI = suites.load("mini")
TWO = replace(MINI, datasets=("mini_shapes", "mini_colors"))
IMAGES = 40


def cells(
    folder: Path,
    spec: str,
    attack: str,
    robust: float,
    *,
    checkpoint: str = "one",
    datasets: tuple[str, ...] = TWO.datasets,
    seed: int = 0,
    trained: int | None = None,
) -> None:
    """Write the cells of a defense under an attack, which leaves about so many images of all."""
    for dataset in datasets:
        random = np.random.default_rng(sum(map(ord, f"{spec}{attack}{dataset}{seed}")))
        labels = np.arange(IMAGES) % 4
        kept = random.permutation(IMAGES) < round(robust * IMAGES)
        adversarial = np.where(kept, labels, (labels + 1) % 4)
        outcomes = Outcomes(labels, labels, adversarial, np.full(IMAGES, 0.02, np.float32))
        knowledge = "oblivious" if "knowledge=oblivious" in spec else "adaptive"
        defense = {"spec": spec, "title": spec.split(":")[0].upper(), "checkpoint": checkpoint}
        if trained is not None:
            defense["recipe"] = {"seed": trained}
        if "of=" in spec:
            defense["knowledge"] = knowledge
        about = {"name": dataset, "title": dataset, "images": IMAGES, "limit": None, "classes": 4}
        identity = {
            "suite": "mini",
            "protocol": "sound",
            "defense": defense,
            "attack": {"spec": attack, "eps": "6/255"},
            "dataset": about,
            "seed": 0,
        }
        result = Result(
            identity=Identity.from_json(identity),
            images=IMAGES,
            clean_correct=outcomes.clean_correct,
            robust_correct=outcomes.robust_correct,
            seconds=1.0,
            forward=1,
            backward=1,
            device="cpu",
            versions={},
        )
        write(result, outcomes, folder)


def ranking(folder: Path) -> Ranking:
    (found,) = rankings(load_results(folder), [TWO])
    return found


def standing(folder: Path, spec: str) -> Standing:
    (found,) = [each for each in ranking(folder).standings if each.spec == spec]
    return found


def survivors(folder: Path, spec: str, *attacks: str) -> Fraction:
    """The mean share of images that survive all of the attacks, counted from the files."""
    shares = []
    for dataset in TWO.datasets:
        right = [
            Outcomes.read(path).right(False).robust
            for attack in attacks
            for path in folder.glob(f"mini/sound/{attack}-eps*/{spec}/{dataset}.json")
        ]
        assert len(right) == len(attacks)
        shares.append(Fraction(int(np.logical_and.reduce(right).sum()), IMAGES))
    return sum(shares, Fraction(0)) / len(shares)


def test_an_image_counts_if_it_survives_every_attack(tmp_path):
    for attack, robust in (("autoattack", 0.5), ("pgd100", 0.6), ("square", 0.7)):
        cells(tmp_path, "tecoa", attack, robust)
    found = standing(tmp_path, "tecoa")
    expected = survivors(tmp_path, "tecoa", "autoattack", "pgd100", "square")
    assert found.worst.share == expected < Fraction(1, 2)
    assert found.rank == 1
    assert [name for name, _, _ in found.numbers] == ["autoattack", "pgd100", "square"]


def test_the_ranked_number_is_the_mean_over_the_seeds_with_the_same_attacks(tmp_path):
    robust = {"tecoa": 0.5, "tecoa:seed=1": 0.7, "tecoa:seed=2": 0.6}
    for trained, (spec, share) in enumerate(robust.items()):
        cells(tmp_path, spec, "pgd10", share + 0.1, trained=trained, checkpoint=spec)
        if trained < 2:
            cells(tmp_path, spec, "autoattack", share, trained=trained, checkpoint=spec)
    cells(tmp_path, "fare", "autoattack", 0.55, trained=0)
    found = standing(tmp_path, "tecoa")
    assert [each.spec for each in found.seeds] == ["tecoa:seed=1", "tecoa:seed=2"]
    assert found.seeded == "2 of 3 seeds; missing: 2"
    named = [spec.replace(":", "-") + "*" if ":" in spec else spec for spec in robust]
    both = [survivors(tmp_path, name, "autoattack", "pgd10") for name in named[:2]]
    assert found.worst.share == sum(both) / 2
    spread = 100 * abs(float(both[0] - both[1])) / 2**0.5
    assert found.worst.spread == f"{spread:.2f}"
    entries = {name: entry for name, entry, _ in found.numbers}
    every = [survivors(tmp_path, name, "pgd10") for name in named]
    assert entries["pgd10"].share == sum(every) / 3
    specs = [each.spec for each in ranking(tmp_path).standings]
    assert sorted(specs) == ["fare", "tecoa"]  # one row for the three trainings
    above = [found.key[0], standing(tmp_path, "fare").key[0]]
    assert found.above_chance.share == found.key[0]
    assert (found.rank == 1) == (above[0] > above[1])
    one = standing(tmp_path, "fare")
    assert (one.seeded, one.worst.spread) == ("", "")
    assert one.worst.interval is not None


def test_what_does_not_know_the_defense_lowers_its_number_and_gives_no_rank(tmp_path):
    cells(tmp_path, "tte:knowledge=oblivious,of=clip", "autoattack", 0.9)
    found = standing(tmp_path, "tte:of=clip")
    assert (found.rank, found.worst.share) == (None, None)
    assert "no attack that knows the defense" in found.worst.about
    assert [remark for *_, remark in found.numbers] == [REMARK]
    cells(tmp_path, "tte:of=clip", "adaptive", 0.5)
    found = standing(tmp_path, "tte:of=clip")
    specs = ("tte-knowledge=oblivious*", "tte-of=clip")
    right = [
        [
            Outcomes.read(path).right(False).robust
            for path in sorted(tmp_path.glob(f"mini/sound/*/{each}/*.json"))
        ]
        for each in specs
    ]
    both = [int((one & other).sum()) for one, other in zip(*right, strict=True)]
    assert found.worst.share == Fraction(sum(both), 2 * IMAGES)
    assert found.rank == 1
    assert len(ranking(tmp_path).standings) == 1  # the oblivious row is no row of its own


def test_a_rank_needs_a_strong_attack(tmp_path):
    cells(tmp_path, "tecoa", "pgd10", 0.9)
    cells(tmp_path, "fare", "pgd10", 0.5)
    cells(tmp_path, "fare", "autoattack", 0.4)
    by_spec = {each.spec: each for each in ranking(tmp_path).standings}
    assert [each.spec for each in ranking(tmp_path).standings] == ["fare", "tecoa"]
    assert by_spec["fare"].rank == 1
    assert by_spec["tecoa"].rank is None
    assert by_spec["tecoa"].why.startswith("no strong attack is stored: autoattack")
    assert by_spec["tecoa"].worst.share == Fraction(9, 10)  # shown, below the ranked ones


def test_equal_numbers_share_a_rank(tmp_path):
    for spec, robust in (("tecoa", 0.5), ("fare", 0.3), ("lore", 0.5), ("agft", 0.75)):
        cells(tmp_path, spec, "autoattack", robust)
    ranks = {each.spec: each.rank for each in ranking(tmp_path).standings}
    assert ranks == {"agft": 1, "lore": 2, "tecoa": 2, "fare": 4}


def test_attacks_on_another_checkpoint_do_not_count(tmp_path):
    cells(tmp_path, "tecoa", "autoattack", 0.5)
    cells(tmp_path, "tecoa", "pgd100", 0.1, checkpoint="two")
    found = standing(tmp_path, "tecoa")
    assert found.worst.share == Fraction(1, 2)
    assert list(found.counted) == ["autoattack"]
    assert [remark != "" for *_, remark in found.numbers] == [False, True]


def test_an_attack_on_some_of_the_datasets_does_not_count(tmp_path):
    cells(tmp_path, "tecoa", "autoattack", 0.5)
    cells(tmp_path, "tecoa", "square", 0.1, datasets=("mini_colors",))
    assert list(standing(tmp_path, "tecoa").counted) == ["autoattack"]


def test_variants_are_folded_under_their_method_and_take_no_rank(tmp_path):
    specs = ("pmg_aft", "pmg_aft:alpha=0", "pmg_aft_code", "interpolation:of=pmg_aft", "fare_code")
    for spec, robust in zip(specs, (0.5, 0.9, 0.8, 0.7, 0.4), strict=True):
        cells(tmp_path, spec, "autoattack", robust)
    found = {each.spec: (each.rank, each.under) for each in ranking(tmp_path).standings}
    assert found["pmg_aft"] == (1, "")
    assert found["fare_code"] == (2, "")  # its method has no row
    assert {found[spec] for spec in specs[1:4]} == {(None, "pmg_aft")}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("clip", "undefended"),
        ("tecoa", "trained"),
        ("weights:model=a,name=b", "trained"),
        ("tecoa:eps=1/255", "ablation"),
        ("sim_clip_code", "ablation"),
        ("tte:of=clip", "test-time"),
        ("dbd:crops=2,of=tecoa", "test-time"),
        ("interpolation:of=tecoa,weight=0.5", "interpolation"),
        ("soup", "interpolation"),
    ],
)
def test_kinds(spec, expected):
    assert kind(spec) == expected


def test_sources_are_those_that_the_defenses_name():
    papers, code = _sources()["paper"], _sources()["code"]
    assert code.keys() <= papers.keys()
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", each) for each in code.values())
    for name, number in papers.items():
        assert f"arXiv {number}" in defenses[name].paper
    own = {name for name in defenses if re.search(r"arXiv \d", defenses[name].paper)}
    published = {name for name in own if defenses[name].__class__.__name__ == "Weights"}
    assert {name.removesuffix("_code") for name in own - published} <= papers.keys()

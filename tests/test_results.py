import hashlib
import json
import re

import numpy as np
import pytest
from edits import edited
from hypothesis import given
from hypothesis import strategies as st

from zsrobust import load_results, results
from zsrobust.core import files
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import slug, write_atomically
from zsrobust.results import store
from zsrobust.results.cell import Outcomes, Result, Samples
from zsrobust.results.identity import (
    AttackIdentity,
    DatasetIdentity,
    DefenseIdentity,
    Identity,
    differences,
)


def make(defense="clip", dataset="mini_shapes", attack="pgd10", limit=None, **changes):
    identity = Identity(
        "mini",
        "sound",
        DefenseIdentity(defense, defense.upper()),
        AttackIdentity(attack, 6 / 255),
        DatasetIdentity(dataset, dataset.removeprefix("mini_").title(), limit),
    )
    counts = {"images": 8, "clean_correct": 5, "robust_correct": 2}
    return Result(identity=identity, **{**counts, "versions": {"zsrobust": "0.1.0"}, **changes})


def outcomes():
    return Outcomes(
        labels=np.array([0, 1, 2, 0]),
        clean=np.array([0, 1, 0, 0]),
        adversarial=np.array([0, 2, 2, 1]),
        perturbation=np.array([0.1, 0.1, 0.0, 0.1], dtype=np.float32),
    )


def test_counts_come_from_outcomes_and_a_lucky_flip_is_not_robust():
    assert (outcomes().clean_correct, outcomes().robust_correct) == (3, 1)


def test_what_counts_as_robust_depends_on_which_images_were_attacked():
    lucky = Outcomes(*np.array([[0, 0, 1], [0, 1, 1], [0, 0, 0]]), np.zeros(3, np.float32))
    assert [each.tolist() for each in lucky.right(attacked_all=False)] == [
        [True, False, True],
        [True, False, False],
    ]
    assert lucky.right(attacked_all=True).robust.tolist() == [True, True, False]
    assert lucky.mean_per_class(attacked_all=True) == (0.75, 0.5)


def test_the_order_of_an_attacks_fields_does_not_split_a_row():
    """A row may have cells stored before and after the fields of an attack moved."""
    attack = {"spec": "pgd10", "eps": "6/255", "norm": "linf", "steps": 10}
    turned = dict(reversed(attack.items()))
    row = edited(make(), {"attack": attack}).identity.row
    assert edited(make(dataset="mini_colors"), {"attack": turned}).identity.row == row
    assert edited(make(), {"attack": {**attack, "steps": 9}}).identity.row != row


def test_a_result_and_its_outcomes_make_a_round_trip(tmp_path):
    result = make(flags=["a_flag"], messages=["a message"], training={"epoch_seconds": 1.5})
    path = results.write(result, outcomes(), tmp_path)
    assert path == tmp_path / "mini/sound/pgd10-eps=6-255/clip/mini_shapes.json"
    digest = hashlib.sha256(path.with_suffix(".npz").read_bytes()).hexdigest()
    assert results.read(path) == edited(result, outcomes=digest)
    again = Outcomes.read(path)
    assert all(
        np.array_equal(getattr(again, name), array) for name, array in vars(outcomes()).items()
    )
    assert outcomes().to_bytes() == path.with_suffix(".npz").read_bytes()
    assert sorted(each.name for each in path.parent.iterdir()) == [
        "mini_shapes.json",
        "mini_shapes.npz",
    ]


def test_a_stored_sentence_is_read_as_its_name_and_the_file_stays_as_it_is(tmp_path):
    path = results.write(make(), outcomes(), tmp_path)
    stored = json.loads(path.read_text())
    del stored["digest"]
    stored["flags"] = [
        "Red flag: the classifier computes gradients while it predicts.",
        "Mine: a foreign warning.",
    ]
    path.write_text(json.dumps({**stored, "digest": store._digest(stored)}))
    before = path.read_bytes()
    result = results.read(path)
    assert result.flags == ["attack_warned", "inside"]
    assert result.messages == ["Mine: a foreign warning."]
    assert load_results(tmp_path)["flags"].tolist() == [result.flags]
    assert path.read_bytes() == before


def test_only_names_are_stored_and_no_messages_leave_no_field(tmp_path):
    with pytest.raises(ZSRobustError, match="a flag is not a name"):
        results.write(make(flags=["Red flag: a sentence."]), outcomes(), tmp_path)
    path = results.write(make(flags=["inside"]), outcomes(), tmp_path)
    assert "messages" not in json.loads(path.read_text())


def test_subsets_and_seeds_are_stored_apart():
    names = {make().path, make(limit=4).path}
    other = edited(make(), {"seed": 1})
    assert len(names | {other.path}) == 3


def test_the_frame_has_a_row_a_cell(tmp_path):
    results.write(make(), outcomes(), tmp_path)
    results.write(make("pmg_aft:alpha=0,beta=0", status="failed", error="no"), None, tmp_path)
    frame = load_results(tmp_path)
    assert len(frame) == 2
    row = frame[frame["defense"] == "clip"].iloc[0].to_dict()
    expected = {"suite": "mini", "protocol": "sound", "defense": "clip", "attack": "pgd10"}
    expected |= {"eps": "6/255", "dataset": "mini_shapes", "seed": 0, "images": 8}
    expected |= {"clean_correct": 5, "robust_correct": 2, "status": "ok"}
    assert {name: row[name] for name in expected} == expected
    assert set(frame["status"]) == {"ok", "failed"}
    assert load_results(tmp_path / "absent").empty


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 4],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace("zsrobust-result-2", "another"),
        lambda text: text.replace('"robust_correct": 2', '"robust_correct": 9'),
        lambda text: text.replace('"robust_correct": 2', '"robust_correct": "2"'),
        lambda text: text.replace('"spec": "clip"', '"spec": "tecoa"'),
        lambda text: text.replace('"status"', '"estado"'),
        lambda text: text.replace('"ok"', '"weird"'),
        lambda text: text.replace('"title": "CLIP"', '"name": "CLIP"'),
        lambda text: re.sub(r'("(images|clean_correct|robust_correct)"): \d', r"\1: 0", text),
    ],
)
def test_a_file_that_is_not_ours_or_not_whole_is_refused_in_one_line(tmp_path, damage):
    path = results.write(make(), outcomes(), tmp_path)
    text = damage(path.read_text())
    if "digest" in text:  # or it alone would give every damage away
        stored = json.loads(text)
        del stored["digest"]
        text = json.dumps({**stored, "digest": store._digest(stored)})
    path.write_text(text)
    with pytest.raises(ZSRobustError, match="is not a result of zsrobust") as caught:
        load_results(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_outcomes_are_refused(tmp_path):
    path = results.write(make(), outcomes(), tmp_path)
    assert results.outcomes_match(results.read(path), path)
    content = path.with_suffix(".npz").read_bytes()
    for damaged in (b"PK", content[: len(content) // 2]):
        path.with_suffix(".npz").write_bytes(damaged)
        assert not results.outcomes_match(results.read(path), path)
        with pytest.raises(ZSRobustError, match="Run the cell again"):
            Outcomes.read(path)


def test_differences_name_the_fields():
    stored = {"a": 1, "b": {"c": 2, "d": 3, "title": "old"}, "e": None}
    asked = {"a": 1, "b": {"c": 2, "d": 4, "title": "new"}, "f": 5}
    assert list(map(str, differences(stored, asked))) == [
        "b.d is 4, stored 3",
        "f is 5, stored nothing",
    ]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a" / "b", b"content")
    assert not list((tmp_path / "a").iterdir())


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ZSRobustError, match="Cannot write .* Choose another folder"):
        write_atomically(tmp_path / "file" / "below", b"")


@given(st.text())
def test_a_slug_is_one_safe_name(text):
    made = slug(text)
    assert made
    assert not made.startswith(".")
    assert "/" not in made
    assert "\\" not in made


def test_ensembles_of_other_parts_lie_in_other_folders():
    assert slug("ensemble:of=pgd10+cw") == "ensemble-of=pgd10+cw" != slug("ensemble:of=pgd10:cw")


def test_samples_make_a_round_trip_and_go_with_their_cell(tmp_path):
    kept = Samples(
        np.array([3]), np.zeros((1, 3, 2, 2), np.uint8), np.full((1, 3, 2, 2), -127, np.int8), 0.25
    )
    path = results.write(make(), outcomes(), tmp_path, kept)
    again = Samples.read(path)
    assert again.scale == 0.25
    assert all(
        np.array_equal(getattr(again, name), getattr(kept, name))
        for name in ("positions", "pixels", "change")
    )
    results.write(make(), outcomes(), tmp_path)
    assert Samples.read(path) is None


@pytest.mark.parametrize("change", [("robust_correct", 3), ("seconds", 0.5), ("device", "another")])
def test_an_edited_result_is_refused_and_another_layout_is_not(tmp_path, change):
    path = results.write(make(), outcomes(), tmp_path)
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored))
    assert results.read(path) == make(outcomes=stored["outcomes"])
    path.write_text(json.dumps({**stored, change[0]: change[1]}))
    with pytest.raises(ZSRobustError, match="edited: its digest does not fit"):
        results.read(path)


def test_a_suites_folder_is_as_good_as_the_results_folder(tmp_path, monkeypatch):
    results.write(make(), outcomes(), tmp_path)
    assert len(load_results(tmp_path / "mini")) == len(load_results(tmp_path)) == 1
    monkeypatch.chdir(tmp_path / "mini")
    assert len(load_results(".")) == 1


def test_json_holds_counts_and_never_percentages(tmp_path):
    stored = json.loads(results.write(make(), outcomes(), tmp_path).read_text())
    assert all(
        isinstance(stored[name], int) for name in ("images", "clean_correct", "robust_correct")
    )

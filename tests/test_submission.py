"""Submissions: what is refused, what is stated, and what a recomputation finds; by the real command line."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_forged import PLACE, STORED, forge, moved, sealed

from zsrobust import results
from zsrobust.core.errors import ZSRobustError
from zsrobust.results.flags import look_up
from zsrobust.results.submission import FILE, TEXT, Submission, read

CLIP = Path("mini/sound/pgd10-eps=6-255/clip")

FLAGGED = Path("mini/sound/square-queries=200-eps=6-255/mac-of=clip/mini_shapes.limit=16.json")


@pytest.fixture
def measured(tmp_path):
    """Two small cells of the undefended model, as the repository stores them."""
    for name in ("mini_positions", "mini_shapes"):
        forge(tmp_path / "runs", CLIP / f"{name}.limit=16.json")
    return tmp_path / "runs"


def submit(zsrobust, folder, ok=0, **options):
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    return zsrobust("submit", str(folder), "--by", "Ada", "--out", "submission", *given, ok=ok)


def refused(zsrobust, tmp_path, folder):
    """What `zsrobust submit` refuses, a line each; nothing is written."""
    done = submit(zsrobust, folder, ok=1)
    assert done.stdout == ""
    assert not (tmp_path / "submission").exists()
    lines = done.stderr.splitlines()
    assert all(line.startswith("Refused: ") and ". Next: " in line for line in lines)
    return lines


def test_a_submission_is_accepted_and_its_slice_agrees(zsrobust, measured, tmp_path):
    said = submit(zsrobust, measured, contact="ada@x.org", note="one laptop").stdout
    assert said.startswith("submission written: 2 cells, submitted by Ada\n")
    stated = read(tmp_path / "submission")
    assert (stated.by, stated.contact, stated.note) == ("Ada", "ada@x.org", "one laptop")
    assert (stated.suites, stated.protocols, stated.machines) == (("mini",), ("sound",), ("cpu",))
    assert stated.versions.keys() >= {"zsrobust", "torch"}
    assert [Path(place).name for place in stated.cells] == [
        "mini_positions.limit=16",
        "mini_shapes.limit=16",
    ]
    for path in results.paths(measured):
        for suffix in (".json", ".npz", ".samples.npz"):
            file = path.with_suffix(suffix)
            copy = tmp_path / "submission" / file.relative_to(measured)
            assert copy.exists() == file.exists()
            assert not file.exists() or copy.read_bytes() == file.read_bytes()
    text = (tmp_path / "submission" / TEXT).read_text()
    assert "Ada (ada@x.org) ran these cells" in text
    for flag in stated.flags:
        assert look_up(flag).sentence in text
        assert look_up(flag).sentence in said
    done = zsrobust("verify", "submission", "--submission", "--recompute", "2", "--seed", "3")
    assert "2 of 2 cells are recomputed, drawn with --seed 3:" in done.stdout
    assert "2 cells agree (2 identical); 0 do not; 0 more in the folder" in done.stdout


def test_invented_outcomes_pass_the_digests_and_fail_the_recomputation(
    zsrobust, measured, tmp_path
):
    """Every digest and count is right; only a recomputation knows that an image did not survive."""
    forged = tmp_path / "forged"
    shutil.copytree(measured, forged)
    for path in results.paths(forged):
        result, outcomes = results.read(path), results.Outcomes.read(path)
        broken = (outcomes.clean == outcomes.labels) & (outcomes.adversarial != outcomes.labels)
        assert broken.any()
        adversarial = np.where(broken, outcomes.labels, outcomes.adversarial)
        better = dataclasses.replace(outcomes, adversarial=adversarial)
        counts = {"robust_correct": better.robust_correct, **better.class_counts}
        results.write(
            dataclasses.replace(result, **counts, flags=[]),
            better,
            forged,
            results.Samples.read(path),
        )
    submit(zsrobust, forged)
    zsrobust("verify", "submission", "--submission")
    done = zsrobust("verify", "submission", "--submission", "--recompute", "1", "--seed", "3", ok=1)
    assert "0 cells agree; 1 does not" in done.stdout
    assert "images have another outcome with the same weights" in done.stdout


def test_a_draw_depends_on_the_seed_alone_and_leaves_out_what_cannot_be_recomputed():
    from zsrobust.running.recompute import draw, recomputable

    stored = [results.read(path) for path in sorted((STORED / CLIP).glob("*.json"))]
    assert draw(stored, 3, 1) == draw(stored[::-1], 3, 1) != draw(stored, 3, 2)
    assert len(draw(stored, 99, 1)) == len(stored) == 20
    one = stored[0]
    for part, spec in (("defense", "weights:O/N"), ("defense", "mine"), ("attack", "mine")):
        other = dataclasses.replace(getattr(one.identity, part), spec=spec)
        identity = dataclasses.replace(one.identity, **{part: other})
        assert not recomputable(dataclasses.replace(one, identity=identity))
    identity = dataclasses.replace(one.identity, suite="paper")
    assert not recomputable(dataclasses.replace(one, identity=identity))
    assert recomputable(one)
    assert not recomputable(dataclasses.replace(one, status="failed"))


def test_red_flags_are_stated_and_refuse_nothing(zsrobust, tmp_path):
    forge(tmp_path / "runs", FLAGGED)
    said = submit(zsrobust, "runs").stdout
    assert f"1 cell with weak_attack: {look_up('weak_attack').sentence}" in said
    assert read(tmp_path / "submission").flags["weak_attack"] == 1


ABSENT = ("outcomes", "largest_class", "most_predicted")  # in a cell that failed


def failed(path, stored):
    path.with_suffix(".npz").unlink()
    stored = {**stored, "status": "failed", "error": "ValueError: it broke"}
    stored |= {"images": 0, "clean_correct": 0, "robust_correct": 0}
    sealed(path, {name: stored[name] for name in stored if name not in ABSENT})


def without(*names):
    def change(path, stored):
        for name in names:
            part = stored
            *outer, last = name.split(".")
            for key in outer:
                part = part[key]
            del part[last]
        sealed(path, stored)

    return change


def other_format(path, stored):
    path.write_bytes(path.read_bytes().replace(b"zsrobust-result-2", b"zsrobust-result-1"))


def edited(path, stored):
    path.write_text(path.read_text().replace('"robust_correct": ', '"robust_correct": 1'))


def flipped(path, stored):
    path.with_suffix(".npz").write_bytes(
        moved("adversarial", 0)(results.Outcomes.read(path)).to_bytes()
    )


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (edited, "edited: its digest does not fit"),
        (flipped, "these are not the outcomes that the result counts"),
        (lambda path, stored: path.with_suffix(".npz").unlink(), "the outcomes are missing"),
        (other_format, "another format"),
        (failed, "the cell failed: ValueError: it broke"),
        (without("versions"), "the versions of zsrobust and torch are missing"),
        (without("device"), "its machine is missing"),
        (without("checks"), "the measurements of its red flags are missing"),
        (without("identity.draws"), "its identity is not complete: draws"),
        (without("identity.attack.steps"), "its identity is not complete: attack.steps"),
        (without("identity.dataset.digest"), "its identity is not complete: dataset.digest"),
    ],
)
def test_what_is_refused(zsrobust, tmp_path, change, wrong):
    path = forge(tmp_path / "runs")
    change(path, json.loads(path.read_bytes()))
    lines = refused(zsrobust, tmp_path, "runs")
    assert any(f"runs/{PLACE.with_suffix('')}" in line and wrong in line for line in lines), lines


def test_an_empty_folder_and_several_suites_are_refused(zsrobust, tmp_path):
    (tmp_path / "empty").mkdir()
    (line,) = refused(zsrobust, tmp_path, "empty")
    assert line == "Refused: empty: it has no cells. Next: zsrobust run"
    for suite in ("mini", "paper"):
        path = forge(tmp_path / suite, identity={})
        stored = json.loads(path.read_bytes())
        stored["identity"]["suite"] = suite
        place = tmp_path / "runs" / suite / Path(*PLACE.parts[1:])
        place.parent.mkdir(parents=True)
        for suffix in (".npz", ".samples.npz"):
            shutil.copy(path.with_suffix(suffix), place.parent)
        sealed(place, stored)
    lines = refused(zsrobust, tmp_path, "runs")
    assert any(
        "runs: it has cells of several suites: mini, paper. Next: " in line for line in lines
    )


def test_the_folder_and_the_statement_are_checked(zsrobust, tmp_path):
    forge(tmp_path / "runs")
    submit(zsrobust, "runs")
    assert "--out submission is not empty" in submit(zsrobust, "runs", ok=2).stderr
    inside = zsrobust("submit", "runs", "--by", "Ada", "--out", "runs/new", ok=2)
    assert "is inside of runs" in inside.stderr
    two = zsrobust("submit", "runs", "--by", "Ada\nEve", "--out", "new", ok=2)
    assert "by = 'Ada\\nEve' is not valid; expected a line of text" in two.stderr
    assert "is not a submission" in zsrobust("verify", "runs", "--submission", ok=2).stderr


def test_verify_finds_what_differs_from_the_statement(zsrobust, tmp_path):
    other = PLACE.with_name("mini_shapes.json")
    forge(tmp_path / "runs")
    forge(tmp_path / "runs", other)
    submit(zsrobust, "runs")
    folder = tmp_path / "submission"
    whole = (folder / FILE).read_bytes()

    def said():
        return zsrobust("verify", "submission", ok=1).stdout

    for name, value in (("flags", {}), ("machines", ["cuda"]), ("suites", ["paper"])):
        (folder / FILE).write_text(json.dumps({**json.loads(whole), name: value}))
        assert f"{FILE}: its {name} are not those of the cells" in said()
    (folder / FILE).write_text(json.dumps({**json.loads(whole), "by": 3}))
    assert "by = 3 is not valid" in said()
    (folder / FILE).write_bytes(whole)
    (folder / "run.sh").write_text("true")
    assert "run.sh: this file is not part of a submission" in said()
    (folder / "run.sh").unlink()
    forge(folder, seconds=1.0)
    assert f"{PLACE}: {FILE} lists another digest" in said()
    forge(folder, PLACE.with_name("mini_flags.json"))
    assert f"mini_flags.json: {FILE} does not list it" in said()
    for suffix in (".json", ".npz", ".samples.npz"):
        (folder / other).with_suffix(suffix).unlink()
    assert f"mini_shapes.json: {FILE} lists it, and it is missing" in said()


def test_a_statement_comes_back(tmp_path):
    stated = Submission(
        suites=("mini",),
        protocols=("sound",),
        machines=("cpu",),
        versions={"torch": ("2", "3")},
        flags={},
        cells={"a": "0" * 64},
        by="Ada",
        date="2026-11-28",
        program="0.1.0",
    )
    (tmp_path / FILE).write_bytes(stated.to_bytes())
    assert read(tmp_path) == stated
    assert read(tmp_path / "missing") is None
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ZSRobustError, match="is not valid JSON"):
        read(tmp_path)

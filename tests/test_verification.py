"""`zsrobust verify`: every bit that changed, every file that is gone or elsewhere, and the command that makes it again."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from edits import edited
from hypothesis import given, settings
from hypothesis import strategies as st

from zsrobust import results
from zsrobust.core.claims import claimed
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Cut, cache
from zsrobust.datasets.sources.records import Opened, Record
from zsrobust.defenses import defenses
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.clip import weights_digest
from zsrobust.results.cell import Outcomes, Samples
from zsrobust.results.digests import checkpoint_place, read_weights, seal
from zsrobust.results.findings import Finding
from zsrobust.results.verification import verify
from zsrobust.settings import suites
from zsrobust.training import Checkpoint
from zsrobust.training.partial import Partial

STORED = Path(__file__).parents[1] / "results"
CELLS = [("clip", "mini_cells"), ("tecoa", "mini_cells"), ("tecoa", "mini_shapes")]


def build(root: Path) -> Path:
    """Store three cells of the repository anew, with small weights as the checkpoint of two, and a training not done."""
    weights = {"proj": torch.arange(24.0).view(4, 6), "bias": torch.tensor([0.5, -1.0])}
    for defense, dataset in CELLS:
        path = STORED / f"mini/sound/pgd10-eps=6-255/{defense}/{dataset}.json"
        result = results.read(path)
        if defense == "tecoa":
            result = edited(result, {"defense.checkpoint": weights_digest(weights)})
            recipe = result.identity.defense.recipe
        results.write(result, Outcomes.read(path), root / "results", Samples.read(path))
    write_checkpoint(root, recipe, weights)
    place = root / "checkpoints" / checkpoint_place("mini", {**recipe, "seed": 1})
    Partial(3, 1.5, 2.0, 4.0, [], weights).write(
        place.with_suffix(".partial"), {"recipe": json.dumps({**recipe, "seed": 1})}
    )
    return root


def write_checkpoint(root: Path, recipe: dict, weights: dict) -> Path:
    metadata = {"recipe": json.dumps(recipe), "sources": "{}", "history": "[]", "prompts": "0"}
    metadata["digest"] = seal(metadata, weights_digest(weights))
    path = root / "checkpoints" / checkpoint_place("mini", recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(weights, path, metadata)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def stored(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "stored")
    return tmp_path / "stored"


def findings(root: Path) -> list[Finding]:
    return verify(root / "results", root / "checkpoints").findings


def the(root: Path, end: str) -> Path:
    (path,) = [path for path in root.rglob("*") if path.as_posix().endswith(end)]
    return path


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_what_is_as_it_was_stored_has_no_findings(stored):
    found = verify(stored / "results", stored / "checkpoints")
    assert found.lines == ["3 cells, 1 checkpoint: all as they were stored"]
    assert len(files(stored)) == 3 * 3 + 2


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_bit_that_flips_is_found(whole, data):
    path = data.draw(st.sampled_from(files(whole)), "file")
    content = path.read_bytes()
    place, bit = (
        data.draw(st.integers(0, len(content) - 1), "byte"),
        data.draw(st.integers(0, 7), "bit"),
    )
    try:
        path.write_bytes(
            content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
        )
        assert path in {finding.path for finding in findings(whole)}
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("kind", ["json", "npz", "samples.npz", "safetensors", "partial"])
def test_every_bit_of_the_first_and_last_bytes(stored, kind):
    path = next(path for path in files(stored) if path.name.endswith(kind))
    content = path.read_bytes()
    for place in [*range(40), *range(len(content) - 40, len(content))]:
        path.write_bytes(
            content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
        )
        assert path in {finding.path for finding in findings(stored)}, place


@pytest.mark.parametrize("kind", ["json", "npz", "safetensors", "partial"])
@pytest.mark.parametrize("kept", [0, 1, 7, 100, -1])
def test_what_is_cut_short_is_found(stored, kind, kept):
    for path in [path for path in files(stored) if path.name.endswith(kind)]:
        content = path.read_bytes()
        path.write_bytes(content[:kept])
        assert path in {finding.path for finding in findings(stored)}
        path.write_bytes(content + b"\0")
        assert path in {finding.path for finding in findings(stored)}
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("gone", "wrong", "remedy"),
    [
        (
            "clip/mini_cells.npz",
            "the outcomes are missing",
            "zsrobust run --suite mini --defense clip --attack pgd10 --dataset mini_cells --force",
        ),
        (
            "clip/mini_cells.samples.npz",
            "the samples are missing",
            "zsrobust run --suite mini --defense clip --attack pgd10 --dataset mini_cells --force",
        ),
        (".safetensors", "2 cells, ", "zsrobust run --suite mini --defense tecoa --attack pgd10"),
    ],
)
def test_what_is_gone_is_found(stored, gone, wrong, remedy):
    path = the(stored, gone)
    path.unlink()
    (finding,) = findings(stored)
    assert (finding.path, finding.remedy) == (path, remedy)
    assert wrong in finding.wrong
    assert str(finding) == f"{path}: {finding.wrong}. Next: {remedy}"


def test_a_cell_whose_result_is_gone_leaves_files_that_nothing_reads(stored):
    the(stored, "clip/mini_cells.json").unlink()
    found = findings(stored)
    assert [finding.path.name for finding in found] == ["mini_cells.npz", "mini_cells.samples.npz"]
    for finding in found:
        subprocess.run(shlex.split(finding.remedy), check=True)
    assert not findings(stored)


def test_outcomes_of_another_cell_are_found(stored):
    one, other = the(stored, "tecoa/mini_cells.npz"), the(stored, "clip/mini_cells.npz")
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert {finding.path for finding in findings(stored)} == {one, other}


@pytest.mark.parametrize("field", ["images", "clean_correct", "robust_correct"])
def test_a_count_that_was_edited_with_its_digest_is_found(stored, field):
    path = the(stored, "tecoa/mini_cells.json")
    result = results.read(path)
    moved = getattr(result, field) + (-1 if field == "clean_correct" else 1)
    result = edited(result, **{field: moved})
    results.write(result, Outcomes.read(path), stored / "results", Samples.read(path))
    (finding,) = findings(stored)
    assert re.search(rf"{field} is \d+, but its outcomes give \d+", finding.wrong)


def test_a_result_that_was_laid_out_anew_is_found_and_still_read(stored):
    path = the(stored, "tecoa/mini_cells.json")
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert results.read(path).images
    (finding,) = findings(stored)
    assert "its layout changed" in finding.wrong


def test_copies_are_found(stored):
    path = the(stored, "tecoa/mini_cells.json")
    shutil.copy(path, path.with_name("mini_shapes_2.json"))
    shutil.copytree(stored / "results/mini", stored / "results/old/mini")
    wrong = {finding.path.relative_to(stored): finding.wrong for finding in findings(stored)}
    here = Path("results/mini/sound/pgd10-eps=6-255/tecoa/mini_shapes_2.json")
    assert "its identity belongs elsewhere" in wrong[here]
    old = Path("results/old/mini/sound/pgd10-eps=6-255/clip/mini_cells.json")
    assert wrong[old] == "a result in a place that is never read"
    assert not any(path.parts[1] == "mini" for path in wrong.keys() - {here})


def test_a_damaged_result_is_told_by_its_place(stored):
    path = the(stored, "tecoa/mini_cells.json")
    path.write_bytes(b"{")
    (finding,) = findings(stored)
    assert (
        finding.remedy
        == "zsrobust run --suite mini --defense tecoa --attack pgd10 --dataset mini_cells --force"
    )


@pytest.mark.parametrize(
    ("identity", "command"),
    [
        ({"suite": "mine"}, "--suite mine.toml --defense clip"),
        ({"protocol": "reference:precision=float16"}, "--protocol reference:precision=float16"),
        ({"protocol": "mine"}, "--protocol mine.toml"),
        ({"seed": 3}, "--seed 3 --force"),
        ({"search": "bf16"}, "--precision bf16 --force"),
        ({"compiled": True}, "--compile --force"),
        ({"defense.spec": "weights:a b.pt", "defense.title": "a b"}, "--defense 'weights:a b.pt'"),
    ],
)
@pytest.mark.parametrize("damage", ["result", "outcomes"])
def test_the_command_says_all_that_the_cell_is(stored, identity, command, damage):
    path = the(stored, "clip/mini_cells.json")
    result, outcomes = results.read(path), Outcomes.read(path)
    result = edited(result, identity)
    made = results.write(result, outcomes, stored / "new")
    other = edited(results.read(made), {"dataset.name": "mini_shapes", "dataset.limit": 8})
    beside = results.write(other, outcomes, stored / "new")
    if damage == "outcomes":
        made.with_suffix(".npz").unlink()
    else:
        made.write_bytes(b"")
    found = verify(stored / "new").findings
    # How an attack searched is nowhere but in the result.
    if damage == "outcomes" or not {"search", "compiled"} & identity.keys():
        assert command in found[0].remedy
    beside.with_suffix(".npz").unlink()
    assert any("--limit 8" in finding.remedy for finding in verify(stored / "new").findings)


@pytest.mark.parametrize(
    ("eps", "said"), [("1e-05", " --eps 1e-05"), ("8/255", " --eps 8/255"), ("6/255", "")]
)
@pytest.mark.parametrize("damage", [b"", b"{}", "edited", "outcomes"])
def test_the_command_has_the_eps_of_the_cell(stored, eps, said, damage):
    path = the(stored, "clip/mini_cells.json")
    result, outcomes = results.read(path), Outcomes.read(path)
    result = edited(result, {"attack.eps": eps})
    made = results.write(result, outcomes, stored / "new")
    if damage == "outcomes":
        made.with_suffix(".npz").unlink()
    elif damage == "edited":
        made.write_text(made.read_text().replace('"ok"', '"failed"'))
    else:
        made.write_bytes(damage)
    finding = verify(stored / "new").findings[0]
    command = f"zsrobust run --suite mini --defense clip --attack pgd10{said}"
    assert finding.remedy == f"{command} --dataset mini_cells --force"


def test_a_cell_that_was_edited_is_named_by_its_content_where_its_place_agrees(stored):
    path = the(stored, "clip/mini_cells.json")
    result, outcomes = results.read(path), Outcomes.read(path)
    # Its folder is another name.
    result = edited(result, {"defense.spec": "weights:a/b c.pt"})
    made = results.write(result, outcomes, stored / "new")
    made.write_text(made.read_text().replace('"ok"', '"failed"'))
    (finding,) = verify(stored / "new").findings
    assert "--defense 'weights:a/b c.pt'" in finding.remedy


@pytest.mark.parametrize("place", ["a/b/c/d/e.json", "a/b/pgd10-eps=nine/d/e.json"])
def test_a_file_in_the_place_of_no_cell_is_to_be_removed(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    (finding,) = verify(tmp_path).findings
    assert finding.remedy == f"rm {path}"


def test_what_a_killed_run_left_is_told_and_what_a_living_one_makes_is_not(stored, tmp_path):
    path = the(stored, "clip/mini_cells.json")
    dies = "import os, sys, pathlib; from zsrobust.core import claims; held = claims.claimed(pathlib.Path(sys.argv[1])); held.__enter__(); os._exit(9)"
    subprocess.run([sys.executable, "-c", dies, path], check=False)
    half = path.with_name(".mini_cells.npz.abcd_123")
    half.touch()
    claim = path.with_name(".mini_cells.json.claim")
    assert {finding.path: finding.wrong for finding in findings(stored)} == {
        claim: "the claim of a run that was killed",
        half: "half written: a run was killed while it wrote this file",
    }
    with claimed(path):
        found = verify(stored / "results")
        assert not found.findings
        assert any("1 file being written" in note for note in found.notes)
    assert [finding.path for finding in findings(stored)] == [half]


def test_without_the_folder_of_checkpoints_that_is_a_note(stored):
    shutil.rmtree(stored / "checkpoints")
    found = verify(stored / "results", stored / "checkpoints")
    assert not found.findings
    (note,) = found.notes
    assert "checkpoints is missing: 1 checkpoint of these cells not verified" in note


def test_another_checkpoint_than_that_of_the_cells_is_found(stored):
    recipe = results.read(the(stored, "tecoa/mini_cells.json")).identity.defense.recipe
    path = write_checkpoint(stored, recipe, {"proj": torch.ones(2)})
    (finding,) = findings(stored)
    assert finding.path == path
    assert "its weights are not those of these cells: 2 cells" in finding.wrong


def test_the_checkpoints_of_a_mixtures_members_are_verified(stored):
    path = the(stored, "tecoa/mini_cells.json")
    result = results.read(path)
    members = {}
    for seed in (1, 2):
        recipe = {**result.identity.defense.recipe, "seed": seed}
        place = write_checkpoint(stored, recipe, {"proj": torch.full((2,), float(seed))})
        digest = weights_digest({"proj": torch.full((2,), float(seed))})
        members[f"tecoa:seed={seed}"] = {"checkpoint": digest, "recipe": recipe}
    spec = "soup:of=tecoa:seed=1+tecoa:seed=2"
    about = {"spec": spec, "title": "soup (FT-TeCoA + FT-TeCoA)", "towers": members}
    mixed = edited(result, {"defense": about})
    results.write(mixed, Outcomes.read(path), stored / "results", Samples.read(path))
    assert not findings(stored)
    place.unlink()
    (finding,) = findings(stored)
    assert finding.path == place
    assert "the checkpoint of these cells is missing: 1 cell" in finding.wrong


def test_a_checkpoint_without_a_digest_is_held_against_its_cells(stored):
    path = the(stored, ".safetensors")
    read = Checkpoint.read(path)
    metadata = {"recipe": json.dumps(read.recipe), "sources": "{}", "history": "[]"}
    safetensors.torch.save_file(read.weights, path, metadata)
    found = verify(stored / "results", stored / "checkpoints")
    assert not found.findings
    assert any(
        "1 checkpoint stored before checkpoints had a digest" in note for note in found.notes
    )
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "its weights are not those of these cells" in findings(stored)[0].wrong


def test_a_damaged_checkpoint_is_not_read_by_a_run_either(stored):
    path = the(stored, ".safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ZSRobustError, match="its digest does not fit.* Delete it, and it is trained again"
    ):
        Checkpoint.read(path)


def test_weights_are_read_as_torch_reads_them(tmp_path):
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.zeros(0, 2),
        "c": torch.tensor(5),
        "d": torch.randn(2).bfloat16(),
        "e": torch.randn(2, 1, 2).half(),
        "f": torch.randn(2).double(),
    }
    safetensors.torch.save_file(tensors, tmp_path / "x", {"some": "é \\ \n"})
    assert read_weights(tmp_path / "x") == ({"some": "é \\ \n"}, weights_digest(tensors))


def test_a_checkpoint_is_where_the_workshop_has_it():
    suite = suites.load("mini")
    for spec in ("tecoa", "pmg_aft:beta=0", "vpt_tecoa"):
        slugged = spec.replace(":", "-")
        result = results.read(STORED / f"mini/sound/pgd10-eps=6-255/{slugged}/mini_cells.json")
        expected = Workshop(suite, Path("x")).checkpoint_path(
            defenses.create(spec).recipe_for(suite)
        )
        assert Path("x", checkpoint_place("mini", result.identity.defense.recipe)) == expected


def test_what_a_finding_says_to_run_puts_it_right(zsrobust, tmp_path):
    names = ("mini_cells", "mini_train", "mini_shapes", "mini_flags")
    run = partial(
        zsrobust, ZSROBUST_CHECKPOINTS="checkpoints"
    )  # its own: other tests' may be there
    cut = ("--suite", "mini", "--limit", "8")
    run(
        "run",
        *cut,
        "--defense",
        "clip",
        "--attack",
        "pgd2",
        *(f"--dataset={name}" for name in names),
    )
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.npz")}
    cells = dict(zip(names, (the(tmp_path, f"{name}.limit=8.json") for name in names), strict=True))
    assert run("verify").stdout == "4 cells: all as they were stored\n"
    cells["mini_cells"].write_bytes(cells["mini_cells"].read_bytes()[:-9])
    cells["mini_train"].with_suffix(".npz").unlink()
    cells["mini_shapes"].with_suffix(".samples.npz").write_bytes(b"PK")
    damaged = bytearray(cells["mini_flags"].with_suffix(".npz").read_bytes())
    damaged[len(damaged) // 2] ^= 4
    cells["mini_flags"].with_suffix(".npz").write_bytes(damaged)
    *lines, summary = run("verify", "results", ok=1).stdout.splitlines()
    assert summary == "4 cells: 4 findings"
    for line in lines:
        command = shlex.split(line.partition("Next: ")[2])
        assert command[0] == "zsrobust"
        run(*command[1:])
    assert run("verify", "results").stdout == "4 cells: all as they were stored\n"
    assert {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.npz")} == before


def test_no_folder_is_one_line(zsrobust):
    assert (
        "The results folder nowhere is missing. Next: zsrobust run --results nowhere"
        in zsrobust("verify", "nowhere", ok=2).stderr
    )


def test_prepared_images_are_read_where_that_is_asked_for(stored, tmp_path, monkeypatch):
    monkeypatch.setenv("ZSROBUST_CACHE", str(tmp_path / "cache"))
    pictures = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    records = (Record(str(index), picture, index % 2) for index, picture in enumerate(pictures))
    folder = tmp_path / "cache/prepared/x-test-0"
    cache.write(
        folder,
        Opened(None, records),
        lambda record: int(record.label),
        size=4,
        side=8,
        cut=Cut(8),
        about={"dataset": "x", "split": "test", "source": "here"},
        progress=lambda done, total: None,
    )
    found = verify(stored / "results", stored / "checkpoints")
    cache.verify_prepared(found)
    assert (found.prepared, found.findings) == (1, [])
    for name in ("pixels.npy", "labels.npy", "about.json"):
        content = bytearray((folder / name).read_bytes())
        (folder / name).write_bytes(bytes([*content[:-10], content[-10] ^ 1, *content[-9:]]))
        assert not findings(stored)
        found = verify(stored / "results")
        cache.verify_prepared(found)
        (finding,) = found.findings
        assert finding.path == folder
        (folder / name).write_bytes(content)

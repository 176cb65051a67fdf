"""Calibration: a right set-up passes, and each way of being wrong is caught by the stage that should catch it."""

import dataclasses
import json
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from edits import edited
from tiny import moved

from zsrobust import results
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import load_plugins
from zsrobust.datasets import Cut, datasets
from zsrobust.datasets.pixels import fit
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.clip import load_clip
from zsrobust.results.store import Store
from zsrobust.running.bench import Bench, _select
from zsrobust.running.calibration import stages, stored
from zsrobust.running.calibration.setup import Setup
from zsrobust.running.calibration.stages import STAGES, beside_stored, compare, examine
from zsrobust.settings import protocols, suites

RESULTS = Path(__file__).parents[1] / "results"
MINI = suites.load("mini")
NAME = MINI.datasets[0]
CELLS = RESULTS / "mini/sound/pgd10-eps=6-255"


@pytest.fixture(scope="module")
def drawn():
    """The images that are examined, drawn once."""
    load_plugins()
    return datasets[NAME].load("test")


@pytest.fixture
def changed(monkeypatch, drawn):
    """Replace fields of the dataset that is examined, as a wrong copy of it would."""

    def change(**fields):
        fields = {"load": lambda split: drawn, **fields}
        wrong = dataclasses.replace(datasets[NAME], **fields)
        monkeypatch.setitem(datasets._entries, NAME, wrong)
        _select.cache_clear()

    yield change
    _select.cache_clear()


@pytest.fixture(scope="module")
def clip():
    return load_clip(MINI.backbone)


@pytest.fixture
def setup(tmp_path, monkeypatch, clip):
    """Return a maker of set-ups, whose labels are judged on 60 images; the right backbone is loaded once."""
    monkeypatch.setattr(stages, "SUBSET", 60)

    def make(suite=MINI, protocol="sound", known=True, **more):
        workshop = Workshop(suite, tmp_path / "checkpoints")
        workshop._clip = clip if suite is MINI else None
        bench = Bench(suite, protocols.load(protocol), workshop)
        values = stored.load("mini") if known else None
        return Setup(bench, Store(tmp_path / "runs"), [NAME], values, **more)

    return make


def backbone(tmp_path, change=lambda config: None, weights=lambda state: state):
    """Return mini with a copy of its backbone, in which something was changed."""
    theirs = Path(str(resources.files("zsrobust.mini").joinpath("clip")))
    folder = tmp_path / "clip"
    shutil.copytree(theirs, folder)
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    place = folder / "open_clip_model.safetensors"
    safetensors.torch.save_file(weights(safetensors.torch.load_file(place)), place)
    return dataclasses.replace(MINI, backbone=f"local-dir:{folder}")


def caught(found):
    """Return the stage that caught a wrong set-up, and its line; all stages before it pass."""
    *before, (stage, verdict) = examine(found)
    assert {each.word for _, each in before} == {"passed"}
    assert verdict.word == "failed"
    assert verdict.next
    return stage.title, verdict.why


def judged(title, found):
    (stage,) = [stage for stage in STAGES if stage.title == title]
    return stage.judge(found)


def stock(tmp_path):
    """Store the cell of CLIP that results/ has, as an earlier call would have."""
    place = "mini/sound/pgd10-eps=6-255/clip"
    for file in (RESULTS / place).glob(f"{NAME}*"):
        (tmp_path / "runs" / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "runs" / place)


def test_a_right_set_up_passes_and_its_cells_are_reused(tmp_path, zsrobust):
    stock(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json")}
    done = zsrobust("calibrate", "--suite", "mini", "--results", "runs")
    words = [line.split("  ")[0].strip() for line in done.stdout.splitlines()]
    assert words == ["passed"] * 8 + ["not run", ""]
    assert done.stdout.splitlines()[-1].strip() == "Next: zsrobust train tecoa --suite mini"
    assert before == {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json")}
    assert before


def test_stored_counts_are_those_of_the_results():
    known = stored.load("mini")
    tecoa = known.trained["tecoa"]
    assert set(known.datasets) == set(tecoa.counts) == set(MINI.datasets)
    for name, each in known.datasets.items():
        for defense, counts in (("clip", each.clip), ("tecoa", tecoa.counts[name])):
            cell = results.read(CELLS / defense / f"{name}.json")
            assert (cell.images, cell.clean_correct, cell.robust_correct) == (
                counts.images,
                counts.clean,
                counts.robust,
            )
    assert cell.identity.deployed == tecoa.deployed


def test_imagenets_normalization_is_caught_by_embeddings_or_by_the_weights_digest(setup, tmp_path):
    found = setup(protocol="sound:normalization=imagenet")
    title, why = caught(found)
    assert title == "image embeddings"
    assert "pixels, normalization or precision differ" in why

    def wrong(config):
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        config["preprocess_cfg"].update(mean=mean, std=std)

    title, why = caught(setup(backbone(tmp_path, wrong)))
    assert title == "weights"
    assert "weights, activation or preprocessing" in why


def test_another_activation_is_caught_by_the_digest_and_seen_by_embeddings(setup, tmp_path):
    """The weights of mini have GELU: QuickGELU is the wrong one here."""
    suite = backbone(tmp_path, lambda config: config["model_cfg"].update(quick_gelu=True))
    found = setup(suite)
    assert caught(found)[0] == "weights"
    assert judged("image embeddings", found).word == "failed"
    assert judged("class texts", found).word == "failed"


def test_other_weights_are_caught_by_the_digest_and_seen_by_embeddings(setup, tmp_path):
    found = setup(backbone(tmp_path, weights=lambda state: moved(state, 1)))
    assert caught(found)[0] == "weights"
    assert judged("image embeddings", found).word == "failed"


def test_shuffled_labels_are_caught_also_where_nothing_is_stored(setup, changed, drawn):
    labels = np.random.default_rng(3).permutation(drawn.labels)
    changed(load=lambda split: dataclasses.replace(drawn, labels=labels))
    assert caught(setup()) == ("labels", f"the labels of {NAME} are not those stored")
    verdict = judged("labels", setup(known=False))
    assert verdict.word == "failed"
    assert "fit the images no better than permuted ones" in verdict.why


def test_class_names_in_another_order_are_caught_where_nothing_is_stored(setup, changed):
    changed(classes=datasets[NAME].classes[1:] + datasets[NAME].classes[:1])
    assert judged("labels", setup(known=False)).word == "failed"
    assert caught(setup())[0] == "class texts"


def test_a_wrong_template_is_caught_by_class_texts(setup, changed):
    changed(templates=("a bad photo of the {}",))
    title, why = caught(setup())
    assert title == "class texts"
    assert "a bad photo of the" in why


def test_a_second_resize_in_8_bits_is_caught_by_embeddings(setup, changed, drawn):
    twice = fit(fit(torch.from_numpy(drawn.pixels), Cut(40)), Cut(32)).numpy()
    assert 0 < np.abs(twice.astype(int) - drawn.pixels).mean() < 3
    changed(load=lambda split: dataclasses.replace(drawn, pixels=twice))
    assert caught(setup())[0] == "image embeddings"


def test_half_precision_is_caught_by_embeddings_and_moves_no_clean_accuracy(setup):
    found = setup(protocol="sound:precision=float16")
    assert caught(found)[0] == "image embeddings"
    half, full = (each.predictions(each.cell(NAME, 8)) for each in (found, setup()))
    assert torch.equal(half, full)


def test_the_tolerance_follows_from_float32_and_half_precision_has_8192_times_as_much():
    tower = torch.nn.Linear(64, 3)
    factor = (2 * np.log(2 / 1e-6)) ** 0.5
    assert stored.tolerance(tower) == pytest.approx(2 * factor * 2**-24 * 8)
    generator = torch.Generator().manual_seed(0)
    weight = tower.weight.detach()
    images = torch.randn(1000, 64, generator=generator, dtype=torch.float64)
    exact = images @ weight.double().T
    size = (images.abs() @ weight.double().abs().T).max()
    for kind, within in ((torch.float32, True), (torch.float16, False)):
        off = (images.to(kind) @ weight.to(kind).T).double() - exact
        assert (float(off.abs().max() / size) <= stored.tolerance(tower)) is within


def test_a_verdict_is_by_interval_and_tolerance():
    words = [compare(300, 500, theirs, 5) for theirs in (60, 64, 69, 70, 73, 75, 40)]
    assert words == ["passed", "passed", "passed", "doubtful", "doubtful", "failed", "failed"]
    assert [compare(300, 500, theirs, 0) for theirs in (64, 65)] == ["passed", "failed"]


@pytest.mark.parametrize(
    ("robust", "same", "other"),
    [(29, "passed", "passed"), (49, "failed", "doubtful"), (69, "failed", "failed")],
)
def test_a_checkpoint_agrees_by_interval_and_another_training_is_named(robust, same, other):
    found = results.read(CELLS / "tecoa" / f"{NAME}.json")
    found = dataclasses.replace(found, robust_correct=robust)
    known = stored.load("mini").trained["tecoa"]
    numbers = f"{NAME} 54.67 clean, {robust / 3:.2f} robust, stored 54.67 and 9.67"
    assert beside_stored({NAME: found}, known) == (same, f"the same weights: {numbers}")
    again = edited(found, {"defense.checkpoint": "of another machine"})
    assert beside_stored({NAME: again}, known) == (other, f"another training: {numbers}")
    word, why = beside_stored({"unknown": found}, known)
    assert word == "not run"
    assert why.endswith("nothing known")


def test_the_last_stage_compares_the_checkpoint_at_hand(setup, monkeypatch):
    found = setup(defense="tecoa")
    assert judged("a robust checkpoint", found).word == "not run"
    workshop = found.bench.workshop
    monkeypatch.setattr(workshop, "checkpoint_path", lambda recipe: Path(__file__))
    monkeypatch.setattr(workshop, "tower", lambda spec, own=found.tower: own)
    cell = found.cell(NAME, None, "tecoa")
    found._found[cell] = results.read(CELLS / "tecoa" / f"{NAME}.json")
    verdict = judged("a robust checkpoint", found)
    assert verdict.word == "passed"
    assert verdict.why.startswith("tecoa, the same weights: ")


@pytest.mark.parametrize(
    ("defense", "word", "why"),
    [("tecoa", "failed", "is damaged"), ("tecoa1_vit_b32", "not run", "is fetched by hand")],
)
def test_a_checkpoint_that_cannot_be_read_fails_and_one_that_cannot_be_fetched_is_not_run(
    setup, monkeypatch, defense, word, why
):
    found = setup(defense=defense)
    monkeypatch.setattr(stages, "STAGES", STAGES[-1:])
    monkeypatch.setattr(found.bench.workshop, "checkpoint_path", lambda recipe: Path(__file__))
    ((_, verdict),) = examine(found)
    assert verdict.word == word
    assert why in verdict.why


def test_what_is_out_of_reach_is_not_run_and_nothing_is_confirmed(zsrobust, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = zsrobust("calibrate", "--suite", "paper", ok=1)
    assert "passed    versions and device" in done.stdout
    assert "not run   weights: The weights ViT-B-32-quickgelu/openai are not" in done.stdout
    assert "failed" not in done.stdout
    assert "not known: no text head is stored" in done.stdout


def test_a_dry_run_lists_the_stages(zsrobust):
    lines = zsrobust("calibrate", "--suite", "paper", "--dry-run").stdout.splitlines()
    assert [line.split(": needs ")[0] for line in lines] == [stage.title for stage in STAGES]
    assert "Unknown dataset" in zsrobust("calibrate", "--dataset", "nope", ok=2).stderr


def test_values_of_a_set_up_are_written_and_read(tmp_path, zsrobust):
    stock(tmp_path)
    zsrobust("calibrate", "--suite", "mini", "--results", "runs", "--store", "mine.json")
    (tmp_path / "mine.toml").write_text('like = "mini"\ncalibration = "mine.json"\n')
    suite = suites.load(str(tmp_path / "mine.toml"))
    found = stored.load(str(tmp_path / suite.calibration))
    here, there = found.datasets[NAME], stored.load("mini").datasets[NAME]
    assert (here.labels, here.clip) == (there.labels, there.clip)
    for mine, ours in ((here.texts, there.texts), (here.embeddings, there.embeddings)):
        # Another processor than the one of the stored values differs in the last bits.
        torch.testing.assert_close(
            stored.unpacked(mine, 1), stored.unpacked(ours, 1), rtol=0, atol=1e-5
        )
    with pytest.raises(ZSRobustError, match="The file of stored values nope.json is missing"):
        stored.load("nope.json")
    with pytest.raises(ZSRobustError, match="expected mini, or a file"):
        stored.load("nope")

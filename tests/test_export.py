import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from hubserver import HubServer
from tiny import make_clip, moved

from zsrobust.core.errors import ZSRobustError
from zsrobust.defenses import defenses
from zsrobust.defenses.export import export, push
from zsrobust.defenses.weights import register_weights
from zsrobust.defenses.workshop import Workshop
from zsrobust.results.store import Store
from zsrobust.settings import suites

TEXTS = [
    "a photo of a dog",
    "three red circles, and more words than the tiny context of sixteen tokens can hold at once",
]
MINI = suites.load("mini")
RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture(params=["vit", "resnet"])
def tiny(request, tmp_path):
    """A workshop on a tiny CLIP, and the spec of a defense on it."""
    workshop = Workshop(make_clip(tmp_path / "clip", request.param), tmp_path)
    torch.save(moved(workshop.clip.encoder.state_dict(), 1), tmp_path / "tuned.pt")
    return workshop, f"weights:{tmp_path / 'tuned.pt'}"


def assert_loads_as(folder, workshop, spec):
    """Plain open_clip, on the exported folder, gives the very numbers of the defense."""
    clip, tower = workshop.clip, workshop.tower(spec).encoder
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval().requires_grad_(
        False
    )  # torch's attention rounds otherwise where weights take gradients
    images = torch.randn(3, 3, clip.side, clip.side)
    with torch.no_grad():
        assert torch.equal(model.encode_image(images), tower(images))
        assert torch.equal(tokenize(TEXTS), clip.tokenize(TEXTS))
        assert torch.equal(
            model.encode_text(tokenize(TEXTS)), clip.model.encode_text(clip.tokenize(TEXTS))
        )
        whole = clip.classifier([[text] for text in TEXTS], tower)
        mean, std = whole.mean, whole.std
        logits = model.get_logits(images, tokenize(TEXTS))[0]
        assert torch.allclose(whole(images * std + mean), logits, atol=1e-4)
    assert tuple(model.visual.preprocess_cfg["mean"]) == clip.mean
    assert tuple(model.visual.preprocess_cfg["std"]) == clip.std


def assert_comes_back(folder, workshop, spec):
    """`weights:DIR` is the same tower, to the last bit of its logits."""
    first, again = workshop.tower(spec), workshop.tower(f"weights:{folder}")
    images = torch.rand(3, 3, workshop.clip.side, workshop.clip.side)
    prompts = [[text] for text in TEXTS]
    towers = (first, again)
    logits = [workshop.clip.classifier(prompts, tower.encoder)(images) for tower in towers]
    assert torch.equal(*logits)
    assert again.identity["activation_from"] == "its config"


def test_an_export_is_a_plain_open_clip_model_and_comes_back(tiny, tmp_path):
    workshop, spec = tiny
    for each in (spec, f"interpolation:of={spec},weight=0.5", "clip"):
        folder = export(each, workshop, tmp_path / "out", Store(tmp_path / "results"))
        assert folder == tmp_path / "out"
        assert_loads_as(folder, workshop, each)
        assert_comes_back(folder, workshop, each)
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]


def test_a_trained_defense_and_what_its_card_says(checkpoints, tmp_path):
    workshop, spec = Workshop(MINI, checkpoints), "tecoa:epochs=1,limit=64"
    folder = export(spec, workshop, tmp_path / "out", Store(tmp_path / "results"))
    assert_loads_as(folder, workshop, spec)
    card = (folder / "README.md").read_text()
    tower = workshop.tower(spec)
    stored = json.loads((folder / "open_clip_config.json").read_text())
    for digest in (
        tower.identity["backbone"],
        tower.identity["checkpoint"],
        stored["zsrobust"]["model"],
    ):
        assert f"`{digest}`" in card
    assert (
        stored["zsrobust"]["image_tower"] == workshop.tower(f"weights:{folder}").identity["weights"]
    )
    assert card.startswith("---\nlibrary_name: open_clip\n")
    assert "license" not in card
    assert "* objective: `tecoa`" in card
    assert "None so far." in card
    assert f"torch: `{torch.__version__.partition('+')[0]}" in card


def test_the_card_has_the_results_of_the_defense_and_no_other(tmp_path):
    workshop = Workshop(MINI, tmp_path)
    results = tmp_path / "results"
    cell = "mini/sound/pgd10-eps=6-255/clip/mini_shapes"
    for source in ("clip", "tecoa"):
        path = results / cell.replace("clip", source)
        path.parent.mkdir(parents=True)
        for suffix in (".json", ".npz"):
            shutil.copy(
                RESULTS / f"{cell.replace('clip', source)}{suffix}",
                path.with_name(path.name + suffix),
            )
    card = (export("clip", workshop, tmp_path / "out", Store(results)) / "README.md").read_text()
    stored = json.loads((results / f"{cell}.json").read_text())
    share = f"{stored['clean_correct'] / stored['images']:.2%}"
    (row,) = [line for line in card.splitlines() if "pgd10" in line]
    assert row.split("|")[6].strip() == share
    assert "6/255" in row


def test_the_license_of_published_weights_stands_in_the_front_matter(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(
        defenses, "_entries", dict(defenses._entries)
    )  # what is registered here is gone after
    workshop, spec = tiny
    register_weights(
        "theirs",
        {"title": "Theirs", "paper": "a", "where": spec.partition(":")[2], "license": "mit"},
    )
    card = (export("theirs", workshop, tmp_path / "out", Store(tmp_path)) / "README.md").read_text()
    assert "\nlicense: mit\n" in card.split("---")[1]


def test_visual_prompts_stay_here(checkpoints, tmp_path):
    with pytest.raises(
        ZSRobustError, match="cannot be exported: open_clip cannot load visual prompts"
    ):
        export(
            "vpt_tecoa:epochs=1,limit=64,tokens=2",
            Workshop(MINI, checkpoints),
            tmp_path / "out",
            tmp_path,
        )
    assert not (tmp_path / "out").exists()


def test_only_an_earlier_export_is_written_over(tiny, tmp_path):
    workshop, spec = tiny
    (tmp_path / "out").mkdir()
    export(spec, workshop, tmp_path / "out", Store(tmp_path))
    export("clip", workshop, tmp_path / "out", Store(tmp_path))
    before = (tmp_path / "clip" / "open_clip_config.json").read_bytes()
    for other in (
        tmp_path / "clip",
        tmp_path,
        tmp_path / "tuned.pt",
    ):  # the backbone's own folder among them
        with pytest.raises(ZSRobustError, match="holds something other than an earlier export"):
            export(spec, workshop, other, Store(tmp_path))
    assert (tmp_path / "clip" / "open_clip_config.json").read_bytes() == before


def test_the_backbones_tokenizer_goes_along_or_the_export_says_so(tiny, tmp_path):
    workshop, spec = tiny
    tokenize = workshop.clip.tokenize

    class Files:
        def save_pretrained(self, folder):
            (tmp_path / folder / "tokenizer.json").write_text("{}")

        def __call__(self, texts):
            return tokenize(texts)

    workshop.clip.tokenize = Files()
    assert (
        export(spec, workshop, tmp_path / "out", Store(tmp_path)) / "tokenizer.json"
    ).read_text() == "{}"
    workshop.clip.tokenize = lambda texts: tokenize(texts) + 1
    with pytest.raises(ZSRobustError, match="gives other tokens"):
        export(spec, workshop, tmp_path / "out", Store(tmp_path))


def test_push_makes_the_repository_and_uploads_the_folder(tiny, tmp_path, monkeypatch):
    workshop, _ = tiny
    folder = export("clip", workshop, tmp_path / "out", Store(tmp_path))
    calls = []

    class Api:
        def __init__(self, token):
            calls.append(token)

        def create_repo(self, repo, exist_ok):
            calls.append((repo, exist_ok))
            return f"https://huggingface.co/{repo}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            if repo_id == "org/broken":
                raise OSError("the line\nis cut")
            calls.append((repo_id, folder_path))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("zsrobust.defenses.export.check_network", lambda missing: None)
    assert push(folder, "org/robust", "hf_x") == "https://huggingface.co/org/robust"
    assert calls == ["hf_x", ("org/robust", True), ("org/robust", folder)]
    with pytest.raises(ZSRobustError, match="Cannot upload to org/broken: OSError: the line.$"):
        push(folder, "org/broken")
    with pytest.raises(ZSRobustError, match="is no export. Make one: zsrobust export"):
        push(tmp_path / "clip", "org/robust")


def test_an_export_is_pushed_through_the_real_client(zsrobust, tmp_path, monkeypatch):
    with HubServer() as hub:
        command = ("export", "clip", "--suite", "mini", "--out", "out", "--push", "org/robust")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        done = zsrobust(*command, HF_TOKEN=hub.token)
        assert done.stdout.splitlines() == ["out written", f"{hub.url}/org/robust uploaded"]
        files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert hub.repos["model", "org/robust"].files == files
        assert {"open_clip_model.safetensors", "open_clip_config.json", "README.md"} <= files.keys()


def test_a_refused_upload_is_one_line():
    from huggingface_hub.errors import HfHubHTTPError

    from zsrobust.defenses.places import hub_error

    error = HfHubHTTPError(
        "403 Forbidden: None.\nCannot access content",
        response=SimpleNamespace(status_code=403, headers={}, request=None),
    )
    assert (
        str(hub_error("Cannot upload to a/b", error))
        == "Cannot upload to a/b: you may not. Set HF_TOKEN to a token that may."
    )

import dataclasses
import hashlib
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fresh
import numpy as np
import pytest
import safetensors.torch
import torch
from hubserver import HubServer, hub_environment
from tiny import make_clip, moved

from zsrobust.core import claims
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import join_spec, split_spec
from zsrobust.defenses import defenses, places
from zsrobust.defenses.downloads import check_download, record_of
from zsrobust.defenses.weights import Weights, load_tower, register_weights
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.clip import load_clip
from zsrobust.settings import suites
from zsrobust.testing import check_defense
from zsrobust.training import Recipe

KINDS = ["vit", "resnet"]
PUBLISHED = [name for name in defenses if isinstance(defenses[name], Weights) and name != "weights"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {kind: load_clip(make_clip(folder / kind, kind).backbone) for kind in KINDS}


@pytest.fixture
def clip(clips):
    return clips["vit"]


def state(clip):
    return moved(clip.encoder.state_dict(), seed=1)


def whole(clip):
    return clip.model.state_dict() | {
        f"visual.{name}": tensor for name, tensor in state(clip).items()
    }


def half(weights):
    return {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }


def module(weights, prefix="module."):
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def folder(path, clip, weights, name="open_clip_model.safetensors", **changes):
    path.mkdir()
    config = {**clip.config, "model_cfg": {**clip.config["model_cfg"], **changes}}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    (safetensors.torch.save_file if name.endswith("safetensors") else torch.save)(
        weights, path / name
    )
    return path


def own(path, clip, **sources):
    weights = {name: state(clip)[name] for name, _ in clip.encoder.named_parameters()}
    recipe = Recipe(objective="tecoa", attack="pgd2", eps=1 / 255, step_size=0.001)
    metadata = {
        "recipe": recipe.to_dict(),
        "sources": {"backbone": clip.digest, **sources},
        "history": [],
    }
    safetensors.torch.save_file(
        weights, path, {name: json.dumps(value) for name, value in metadata.items()}
    )
    return path


def trained(clip):
    """What AdvFLYP's training stores of a ViT: the image tower, under its names in the whole model."""
    return {f"visual.{name}": tensor for name, tensor in state(clip).items()}


NUMBERS = {
    "input_resolution": torch.tensor(16),
    "context_length": torch.tensor(16),
    "vocab_size": torch.tensor(49408),
}
BESIDE = {
    "epoch": 9,
    "best_acc1": np.float64(0.5),
    "state_dict": {},
    "add_prompter": {"prompt": torch.zeros(1, 0, 768)},
}
FILES = {
    "visual": lambda clip: state(clip),
    "whole": lambda clip: whole(clip),
    "half": lambda clip: half(state(clip)),
    "openai": lambda clip: {**half(whole(clip)), **NUMBERS, "attn_mask": torch.zeros(16, 16)},
    "tecoa": lambda clip: {**BESIDE, "vision_encoder_state_dict": state(clip)},
    "parallel": lambda clip: {**BESIDE, "vision_encoder_state_dict": module(state(clip))},
    "positions": lambda clip: {
        **BESIDE,
        "vision_encoder_state_dict": module(
            {**state(clip), "prompt_pos_embedding": torch.ones(5, 32)}
        ),
    },
    "advflyp": lambda clip: {**BESIDE, "partial_state_dict": trained(clip)},
    "advflyp, parallel": lambda clip: {**BESIDE, "partial_state_dict": module(trained(clip))},
    "advflyp, with texts": lambda clip: {
        "partial_state_dict": {**trained(clip), "logit_scale": clip.model.logit_scale.detach()}
    },
    "wrapped": lambda clip: {"state_dict": module(whole(clip))},
    "uncounted": lambda clip: {
        name: each for name, each in state(clip).items() if "num_batches" not in name
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_tower(clips, kind, tmp_path):
    clip = clips[kind]
    places = {name: tmp_path / f"{name}.pt" for name in FILES}
    for name, make in FILES.items():
        torch.save(make(clip), places[name])
    for name in ("visual", "whole", "half"):
        safetensors.torch.save_file(FILES[name](clip), tmp_path / f"{name}.safetensors")
        places[f"{name}.safetensors"] = tmp_path / f"{name}.safetensors"
    places["folder"] = folder(tmp_path / "folder", clip, whole(clip))
    places["bin"] = folder(tmp_path / "bin", clip, half(whole(clip)), "open_clip_pytorch_model.bin")
    if kind == "vit":  # ours hold parameters; a ResNet's statistics are the backbone's there
        places["own"] = own(tmp_path / "own.safetensors", clip)
    expected = clip.copy().eval().requires_grad_(False)
    expected.load_state_dict(state(clip))
    images = torch.randn(2, 3, clip.side, clip.side)
    told, digests = {}, set()
    for name, place in places.items():
        encoder, identity = load_tower(str(place), clip)
        assert torch.equal(encoder(images), expected(images)), name
        assert not encoder.training
        assert not any(p.requires_grad or p.dtype != torch.float32 for p in encoder.parameters())
        told[name] = identity["activation_from"]
        assert identity["activation"] == "QuickGELU"
        assert identity["backbone"] == clip.digest
        assert ("file_sha256" in identity) == place.is_file()
        if name != "uncounted":
            digests.add(identity["weights"])
    assert len(digests) == 1
    assert set(told.values()) - {"its backbone"} == {
        "its config",
        "the backbone; the file does not say",
    }
    assert told["folder"] == told["bin"] == "its config"
    assert not torch.equal(clip.encoder(images), expected(images))


def test_the_spec_names_a_place_which_may_have_an_equals_sign(clip, tmp_path):
    path = tmp_path / "lr=3" / "my.tower.pt"
    path.parent.mkdir()
    torch.save(state(clip), path)
    spec = f"weights:{path}"
    assert split_spec(spec) == ("weights", {"": str(path)})
    assert join_spec(*split_spec(spec)) == spec
    defense = defenses.create(spec)
    assert defense.title == "my.tower"
    assert defenses.create("weights:org/a-name").title == "a-name"
    check_defense_on(clip, spec, tmp_path)


def check_defense_on(clip, spec, tmp_path):
    tower = workshop(clip, tmp_path).tower(spec)
    assert tower.identity["architecture"] == (
        "embed_dim=16, layers=2, width=32, head_width=16, patch_size=8, image_size=16"
    )
    assert tower.training == {}


def workshop(clip, tmp_path, backbone=None):
    suite = suites.load("mini")
    return Workshop(
        type(suite)(**{**vars(suite), "name": "tiny", "backbone": backbone or clip.name}), tmp_path
    )


def test_weights_hold_the_contract_of_defenses_and_interpolate(tmp_path):
    clip = load_clip(suites.load("mini").backbone)
    torch.save(state(clip), tmp_path / "a.pt")
    check_defense(f"weights:{tmp_path}/a.pt", checkpoints=tmp_path)
    mixed = Workshop(suites.load("mini"), tmp_path).tower(
        f"interpolation:of=weights:{tmp_path}/a.pt,weight=1"
    )
    assert all(
        torch.equal(tensor, state(clip)[name])
        for name, tensor in mixed.encoder.state_dict().items()
    )


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (
            (Path.touch, (self.path,)) if self.path.suffix else (os.system, (f"touch {self.path}",))
        )


@pytest.mark.parametrize("ran", ["ran", "ran.txt"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_file_that_would_run_code_is_refused_and_does_not(clip, tmp_path, ran, protocol):
    path = tmp_path / "evil.pt"
    torch.save(
        {"vision_encoder_state_dict": state(clip), "extra": Evil(tmp_path / ran)},
        path,
        pickle_protocol=protocol,
    )
    for write in (
        lambda: None,
        lambda: path.write_bytes(pickle.dumps(Evil(tmp_path / ran), protocol)),
    ):
        write()
        with pytest.raises(ZSRobustError, match=r"evil.pt is (refused|damaged)") as caught:
            load_tower(str(path), clip)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / ran).exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_torchscript_is_refused(clip, tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "jit.pt")
    with pytest.raises(ZSRobustError, match="TorchScript archive, which is code"):
        load_tower(str(tmp_path / "jit.pt"), clip)


def test_keys_that_do_not_fit_are_listed_together(clip, tmp_path):
    weights = state(clip)
    del weights["proj"]
    weights["extra"] = torch.zeros(1)
    weights["conv1.weight"] = torch.zeros(3)
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(
        ZSRobustError,
        match=r"a.pt does not fit local-dir:.*: extra is unexpected, proj is missing, conv1.weight is \(3,\) instead of \(32, 3, 8, 8\)",
    ):
        load_tower(str(tmp_path / "a.pt"), clip)
    torch.save(module(weights, "model."), tmp_path / "a.pt")
    with pytest.raises(
        ZSRobustError, match=r"model.class_embedding is unexpected, .*, and \d+ more"
    ):
        load_tower(str(tmp_path / "a.pt"), clip)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no state dict"),
        ([torch.zeros(1)], "holds no state dict"),
        ({"epoch": 3}, "holds no state dict"),
        (
            {"vision_encoder_state_dict": {}, "add_prompter": {"prompt": torch.zeros(1, 2, 768)}},
            "holds visual prompts",
        ),
    ],
)
def test_a_file_without_a_tower_is_one_line(clip, tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ZSRobustError, match=message):
        load_tower(str(tmp_path / "a.pt"), clip)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_damaged_file_is_one_line(clip, tmp_path, name):
    (torch.save if name == "a.pt" else safetensors.torch.save_file)(state(clip), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"\x00" * 100, b"not a file of weights"):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ZSRobustError, match="damaged") as caught:
            load_tower(str(tmp_path / name), clip)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [b"[]", b"5", b'{"__metadata__": [1]}', b'{"__metadata__": {"a": 1}}', b"[" * 100_000, b"\xff"],
)
def test_a_damaged_header_is_one_line(clip, tmp_path, header):
    path = tmp_path / "a.safetensors"
    for length in (len(header), 2**62):
        path.write_bytes(length.to_bytes(8, "little") + header)
        with pytest.raises(ZSRobustError, match="damaged, or no safetensors file"):
            load_tower(str(path), clip)


def test_a_part_of_a_model_has_the_whole_image_tower_or_is_refused(clips, clip, tmp_path):
    path, whole_tower = tmp_path / "a.pt", trained(clip)
    text = {"transformer.resblocks.0.attn.in_proj_bias": torch.ones(3)}
    parameters = {name for name, _ in clips["resnet"].encoder.named_parameters()}
    without_statistics = {
        name: each
        for name, each in trained(clips["resnet"]).items()
        if name.removeprefix("visual.") in parameters
    }
    for partial, backbone, message in [
        ({**whole_tower, "visual.proj": torch.zeros(3)}, "vit", r"proj is \(3,\) instead of"),
        ({**whole_tower, "visual.more": torch.zeros(3)}, "vit", "more is unexpected"),
        ({**whole_tower, **text}, "vit", "text tower in .*a.pt is not that of .*in_proj_bias"),
        ({**whole_tower, "other": torch.zeros(3)}, "vit", "text tower .* is not that of .*: other"),
        ({name: whole_tower[name] for name in list(whole_tower)[1:]}, "vit", "is missing"),
        (without_statistics, "resnet", "bn1.running_mean is missing"),
        (state(clip), "vit", "part of a model, .*, without the image tower. Expected .* visual."),
        (text, "vit", "part of a model, transformer.*, without the image tower"),
        ({}, "vit", "holds no state dict"),
        ({**whole_tower, "visual.proj": 3}, "vit", "holds no state dict"),
        ({**whole_tower, 3: torch.zeros(3)}, "vit", "holds no state dict"),
    ]:
        torch.save({**BESIDE, "partial_state_dict": partial}, path)
        with pytest.raises(ZSRobustError, match=message) as caught:
            load_tower(str(path), clips[backbone])
        assert "\n" not in str(caught.value)


def test_another_text_tower_is_refused(clip, tmp_path):
    weights = whole(clip)
    weights["token_embedding.weight"] = weights["token_embedding.weight"] + 1
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(
        ZSRobustError,
        match=r"text tower in .*a.pt is not that of local-dir:.*: token_embedding.weight",
    ):
        load_tower(str(tmp_path / "a.pt"), clip)


def test_a_folder_of_another_activation_architecture_or_normalization_is_refused(clip, tmp_path):
    with pytest.raises(
        ZSRobustError,
        match="another activation than the backbone local-dir:.*: GELU, not QuickGELU",
    ):
        load_tower(str(folder(tmp_path / "gelu", clip, whole(clip), quick_gelu=False)), clip)
    vision = {**clip.config["model_cfg"]["vision_cfg"], "head_width": 8}  # no weight would tell
    with pytest.raises(
        ZSRobustError,
        match="another architecture .* head_width=8, .*, not embed_dim=16, .* head_width=16",
    ):
        load_tower(str(folder(tmp_path / "heads", clip, whole(clip), vision_cfg=vision)), clip)
    path = folder(tmp_path / "mean", clip, whole(clip))
    (path / "open_clip_config.json").write_text(
        json.dumps({**clip.config, "preprocess_cfg": {"mean": [0, 0, 0]}})
    )
    with pytest.raises(ZSRobustError, match="another mean than the backbone"):
        load_tower(str(path), clip)
    (path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ZSRobustError, match="is not open_clip's"):
        load_tower(str(path), clip)
    (path / "open_clip_config.json").unlink()
    with pytest.raises(ZSRobustError, match="is not an open_clip folder"):
        load_tower(str(path), clip)


def test_our_own_checkpoint_knows_its_backbone_and_recipe(clip, tmp_path):
    _, identity = load_tower(str(own(tmp_path / "a.safetensors", clip)), clip)
    assert identity["activation_from"] == "its backbone"
    assert identity["recipe"]["eps"] == "1/255"
    with pytest.raises(ZSRobustError, match="was trained from another backbone than local-dir:"):
        load_tower(str(own(tmp_path / "b.safetensors", clip, backbone="another")), clip)


@pytest.mark.parametrize(
    "spec", ["weights", "weights:eps=1", "weights:a.pt,eps=1", "fare2_vit_l14:a.pt"]
)
def test_what_the_spec_cannot_say(spec):
    with pytest.raises(ZSRobustError, match=r"takes a file, a folder or a hub id|has no field"):
        defenses.create(spec)


@pytest.mark.parametrize("place", ["nowhere/a.pt", "/nowhere", "nowhere", "a/b/c"])
def test_a_place_where_nothing_is(clip, place):
    with pytest.raises(ZSRobustError, match=f"No weights at {place}. Give a file"):
        load_tower(place, clip)


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_entry_names_its_backbone_and_where_to_get_it_before_anything_is_loaded(name, tmp_path):
    import open_clip

    entry = defenses[name]
    by_hand = entry.where.startswith("https://")
    if entry.backbone.startswith("hf-hub:"):  # with its own text tower: it is its own backbone
        assert entry.backbone == f"hf-hub:{entry.where}"
    else:
        architecture, _, tag = entry.backbone.partition("/")
        weights = open_clip.get_pretrained_cfg(architecture, tag)
        assert bool(weights.get("quick_gelu")) == bool(
            open_clip.get_model_config(architecture).get("quick_gelu")
        )
    ours = next((each for each in ("paper",) if suites.load(each).backbone == entry.backbone), None)
    suite, note = ours or "FILE.toml", "" if ours else f'backbone = "{entry.backbone}"'
    with pytest.raises(ZSRobustError) as caught:
        Workshop(suites.load("mini"), tmp_path).tower(name)
    line = str(caught.value)
    if by_hand:
        assert f"Open {entry.where} in a browser" in line
        assert f"zsrobust run --suite {suite} --defense weights:FILE" in line
    else:
        assert f"needs the backbone {entry.backbone}; the suite mini has package:" in line
        assert places.HUB_ID.fullmatch(entry.where)
        assert f"--suite {suite}" in line
    assert note in line
    assert "\n" not in line


def test_a_link_names_the_suite_that_was_asked_for_if_it_fits(tmp_path):
    own = dataclasses.replace(suites.load("paper"), asked="my suite.toml")
    with pytest.raises(ZSRobustError, match="run --suite 'my suite.toml' --defense weights:FILE$"):
        Workshop(own, tmp_path).tower("saft_released")


def test_a_users_entry_is_checked_and_its_file_must_have_the_hash(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(
        defenses, "_entries", dict(defenses._entries)
    )  # what is registered here is gone after
    torch.save(state(clip), tmp_path / "mine.pt")
    fields = {"title": "Mine", "paper": "none", "where": "mine.pt"}
    for wrong, message in [
        ({"titel": "Mine"}, "The weights mine: Unknown field 'titel'. Did you mean title"),
        ({"title": 3}, "The weights mine: title = 3 is not valid; expected a line of text"),
        ({"sha256": "abc"}, "sha256 = 'abc' is not valid; expected 64 hexadecimal digits"),
        ({"sha256": "a" * 64 + "\n"}, "expected 64 hexadecimal digits"),
        ({"file": "../a.pt"}, "expected the name of a file in the repository"),
        ({"file": "/a.pt"}, "expected the name of a file in the repository"),
        ({"file": "a.pt", "where": "https://a/b"}, "file = 'a.pt' is not valid beside a link"),
        ({"note": "two\nlines"}, "note = .* is not valid; expected a line of text"),
    ]:
        with pytest.raises(ZSRobustError, match=message):
            register_weights("mine", {**fields, **wrong}, tmp_path)
    with pytest.raises(
        ZSRobustError, match="The weights mine: paper is missing; expected a line of text"
    ):
        register_weights("mine", {"title": "Mine"})
    with pytest.raises(ZSRobustError, match="'my:own' is not valid; expected a name of letters"):
        register_weights("my:own", fields)
    with pytest.raises(ZSRobustError, match="'clip' is taken"):
        register_weights("clip", fields)
    register_weights("mine", fields, tmp_path)
    identity = workshop(clip, tmp_path).tower("mine").identity
    register_weights("mine_hashed", {**fields, "sha256": identity["file_sha256"]}, tmp_path)
    assert workshop(clip, tmp_path).tower("mine_hashed").identity == identity
    register_weights("mine_other", {**fields, "sha256": "0" * 64}, tmp_path)
    with pytest.raises(ZSRobustError, match=f"has the sha256 {identity['file_sha256']}, not 0000"):
        workshop(clip, tmp_path).tower("mine_other")


SCRIPT = """
import json, sys
import huggingface_hub
from zsrobust.models.clip import load_clip
from zsrobust.defenses.weights import load_tower
from zsrobust.registry import ZSRobustError
clip = load_clip(sys.argv[1])
for place in sys.argv[2:]:
    if place == "OFFLINE":
        print(json.dumps(None), flush=True)
        huggingface_hub.constants.HF_HUB_OFFLINE = True  # as the variable does when it is imported
        continue
    try:
        print(json.dumps(load_tower(place, clip)[1]))
    except ZSRobustError as error:
        print(json.dumps(str(error)))
"""


def test_a_hub_id_is_downloaded_once_and_read_offline_thereafter(clip, tmp_path):
    path = folder(tmp_path / "served", clip, whole(clip))
    expected = load_tower(str(path), clip)[1]
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    binary = folder(tmp_path / "bin", clip, whole(clip), "open_clip_pytorch_model.bin")

    def run(*places):
        everything = hub_environment(hub.url, tmp_path)
        done = fresh.Process(
            fresh.script, SCRIPT, clip.name, *places, folder=tmp_path, environment=everything
        ).end()
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    with HubServer() as hub:
        revision = hub.add("org/robust", files, kind="model")
        hub.add(
            "org/binary", {file.name: file.read_bytes() for file in binary.iterdir()}, kind="model"
        )
        hub.add("org/empty", {"README.md": b"nothing"}, kind="model")
        hub.add("org/gated", files, kind="model", gated=True)
        places = ["org/robust", "hf-hub:org/robust", f"org/robust@{revision}", "org/binary"]
        found = run(
            *places,
            "org/empty",
            "org/nobody",
            "org/robust@other",
            "org/gated",
            "OFFLINE",
            *places,
            "org/nobody",
        )
        assert found[:4] == [expected] * 4
        assert [
            len(hub.asked(name, "GET"))
            for name in ("open_clip_model.safetensors", "pytorch_model.bin")
        ] == [1, 1]
        assert "Cannot download org/empty: " in found[4]
        assert "there is no such repository" in found[5]
        assert "it has no such revision" in found[6]
        assert "it is gated. Accept its terms on its page, and set HF_TOKEN" in found[7]
        again = found[9:]
        assert again[:4] == [expected] * 4
        assert "HF_HUB_OFFLINE is set" in again[4]


DIGESTS = ["a" * 64, "b" * 64]


def test_the_first_download_is_recorded_and_another_is_refused(tmp_path):
    for place in ("org/name", "org/name@v1", "org/name:a.pt", "org-name/a"):
        check_download(tmp_path, place, DIGESTS[0])  # each place has its own record
        check_download(tmp_path, place, DIGESTS[0])
    check_download(tmp_path, "org/name@v2", DIGESTS[1])
    path = record_of(tmp_path, "org/name")
    before = path.read_bytes()
    with pytest.raises(ZSRobustError) as caught:
        check_download(tmp_path, "org/name", DIGESTS[1])
    for part in ("org/name has changed", *DIGESTS, f"remove {path}"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert json.loads(before) == {"place": "org/name", "sha256": DIGESTS[0]}
    path.unlink()
    check_download(tmp_path, "org/name", DIGESTS[1])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"place": "a", "sha256": "b"}', b"\xff"])
def test_a_damaged_record_is_one_line(tmp_path, content):
    record_of(tmp_path, "org/name").write_bytes(content)
    with pytest.raises(ZSRobustError, match="Remove it: the next run records") as caught:
        check_download(tmp_path, "org/name", DIGESTS[0])
    assert "\n" not in str(caught.value)


def test_first_downloads_at_the_same_time_agree_on_one_record(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "PAUSE", 0.01)
    digests = [f"{number:064x}" for number in range(8)]

    def download(digest):
        try:
            check_download(tmp_path, "org/name", digest)
        except ZSRobustError as error:
            return str(error)
        return digest

    with ThreadPoolExecutor(len(digests)) as pool:
        answers = list(pool.map(download, digests))
    (kept,) = set(answers) & set(digests)
    assert json.loads(record_of(tmp_path, "org/name").read_bytes())["sha256"] == kept
    assert sum(f"the first download had {kept}" in answer for answer in answers) == 7
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


OF_ENTRIES = """
import json, sys
from pathlib import Path
from zsrobust.defenses.weights import register_weights
from zsrobust.defenses.workshop import Workshop
from zsrobust.registry import ZSRobustError
from zsrobust.settings.suites import Suite
suite = Suite(name="tiny", title="-", backbone=sys.argv[1], train_on="-", datasets=("-",), attack={})
workshop = Workshop(suite, Path("checkpoints"))
for number, entry in enumerate(map(json.loads, sys.argv[2:])):
    register_weights(f"entry{number}", {"title": "Mine", "paper": "-", **entry})
    try:
        print(json.dumps(workshop.tower(f"entry{number}").identity))
    except ZSRobustError as error:
        print(json.dumps(str(error)))
"""


def test_an_entry_names_a_file_of_a_repository_and_a_changed_download_is_refused(clip, tmp_path):
    def saved(weights, name):
        torch.save(weights, tmp_path / name)
        return (tmp_path / name).read_bytes()

    first, second = saved(state(clip), "a.pt"), saved(half(state(clip)), "b.pt")
    old, new = (hashlib.sha256(each).hexdigest() for each in (first, second))

    def run(*entries, **changed):
        places = [json.dumps({"where": "org/sim", **entry}) for entry in entries]
        done = fresh.Process(
            fresh.script,
            OF_ENTRIES,
            clip.name,
            *places,
            folder=tmp_path,
            environment=hub_environment(hub.url, tmp_path, **changed),
        ).end()
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    with HubServer() as hub:
        revision = hub.add(
            "org/sim", {"sim4.pt": first, "deep/sim2.pt": first, "README.md": b"-"}, kind="model"
        )
        four, two, missing, folder_of_clip, pinned = run(
            {"file": "sim4.pt"},
            {"file": "deep/sim2.pt"},
            {"file": "sim3.pt"},
            {},
            {"file": "sim4.pt", "revision": revision, "sha256": old},
        )
        assert four["file_sha256"] == two["file_sha256"] == pinned["file_sha256"] == old
        assert four == two == pinned
        assert "Cannot download org/sim: " in missing
        assert "Cannot download org/sim: " in folder_of_clip
        records = sorted((tmp_path / "checkpoints" / "downloads").iterdir())
        assert [json.loads(path.read_bytes())["place"] for path in records] == [
            "org/sim:deep/sim2.pt",
            "org/sim:sim4.pt",
        ]  # not that of the entry with a sha256
        assert run({"file": "sim4.pt"}, HF_HUB_OFFLINE="1") == [four]
        pushed = {"sim4.pt": second, "deep/sim2.pt": first}
        hub.add("org/sim", pushed, revision="1" * 40, kind="model")
        refused, same, other = run(
            {"file": "sim4.pt"}, {"file": "deep/sim2.pt"}, {"file": "sim4.pt", "sha256": old}
        )
        assert f"org/sim:sim4.pt has changed: its sha256 is {new}" in refused
        assert f"the first download had {old}" in refused
        assert same == two
        assert f"has the sha256 {new}, not {old}" in other
        records[1].unlink()
        assert run({"file": "sim4.pt"})[0]["file_sha256"] == new

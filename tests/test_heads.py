"""The text side: learned contexts, the prompts that attacks see, and towers with a head of their own."""

import copy
import math
from dataclasses import replace

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from tiny import make_clip
from torch import nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Dataset, Images, Wording, datasets
from zsrobust.defenses import Tower, defenses
from zsrobust.defenses.export import export
from zsrobust.defenses.weights import Weights, register_weights
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.clip import load_clip, weights_digest
from zsrobust.models.heads import Context, of_texts
from zsrobust.results.store import Store
from zsrobust.running.bench import Bench, identify_defense
from zsrobust.running.plan import plan
from zsrobust.running.single import diagnose
from zsrobust.settings import protocols, suites
from zsrobust.testing import check_defense
from zsrobust.training import Checkpoint, Recipe, train, trained_context, trained_encoder
from zsrobust.training.learner import Learner

MINI = suites.load("mini")
WORDING = Wording(("cat", "guide_dog", "red circle"), ("a photo of a {}",))
generator = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (12, 3, 16, 16), generator=generator, dtype=torch.uint8).numpy()
IMAGES = Images(pixels=PIXELS, labels=torch.arange(12).remainder(3).numpy())
DATASET = Dataset(
    title="tiny",
    group="general",
    about="",
    classes=WORDING.classes,
    templates=WORDING.templates,
    size=12,
    side=16,
    load=lambda split: IMAGES,
)
APT = Recipe(
    objective="tecoa",
    attack="pgd:steps=3",
    eps=0.02,
    step_size=0.01,
    epochs=2,
    batch_size=5,
    lr=0.1,
    warmup=2,
    trainable="context",
    tower="clip",
    options={"tokens": 4},
)
SHORT = "apt:of=clip,epochs=1,limit=64"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two tiny CLIPs with the same shape of the text tower, the first in float32 and float64."""
    folder = tmp_path_factory.mktemp("clips")
    torch.manual_seed(0)  # open_clip draws what make_clip moves
    made = {kind: load_clip(make_clip(folder / kind, kind).backbone) for kind in ("vit", "resnet")}
    made["double"] = load_clip(make_clip(folder / "vit", "vit").backbone)
    made["double"].model.double()
    return made


@pytest.fixture(scope="module")
def workshop(checkpoints):
    return Workshop(MINI, checkpoints)


def by_hand(model, vectors, ids):
    """Return the unit-norm embedding of one text, operation by operation, as CLIP's paper has it."""
    words = model.token_embedding.weight[ids]
    states = torch.cat([words[:1], vectors, words[1 + len(vectors) :]]) + model.positional_embedding
    length, width = states.shape
    ahead = torch.full((length, length), -math.inf, dtype=states.dtype).triu(1)

    def norm(layer, x):
        spread = (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
        return (x - x.mean(-1, keepdim=True)) / (spread + layer.eps).sqrt() * layer.weight + (
            layer.bias
        )

    for block in model.transformer.resblocks:
        query, key, value = (
            norm(block.ln_1, states) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
        ).chunk(3, dim=-1)
        size = width // block.attn.num_heads
        heads = []
        for start in range(0, width, size):
            part = slice(start, start + size)
            scores = query[:, part] @ key[:, part].T / size**0.5 + ahead
            heads.append(scores.softmax(-1) @ value[:, part])
        out = block.attn.out_proj
        states = states + torch.cat(heads, -1) @ out.weight.T + out.bias
        hidden = norm(block.ln_2, states) @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        states = states + hidden @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias
    last = norm(model.ln_final, states)[ids.tolist().index(49407)] @ model.text_projection
    return last / last.norm()


# A learned context


def test_the_loss_and_its_gradient_are_those_of_the_equation(clips):
    """CE over images of s · cos(f(x'), g([v][class])), in float64, from the definitions."""
    clip = clips["double"]
    learner = Learner(APT, clip, DATASET, IMAGES, None, False, clip.encoder)
    positions = torch.arange(5)
    adversarial = learner._step(0, positions, 1.0).adversarial.clone()
    assert (adversarial != torch.from_numpy(PIXELS[:5]) / 255).any()
    total, correct = learner.gradients(0, positions).tolist()
    vectors = learner.context.vectors.detach().clone().requires_grad_()
    ids = clip.tokenize([f"X X X X {name}." for name in ("cat", "guide dog", "red circle")])
    rows = [by_hand(clip.model, vectors, each) for each in ids]
    mean, std = (
        torch.tensor(each, dtype=torch.float64)[:, None, None] for each in (clip.mean, clip.std)
    )
    expected = torch.zeros((), dtype=torch.float64)
    right = 0
    for image, label in zip(adversarial, IMAGES.labels[:5], strict=True):
        embedding = clip.encoder(((image.double() - mean) / std)[None])[0]
        scores = [
            clip.model.logit_scale.exp() * (embedding @ row) / embedding.norm() for row in rows
        ]
        right += int(torch.stack(scores).argmax().item() == label)
        expected += torch.stack(scores).exp().sum().log() - scores[label]
    assert total == pytest.approx(expected.item(), rel=1e-10)
    assert correct == right
    (gradient,) = torch.autograd.grad(expected / 5, vectors)
    torch.testing.assert_close(learner.context.vectors.grad, gradient, rtol=1e-9, atol=1e-11)
    assert gradient.abs().sum() > 0.01


def test_a_head_is_exactly_that_of_the_text_tower(clips):
    clip = clips["double"]
    context = Context.start(clip, 4, seed=3)
    ids = clip.tokenize([f"X X X X {name}." for name in ("cat", "guide dog", "red circle")])
    expected = torch.stack([by_hand(clip.model, context.vectors, each) for each in ids])
    torch.testing.assert_close(context(WORDING, 1.0), expected, rtol=1e-12, atol=1e-12)
    scale = clip.model.logit_scale.exp()
    torch.testing.assert_close(context(WORDING), expected * scale, rtol=1e-12, atol=1e-12)


def test_a_context_of_a_templates_own_words_is_that_template(clips):
    clip = clips["vit"]
    words = clip.tokenize(["a photo of a"])[0, 1:5]
    context = Context(clip, clip.model.token_embedding.weight[words].clone())
    template = Wording(("cat", "red circle"), ("a photo of a {}.",))
    assert torch.allclose(context(template), clip.head(template.prompts), atol=1e-5)
    assert clip.model.token_embedding._forward_hooks == {}


@pytest.mark.parametrize("size", [1, 2])
def test_parts_of_a_batch_have_its_gradient(clips, size):
    whole, parts = (
        Learner(APT, clips["double"], DATASET, IMAGES, each, False, clips["double"].encoder)
        for each in (None, size)
    )
    sums = [each.gradients(0, torch.arange(5)) for each in (whole, parts)]
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-9, atol=1e-12)
    gradients = [each.context.vectors.grad for each in (whole, parts)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_the_head_is_made_once_for_each_part_of_a_batch(clips):
    learner = Learner(APT, clips["vit"], DATASET, IMAGES, 2, False, clips["vit"].encoder)
    texts, heads = [], []
    clips["vit"].model.transformer.register_forward_hook(lambda *_: texts.append(1))
    handle = learner.student.register_forward_pre_hook(
        lambda module, _: heads.append(module.head.requires_grad)
    )
    learner.gradients(0, torch.arange(5))
    handle.remove()
    clips["vit"].model.transformer._forward_hooks.clear()
    assert len(texts) == 3  # of 2, 2 and 1 images
    assert heads
    assert not any(heads)  # the attack sees a head without a gradient
    assert learner.student.head.requires_grad


def test_only_the_context_moves_and_the_checkpoint_is_a_few_kilobytes(clips, tmp_path):
    clip = clips["resnet"]
    tower = copy.deepcopy(clip.encoder)
    images = Images(
        pixels=PIXELS.repeat(2, axis=2).repeat(2, axis=3), labels=IMAGES.labels
    )  # 32 pixels a side
    before = weights_digest(tower.state_dict()), weights_digest(clip.model.state_dict())
    path = tmp_path / "a.safetensors"
    checkpoint = train(APT, clip, DATASET, images, path, tower=tower)
    assert before == (weights_digest(tower.state_dict()), weights_digest(clip.model.state_dict()))
    assert {name: each.shape for name, each in checkpoint.weights.items()} == {"vectors": (4, 16)}
    assert path.stat().st_size < 4096
    assert not torch.equal(checkpoint.weights["vectors"], Context.start(clip, 4, 0).vectors)
    learner = Learner(APT, clip, DATASET, images, None, False, tower)
    statistics = learner.student.encoder.bn1.running_mean.clone()
    learner.gradients(0, torch.arange(5))
    assert torch.equal(learner.student.encoder.bn1.running_mean, statistics)


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_a_training_that_is_stopped_resumes_to_the_same_bits(clips, at, tmp_path):
    clip = clips["vit"]

    def stop(done, total, note):
        if done == at and not note.startswith("resumed"):
            raise KeyboardInterrupt

    def trained(path, *more):
        return train(APT, clip, DATASET, IMAGES, tmp_path / path, *more, tower=clip.encoder)

    whole = trained("whole.safetensors")
    own = train(APT, clip, DATASET, IMAGES, tmp_path / "own.safetensors")
    assert own.digest == whole.digest  # without a tower, it is the backbone's
    assert "tower" not in own.sources
    with pytest.raises(KeyboardInterrupt):
        trained("stopped.safetensors", stop)
    assert (tmp_path / "stopped.partial").is_file()
    resumed = trained("stopped.safetensors")
    assert resumed.digest == whole.digest
    assert [each["loss"] for each in resumed.history] == [each["loss"] for each in whole.history]


def test_a_partial_of_another_tower_is_not_resumed(clips, tmp_path):
    clip, path = clips["vit"], tmp_path / "a.safetensors"

    def stop(done, total, note):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(APT, clip, DATASET, IMAGES, path, stop, tower=clip.encoder)
    other = clip.copy()
    with torch.no_grad():
        other.proj.mul_(1.01)
    notes = []
    train(APT, clip, DATASET, IMAGES, path, lambda *a: notes.append(a[2]), tower=other)
    assert any("made from other sources" in note for note in notes)


def test_a_context_learns_to_classify_adversarial_images(clips, tmp_path):
    recipe = replace(APT, epochs=20, batch_size=12)
    clip = clips["vit"]
    made = train(
        recipe, clip, DATASET, IMAGES, tmp_path / "a.safetensors", tower=clip.encoder
    ).history
    assert made[-1]["loss"] < 0.9 * made[0]["loss"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"tokens": 0}}, "A context of 0 tokens learns nothing"),
        ({"options": {"tokens": 12}}, r"'guide dog.' and 12 tokens of context need 17 tokens"),
    ],
)
def test_a_context_that_cannot_be_is_refused(clips, change, message, tmp_path):
    recipe = replace(APT, **change)
    with pytest.raises(ZSRobustError, match=message):
        train(
            recipe,
            clips["vit"],
            DATASET,
            IMAGES,
            tmp_path / "a.safetensors",
            tower=clips["vit"].encoder,
        )


def test_a_name_that_the_text_tower_cuts_is_refused_not_cut(clips):
    long = Wording(("cat", "a very " * 20 + "long name"), ("{}",))
    with pytest.raises(ZSRobustError, match="tokens, but the text tower reads 16"):
        Context.start(clips["vit"], 4, 0)(long)


def test_a_context_needs_a_text_tower_with_tokens(clips):
    strange = copy.copy(clips["vit"])
    strange.tokenize = lambda texts: clips["vit"].tokenize(["." + text for text in texts])
    with pytest.raises(ZSRobustError, match="does not keep places for a context"):
        Context.start(strange, 4, 0)(WORDING)
    strange.model = nn.Linear(2, 2)
    with pytest.raises(ZSRobustError, match="has no table of tokens"):
        Context.start(strange, 4, 0)


# The defense


@pytest.mark.parametrize("prompt", ["same", "fixed", "other"])
def test_apt_holds_the_contract(prompt, checkpoints):
    check_defense(f"{SHORT},attack_prompt={prompt}", checkpoints=checkpoints)


def test_the_context_changes_the_heads_of_all_datasets(workshop):
    tower, clip = workshop.tower(SHORT), workshop.clip
    recipe = defenses.create(SHORT).recipe_for(MINI)
    checkpoint = Checkpoint.read(workshop.checkpoint_path(recipe))
    assert checkpoint.weights["vectors"].shape == (16, 64)
    for name in ("mini_train", "mini_flags", "mini_counts"):
        wording = datasets[name].worded()
        classifier = tower.classifier(clip, wording)
        expected = Context(clip, checkpoint.weights["vectors"])(wording)
        assert torch.equal(classifier.head, expected)
        assert not torch.allclose(classifier.head, clip.head(wording.prompts), atol=1)
        assert not classifier.head.requires_grad
        assert torch.allclose(
            classifier.head.norm(dim=1), clip.model.logit_scale.exp().expand(len(expected))
        )
    assert torch.allclose(tower.classifier(clip, wording, 1.0).head.norm(dim=1), torch.ones(4))
    assert tower.encoder is clip.encoder


def test_an_attack_with_another_prompt_is_oblivious(checkpoints):
    bench = Bench(MINI, protocols.load("sound"), Workshop(MINI, checkpoints))
    specs = [SHORT, *(f"{SHORT},attack_prompt={prompt}" for prompt in ("fixed", "other"))]
    cells = plan(bench.suite, bench.protocol, specs, ["pgd10"], ["mini_shapes"], limit=8)
    wording = datasets["mini_shapes"].worded()
    expected = {
        "fixed": wording.prompts,
        "other": [[f"a photo of a {n}."] for n in wording.classes],
    }
    made = set()
    for cell in cells:
        tower = bench.workshop.tower(cell.key.defense)
        deployed, about = bench.deploy(cell, tower), identify_defense(cell, tower)
        prompt = about.details["attack_prompt"]
        made.add(bench.identify(cell, about).row)
        assert torch.equal(deployed.classifier.head, tower.head(wording))
        if prompt == "same":
            assert deployed.target is None
            assert (about.knowledge, deployed.knowledge) == ("", "adaptive")
            assert about.title == "APT (CLIP)"
            assert cell.attack.early_stop
        else:
            assert torch.equal(deployed.target.head, bench.workshop.clip.head(expected[prompt]))
            assert about.knowledge == deployed.knowledge == "oblivious"
            assert about.title == f"APT (CLIP), oblivious attack ({prompt} prompt)"
            assert not cell.attack.early_stop
    assert len(made) == 3


def test_the_other_prompt_is_not_the_datasets_own(clips):
    clip = clips["vit"]
    own = Wording(("cat", "dog"), ("a photo of a {}.",))
    head = of_texts(clip, "a photo of a {}.", "a picture of the {}.")
    assert torch.equal(head(own), clip.head([["a picture of the cat."], ["a picture of the dog."]]))
    assert torch.equal(head(WORDING), clip.head([[f"a photo of a {n}."] for n in WORDING.classes]))


def test_another_tower_is_another_checkpoint():
    specs = ["apt:of=clip", "apt", "apt:of=tecoa:seed=1", "apt:of=fare", "apt:of=pmg_aft,alpha=2"]
    recipes = [defenses.create(spec).recipes(MINI) for spec in specs]
    assert [len(each) for each in recipes] == [1, 2, 2, 2, 2]
    assert len({each[-1].digest for each in recipes}) == len(specs)
    tecoa, context = recipes[1]
    assert context.tower == f"tecoa {tecoa.digest}"
    assert (context.lr, context.attack, context.options) == (0.12, "pgd:steps=3", {"tokens": 16})
    assert (context.epochs, context.eps, context.batch_size) == (4, 6 / 255, 64)
    other = replace(MINI, recipe={**MINI.recipe, "encoder": {"lr": 1e-3}})
    assert defenses.create("apt").recipe_for(other).digest != context.digest


def test_the_identity_has_the_context_and_the_tower(checkpoints):
    spec = "apt:of=tecoa:limit=64,limit=64"
    tower = Workshop(MINI, checkpoints).tower(spec)
    inner = tower.identity["towers"]["tecoa:limit=64"]
    assert inner["checkpoint"] != tower.identity["checkpoint"]
    assert tower.identity["tower"] == weights_digest(tower.encoder.state_dict())
    assert inner["recipe"]["limit"] == tower.identity["recipe"]["limit"] == 64


def test_a_checkpoint_for_another_tower_is_refused(checkpoints):
    workshop = Workshop(MINI, checkpoints)
    recipe = defenses.create(SHORT).recipe_for(MINI)
    workshop.tower(SHORT)
    moved = workshop.clip.copy()
    with torch.no_grad():
        moved.proj.mul_(1.01)
    with pytest.raises(ZSRobustError, match="another image tower than there is now") as caught:
        workshop.checkpoint(recipe, "APT", moved)
    assert "evaluate it as it is" not in str(caught.value)
    path = workshop.checkpoint_path(recipe)
    with pytest.raises(ZSRobustError, match="is a context of text prompts, not an image tower"):
        workshop.tower(f"weights:{path}")
    with pytest.raises(ZSRobustError, match="is a context of text prompts"):
        trained_encoder(workshop.clip, recipe, Checkpoint.read(path))
    shorter = replace(recipe, options={"tokens": 3})
    with pytest.raises(ZSRobustError, match="does not fit .* vectors"):
        trained_context(workshop.clip, shorter, Checkpoint.read(path))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("apt:of=ttc", "TTC is not a defense of the weights"),
        ("apt:of=apt", "APT is not a defense of the weights"),
        ("interpolation:of=apt", "APT is made from another defense, too"),
        ("soup:of=tecoa+apt", "APT is made from another defense, too"),
        ("ttc:of=apt:attack_prompt=fixed", "does not know all of it"),
        ("apt:attack_prompt=mine", "is not one of same, fixed, other"),
        ("apt:of=tecoa:seed=1,epochs=2", "a spec cannot set both apart"),
        ("apt:tower=x", "has no field 'tower'"),
    ],
)
def test_a_bad_spec_is_one_clear_line(spec, message):
    with pytest.raises(ZSRobustError, match=message) as caught:
        defenses.create(spec)
    assert "\n" not in str(caught.value)


def test_a_wrapper_keeps_the_head(workshop):
    wording = datasets["mini_shapes"].worded()
    tower = workshop.tower(f"tte:of={SHORT}")
    assert tower.wrapper is not None
    classifier = tower.classifier(workshop.clip, wording)
    assert torch.equal(
        classifier.head, workshop.tower(SHORT).classifier(workshop.clip, wording).head
    )


def test_a_context_stays_here_and_the_doctor_wants_the_deployed_defense(workshop, tmp_path):
    with pytest.raises(ZSRobustError, match="open_clip cannot load a learned context"):
        export(SHORT, workshop, tmp_path / "out", Store(tmp_path / "results"))
    spec = f"{SHORT},attack_prompt=fixed"
    with pytest.raises(ZSRobustError, match="Leave out what its attack does not know"):
        diagnose(spec, dataset="mini_shapes", checkpoints=workshop.folder)


def test_a_tower_without_a_head_has_the_backbones(clips):
    clip = clips["vit"]
    plain = Tower(clip.encoder, {}).classifier(clip, WORDING, 2.0, "imagenet")
    assert torch.equal(plain.head, clip.head(WORDING.prompts, 2.0))
    assert F.normalize(plain.head, dim=1).allclose(plain.head / 2, atol=1e-6)
    assert plain.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


# A text tower of its own


def as_transformers(weights):
    """Return open_clip's weights of a ViT under the names of transformers' CLIPModel."""
    names = {
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.proj": "visual_projection.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "text_projection": "text_projection.weight",
        "logit_scale": "logit_scale",
    }
    for kind in ("weight", "bias"):
        names[f"visual.ln_pre.{kind}"] = f"vision_model.pre_layrnorm.{kind}"
        names[f"visual.ln_post.{kind}"] = f"vision_model.post_layernorm.{kind}"
        names[f"ln_final.{kind}"] = f"text_model.final_layer_norm.{kind}"
    parts = {
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
    }
    made = {"text_model.embeddings.position_ids": torch.arange(16)[None]}
    for name, tensor in weights.items():
        if name in names:
            turned = name in ("visual.proj", "text_projection")
            made[names[name]] = tensor.T.contiguous() if turned else tensor
            continue
        tower, rest = name.split("transformer.resblocks.")
        block, part = rest.split(".", 1)
        place = f"{'vision_model' if tower else 'text_model'}.encoder.layers.{block}."
        if part.startswith("attn.in_proj_"):
            kind = part.removeprefix("attn.in_proj_")
            for letter, rows in zip("qkv", tensor.chunk(3), strict=True):
                made[f"{place}self_attn.{letter}_proj.{kind}"] = rows.clone()
        else:
            inner, kind = part.rsplit(".", 1)
            made[f"{place}{parts[inner]}.{kind}"] = tensor
    return made


@pytest.fixture
def own(clips, tmp_path):
    """The files of another whole CLIP, in both layouts and in an open_clip folder, and that CLIP."""
    suite = make_clip(tmp_path / "folder", "vit", seed=5)
    other = load_clip(suite.backbone)
    assert not torch.equal(other.head(WORDING.prompts), clips["vit"].head(WORDING.prompts))
    weights = other.model.state_dict()
    safetensors.torch.save_file(as_transformers(weights), tmp_path / "model.safetensors")
    torch.save(weights, tmp_path / "open_clip.pt")
    return other, [tmp_path / each for each in ("folder", "model.safetensors", "open_clip.pt")]


def entry(place, **more):
    return Weights(title="own", paper="nowhere", where=str(place), text="own", **more)


def test_a_whole_clip_brings_its_own_text_tower(clips, own, tmp_path):
    other, places = own
    workshop = Workshop(replace(MINI, name="tiny", backbone=clips["vit"].name), tmp_path)
    images, made = torch.rand(2, 3, 16, 16), set()
    expected = other.classifier(WORDING.prompts)(images)
    assert not torch.allclose(workshop.clip.classifier(WORDING.prompts)(images), expected, atol=0.1)
    for place in places:
        tower = entry(place).tower(workshop)
        assert torch.equal(tower.classifier(workshop.clip, WORDING)(images), expected)
        assert not any(weight.requires_grad for weight in tower.encoder.parameters())
        made.add((tower.identity["weights"], tower.identity["text"]))
    assert len(made) == 1
    weights = {**other.model.state_dict(), "ln_final.bias": torch.ones(16)}
    torch.save(weights, tmp_path / "open_clip.pt")
    again = entry(tmp_path / "open_clip.pt").tower(workshop).identity
    assert again["weights"] == tower.identity["weights"]
    assert again["text"] != tower.identity["text"]


def test_weights_that_are_not_a_whole_clip_are_refused(clips, own, tmp_path):
    other, _ = own
    workshop = Workshop(replace(MINI, name="tiny", backbone=clips["vit"].name), tmp_path)
    path = tmp_path / "a.pt"
    torch.save(other.encoder.state_dict(), path)
    with pytest.raises(
        ZSRobustError, match="does not fit .*token_embedding.weight is missing|unexpe"
    ):
        entry(path).tower(workshop)
    theirs = as_transformers(other.model.state_dict())
    del theirs["text_model.encoder.layers.0.mlp.fc1.bias"]
    torch.save({**theirs, "text_model.more": torch.zeros(1)}, path)
    with pytest.raises(
        ZSRobustError, match=r"text_model.more is unexpected, .*mlp.c_fc.bias is miss"
    ):
        entry(path).tower(workshop)


def test_own_text_towers_are_neither_mixed_nor_exported_nor_tuned(
    own, tmp_path, clips, monkeypatch
):
    _, places = own
    monkeypatch.setitem(defenses._entries, "own_texts", entry(places[1]))
    suite = replace(MINI, name="tiny", backbone=clips["vit"].name)
    workshop = Workshop(suite, tmp_path)
    for spec in ("soup:of=own_texts", "apt:of=own_texts"):
        with pytest.raises(ZSRobustError, match="own_texts has a text tower of its own"):
            workshop.tower(spec)
    with pytest.raises(ZSRobustError, match="its text tower is not the backbone's"):
        export("own_texts", workshop, tmp_path / "out", Store(tmp_path / "results"))
    wrapped = workshop.tower("tte:of=own_texts")
    assert wrapped.head is not None
    assert "text" in wrapped.identity


def test_an_entry_says_own_or_nothing():
    fields = {"title": "a", "paper": "b", "where": "org/name", "text": "theirs"}
    with pytest.raises(ZSRobustError, match="text = 'theirs' is not valid"):
        register_weights("own_theirs", fields)
    assert defenses["leaf_vit_l14"].text == "own"

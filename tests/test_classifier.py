import json

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer

from zsrobust.core.errors import ZSRobustError
from zsrobust.evaluation.meter import Meter
from zsrobust.models.clip import load_clip, weights_are_here, weights_digest
from zsrobust.models.tokens import embed, project
from zsrobust.models.visual_prompts import prompted
from zsrobust.models.wrappers import Purified
from zsrobust.models.zeroshot import HalfPrecision, ZeroShotClassifier
from zsrobust.settings import suites
from zsrobust.training.learner import BFloat16

PROMPTS = [["a photo of a red circle", "something red"], ["a blue star"], ["the letter q"]]


@pytest.fixture(scope="module")
def clip():
    return load_clip(suites.load("mini").backbone)


def test_the_head_is_the_unit_mean_over_prompts_times_the_scale(clip):
    texts = clip.model.encode_text(
        clip.tokenize([p for each in PROMPTS for p in each]), normalize=True
    )
    expected = torch.stack([F.normalize(texts[:2].mean(0), dim=0), texts[2], texts[3]])
    assert torch.allclose(clip.head(PROMPTS), expected * clip.model.logit_scale.exp(), atol=1e-5)
    assert torch.allclose(clip.head(PROMPTS, scale=1.0).norm(dim=1), torch.ones(3), atol=1e-6)


def test_a_classifier_is_where_its_head_is(clip):
    made = ZeroShotClassifier(
        torch.nn.Flatten(), clip.head(PROMPTS).to("meta"), clip.mean, clip.std, clip.side
    )
    assert {buffer.device.type for buffer in made.buffers()} == {"meta"}


def test_texts_are_encoded_once(clip, monkeypatch):
    clip.head(PROMPTS)
    monkeypatch.setattr(clip.model, "encode_text", None)
    clip.head(PROMPTS, scale=1.0)


def test_logits_are_those_of_open_clip(clip):
    images = torch.rand(4, 3, 32, 32)
    mean, std = torch.tensor(clip.mean)[:, None, None], torch.tensor(clip.std)[:, None, None]
    features, texts, scale = clip.model(
        (images - mean) / std, clip.tokenize([p for (p, *_) in PROMPTS])
    )
    classifier = clip.classifier([[p] for (p, *_) in PROMPTS])
    assert torch.allclose(classifier(images), scale * features @ texts.T, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


def test_images_of_another_size_are_resized_inside(clip):
    images = torch.rand(2, 3, 64, 64)
    inside = F.interpolate(images, size=32, mode="bicubic", align_corners=False)
    classifier = clip.classifier(PROMPTS)
    assert torch.equal(classifier(images), classifier(inside))


def test_features_are_embeddings_of_length_one(clip):
    images = torch.rand(4, 3, 32, 32)
    classifier = clip.classifier(PROMPTS)
    embeddings = classifier.embeddings(images)
    assert torch.equal(embeddings, clip.encoder(classifier.prepared(images)))
    assert torch.equal(classifier.features(images), F.normalize(embeddings, dim=-1))
    assert torch.equal(classifier(images), classifier.features(images) @ classifier.head.T)


def test_tokens_are_the_patches_of_the_pass_that_gives_the_embeddings(clip):
    """open_clip's own `output_tokens` gives the normed patches; the class token's way gives `embeddings`, to the bit."""
    images = torch.rand(4, 3, 64, 64, requires_grad=True)  # resized inside
    classifier, tower = clip.classifier(PROMPTS), clip.encoder
    tokens = classifier.tokens(images)
    assert tokens.shape == (4, 16, 64)
    tower.output_tokens = True
    try:
        embeddings, patches = tower(classifier.prepared(images))
    finally:
        tower.output_tokens = False
    assert torch.allclose(tokens, patches @ tower.proj, atol=1e-5)
    seen = []
    hook = tower.transformer.register_forward_hook(lambda module, given, out: seen.append(out))
    again, states = embed(tower, classifier.prepared(images))
    hook.remove()
    assert torch.equal(again, embeddings)
    assert torch.equal(again, classifier.embeddings(images))
    assert torch.equal(states, seen[0][:, 1:])
    assert torch.equal(project(tower, seen[0][:, 0]), again)
    (gradient,) = torch.autograd.grad(tokens.square().sum(), images)
    assert gradient.abs().sum() > 0
    assert not tower.transformer._forward_hooks


@pytest.mark.parametrize("kind", [{"pool_type": "avg"}, {"final_ln_after_pool": True}])
def test_tokens_of_a_tower_that_pools_another_way(kind):
    tower = VisionTransformer(16, 8, 32, 2, 2, 4.0, output_dim=6, **kind).eval()
    classifier = ZeroShotClassifier(tower, torch.eye(3, 6), [0.5] * 3, [0.25] * 3, 16)
    images = torch.rand(2, 3, 16, 16)
    tokens = classifier.tokens(images)
    assert tokens.shape == (2, 4, 6)
    _, patches = tower._pool(tower.transformer(tower._embeds(classifier.prepared(images))))
    normed = tower.ln_post(patches) if "final_ln_after_pool" in kind else patches
    assert torch.allclose(tokens, normed @ tower.proj, atol=1e-6)


def test_learned_prompts_are_no_patch_tokens(clip):
    images = torch.rand(2, 3, 32, 32)
    classifier = clip.classifier(PROMPTS, prompted(clip, 7, 0))
    assert classifier.tokens(images).shape == (2, 16, 64)
    plain = clip.classifier(PROMPTS, prompted(clip, 0, 0))
    expected = clip.classifier(PROMPTS).tokens(images)
    assert torch.allclose(plain.tokens(images), expected, atol=1e-4)


@pytest.mark.parametrize(
    "tower",
    [
        torch.nn.Flatten(),
        VisionTransformer(16, 8, 32, 1, 2, 4.0, 0.1, attentional_pool=True),
        VisionTransformer(16, 8, 32, 1, 2, 4.0, patch_dropout=0.5),
    ],
    ids=["no transformer", "attention", "dropped patches"],
)
def test_a_tower_without_patch_tokens_is_one_line(tower):
    classifier = ZeroShotClassifier(tower, torch.eye(3, 6), [0.5] * 3, [0.25] * 3, 16)
    with pytest.raises(ZSRobustError, match="has no patch tokens"):
        classifier.tokens(torch.rand(2, 3, 16, 16))


@pytest.mark.parametrize("what", ["embeddings", "features", "tokens"])
def test_what_is_around_a_classifier_passes_on_what_it_computes(clip, what):
    images, classifier = torch.rand(2, 3, 32, 32), clip.classifier(PROMPTS)
    expected = getattr(classifier, what)(images)
    meter = Meter(Purified(classifier, lambda images: images.flip(3)))
    assert torch.equal(getattr(meter, what)(images.flip(3)), expected)
    assert meter.forward_passes == 2
    half = getattr(HalfPrecision(classifier), what)(images)
    assert half.dtype == torch.float32
    assert torch.allclose(half, expected, atol=0.05 * float(expected.abs().max()))
    assert not torch.equal(half, expected)
    assert not hasattr(Meter(torch.nn.Flatten()), what)
    assert not hasattr(HalfPrecision(torch.nn.Flatten()), what)


def test_tokens_in_bfloat16_are_float32(clip):
    images = torch.rand(2, 3, 32, 32)
    half = clip.classifier(PROMPTS, BFloat16(clip.encoder)).tokens(images)
    full = clip.classifier(PROMPTS).tokens(images)
    assert half.dtype == torch.float32
    assert torch.allclose(half, full, atol=0.05 * float(full.abs().max()))


@pytest.mark.filterwarnings("ignore:.*torch.load.*")
def test_a_state_dict_in_openais_layout_gives_the_same_logits(tmp_path):
    """OpenAI's files hold the same names in half precision, and three numbers beside the weights."""
    import open_clip

    torch.manual_seed(0)
    architecture = "ViT-B-32-quickgelu"
    model = open_clip.create_model(architecture, precision="fp32").eval()
    weights = {name: tensor.half() for name, tensor in model.state_dict().items()}
    numbers = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    torch.save(
        {**weights, **{name: torch.tensor(number) for name, number in numbers.items()}},
        tmp_path / "openai.pt",
    )
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    images = torch.rand(2, 3, 224, 224)
    loaded = load_clip(f"{architecture}/{tmp_path / 'openai.pt'}")
    assert torch.allclose(loaded.encoder(images), model.encode_image(images), atol=1e-5)
    assert loaded.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert type(loaded.encoder.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


@pytest.mark.parametrize(
    ("backbone", "parts"),
    [("ViT-B-16-quickgelu/openai", 197), ("RN50-quickgelu/openai", None)],
)
def test_other_architectures_give_what_open_clip_gives_and_a_gradient(backbone, parts):
    torch.manual_seed(0)
    clip = load_clip(backbone, weights=False)
    images = torch.rand(1, 3, clip.side, clip.side, requires_grad=True)
    classifier = clip.classifier([["a cat"], ["a dog"]])
    logits = classifier(images)
    mean, std = torch.tensor(clip.mean)[:, None, None], torch.tensor(clip.std)[:, None, None]
    with torch.no_grad():
        features, texts, scale = clip.model(
            (images - mean) / std, clip.tokenize(["a cat", "a dog"])
        )
    assert torch.allclose(logits, scale * features @ texts.T, atol=1e-4)
    (gradient,) = torch.autograd.grad((logits[0, 0] - logits[0, 1]), images)
    assert gradient.abs().sum() > 0
    if parts is None:
        with pytest.raises(ZSRobustError, match="Visual prompts need a vision transformer"):
            prompted(clip, 4, 0)
    else:
        assert len(clip.encoder.positional_embedding) == parts
        assert prompted(clip, 4, 0).tower.ln_pre.tokens.shape == (
            4,
            clip.encoder.positional_embedding.shape[1],
        )


def test_a_random_backbone_depends_on_its_seed_alone(tmp_path):
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    about = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "tiny-random.json").write_text(json.dumps(about))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = load_clip("tiny-random/random:0")
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert load_clip("tiny-random/random:0").digest == first.digest
    assert load_clip("tiny-random/random:0", weights=False).digest == first.digest
    assert load_clip("tiny-random/random:1").digest != first.digest
    assert weights_are_here("tiny-random/random:0")
    for tag in ("random", "random:", "random:-1", "random:1.5"):
        with pytest.raises(ZSRobustError, match=f"'{tag}' is not a tag or a file"):
            load_clip(f"tiny-random/{tag}")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("ViT-B-23/openai", "Unknown architecture 'ViT-B-23'. Did you mean ViT-B-32"),
        (
            "ViT-B-32",
            r"The backbone ViT-B-32 has no weights: the tag is missing.* Write ViT-B-32/TAG",
        ),
        (
            "ViT-B-32-quickgelu/opena1",
            "ViT-B-32-quickgelu has no weights: 'opena1' is not a tag or a file",
        ),
        (
            "ViT-B-32/openai",
            "has GELU; its weights 'openai' were trained with QuickGELU. Use ViT-B-32-quickgelu/openai",
        ),
        ("local-dir:/nowhere", "Cannot load the backbone"),
        ("package:zsrobust.mini/nothing", "Cannot load the backbone"),
    ],
)
def test_a_backbone_that_cannot_be_loaded_is_one_line(backbone, message):
    with pytest.raises(ZSRobustError, match=message):
        load_clip(backbone)


def test_the_digest_of_weights_knows_names_shapes_and_bytes(clip):
    first = torch.nn.Linear(2, 2)
    second = torch.nn.Linear(2, 2)
    second.load_state_dict(first.state_dict())
    assert weights_digest(first.state_dict()) == weights_digest(second.state_dict())
    with torch.no_grad():
        second.weight[0, 0] += 1e-6
    assert weights_digest(first.state_dict()) != weights_digest(second.state_dict())

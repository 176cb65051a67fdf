"""The protocol `reference` and the recipe `pmg_aft_code`, against what the released code computes, derived again here.

The derivation is plain: a vision transformer and a text transformer from OpenAI's weights by their equations, the attack
and the loss from the list of quirks, all in float64. It shares nothing with the package but torch.
"""

import dataclasses
import json

import layouts
import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from colors import picture

from zsrobust.attacks import Attack
from zsrobust.attacks.draws import Draws
from zsrobust.core.registry import load_plugins
from zsrobust.datasets import Images, datasets
from zsrobust.datasets.catalogue import register_dataset
from zsrobust.defenses import defenses
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Case, run_case
from zsrobust.results.identity import DefenseIdentity
from zsrobust.running.bench import Bench
from zsrobust.running.plan import Cell, Key
from zsrobust.settings import protocols, suites
from zsrobust.testing import LinearClassifier, toy
from zsrobust.training import Step, objectives

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EPS = 1 / 255


LAYERS = 3  # of each tower, in which nothing differs but the weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights of a ViT-B/32 with fewer layers, in a folder as open_clip writes it: with logits not all alike."""
    folder = tmp_path_factory.mktemp("weights")
    config = open_clip.get_model_config("ViT-B-32-quickgelu")
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = LAYERS
    preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(1.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def bench(folder, tmp_path_factory):
    """CIFAR10 in part, from its own files, on that CLIP, under `reference`."""
    load_plugins()
    root = tmp_path_factory.mktemp("data")
    rng = np.random.RandomState(0)
    noisy = [
        (
            k % 10,
            np.clip(picture(k, 32, 32) + rng.randint(0, 60, (32, 32, 3)), 0, 255).astype(np.uint8),
        )
        for k in range(2)
    ]
    layouts.build("cifar10", root, noisy, list(datasets["cifar10"].origin.called["names"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSROBUST_CACHE", str(root / "cache"))
        register_dataset(
            "reference_cifar10",
            {"like": "cifar10", "size": 2, "folder": "cifar-10-batches-py", "layout": "cifar10"},
            root,
        )
        suite = dataclasses.replace(suites.load("paper"), backbone=f"local-dir:{folder}")
        protocol = dataclasses.replace(protocols.load("reference"), native=("reference_cifar10",))
        bench = Bench(suite, protocol, Workshop(suite, root))
        bench.images(cell_of(bench))
        yield bench
    del datasets._entries["reference_cifar10"]


KEY = Key("clip", "pgd10", EPS, "reference_cifar10", None, 0)


def cell_of(bench):
    return Cell.of(KEY, bench.suite, bench.protocol)


# The equations.


def block(x, w, name, heads, mask=None):
    n, length, width = x.shape
    y = F.layer_norm(x, (width,), w[f"{name}.ln_1.weight"], w[f"{name}.ln_1.bias"])
    q, k, v = (y @ w[f"{name}.attn.in_proj_weight"].T + w[f"{name}.attn.in_proj_bias"]).chunk(
        3, dim=-1
    )
    q, k, v = (part.reshape(n, length, heads, -1).transpose(1, 2) for part in (q, k, v))
    score = q @ k.transpose(2, 3) / (width // heads) ** 0.5
    attention = (score if mask is None else score + mask).softmax(-1)
    y = (attention @ v).transpose(1, 2).reshape(n, length, width)
    x = x + y @ w[f"{name}.attn.out_proj.weight"].T + w[f"{name}.attn.out_proj.bias"]
    y = F.layer_norm(x, (width,), w[f"{name}.ln_2.weight"], w[f"{name}.ln_2.bias"])
    y = y @ w[f"{name}.mlp.c_fc.weight"].T + w[f"{name}.mlp.c_fc.bias"]
    y = y * torch.sigmoid(1.702 * y)  # QuickGELU
    return x + y @ w[f"{name}.mlp.c_proj.weight"].T + w[f"{name}.mlp.c_proj.bias"]


def image_features(images, w):
    """Pixels (N, 3, S, S) to unit-norm features: up-sampled, normalized with ImageNet's numbers, ViT."""
    if images.shape[-1] != 224:
        images = F.interpolate(images, size=224, mode="bicubic", align_corners=False)
    x = (images - torch.tensor(MEAN).double()[:, None, None]) / torch.tensor(STD).double()[
        :, None, None
    ]
    x = F.conv2d(x, w["visual.conv1.weight"], stride=32).flatten(2).transpose(1, 2)
    x = (
        torch.cat([w["visual.class_embedding"].expand(len(x), 1, -1), x], 1)
        + w["visual.positional_embedding"]
    )
    x = F.layer_norm(x, (768,), w["visual.ln_pre.weight"], w["visual.ln_pre.bias"])
    for k in range(LAYERS):
        x = block(x, w, f"visual.transformer.resblocks.{k}", 12)
    x = (
        F.layer_norm(x[:, 0], (768,), w["visual.ln_post.weight"], w["visual.ln_post.bias"])
        @ w["visual.proj"]
    )
    return x / x.norm(dim=-1, keepdim=True)


def text_features(prompts, w):
    tokens = open_clip.get_tokenizer("ViT-B-32-quickgelu")(prompts)
    x = w["token_embedding.weight"][tokens] + w["positional_embedding"]
    mask = torch.full((77, 77), -torch.inf).double().triu(1)
    for k in range(LAYERS):
        x = block(x, w, f"transformer.resblocks.{k}", 8, mask)
    x = F.layer_norm(x, (512,), w["ln_final.weight"], w["ln_final.bias"])
    x = x[torch.arange(len(x)), tokens.argmax(1)] @ w["text_projection"]
    return x / x.norm(dim=-1, keepdim=True)


def cross_entropy(logits, labels):
    return -torch.log(torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True))[
        torch.arange(len(labels)), labels
    ]


def pgd(images, labels, logits_of, steps, noise):
    """From a given start in [-eps, eps]: sign steps of 1/255 on the mean cross-entropy; the last iterate."""
    x = (images + EPS * noise).clamp(0, 1)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(logits_of(x), labels).mean(), x)
        delta = (x.detach() + EPS * gradient.sign() - images).clamp(-EPS, EPS)
        x = (images + delta).clamp(0, 1)
    return x.detach()


def uniform(images, seed):
    return draws(seed, images).uniform(images.shape[1:], "pgd", 0).double() * 2 - 1


def draws(seed, images):
    return Draws.of(seed, "", np.arange(len(images)))


@pytest.fixture(scope="module")
def plain(folder):
    """The weights in float64, and the text features of the prompts of CIFAR10, which are raw cosines' other side."""
    w = {
        name: tensor.double()
        for name, tensor in safetensors.torch.load_file(
            folder / "open_clip_model.safetensors"
        ).items()
    }
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    with torch.no_grad():
        return w, text_features([f"This is a photo of a {name}" for name in names], w)


def test_logits_and_ten_steps_of_pgd_are_the_released_codes(bench, plain):
    w, texts = plain
    images = bench.images(cell_of(bench))
    labels = torch.from_numpy(images.labels)
    pixels = torch.from_numpy(np.array(images.pixels)).double() / 255
    assert pixels.shape[-1] == 32
    with torch.no_grad():
        ours = bench.deploy(cell_of(bench), bench.workshop.tower("clip")).classifier
        theirs = image_features(pixels, w) @ texts.T
        assert torch.allclose(ours(pixels.float()).double(), theirs, atol=1e-5)
        assert theirs.std() > 1e-3
    pixels, labels = pixels[:1], labels[:1]  # float64 takes its time
    exact = bench.deploy(cell_of(bench), bench.workshop.tower("clip")).classifier.double()
    exact.head = texts  # the text tower in float64, too
    found = cell_of(bench).attack(exact, pixels, labels, draws(3, labels))
    expected = pgd(pixels, labels, lambda x: image_features(x, w) @ texts.T, 10, uniform(pixels, 3))
    assert torch.allclose(found, expected, atol=1e-12)
    assert (found - pixels).abs().max() == pytest.approx(EPS)
    bench.workshop.clip.model.float()


def test_the_text_head_is_the_released_codes(bench, plain):
    _, texts = plain
    classifier = bench.deploy(cell_of(bench), bench.workshop.tower("clip")).classifier
    assert torch.allclose(classifier.head.double(), texts, atol=1e-5)


def test_losses_and_gradients_of_pmg_aft_code_in_both_its_versions(bench, plain):
    w, texts = plain
    recipe = defenses["pmg_aft_code"].recipe_for(bench.suite)
    assert (recipe.logit_scale, recipe.normalization) == (1, "imagenet")
    assert (recipe.zoom, recipe.interpolation, recipe.prompts) == (
        256 / 224,
        "bilinear",
        "released",
    )
    torch.manual_seed(1)
    encoder = bench.workshop.clip.copy().double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    labels = torch.tensor([3, 8])
    pixels = torch.rand(2, 3, 224, 224, dtype=torch.float64)
    prompts = datasets["reference_cifar10"].prompts(recipe.prompts)

    def classifier(tower):
        made = bench.workshop.clip.classifier(
            prompts, tower, recipe.logit_scale, recipe.normalization
        ).double()
        made.head = texts  # in float64 from the tokens on
        return made

    student, teacher = (
        classifier(encoder),
        classifier(bench.workshop.clip.copy().requires_grad_(False)),
    )

    def craft(images, wanted):
        return recipe.crafting()(student, images, wanted, draws(5, wanted))

    step = Step(pixels, labels, student, teacher, craft, recipe.options)
    tuned = dict(w)
    for name, parameter in encoder.named_parameters():
        tuned[f"visual.{name}"] = parameter.detach().clone().requires_grad_()
    adversarial = pgd(
        pixels, labels, lambda x: image_features(x, tuned) @ texts.T, 2, uniform(pixels, 5)
    )
    adv = (image_features(adversarial, tuned) @ texts.T).softmax(1)
    ori = (image_features(adversarial, w) @ texts.T).softmax(1)
    clean = (image_features(pixels, tuned) @ texts.T).softmax(1)  # no stop-gradient

    def kl(p, q):  # summed over the batch
        return (p * (p.log() - q.log())).sum()

    names = ["proj", "conv1.weight", "transformer.resblocks.1.mlp.c_fc.weight", "ln_post.bias"]
    for direction, terms in [
        ("code", kl(ori, adv) + kl(clean, adv)),
        ("paper", kl(adv, ori) + kl(adv, clean)),
    ]:
        step.options = {"direction": direction}
        loss = objectives[recipe.objective](step)
        ours = torch.autograd.grad(
            loss, [dict(encoder.named_parameters())[name] for name in names], retain_graph=True
        )
        expected = -adv[torch.arange(2), labels].log().mean() + terms
        theirs = torch.autograd.grad(
            expected, [tuned[f"visual.{name}"] for name in names], retain_graph=True
        )
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        for mine, yours in zip(ours, theirs, strict=True):
            assert torch.allclose(mine, yours, rtol=1e-9, atol=1e-12)
            assert yours.abs().max() > 0


def test_every_twentieth_batch_of_256_is_selected():
    images = Images(pixels=np.zeros((12000, 3, 1, 1), np.uint8), labels=np.arange(12000))
    kept = images.every(20, 256).labels
    assert kept.tolist() == [*range(256), *range(5120, 5376), *range(10240, 10496)]
    shuffled = images.at(np.random.RandomState(0).permutation(12000))
    assert shuffled.every(20, 256, by_class=True).labels.tolist() == kept.tolist()


def test_everything_is_attacked_and_the_last_prediction_counts():
    classifier, images = toy(3)
    wrong = Images(
        pixels=images.pixels,
        labels=np.where(np.arange(24) < 6, (images.labels + 1) % 3, images.labels),
    )

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class TowardsClassZero(Attack):
        """Moves every image so that class 0 wins."""

        eps: float = 1.0 - 1e-6

        def __call__(self, module, images, labels, draws, start=None):
            return (
                images + module.classifier.weight[0].reshape(images[0].shape).sign().detach()
            ).clamp(0, 1)

    sound = run_case(Case(classifier, TowardsClassZero(), "x", wrong))
    reference = run_case(Case(classifier, TowardsClassZero(), "x", wrong, attacked="all"))
    outcomes = reference.outcomes
    assert reference.clean_correct == sound.clean_correct == 18
    assert (outcomes.adversarial == 0).all()
    assert reference.robust_correct == int((wrong.labels == 0).sum())
    assert (
        sound.robust_correct
        == int(((wrong.labels == 0) & (images.labels == 0)).sum())
        < reference.robust_correct
    )


def test_final_iterates_are_judged_and_every_switch_is_named(bench):
    assert cell_of(bench).attack.early_stop is False
    identity = bench.identify(cell_of(bench), DefenseIdentity("clip", "CLIP"))
    assert set(identity.switches) == {
        "select",
        "prompts",
        "normalization",
        "logit_scale",
        "zoom",
        "interpolation",
        "native",
        "attacked",
        "judged",
    }
    assert protocols.load("sound").switches == {}
    assert protocols.load("reference:precision=float16").switches["precision"] == "float16"


def test_half_precision_flushes_what_the_released_code_flushes():
    """A mean over 256 images divides gradients by 256: in float16 small ones become exact zeros, in float32 none do."""
    from zsrobust.models.zeroshot import HalfPrecision

    torch.manual_seed(0)
    inner = LinearClassifier(torch.randn(10, 12) * 1e-5)
    images, labels = torch.rand(256, 3, 2, 2), torch.zeros(256, dtype=torch.long)

    def zeros(classifier):
        points = images.clone().requires_grad_()
        loss = F.cross_entropy(classifier(points), labels, reduction="sum")
        return int((torch.autograd.grad(loss, points)[0] == 0).sum())

    assert zeros(inner) == 0
    assert zeros(HalfPrecision(inner)) > 1000
    assert HalfPrecision(inner)(images).dtype == torch.float32
    assert Meter(HalfPrecision(inner))(images).shape == (256, 10)

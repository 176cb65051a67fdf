"""R-TPT and SS-TPT: exact values, what an attack differentiates, and limits."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import make_clip

from zsrobust.attacks.draws import Draws
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Wording
from zsrobust.defenses import Tower, defenses
from zsrobust.defenses.r_tpt import RTPT
from zsrobust.defenses.ss_tpt import SSTPT, divergence
from zsrobust.defenses.views import VIEWS
from zsrobust.models.clip import load_clip
from zsrobust.models.heads import Context
from zsrobust.models.randomized import UNSEEN, Judged
from zsrobust.testing import check_defense

WORDING = Wording(("cat", "guide_dog", "red circle", "fish"), ("this is a photo of a {}",))
#: As the released codes write the texts: "_" in a name is a space.
START = Wording(("cat", "guide dog", "red circle", "fish"), ("a photo of a {}.",))
R_TPT = RTPT(title="", paper="", views=6, share=0.5, neighbors=3, temperature=0.1, lr=0.02)
SS_TPT = SSTPT(title="", paper="", views=4, lr=0.02)
BOTH = pytest.mark.parametrize("about", [R_TPT, SS_TPT], ids=["r_tpt", "ss_tpt"])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    clip = load_clip(make_clip(tmp_path_factory.mktemp("tiny") / "clip").backbone)
    clip.model.double()
    # The tiny text tower is random: larger tokens make texts and gradients that differ.
    clip.model.token_embedding.weight.data *= 20
    return clip


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()


def plain(clip):
    return Tower(clip.encoder, {}).classifier(clip, WORDING, scale=30.0).double()


def made(clip, about, way="wrap", steps=1):
    wrapper = about.wrapper(SimpleNamespace(clip=clip))
    if way == "unrolled":
        return wrapper.unrolled(plain(clip), steps)
    return (wrapper.wrap if way == "wrap" else wrapper.others[way])(plain(clip))


def fixed(module):
    """Return a module whose draws do not depend on pixels, so that differences are possible."""
    module.draws = lambda images: Draws.of(0, "fixed", np.arange(len(images)))
    return module


def view_of(image, draws, place):
    return image if place == 0 else VIEWS["augmix"](image, draws, f"view {place}")


def weak_of(view, draws):
    view = VIEWS["affine"](view, draws, "weak")
    for kind in ("jitter", "blur", "noise"):
        if draws.uniform((), "weak", kind).item() < 0.5:
            view = VIEWS[kind](view, draws, "weak")
    return view


def entropies(rows):
    return [-(row.softmax(0) * row.log_softmax(0)).sum() for row in rows]


def r_tpt_weights(classifier, z, image, draws, head, about):
    """The weights of R-TPT, by loops; its loss takes the selected logits."""
    scores = []
    for i in range(len(z)):
        cosines = sorted((float(z[i] @ z[j]) for j in range(len(z)) if j != i), reverse=True)
        scores.append(sum(cosines[: about.neighbors]) / about.neighbors)
    powers = [math.exp(score / about.temperature) for score in scores]
    return [power / sum(powers) for power in powers], None


def ss_tpt_weights(classifier, z, image, draws, head, about):
    """The weights of SS-TPT over all views, and its two scores, by loops."""
    suitable, stable = [], []
    for i in range(len(z)):
        others = [float((z[i] - z[j]).square().sum()) for j in range(len(z)) if j != i]
        suitable.append(1 / (sum(others) / len(others) + 1e-8))
        moved = classifier.features(weak_of(view_of(image, draws, i), draws))[0]
        p, q = (head @ z[i]).softmax(0), (head @ moved).softmax(0)
        m = (p + q) / 2 + 1e-8
        kl = [float((m * (m / (each + 1e-8)).log()).sum()) for each in (p, q)]
        stable.append(1 / (sum(kl) / 2 + 1e-8))
    return mixed(suitable, stable, about), (suitable, stable)


def mixed(suitable, stable, about):
    scaled = [[(x - min(xs)) / (max(xs) - min(xs)) for x in xs] for xs in (suitable, stable)]
    both = [about.ratio * a + (1 - about.ratio) * b for a, b in zip(*scaled, strict=True)]
    powers = [math.exp(each / about.temperature) for each in both]
    return [power / sum(powers) for power in powers]


def loss_of(logits, before, scores, chosen, about):
    """The loss of the selected views: entropy, and for SS-TPT the consistency with the others."""
    loss = sum(entropies(logits)) / len(logits)
    if about is R_TPT:
        return loss
    w = mixed(*([xs[i] for i in chosen] for xs in scores), about)
    for i in range(len(chosen)):
        rest = [j for j in range(len(chosen)) if j != i]
        target = sum(w[j] * before[j].softmax(0) for j in rest) / sum(w[j] for j in rest)
        kl = (target * (target.log() - logits[i].log_softmax(0))).sum()
        loss = loss + about.consistency * kl / len(chosen)
    return loss


def by_hand(clip, about, module, image):
    """Return the logits of one image: views in a loop, and PyTorch's own AdamW."""
    classifier, draws = plain(clip), module.draws(image)
    z = torch.stack([classifier.features(view_of(image, draws, i))[0] for i in range(about.views)])
    context = Context.of_words(clip, "a photo of a")
    head = context(WORDING, 30.0).detach()
    weigh = r_tpt_weights if about is R_TPT else ss_tpt_weights
    weights, scores = weigh(classifier, z, image, draws, head, about)
    before = z @ head.T
    order = np.argsort([float(each) for each in entropies(before)], kind="stable")
    chosen = order[:3].tolist()  # half of 6 views, and SS-TPT's 3
    optimizer = torch.optim.AdamW([context.vectors], lr=about.lr)
    loss_of(z[chosen] @ context(WORDING, 30.0).T, before[chosen], scores, chosen, about).backward()
    optimizer.step()
    tuned = context(WORDING, 30.0)
    return sum(weight * (tuned @ each) for weight, each in zip(weights, z, strict=True)).detach()


@BOTH
def test_logits_are_those_of_loops_and_pytorchs_adamw(clip, images, about):
    module = made(clip, about)
    with torch.no_grad():
        logits = module(images)
    expected = torch.stack([by_hand(clip, about, module, each[None]) for each in images])
    torch.testing.assert_close(logits, expected, rtol=1e-7, atol=1e-7)
    without = made(clip, dataclasses.replace(about, lr=0.0))(images)
    assert (logits - without).abs().max() > 1e-3  # the tuning moves them


@BOTH
def test_one_view_and_no_step_is_clip_with_its_first_prompt(clip, images, about):
    module = made(clip, dataclasses.replace(about, views=1, lr=0.0))
    expected = plain(clip).features(images) @ clip.head(START.prompts, 30.0).T
    torch.testing.assert_close(module(images), expected, rtol=1e-9, atol=1e-9)


@BOTH
def test_at_rest_is_the_defense_without_its_step_in_each_of_its_draws(clip, images, about):
    rest = about.wrapper(SimpleNamespace(clip=clip)).idle(plain(clip))
    stepless = made(clip, dataclasses.replace(about, lr=0.0))
    for found, expected in ((rest, stepless), (rest.redrawn(1), stepless.redrawn(1))):
        logits = found(images)
        torch.testing.assert_close(logits[:, :-1], expected(images), rtol=1e-9, atol=1e-9)
        assert (logits[:, -1] == -1).all()  # there is no gate to keep shut


@BOTH
def test_an_image_has_the_same_logits_in_any_batch(clip, images, about):
    module = made(clip, about)
    with torch.no_grad():
        logits, turned = module(images), module(images.flip(0)).flip(0)
        alone = torch.cat([module(each[None]) for each in images])
    torch.testing.assert_close(turned, logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alone, logits, rtol=1e-9, atol=1e-9)


@BOTH
def test_another_draw_has_other_views_and_verdicts_use_unseen_ones(clip, images, about):
    module = made(clip, about)
    with torch.no_grad():
        logits, again, other = (each(images) for each in (module, *map(module.redrawn, (0, 1))))
        judged = Judged(module, about.judged)(images)
        unseen = module.redrawn(UNSEEN)(images)
    assert torch.equal(logits, again)
    assert not torch.allclose(logits, other, atol=1e-3)
    assert torch.equal(judged, unseen)


@BOTH
def test_an_attack_sees_the_views_with_the_prompt_and_the_weights_held(clip, images, about):
    module = made(clip, about)
    points = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(points)[:, 1].sum(), points)
    for n in range(len(images)):
        point = images[n : n + 1].clone().requires_grad_()
        draws = module.draws(point)
        made_views = [view_of(point, draws, i) for i in range(about.views)]
        z = torch.cat([plain(clip).features(view) for view in made_views])
        with torch.no_grad():
            scores = module.scores(point, z[None])
            held = module.weights(scores)[0] @ z
            head = module._head(z, scores[0])
            torch.testing.assert_close(head @ held, module(point)[0], rtol=1e-9, atol=1e-9)
        value = (module.weights(scores)[0] @ z) @ head[1]
        (expected,) = torch.autograd.grad(value, point)
        torch.testing.assert_close(gradient[n], expected[0], rtol=1e-7, atol=1e-10)


@BOTH
@pytest.mark.parametrize("way", ["unrolled", "smooth"])
def test_every_way_returns_the_deployed_logits(clip, images, about, way):
    with torch.no_grad():
        expected = made(clip, about)(images)
    found = made(clip, about, way)(images)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert found.requires_grad is False  # nothing but the images asks for gradients


@BOTH
def test_without_unrolled_steps_it_is_the_deployed_module(clip, images, about):
    points = images.clone().requires_grad_()
    gradients = [
        torch.autograd.grad(module(points)[:, 0].sum(), points)[0]
        for module in (made(clip, about), made(clip, about, "unrolled", 0))
    ]
    assert torch.equal(*gradients)


@BOTH
def test_the_unrolled_gradient_is_that_of_finite_differences(clip, images, about):
    module, image = fixed(made(clip, about, "unrolled")), images[:1]
    direction = torch.randn(image.shape, generator=torch.Generator().manual_seed(3)).double()
    points = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(points)[0, 2], points)
    with torch.no_grad():
        ends = [module(image + step * direction)[0, 2] for step in (1e-6, -1e-6)]
    slope = (ends[0] - ends[1]) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-6)
    deployed = fixed(made(clip, about))
    (held,) = torch.autograd.grad(deployed(points)[0, 2], points)
    assert ((held - gradient) * direction).sum().abs() > 1e-3 * slope.abs()


@BOTH
def test_the_smooth_gradient_is_that_of_a_normalized_step(clip, images, about):
    module, image = fixed(made(clip, about, "smooth")), images[:1]
    points = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(points)[0, 2], points)
    exact = fixed(made(clip, about, "unrolled"))
    (other,) = torch.autograd.grad(exact(points)[0, 2], points)

    seen, scores = exact._scored(points)
    seen, scores = seen[0], scores[0]
    pooled = exact.weights(scores) @ seen
    best = torch.tensor([float(e) for e in entropies(seen.detach() @ exact.start.T)]).argsort()[:3]
    vectors = exact.context.vectors.detach().clone().requires_grad_()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        chosen = seen[best]
        loss = exact.loss(chosen @ exact._texts(vectors).T, chosen @ exact.start.T, scores[best])
        (g,) = torch.autograd.grad(loss, vectors, create_graph=True)
        moved = vectors * (1 - about.lr * 0.01) - about.lr * g / (g.abs() + 1e-8)
        replaced = g / (g.square().mean().sqrt().detach() + 1e-8)
        there = moved.detach() - about.lr * (replaced - replaced.detach())
    (expected,) = torch.autograd.grad(exact._texts(there)[2] @ pooled, points)
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-10)
    assert (gradient - other).norm() > 1e-3 * other.norm()  # the exact step has almost none


def test_the_divergence_is_zero_for_equal_predictions_and_reversed_as_in_the_code():
    p, q = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.1, 0.3, 0.6]).double()
    m = (p + q) / 2
    expected = (F.kl_div(p.log(), m, reduction="sum") + F.kl_div(q.log(), m, reduction="sum")) / 2
    torch.testing.assert_close(divergence(p, q), expected, rtol=1e-6, atol=1e-7)
    assert divergence(p, p).abs() < 1e-12


def test_the_released_numbers_of_views():
    assert (defenses["r_tpt"].selected, defenses["r_tpt"].passes) == (6, 64)
    assert (defenses["ss_tpt"].selected, defenses["ss_tpt"].passes) == (3, 32)


def test_a_classifier_without_names_is_refused(clip):
    nameless = clip.classifier(WORDING.prompts)
    with pytest.raises(ZSRobustError, match="has no names") as caught:
        R_TPT.wrapper(SimpleNamespace(clip=clip)).wrap(nameless)
    assert "\n" not in str(caught.value)


def test_a_defense_with_texts_of_its_own_is_refused(clip):
    tower = Tower(clip.encoder, {}, head=lambda wording, scale=None: clip.head(wording.prompts))
    with pytest.raises(ZSRobustError, match="texts of its own"):
        R_TPT.tower(SimpleNamespace(tower=lambda spec: tower, clip=clip))


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("r_tpt:views=0", "views=1"),
        ("r_tpt:lr=-1", "lr=0"),
        ("r_tpt:temperature=0", "positive temperature"),
        ("r_tpt:share=0", "share in"),
        ("r_tpt:neighbors=0", "neighbors=1"),
        ("r_tpt:judged=best", "judged"),
        ("ss_tpt:views=0", "views=1"),
        ("ss_tpt:ratio=2", "ratio in"),
        ("ss_tpt:chosen=0", "chosen=1"),
        ("ss_tpt:consistency=-1", "consistency=0"),
    ],
)
def test_a_bad_value_gives_one_line(spec, named):
    with pytest.raises(ZSRobustError, match=named) as caught:
        defenses.create(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["r_tpt:of=clip,views=4", "ss_tpt:of=clip,views=3"])
def test_they_pass_the_checks_of_defenses(spec):
    check_defense(spec)

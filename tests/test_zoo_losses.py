"""The losses of the zoo against loops over images, patches, classes and descriptions."""

import copy
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import mpmath
import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch.distributions import Dirichlet, kl_divergence

from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import datasets
from zsrobust.defenses import defenses
from zsrobust.defenses.comp_tga import complementary
from zsrobust.defenses.tga_zsr import attention
from zsrobust.defenses.ucat import KL_WEIGHT, concentrations, divergence
from zsrobust.models.zeroshot import ZeroShotClassifier
from zsrobust.training import MinMax, Step, objectives
from zsrobust.training import texts as texts_digest

IMAGES, CLASSES, SIDE, GRID, WIDTH = 5, 4, 12, 3, 6
SCALE, MEAN, STD = 7.0, [0.5, 0.4, 0.3], [0.25, 0.25, 0.2]
LABELS = [0, 3, 1, 1, 2]


def crafted(images, labels):
    """Return images a step away that depends on each image alone, so that parts get the same."""
    return (images + 0.05 * torch.sin(40 * images)).clamp(0, 1)


@pytest.fixture
def step():
    """A batch in float64, a student and another teacher with a vision transformer of 3 x 3 patches."""
    generator = torch.Generator().manual_seed(0)

    def classifier():
        tower = VisionTransformer(SIDE, SIDE // GRID, 8, 2, 2, 2.0, output_dim=WIDTH).double()
        with torch.no_grad():
            for weight in tower.parameters():
                noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
                weight.copy_(0.4 * noise + (weight.ndim == 1))
        return ZeroShotClassifier(tower, head, MEAN, STD, SIDE)

    texts = torch.randn(CLASSES, WIDTH, generator=generator, dtype=torch.float64)
    head = F.normalize(texts, dim=-1) * SCALE
    images = torch.rand(IMAGES, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    student, teacher = classifier(), classifier()
    more = torch.randn(5, CLASSES, WIDTH, generator=generator.manual_seed(1), dtype=torch.float64)
    return Step(
        images,
        torch.tensor(LABELS),
        student,
        teacher,
        crafted,
        {},
        heads=F.normalize(more, dim=-1) * SCALE,
    )


def fresh(step, rows=slice(None), **options):
    """Return the step of some of its images, with nothing computed yet, and these options."""
    images, labels = step.images[rows], step.labels[rows]
    share = len(images) / len(step.images)
    return replace(step, images=images, labels=labels, share=share, options=options)


def gradient(step, loss):
    """Return a loss's gradient in the student's weights, in one row. The teacher has none."""
    step.student.zero_grad()
    loss.backward()
    assert all(weight.grad is None for weight in step.teacher.parameters())
    grads = [weight.grad for weight in step.student.parameters()]
    return torch.cat([grad.flatten() for grad in grads if grad is not None])


def learned(step, objective, rows=slice(None), **options):
    """Return the value of an objective, and its gradient."""
    given = fresh(step, rows, **options)
    loss = objectives[objective](given)
    return loss.item(), gradient(given, loss)


# By hand: a tower in the open, and losses as sums over Python numbers and single images.


def rows_of(classifier, images):
    """Return all projected tokens, (N, 1 + L, D), the class token first, part by part."""
    tower = classifier.encoder
    mean, std = torch.tensor([MEAN, STD], dtype=torch.float64)[:, :, None, None]
    pixels = (images - mean) / std
    patch = SIDE // GRID
    found = []
    for image in pixels:
        tokens = [tower.class_embedding]
        for row in range(GRID):
            for column in range(GRID):
                cut = image[:, row * patch : (row + 1) * patch, column * patch :][:, :, :patch]
                tokens.append((tower.conv1.weight * cut).sum((1, 2, 3)))
        states = tower.ln_pre(torch.stack(tokens) + tower.positional_embedding)
        states = tower.transformer(states[None])[0]
        found.append(tower.ln_post(states) @ tower.proj)
    return torch.stack(found)


def cosine(a, b):
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def texts_of(step):
    return step.student.head / SCALE


def logits_of(step, classifier, images, texts=None):
    """Return the logits, (N, K), cosine by cosine."""
    return torch.stack(
        [
            torch.stack(
                [
                    SCALE * cosine(row[0], text)
                    for text in (texts_of(step) if texts is None else texts)
                ]
            )
            for row in rows_of(classifier, images)
        ]
    )


def cross_entropy(logits, labels):
    found = [row.exp().sum().log() - row[label] for row, label in zip(logits, labels, strict=True)]
    return sum(found) / len(found)


def sim_clip_by_hand(step):
    adversarial = rows_of(step.student, crafted(step.images, step.labels))[:, 0]
    clean = rows_of(step.student, step.images)[:, 0]
    fixed_adversarial, fixed_clean = (  # numbers: they cannot have a gradient
        torch.tensor(each.tolist(), dtype=torch.float64) for each in (adversarial, clean)
    )
    terms = [
        -0.5 * cosine(adversarial[i], fixed_clean[i]) - 0.5 * cosine(clean[i], fixed_adversarial[i])
        for i in range(len(clean))
    ]
    return sum(terms) / len(terms)


def sim_clip_code_by_hand(step):
    adversarial = rows_of(step.student, crafted(step.images, step.labels))[:, 0]
    original = rows_of(step.teacher, step.images)[:, 0].detach()
    terms = [-0.5 * cosine(a, b) for a, b in zip(adversarial, original, strict=True)]
    return sum(terms) / len(terms)


def agft_rows_by_hand(step, scale=1.8, r=0.4):
    """Return the soft cross-entropy of each image, as a sum over the classes."""
    ours = logits_of(step, step.student, crafted(step.images, step.labels))
    theirs = logits_of(step, step.teacher, step.images).tolist()
    found = []
    for row, their_row in zip(ours, theirs, strict=True):
        powers = [math.exp(r * scale * value) for value in their_row]
        partition = (scale * row).exp().sum()
        terms = [
            -power / sum(powers) * (scale * value - partition.log())
            for power, value in zip(powers, row, strict=True)
        ]
        found.append(sum(terms))
    return found


def agft_by_hand(step, **options):
    found = agft_rows_by_hand(step, **options)
    return sum(found) / len(found)


def enlarging():
    """Return the weights (SIDE, GRID) of bilinear interpolation along one side, pixel by pixel."""
    weights = torch.zeros(SIDE, GRID, dtype=torch.float64)
    for pixel in range(SIDE):
        place = min(max((pixel + 0.5) * GRID / SIDE - 0.5, 0), GRID - 1)
        before = min(int(place), GRID - 2)
        weights[pixel, before] += 1 - (place - before)
        weights[pixel, before + 1] += place - before
    return weights


def maps_by_hand(step, classifier, images, over, texts=None):
    """Return an attention map (SIDE, SIDE) for each image, patch by patch."""
    found = []
    for tokens, label in zip(rows_of(classifier, images), step.labels.tolist(), strict=True):
        if over == "tokens":
            lengths = tokens.square().sum(0).sqrt()  # of each channel, over all 1 + L tokens
            patches = [token / lengths for token in tokens[1:]]
        else:
            patches = [token / token.square().sum().sqrt() for token in tokens[1:]]
        text = (texts_of(step) if texts is None else texts)[label]
        values = [(patch * text).sum() for patch in patches]
        low, high = min(values), max(values)
        grid = torch.stack([(value - low) / (high - low) for value in values]).view(GRID, GRID)
        found.append(enlarging() @ grid @ enlarging().T)
    return found


def tga_by_hand(step, over):
    loss = cross_entropy(
        logits_of(step, step.student, crafted(step.images, step.labels)), step.labels.tolist()
    )
    return loss + terms_by_hand(step, lambda *given: maps_by_hand(step, *given, over))


def terms_by_hand(step, maps, alpha=0.08, beta=0.05):
    """Return both attention terms, image by image; `maps` are those of a classifier and images."""
    adversarial, loss = crafted(step.images, step.labels), 0
    original = maps(step.teacher, step.images)
    for weight, images in ((alpha, adversarial), (beta, step.images)):
        for ours, theirs in zip(maps(step.student, images), original, strict=True):
            distance = (ours - theirs.detach()).square().sum().sqrt()
            loss = loss + weight * distance / len(adversarial)
    return loss


def comp_tga_by_hand(step):
    def maps(classifier, images):
        likes = maps_by_hand(step, classifier, images, "channels")
        denied = maps_by_hand(step, classifier, images, "channels", step.heads[0])
        return [like - like * deny for like, deny in zip(likes, denied, strict=True)]

    adversarial = logits_of(step, step.student, crafted(step.images, step.labels))
    loss = cross_entropy(adversarial, step.labels.tolist())
    return loss + terms_by_hand(step, maps, alpha=0.10, beta=0.07)


def saft_rows_by_hand(step):
    """Return the cross-entropy of each image, description by description."""
    adversarial = crafted(step.images, step.labels)
    rows = [0] * len(adversarial)
    for texts in step.heads:
        logits = logits_of(step, step.student, adversarial, texts)
        for at, (row, label) in enumerate(zip(logits, step.labels.tolist(), strict=True)):
            rows[at] = rows[at] + (row.exp().sum().log() - row[label]) / len(step.heads)
    return rows


def saft_by_hand(step):
    def maps(classifier, images):
        each = [maps_by_hand(step, classifier, images, "channels", texts) for texts in step.heads]
        return [sum(of_image) / len(each) for of_image in zip(*each, strict=True)]

    rows = saft_rows_by_hand(step)
    return sum(rows) / len(rows) + terms_by_hand(step, maps)


def ucat_by_hand(step, kl_weight, temperature=0.07):
    adversarial = logits_of(step, step.student, crafted(step.images, step.labels))
    original = logits_of(step, step.teacher, step.images).detach()
    loss = cross_entropy(adversarial, step.labels.tolist())
    for ours, theirs in zip(adversarial / SCALE, original / SCALE, strict=True):
        student = Dirichlet(1e-6 + torch.exp((ours + 1) / temperature))
        teacher = Dirichlet(1e-6 + torch.exp((theirs + 1) / temperature))
        loss = loss + kl_weight * kl_divergence(student, teacher) / len(original)
    return loss


TGA = {"alpha": 0.08, "beta": 0.05}
#: A weight that makes both terms of UCAT matter on these random towers, and one with wide evidence.
UCAT = {"kl_weight": 1e-5, "temperature": 0.2}
CASES = {
    "sim_clip": ({}, sim_clip_by_hand),
    "sim_clip_code": ({}, sim_clip_code_by_hand),
    "agft": ({"scale": 1.8, "r": 0.4}, agft_by_hand),
    "tga_zsr": (TGA, lambda step: tga_by_hand(step, "channels")),
    "tga_zsr_code": (TGA, lambda step: tga_by_hand(step, "tokens")),
    "comp_tga": ({"alpha": 0.10, "beta": 0.07}, comp_tga_by_hand),
    "saft": (TGA, saft_by_hand),
    "ucat": (UCAT, lambda step: ucat_by_hand(step, **UCAT)),
}


@pytest.mark.parametrize("objective", CASES)
def test_value_and_gradient_are_those_of_the_equation(step, objective):
    options, by_hand = CASES[objective]
    value, grad = learned(step, objective, **options)
    expected = by_hand(step)
    assert value == pytest.approx(expected.item(), rel=1e-11)
    by_weight = gradient(step, expected)
    assert by_weight.abs().max() > 1e-3
    assert torch.allclose(grad, by_weight, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("objective", CASES)
def test_parts_of_a_batch_add_up_to_it(step, objective):
    options, _ = CASES[objective]
    value, grad = learned(step, objective, **options)
    total, summed = 0.0, torch.zeros_like(grad)
    for rows in (slice(0, 3), slice(3, 4), slice(4, IMAGES)):
        share = len(LABELS[rows]) / IMAGES
        part_value, part_grad = learned(step, objective, rows, **options)
        total += share * part_value
        summed += share * part_grad
    assert total == pytest.approx(value, rel=1e-12)
    assert torch.allclose(summed, grad, rtol=1e-9, atol=1e-12)


def test_the_defaults_are_the_papers_and_a_spec_sets_them():
    def options(spec):
        return dict(defenses.create(spec).recipe.options) | defenses.create(spec).overrides

    assert options("agft") == {"scale": 1.8, "r": 0.4}
    assert options("agft:r=1,scale=1") == {"scale": 1.0, "r": 1.0}
    assert options("tga_zsr") == options("tga_zsr_code") == TGA
    assert options("tga_zsr:alpha=0,beta=0") == {"alpha": 0.0, "beta": 0.0}
    assert options("ucat") == {"kl_weight": KL_WEIGHT, "temperature": 0.07}
    assert options("ucat:kl_weight=1e-9")["kl_weight"] == 1e-9
    softplus = math.log1p(math.exp(2 / 0.07))
    assert pytest.approx(1e5 / math.exp(softplus), rel=1e-10) == KL_WEIGHT


def test_the_recipes_are_pinned():
    assert {name: defenses[name].recipe.digest for name in CASES} == PINNED
    attacks = {name: defenses[name].recipe.attack for name in CASES}
    assert attacks == {
        **dict.fromkeys(CASES, "pgd2"),
        "sim_clip": "pgd10",
        "sim_clip_code": "pgd10",
    }


# Attacks


@pytest.mark.parametrize("objective", ["sim_clip", "sim_clip_code"])
def test_the_attack_of_sim_clip_climbs_the_distance_of_fare(step, objective):
    given = fresh(step)
    found = objectives[objective].maximize(given, given.student_adversarial)
    ours = rows_of(step.student, crafted(step.images, step.labels))[:, 0]
    theirs = rows_of(step.teacher, step.images)[:, 0]
    expected = [(a - b).square().sum().item() for a, b in zip(ours, theirs, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-11)


def test_the_attack_of_agft_climbs_its_own_loss_image_by_image(step):
    given = fresh(step, scale=1.8, r=0.4)
    found = objectives["agft"].maximize(given, given.student_adversarial)
    expected = [value.item() for value in agft_rows_by_hand(step)]
    assert found.tolist() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("objective", ["tga_zsr", "tga_zsr_code", "ucat"])
def test_other_attacks_are_on_the_labels(objective):
    assert not isinstance(objectives[objective], MinMax)


@pytest.mark.parametrize("objective", ["sim_clip", "sim_clip_code", "agft"])
def test_labels_are_not_used(step, objective):
    options, _ = CASES[objective]
    given = fresh(step, **options)
    given.labels = None
    assert objectives[objective](given).isfinite()


# Limits


def test_agft_with_a_one_hot_teacher_is_tecoa(step):
    certain = SimpleNamespace(logits=F.one_hot(step.labels, CLASSES).double())
    given = fresh(step, scale=1.0, r=1e6)
    given.teacher_clean = certain
    loss = objectives["agft"](given)
    expected, by_tecoa = learned(step, "tecoa")
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert torch.allclose(gradient(given, loss), by_tecoa, rtol=1e-9, atol=1e-12)


def test_agft_with_its_own_prediction_as_target_has_no_gradient(step):
    """With r = 1, the same model and unperturbed images, the loss is the entropy: its minimum."""
    step.teacher, step.craft = step.student, lambda images, labels: images
    given = fresh(step, scale=1.8, r=1.0)
    loss = objectives["agft"](given)
    probabilities = (1.8 * step.student(step.images)).softmax(1)
    entropy = -(probabilities * probabilities.log()).sum(1).mean()
    assert loss.item() == pytest.approx(entropy.item(), rel=1e-12)
    loss.backward()
    assert all(weight.grad.abs().max() < 1e-13 for weight in step.student.parameters())


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("tga_zsr", {"alpha": 0.0, "beta": 0.0}),
        ("tga_zsr_code", {"alpha": 0.0, "beta": 0.0}),
        ("ucat", {"kl_weight": 0.0, "temperature": 0.07}),
    ],
)
def test_without_its_terms_it_is_tecoa_and_asks_for_nothing_else(step, objective, options):
    given = fresh(step, **options)
    loss = objectives[objective](given)
    for outputs in (given.student_clean, given.teacher_clean, given.teacher_adversarial):
        assert not outputs.computed
    expected, by_tecoa = learned(step, "tecoa")
    assert loss.item() == expected
    assert torch.equal(gradient(given, loss), by_tecoa)


def test_the_clean_term_of_tga_zsr_vanishes_where_training_begins(step):
    """There its norm has no derivative. It must add nothing, and no NaN."""
    step.teacher = ZeroShotClassifier(
        copy.deepcopy(step.student.encoder), step.student.head, MEAN, STD, SIDE
    )
    value, grad = learned(step, "tga_zsr", alpha=0.0, beta=1.0)
    expected, by_tecoa = learned(step, "tecoa")
    assert value == expected
    assert torch.equal(grad, by_tecoa)


def test_the_second_term_of_sim_clip_has_a_gradient_and_that_of_its_code_has_none(step):
    fixed = crafted(step.images, step.labels)
    for objective, reached in (("sim_clip", True), ("sim_clip_code", False)):
        given = fresh(step)
        given.craft = lambda images, labels: fixed
        given.images = step.images.clone().requires_grad_()
        objectives[objective](given).backward()
        assert (given.images.grad is not None) == reached
        assert given.student_clean.computed == reached
        if reached:
            assert given.images.grad.abs().max() > 0


# Attention


@pytest.mark.parametrize("over", ["channels", "tokens"])
def test_attention_fills_0_to_1_and_does_not_depend_on_the_length_of_texts(step, over):
    texts = step.student.head[step.labels]
    maps = attention(step.student_clean, texts, over)
    assert maps.shape == (IMAGES, SIDE * SIDE)
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert torch.allclose(maps, attention(step.student_clean, 3 * texts, over), rtol=1e-12)
    by_hand = torch.stack(maps_by_hand(step, step.student, step.images, over)).flatten(1)
    assert torch.allclose(maps, by_hand, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("over", ["channels", "tokens"])
def test_a_constant_map_is_0_with_a_finite_gradient(over):
    tokens = torch.ones(2, GRID * GRID, WIDTH, dtype=torch.float64, requires_grad=True)
    outputs = SimpleNamespace(
        tokens=tokens,
        embeddings=torch.ones(2, WIDTH, dtype=torch.float64),
        classifier=SimpleNamespace(side=SIDE),
    )
    maps = attention(outputs, torch.ones(2, WIDTH, dtype=torch.float64), over)
    assert torch.equal(maps, torch.zeros(2, SIDE * SIDE, dtype=torch.float64))
    (maps - torch.ones_like(maps)).norm(dim=1).mean().backward()
    assert tokens.grad.isfinite().all()


@pytest.mark.parametrize("objective", ["tga_zsr", "tga_zsr_code"])
def test_a_loss_with_constant_maps_is_finite(step, objective):
    step.student.head.zero_()  # similarities to such texts are all 0
    value, grad = learned(step, objective, **TGA)
    assert value == pytest.approx(math.log(CLASSES), rel=1e-12)
    assert grad.isfinite().all()


# The divergence of UCAT


def exact_divergence(ours, theirs):
    """Return KL(Dir ‖ Dir) and its gradient in `ours`, with 60 digits."""
    with mpmath.workdps(60):
        ours, theirs = [mpmath.mpf(a) for a in ours], [mpmath.mpf(b) for b in theirs]
        total, their_total = mpmath.fsum(ours), mpmath.fsum(theirs)
        value = mpmath.loggamma(total) - mpmath.loggamma(their_total)
        for a, b in zip(ours, theirs, strict=True):
            value += mpmath.loggamma(b) - mpmath.loggamma(a)
            value += (a - b) * (mpmath.psi(0, a) - mpmath.psi(0, total))
        common = (total - their_total) * mpmath.psi(1, total)
        by_ours = [
            float((a - b) * mpmath.psi(1, a) - common) for a, b in zip(ours, theirs, strict=True)
        ]
        return float(value), by_ours


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([1.0, -1.0, 0.3], [0.9, -0.8, 0.35]),  # evidence from 1 to 2.6e12
        ([1.0, 0.999, -1.0], [1.0, 0.999, -0.9]),
        ([0.25, 0.2, 0.31], [0.25, 0.21, 0.3]),  # cosines as CLIP's
        ([0.25, 0.2, 0.31], [0.25, 0.2, 0.31]),
        ([-1.0, -1.0, -1.0], [-1.0, -0.99, -1.0]),
    ],
)
def test_the_weighted_divergence_is_exact_from_float32_cosines(ours, theirs):
    cosines = torch.tensor([ours, theirs], dtype=torch.float32)
    student, teacher = concentrations(cosines, torch.eye(3), 0.07)
    student = student.detach().requires_grad_()
    found = divergence(student[None], teacher[None])
    (grad,) = torch.autograd.grad(found.sum(), student)
    expected, by_student = exact_divergence(student.tolist(), teacher.tolist())
    assert KL_WEIGHT * found.item() == pytest.approx(KL_WEIGHT * expected, rel=1e-9, abs=1e-8)
    # What the weights see is the derivative by the cosine: α / τ' times that by α.
    seen = KL_WEIGHT / 0.07 * student.detach() * grad
    needed = [
        KL_WEIGHT / 0.07 * a * value for a, value in zip(student.tolist(), by_student, strict=True)
    ]
    assert seen.tolist() == pytest.approx(needed, rel=1e-6, abs=1e-6)


def test_float32_alone_would_leave_an_error_larger_than_the_divergence():
    cosines = torch.tensor([[0.9, 0.3, 0.6], [0.9, 0.301, 0.6]])
    student, teacher = (1e-6 + ((cosines + 1) / 0.07).exp())[:, None]
    assert student.dtype == torch.float32
    expected, _ = exact_divergence(student[0].tolist(), teacher[0].tolist())
    assert abs(divergence(student, teacher).item() - expected) > expected
    wide = divergence(student.double(), teacher.double()).item()
    assert wide == pytest.approx(expected, rel=1e-6)


def test_evidence_does_not_depend_on_the_logit_scale(step):
    features, head = step.student_clean.features, step.student.head
    found = concentrations(features, head, 0.07)
    assert torch.allclose(found, concentrations(features, head / 9, 0.07), rtol=1e-12)


PINNED = {
    "comp_tga": "73fb16a02611a8fa",
    "saft": "b748dc37665bd24b",
    "sim_clip": "c6e6a6da6a889cf0",
    "sim_clip_code": "0200602724184f62",
    "agft": "5bc2f34ad7002754",
    "tga_zsr": "6d13b6baee4191a4",
    "tga_zsr_code": "1fdcba0b3c168e05",
    "ucat": "7472a763d72bd966",
}


def test_the_attack_of_saft_climbs_the_mean_over_descriptions(step):
    given = fresh(step, **TGA)
    climbed = objectives["saft"].maximize(given, given.student_adversarial)
    expected = torch.stack(saft_rows_by_hand(step))
    assert torch.allclose(climbed, expected, rtol=1e-11)


def test_saft_with_one_description_that_is_the_prompt_is_tga_zsr(step):
    same = replace(step, heads=step.student.head[None].repeat(5, 1, 1))
    value, grad = learned(same, "saft", **TGA)
    expected, by_tga = learned(step, "tga_zsr", **TGA)
    assert value == pytest.approx(expected, rel=1e-12)
    assert torch.allclose(grad, by_tga, rtol=1e-10, atol=1e-13)


def test_comp_tga_whose_negation_is_the_prompt_looks_at_what_is_neither_sure_nor_denied(step):
    """A (1 - A) is at most a quarter, and 0 where A is 0 or 1."""
    same = fresh(replace(step, heads=step.student.head[None]), **TGA)
    found = complementary(same, same.student_clean)
    assert found.max() <= 0.25 + 1e-12
    corners = attention(same.student_clean, same.student.head[same.labels])
    assert torch.equal(found[(corners == 0) | (corners == 1)].abs().max(), torch.zeros(()).double())


def test_the_further_texts_are_negations_and_descriptions():
    train = datasets["mini_train"]
    ((first, *_),) = objectives["comp_tga"].texts(train)
    assert first == ["This is not a photo of a red circle"]
    heads = objectives["saft"].texts(train)
    assert [head[0] for head in heads] == [
        ["this is a photo of a red circle"],
        ["a red circle"],
        ["a red circle on a black background"],
        ["a red circle on a gray background"],
        ["a red circle on a light background"],
    ]
    assert [len(head) for head in heads] == [len(train.classes)] * 5
    assert ["an orange star"] in objectives["saft"].texts(datasets["mini_objects"])[1]


def test_texts_are_part_of_the_checkpoints_digest():
    train, other = datasets["mini_train"], [["b"] * 5] * 25
    saft, tecoa = (defenses.create(name).recipe for name in ("saft", "tecoa"))
    changed = replace(train, describe=lambda: other)
    assert texts_digest(saft, train) != texts_digest(saft, changed)
    assert texts_digest(tecoa, train) == texts_digest(tecoa, changed)


def test_descriptions_are_read_from_the_data_root(tmp_path, monkeypatch):
    dataset = replace(datasets["mini_shapes"], classes=("cat", "dog"), describe=None)
    monkeypatch.delenv("ZSROBUST_DATA", raising=False)
    with pytest.raises(ZSRobustError, match="classes of mini_shapes are missing.*--data-root"):
        dataset.descriptions()
    monkeypatch.setenv("ZSROBUST_DATA", str(tmp_path))
    path = tmp_path / "descriptions" / "mini_shapes.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"dog": ["barks"] * 5, "cat": ["meows"] * 5, "cow": []}))
    assert dataset.descriptions() == [["meows"] * 5, ["barks"] * 5]
    path.write_text(json.dumps({"dog": ["barks"] * 5, "cat": []}))
    with pytest.raises(ZSRobustError, match="lacks descriptions of 1 of the 2 classes .*: cat"):
        dataset.descriptions()
    path.write_text("{")
    with pytest.raises(ZSRobustError, match="is not valid JSON"):
        dataset.descriptions()
    path.write_text(json.dumps({"dog": ["barks"], "cat": ["meows"]}))
    with pytest.raises(ZSRobustError, match="'cat' of mini_shapes has 1 descriptions"):
        objectives["saft"].texts(dataset)

"""Test-time defenses of embeddings and of the energy: CLIPure-Cos, COLA, DBD and ET3."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zsrobust.attacks.draws import Draws
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Wording, datasets
from zsrobust.defenses import Tower, dbd, defenses
from zsrobust.defenses.clipure_cos import null_text, purified
from zsrobust.defenses.cola import Aligned, described, projected, span, transport
from zsrobust.defenses.dbd import Drifting
from zsrobust.defenses.views import resized_crop, views
from zsrobust.models.clip import load_clip
from zsrobust.models.zeroshot import ZeroShotClassifier
from zsrobust.settings import suites
from zsrobust.testing import check_defense

NAMES = ("clipure_cos", "clipure_cos_code", "cola", "cola_projection", "dbd", "et3")
SCALE = 20.0


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def small(side=8, out=6, classes=4, seed=0):
    """Return a zero-shot classifier whose image tower is one matrix and a sine, in float64."""
    weight = normal(out, 3 * side * side, seed=seed) / side

    class Tower(nn.Module):
        def forward(self, images):
            return torch.sin(images.flatten(1) @ weight.T) + 0.3

    head = SCALE * F.normalize(normal(classes, out, seed=seed + 1), dim=-1)
    return ZeroShotClassifier(Tower(), head, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), side)


def pictures(number=5, side=8, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(number, 3, side, side, generator=generator, dtype=torch.float64)


def about(name, **fields):
    return dataclasses.replace(defenses.create(f"{name}:of=clip"), **fields)


class Shop:
    """A workshop whose text tower gives one embedding to every text."""

    def __init__(self, null):
        self.clip, self.null = self, null

    def head(self, prompts, scale=None):
        return self.null[None]


def slope(module, images, weight=None):
    points = images.clone().requires_grad_()
    logits = module(points)
    weight = normal(logits.shape[1], seed=9) if weight is None else weight
    return torch.autograd.grad((logits @ weight).sum(), points)[0]


@pytest.mark.parametrize("name", NAMES)
def test_they_conform(name, tmp_path):
    check_defense(f"{name}:of=clip", checkpoints=tmp_path)


@pytest.mark.parametrize(
    "spec",
    [
        "clipure_cos:steps=-1",
        "clipure_cos:step_size=0",
        "cola:views=-1",
        "cola:regularization=0",
        "cola:judged=twice",
        "cola_projection:rank=0",
        "dbd:keep=0",
        "dbd:crops=0,noises=0,filters=false",
        "et3:eps=1",
        "et3:alpha=0",
        "et3:temperature=-1",
    ],
)
def test_a_bad_value_is_one_line_that_names_it(spec):
    with pytest.raises(ZSRobustError) as raised:
        defenses.create(f"{spec},of=clip")
    assert "\n" not in str(raised.value)
    assert spec.partition("=")[2].partition(",")[0] in str(raised.value)


def cases(classifier):
    """Yield each defense whose result is a function of the image alone, as it is deployed."""
    for name in NAMES:
        if name != "clipure_cos_code":
            shop = Shop(normal(6, seed=3))
            yield name, about(name).wrapper(shop).wrap(classifier)


def test_an_image_has_the_same_logits_alone_and_in_any_batch():
    images = pictures()
    for name, module in cases(small()):
        whole = module(images).detach()
        alone = torch.cat([module(image[None]) for image in images]).detach()
        assert torch.allclose(whole, alone, atol=1e-10), name
        assert torch.allclose(whole, module(images.flip(0)).flip(0), atol=1e-10), name
        assert not torch.allclose(whole, small()(images)) or name == "clipure_cos"


@pytest.mark.parametrize("name", ["cola", "dbd"])
def test_another_draw_is_another_result_and_the_same_draw_is_not(name):
    module, images = about(name).wrapper(Shop(None)).wrap(small()), pictures()
    assert torch.equal(module.redrawn(0)(images), module(images))
    assert not torch.allclose(module.redrawn(1)(images), module(images))
    other = about(name, seed=1).wrapper(Shop(None)).wrap(small())
    assert not torch.allclose(other(images), module(images))
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    module(images)
    assert torch.equal(torch.random.get_rng_state(), state)


# CLIPure-Cos


def at(angles, null, seed=5):
    """Return unit vectors at these angles, in radians, from a unit vector."""
    side = normal(len(angles), len(null), seed=seed)
    side = F.normalize(side - (side @ null)[:, None] * null, dim=-1)
    return angles.cos()[:, None] * null + angles.sin()[:, None] * side, side


@settings(deadline=None)
@given(
    st.lists(st.floats(0.01, 3.1), min_size=1, max_size=4), st.integers(0, 7), st.floats(0.1, 40)
)
def test_a_step_turns_an_embedding_by_the_arctangent_of_its_size(angles, steps, step_size):
    null = F.normalize(normal(6), dim=-1)
    angle = torch.tensor(angles, dtype=torch.float64)
    start, side = at(angle, null)
    for _ in range(steps):
        if (angle.abs() < 1e-3).any():
            return  # where the direction is rounding
        angle = angle - angle.sign() * math.atan(step_size)
    expected = angle.cos()[:, None] * null + angle.sin()[:, None] * side
    assert torch.allclose(purified(start, null, steps, step_size), expected, atol=1e-6)


def test_as_released_it_is_the_identity_and_so_is_its_exact_gradient():
    classifier, images = small(), pictures(40)
    null = F.normalize(classifier.features(images).mean(0), dim=-1)
    images = images[(classifier.features(images) @ null) > math.cos(math.atan(30))]
    assert len(images) > 20
    wrapper = about("clipure_cos").wrapper(Shop(null))
    deployed, plain = wrapper.wrap(classifier), slope(classifier, images)
    assert torch.allclose(deployed(images), classifier(images), atol=1e-9)
    assert torch.allclose(slope(wrapper.others["exact"](classifier), images), plain, atol=1e-7)
    assert slope(deployed, images).norm() < 1e-12 * plain.norm()
    seen = wrapper.target(classifier, "adaptive")
    assert torch.equal(seen(images), deployed(images))
    assert torch.allclose(slope(seen, images), plain, atol=1e-9)
    odd = about("clipure_cos", steps=9).wrapper(Shop(null)).wrap(classifier)
    assert not torch.allclose(odd(images), classifier(images), atol=0.1)


def test_no_step_is_the_plain_classifier():
    classifier, images = small(), pictures()
    module = about("clipure_cos", steps=0).wrapper(Shop(normal(6))).wrap(classifier)
    assert torch.equal(module(images), classifier(images))


def test_the_released_code_divides_by_the_norm_of_the_whole_batch():
    classifier, images, null = small(), pictures(), normal(6, seed=3)
    wrapper = about("clipure_cos_code", steps=3).wrapper(Shop(null))
    expected = classifier.features(images).detach()
    for _ in range(3):
        points = expected.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cosine_similarity(points, null[None]).sum(), points)
        moved = expected + 30 * gradient / math.sqrt(gradient.square().sum())
        expected = moved / moved.norm(dim=1, keepdim=True)
    found = wrapper.wrap(classifier).features(images)
    assert torch.allclose(found, expected, atol=1e-9)
    alone = torch.cat([wrapper.wrap(classifier).features(image[None]) for image in images])
    assert not torch.allclose(found, alone, atol=0.01)
    apart = about("clipure_cos", steps=3).wrapper(Shop(null)).wrap(classifier)
    assert torch.allclose(alone, apart.features(images), atol=1e-9)


@pytest.fixture(scope="module")
def clip():
    return load_clip(suites.load("mini").backbone)


def test_the_text_of_no_class_is_the_mean_over_the_80_templates(clip):
    templates = datasets["imagenet"].wordings["openai"][1]
    assert len(templates) == 80
    with torch.no_grad():
        texts = [
            clip.model.encode_text(clip.tokenize([each.replace("{}", "")]), normalize=True)[0]
            for each in templates
        ]
    mean = sum(texts) / 80
    assert torch.allclose(null_text(clip), mean / mean.norm(), atol=1e-5)


# COLA


def test_the_projection_is_the_least_squares_fit_of_the_texts():
    texts, features = normal(3, 2, 8, seed=1), normal(5, 8, seed=2)
    matrix = texts.flatten(0, 1).T.numpy()
    fit = matrix @ np.linalg.lstsq(matrix, features.T.numpy(), rcond=None)[0]
    fit = torch.from_numpy(fit.T)
    assert torch.allclose(projected(features, span(texts, 256)), F.normalize(fit, dim=-1))
    values, vectors = np.linalg.eigh(matrix @ matrix.T)
    first = torch.from_numpy(vectors[:, np.argsort(values)[-2:]])
    expected = F.normalize(features @ first @ first.T, dim=-1)
    assert torch.allclose(projected(features, span(texts, 2)), expected)
    assert span(torch.cat([texts, texts]), 256).shape == (8, 6)  # repeated texts add nothing


def test_a_projection_onto_all_texts_changes_no_prediction():
    classifier, images = small(), pictures(40)
    module = about("cola_projection").wrapper(Shop(None)).wrap(classifier)
    ratio = module(images) / classifier(images)
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio))
    assert (ratio > 1).all()
    cut = about("cola_projection", rank=2).wrapper(Shop(None)).wrap(classifier)
    assert (cut(images).argmax(1) != classifier(images).argmax(1)).any()


@settings(deadline=None, max_examples=25)
@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.integers(0, 50))
def test_transport_between_two_points_each_is_the_root_of_a_quadratic(row, column, seed):
    """One number is free: the mass m from the first to the first. At the optimum the plan's ratio

    m (1 - row - column + m) / ((row - m) (column - m)) is exp(-(c11 + c22 - c12 - c21) / 0.25).
    """
    cost = torch.from_numpy(np.random.RandomState(seed).rand(1, 1, 2, 2))
    c = cost[0, 0].numpy()
    ratio = math.exp(-(c[0, 0] + c[1, 1] - c[0, 1] - c[1, 0]) / 0.25)
    rest = 1 - row - column
    roots = np.roots([1 - ratio, rest + ratio * (row + column), -ratio * row * column])
    (mass,) = [each for each in roots if max(0.0, -rest) < each < min(row, column)]
    best = float((np.array([[mass, row - mass], [column - mass, rest + mass]]) * c).sum())
    weights = [torch.tensor([[each, 1 - each]], dtype=torch.float64) for each in (row, column)]
    found = transport(cost, *weights, regularization=0.25, iterations=500)
    assert float(found) == pytest.approx(best, abs=1e-9)


def entropy(probabilities):
    return -sum(p * math.log(p) for p in probabilities)


def softmax(values):
    values = np.exp(np.array(values) - max(values))
    return values / values.sum()


def test_with_one_text_a_class_cola_is_a_weighted_mean_of_cosines():
    classifier, images = small(classes=3), pictures(3)
    module = about("cola", views=3, rank=2).wrapper(Shop(None)).wrap(classifier)
    basis = span(F.normalize(classifier.head, dim=-1)[None], 2)
    drawn = views(images, Draws.of_images(images, 0, "cola 0"), 3, "resized_crop")
    for place, image in enumerate(images):
        seen = torch.stack([image, *drawn[:, place]])
        logits = (projected(classifier.features(seen), basis) @ classifier.head.T).numpy()
        weights = softmax([-entropy(softmax(each)) for each in logits])
        expected = torch.from_numpy(weights @ logits)
        assert torch.allclose(module(images)[place], expected, atol=1e-9)


def test_with_several_texts_weights_and_costs_are_those_of_the_page():
    classifier, images = small(classes=3), pictures(2)
    texts = F.normalize(normal(2, 3, 6, seed=8), dim=-1)
    classifier.register_buffer("texts", texts)
    module = about("cola", views=1, rank=4).wrapper(Shop(None)).wrap(classifier)
    basis = span(texts, 4)
    drawn = views(images, Draws.of_images(images, 0, "cola 0"), 1, "resized_crop")
    for place, image in enumerate(images):
        seen = projected(classifier.features(torch.stack([image, drawn[0, place]])), basis)
        cosines = np.einsum("vd,mkd->vmk", seen.numpy(), texts.numpy())
        rows = softmax([-entropy(softmax(SCALE * cosines[v].mean(0))) for v in range(2)])
        columns = softmax([-entropy(softmax(SCALE * cosines[:, m].mean(0))) for m in range(2)])
        for k in range(3):
            kernel, left = np.exp((cosines[:, :, k] - 1) / 0.01), np.ones(2)
            for _ in range(50):
                right = columns / (left @ kernel)
                left = rows / (kernel @ right)
            plan = left[:, None] * kernel * right[None]
            expected = SCALE * (1 - (plan * (1 - cosines[:, :, k])).sum())
            assert float(module(images)[place, k]) == pytest.approx(expected, rel=1e-8)


def test_without_views_cola_with_one_text_is_its_projection():
    classifier, images = small(), pictures()
    whole = about("cola", views=0, rank=2).wrapper(Shop(None)).wrap(classifier)
    alone = about("cola_projection", rank=2).wrapper(Shop(None)).wrap(classifier)
    assert torch.allclose(whole(images), alone(images), atol=1e-10)
    assert torch.allclose(slope(whole, images), slope(alone, images), atol=1e-10)


def test_a_described_tower_has_a_head_for_each_template(clip):
    wording = Wording(("cat", "dog", "bird"), ("a photo of a {}", "a drawing of a {}"))
    made = described(Tower(clip.encoder, {})).classifier(clip, wording, 10.0)
    assert made.texts.shape[:2] == (2, 3)
    for number, template in enumerate(wording.templates):
        prompts = [[template.replace("{}", name)] for name in wording.classes]
        assert torch.equal(made.texts[number], clip.head(prompts, 1.0))
    assert torch.equal(made.head, clip.head(wording.prompts, 10.0))
    assert len(Aligned(made, about("cola")).texts) == 2


# DBD


def test_dbd_moves_an_embedding_along_the_mean_drift_of_the_surest_views():
    classifier, images = small(), pictures(8)
    moved = set()
    for threshold in (0.5, 0.8, 0.95):
        module = about("dbd", crops=5, noises=3, keep=4, threshold=threshold).wrapper(Shop(None))
        module = module.wrap(classifier)
        seen = list(module._views(images, module.draws(images)))
        assert len(seen) == 14
        found = module.features(images)
        for place, image in enumerate(images):
            first = classifier.features(image[None])[0].numpy()
            each = [classifier.features(view[place][None])[0].numpy() for view in seen]
            sure = [entropy(softmax(classifier.head.numpy() @ z)) for z in each]
            drift = [each[number] - first for number in np.argsort(sure)[:4]]
            mean = sum(drift) / 4
            cosines = [d @ mean / np.linalg.norm(d) / np.linalg.norm(mean) for d in drift]
            strong = sum(cosines) / 4 > threshold
            moved.add(bool(strong))
            expected = first + (2.5 if strong else 1.0) * mean
            expected = torch.from_numpy(expected / np.linalg.norm(expected))
            assert torch.allclose(found[place], expected, atol=1e-9)
    assert moved == {True, False}


def test_without_strength_dbd_is_the_mean_embedding_of_its_views():
    classifier, images = small(), pictures()
    module = about("dbd", crops=2, noises=1, filters=False, keep=9, threshold=1.0)
    module = module.wrapper(Shop(None)).wrap(classifier)
    seen = list(module._views(images, module.draws(images)))
    mean = torch.stack([classifier.features(view) for view in seen]).mean(0)
    assert torch.allclose(module.features(images), F.normalize(mean, dim=-1))


def test_dbd_at_rest_is_dbd_where_its_alarm_is_negative():
    classifier, images = small(), pictures(8)
    wrapper = about("dbd", crops=5, noises=3, keep=4).wrapper(Shop(None))
    found, deployed = wrapper.idle(classifier)(images), wrapper.wrap(classifier)(images)
    rested, calm = found[:, :-1], found[:, -1] < 0
    assert calm.any()
    assert not calm.all()
    assert torch.equal(calm, torch.isclose(rested, deployed, atol=1e-12).all(1))


def test_the_gradient_of_dbd_is_that_of_finite_differences_given_its_draws(monkeypatch):
    images = pictures(2)
    module = about("dbd", crops=3, noises=2, filters=False, keep=3).wrapper(Shop(None))
    module, draws = module.wrap(small()), Draws.of_images(images, 0, "dbd 0")
    monkeypatch.setattr(Drifting, "draws", lambda self, images: draws)
    found, direction = slope(module, images), normal(*images.shape, seed=4)
    weight, step = normal(4, seed=9), 1e-6
    high, low = ((module(images + sign * step * direction) @ weight).sum() for sign in (1, -1))
    assert float((high - low) / (2 * step)) == pytest.approx(
        float((found * direction).sum()), rel=1e-6
    )


def test_the_views_of_dbd_are_those_of_its_code():
    image = pictures(1, side=9)
    padded = np.pad(image[0].numpy(), ((0, 0), (2, 2), (2, 2)), mode="edge")
    mirrored = np.pad(image[0].numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
    line = np.array([math.exp(-(place**2) / (2 * 1.1**2)) for place in range(-2, 3)])
    kernel = np.outer(line, line) / line.sum() ** 2
    for color in range(3):
        for row, column in ((0, 0), (4, 4), (8, 3)):
            place = (color, slice(row, row + 5), slice(column, column + 5))
            spot = (0, color, row, column)
            assert float(dbd.median(image)[spot]) == np.median(padded[place])
            assert float(dbd.mean(image)[spot]) == pytest.approx(mirrored[place].mean())
            blurred = (mirrored[place] * kernel).sum()
            assert float(dbd.gaussian(image)[spot]) == pytest.approx(blurred)


def test_bits_are_removed_as_in_eight_bits_and_white_stays_white():
    levels = torch.arange(256, dtype=torch.float64).view(1, 1, 16, 16).requires_grad_()
    for cut, integer in (
        (torch.floor, lambda level: level // 32 * 32),
        (torch.ceil, lambda level: min(255, -(-level // 32) * 32)),
        (torch.round, lambda level: min(255, round(level / 32) * 32)),
    ):
        found = dbd.fewer_bits(levels / 255, cut)
        expected = [integer(level) for level in range(256)]
        assert torch.allclose(255 * found.flatten(), torch.tensor(expected).double(), atol=1e-9)
        (gradient,) = torch.autograd.grad(found.sum(), levels)
        assert torch.allclose(gradient, torch.full_like(gradient, 1 / 255))


def test_crops_of_dbd_have_half_the_area_or_more():
    ramp = torch.linspace(0, 1, 32, dtype=torch.float64).expand(32, 32)
    image = torch.stack([ramp, ramp.T, ramp])[None]
    areas = []
    for number in range(60):
        crop = resized_crop(image, Draws.of_images(image, 0, "area"), f"{number}", 0.5)
        inner = crop[0, :, 8:24, 8:24]
        width = (inner[0].diff(dim=1)).abs().mean() * 31
        areas.append(float(width * inner[1].diff(dim=0).abs().mean() * 31))
    assert min(areas) > 0.49
    assert min(areas) < 0.6
    assert max(areas) > 0.85


# ET3


def descended(classifier, image, about):
    """Return one image (3, S, S) after the descent, from the chain rule of a linear tower."""
    weight, original = classifier.weight, image
    for _ in range(about.steps):
        logits = weight @ image.flatten() / about.temperature
        slope = -(logits.softmax(0) @ weight).view_as(image)
        image = (image - about.alpha * slope / slope.square().sum().sqrt()).clamp(0, 1)
        image = (original + (image - original).clamp(-about.eps, about.eps)).clamp(0, 1)
    return image


class Linear(nn.Module):
    def __init__(self, side=6):
        super().__init__()
        self.weight = normal(4, 3 * side * side, seed=6)

    def forward(self, images):
        return images.flatten(1) @ self.weight.T


@pytest.mark.parametrize(
    "fields",
    [{}, {"alpha": 0.1, "steps": 3}, {"alpha": 0.3, "temperature": 4.0, "eps": 0.03, "steps": 4}],
)
def test_et3_is_the_descent_of_a_linear_classifiers_energy(fields):
    classifier, images, method = Linear(), pictures(4, 6), about("et3", **fields)
    wrapper = method.wrapper(Shop(None))
    deployed, unrolled = wrapper.wrap(classifier), wrapper.unrolled(classifier, method.steps)
    expected = torch.stack([descended(classifier, image, method) for image in images])
    assert torch.allclose(deployed.purify(images), expected, atol=1e-12)
    assert not torch.allclose(expected, images)

    def whole(points):
        return classifier(torch.stack([descended(classifier, each, method) for each in points]))

    assert torch.allclose(unrolled(images), deployed(images), atol=1e-12)
    assert torch.allclose(slope(unrolled, images), slope(whole, images), atol=1e-9)
    assert not torch.allclose(slope(unrolled, images), slope(classifier, images), atol=1e-3)


def test_et3_lowers_the_energy_and_its_surrogate_is_the_gradient_where_it_ends():
    classifier, images = small(), pictures()
    wrapper = about("et3", alpha=0.01, steps=5).wrapper(Shop(None))
    deployed, seen = wrapper.wrap(classifier), wrapper.target(classifier, "adaptive")
    moved = deployed.purify(images)
    energies = [-torch.logsumexp(classifier(each), dim=1) for each in (moved, images)]
    assert (energies[0] < energies[1]).all()
    assert (moved - images).abs().max() <= 5 / 255
    assert torch.equal(seen(images), deployed(images))
    assert torch.equal(slope(seen, images), slope(classifier, moved))
    assert not deployed(images.requires_grad_()).requires_grad


@pytest.mark.parametrize("fields", [{"steps": 0}, {"eps": 0.0}])
def test_without_strength_et3_is_the_plain_classifier(fields):
    classifier, images = small(), pictures()
    wrapper = about("et3", **fields).wrapper(Shop(None))
    assert torch.equal(wrapper.wrap(classifier)(images), classifier(images))
    assert torch.allclose(slope(wrapper.unrolled(classifier, 2), images), slope(classifier, images))

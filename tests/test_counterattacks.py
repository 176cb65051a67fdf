"""Test-time defenses that move the image: CSR, MAC and DOC, against loops over single images."""

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
from zsrobust.defenses import defenses
from zsrobust.defenses.csr import CSR, Rectified, low_passed
from zsrobust.defenses.doc import DOC, Orthogonal
from zsrobust.defenses.mac import MAC, MultiView, augmented
from zsrobust.models.wrappers import Purified, bpda
from zsrobust.models.zeroshot import ZeroShotClassifier
from zsrobust.testing import check_defense

SIDE, CLASSES, DIM = 6, 3, 5
FIELDS = {"title": "t", "paper": "p"}
#: Weights of about one half: neither the start nor the whole counterattack is left over.
HALF_MAC = MAC(**FIELDS, tau=0.3, temperature=0.5, eps=0.1, step_size=0.03)
HALF_DOC = DOC(**FIELDS, tau=0.05, slope=3.0, eps=0.1, step_size=0.04, copies=3)
ALWAYS_CSR = CSR(**FIELDS, threshold=1.1, eps=0.1, step_size=0.06, radius=0.1)
CASES = [ALWAYS_CSR, HALF_MAC, HALF_DOC]
NAMES = ["csr", "mac", "doc"]


def classifier_of(linear=False):
    """Return a small random classifier in float64."""
    generator = torch.Generator().manual_seed(0)
    size = 3 * SIDE * SIDE
    layers = [nn.Flatten(), nn.Linear(size, DIM if linear else 12, bias=False)]
    layers += [] if linear else [nn.Tanh(), nn.Linear(12, DIM)]
    encoder = nn.Sequential(*layers).double()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5)
    encoder.requires_grad_(False)
    head = 10 * F.normalize(torch.randn(CLASSES, DIM, generator=generator).double(), dim=1)
    return ZeroShotClassifier(encoder, head, (0.4,) * 3, (0.3,) * 3, SIDE).eval()


def images_of(count=4):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, SIDE, SIDE, generator=generator).double()


def wrapper_of(about):
    """Return the wrapper; these defenses ask nothing of the workshop."""
    return about.wrapper(None)


def signs_with_gradient(gradient):
    """Return the signs, whose gradient is that of the gradient over its mean size in the image."""
    smooth = gradient / gradient.detach().abs().mean(dim=(1, 2, 3), keepdim=True)
    return bpda(gradient.sign(), smooth)


def climbed(start, image, score, steps, size, eps, direct=signs_with_gradient):
    """Return the points of an ascent, whose graph goes through every step."""
    points = [start]
    for _ in range(steps):
        # A tensor of its own: the first point can be the image, on which the score depends, too.
        here = (
            points[-1].clone() if points[-1].requires_grad else points[-1].clone().requires_grad_()
        )
        (gradient,) = torch.autograd.grad(score(here), here, create_graph=True)
        moved = points[-1] + size * direct(gradient)
        points.append((image + (moved - image).clamp(-eps, eps)).clamp(0, 1))
    return points


def csr_by_hand(classifier, image, about):
    """Return the rectified image; the low-pass is a sum over frequencies around the center."""
    low = classifier.features(low_passed(image, about.radius))
    own = classifier.features(image)

    def contrast(points):
        found = classifier.features(points)
        return (found @ low.T - found @ own.T).sum()

    points = climbed(image, image, contrast, about.steps, about.step_size, about.eps)
    best = max(points, key=lambda each: contrast(each).item())
    return best if (own @ low.T).item() < about.threshold else image


def mac_by_hand(classifier, image, about):
    """Return the moved views of an image."""
    draws = Draws.of_images(image, about.seed, "mac 0")
    views = [image, *(augmented(image, draws, f"view {place}") for place in range(1, about.views))]
    found = []
    for place, view in enumerate(views):
        key = f"view {place}"
        anchor = classifier.embeddings(view)
        noise = 2 * draws.uniform((3, SIDE, SIDE), "start", key).to(view) - 1
        start = (view + about.eps * noise).clamp(0, 1)
        again = classifier.embeddings(augmented(view, draws, f"{key} again"))
        rho = (again - anchor).norm() / anchor.norm()
        weight = 1 / (1 + torch.exp(-(rho - about.tau) / about.temperature))
        end = climbed(
            start,
            view,
            lambda each, anchor=anchor: ((classifier.embeddings(each) - anchor) ** 2).sum(),
            about.steps,
            about.step_size,
            about.eps,
        )[-1]
        found.append(view + weight * (end - view))
    return found


def doc_by_hand(classifier, image, about):
    """Return the moved image, as the only view."""
    key, draws = "view 0", Draws.of_images(image, about.seed, "doc 0")
    shape = (3, SIDE, SIDE)

    def noisy(*name):
        noise = 2 * draws.uniform(shape, *name).to(image) - 1
        return (image + about.eps * noise).clamp(0, 1)

    anchor, start = classifier.embeddings(image), noisy("start", key)
    numbers, momentum = iter(range(about.steps)), [torch.zeros_like(image)]

    def direct(gradient):
        drawn = draws.normal(shape, "direction", key, next(numbers)).to(image)
        g = gradient / gradient.norm()
        rest = drawn - (drawn * g).sum() / (g * g).sum() * g
        step = g + about.orthogonal * rest / rest.norm()
        momentum.append(about.momentum * momentum[-1] + (1 - about.momentum) * step)
        return signs_with_gradient(momentum[-1])

    end = climbed(
        start,
        image,
        lambda each: ((classifier.embeddings(each) - anchor) ** 2).sum(),
        about.steps,
        about.step_size,
        about.eps,
        direct,
    )[-1]
    features, plain = classifier.features, classifier.features(image)
    copies = [features(noisy("copy", key, copy)) for copy in range(about.copies)]
    change = 1 - sum((copy * plain).sum() for copy in copies) / about.copies
    weight = 1 / (1 + torch.exp(-about.slope * (about.tau - change)))
    return [weight * end + (1 - weight) * start]


BY_HAND = {
    CSR: lambda *given: [csr_by_hand(*given)],
    MAC: mac_by_hand,
    DOC: doc_by_hand,
}


def logits_by_hand(classifier, images, about):
    """Return the mean logits over moved views, one image at a time."""
    rows = []
    for image in images.split(1):
        views = BY_HAND[type(about)](classifier, image, about)
        rows.append(sum(classifier(view) for view in views) / len(views))
    return torch.cat(rows)


def gradient_of(make, images):
    points = images.clone().requires_grad_()
    logits = make(points)
    weights = torch.linspace(-1, 1, logits.numel()).to(logits).view_as(logits)
    return torch.autograd.grad((weights * logits).sum(), points)[0]


# All three


@pytest.mark.parametrize("about", CASES, ids=NAMES)
def test_deployed_logits_are_those_of_a_loop_over_images_and_views(about):
    classifier, images = classifier_of(), images_of()
    deployed = wrapper_of(about).wrap(classifier)
    expected = logits_by_hand(classifier, images, about)
    assert torch.allclose(deployed(images), expected, rtol=0, atol=1e-10)
    assert (expected - classifier(images)).abs().max() > 0.01


@pytest.mark.parametrize("about", CASES, ids=NAMES)
def test_the_unrolled_gradient_is_that_of_the_loop_differentiated_in_one_graph(about):
    classifier, images = classifier_of(), images_of()
    wrapper = wrapper_of(about)
    unrolled = wrapper.unrolled(classifier, wrapper.steps)
    assert wrapper.steps == about.steps
    assert torch.allclose(unrolled(images), wrapper.wrap(classifier)(images), rtol=0, atol=1e-12)
    found = gradient_of(unrolled, images)
    expected = gradient_of(lambda points: logits_by_hand(classifier, points, about), images)
    assert torch.allclose(found, expected, rtol=1e-7, atol=1e-10)
    straight = gradient_of(wrapper.surrogate(classifier), images)
    assert (found - straight).abs().max() > 0.01 * straight.abs().max()


@pytest.mark.parametrize("about", CASES, ids=NAMES)
def test_the_last_steps_alone_can_be_unrolled(about):
    classifier, images = classifier_of(), images_of()
    wrapper = wrapper_of(about)
    whole, last = (
        gradient_of(wrapper.unrolled(classifier, steps), images) for steps in (about.steps, 1)
    )
    assert torch.isfinite(last).all()
    assert last.abs().sum() > 0
    assert not torch.allclose(whole, last)


@pytest.mark.parametrize("about", CASES, ids=NAMES)
def test_the_surrogate_has_the_deployed_logits_and_counts_the_move_as_the_identity(about):
    classifier, images = classifier_of(), images_of()
    wrapper = wrapper_of(about)
    surrogate = wrapper.surrogate(classifier)
    assert torch.equal(surrogate(images), wrapper.wrap(classifier)(images))

    def straight(points):
        rows = []
        for image in points.split(1):
            views = [image]
            if isinstance(about, MAC):
                draws = Draws.of_images(image, 0, "mac 0")
                views += [augmented(image, draws, f"view {each}") for each in range(1, about.views)]
            ends = BY_HAND[type(about)](classifier, image.detach(), about)
            moved = [view + (end - view).detach() for view, end in zip(views, ends, strict=True)]
            rows.append(sum(classifier(each) for each in moved) / len(moved))
        return torch.cat(rows)

    expected = gradient_of(straight, images)
    assert torch.allclose(gradient_of(surrogate, images), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("about", CASES, ids=NAMES)
def test_an_image_has_the_same_logits_alone_in_a_batch_and_in_another_order(about):
    images = images_of(5)
    deployed = wrapper_of(about).deployed(classifier_of())
    together = deployed(images)
    alone = torch.cat([deployed(image) for image in images.split(1)])
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)
    assert torch.allclose(deployed(images[order]), together[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("about", [HALF_MAC, HALF_DOC], ids=["mac", "doc"])
def test_a_draw_repeats_itself_and_another_draw_or_seed_differs(about):
    classifier, images = classifier_of(), images_of()
    wrapper = wrapper_of(about)
    state = torch.random.get_rng_state()
    for make in (wrapper.wrap, wrapper.surrogate, lambda each: wrapper.unrolled(each, 2)):
        made = make(classifier)
        assert torch.equal(made(images), made.redrawn(0)(images))
        assert not torch.allclose(made(images), made.redrawn(1)(images), atol=1e-4)
    other = wrapper_of(dataclasses.replace(about, seed=1)).wrap(classifier)
    assert not torch.allclose(other(images), wrapper.wrap(classifier)(images), atol=1e-4)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("about", CASES, ids=NAMES)
def test_moved_images_stay_in_their_ball_and_in_the_range_of_pixels(about):
    classifier, images = classifier_of(), (1.4 * images_of() - 0.2).clamp(0, 1)
    found = BY_HAND[type(about)](classifier, images[:1], about)[0]
    made = (
        Rectified(classifier, about)(images)
        if isinstance(about, CSR)
        else wrapper_of(about).wrap(classifier).purified(images)[0]
    )
    assert torch.allclose(made[:1], found, rtol=0, atol=1e-12)
    assert (made - images).abs().max() <= about.eps + 1e-12
    assert made.min() >= 0
    assert made.max() <= 1


@pytest.mark.parametrize("about", CASES, ids=NAMES)
def test_passes_are_those_that_the_deployed_defense_makes(about):
    classifier = classifier_of()
    calls = []
    classifier.encoder.register_forward_hook(lambda *_: calls.append(1))
    wrapper_of(about).wrap(classifier)(images_of())
    assert len(calls) == about.passes


@pytest.mark.parametrize(
    "spec",
    [
        "csr:radius=0",
        "csr:eps=1",
        "csr:steps=0",
        "mac:views=0",
        "mac:temperature=0",
        "mac:judged=twice",
        "doc:momentum=1",
        "doc:copies=0",
        "doc:orthogonal=-1",
        "doc:judged=twice",
    ],
)
def test_values_that_are_not_valid_give_one_line(spec):
    with pytest.raises(ZSRobustError) as found:
        defenses.create(spec)
    assert "\n" not in str(found.value)
    assert spec.split("=")[-1].rstrip("0") in str(found.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_defense_keeps_the_rules_of_a_defense(name, checkpoints):
    check_defense(f"{name}:of=clip", checkpoints=checkpoints)


# CSR


@pytest.mark.parametrize(("up", "across"), [(0, 3), (2, 1), (5, 5)])
def test_the_low_pass_scales_a_wave_by_the_gaussian_at_its_frequency(up, across):
    side, radius = 16, 40 / 224
    place = torch.arange(side).double()
    wave = torch.cos(2 * math.pi * (up * place[:, None] + across * place[None]) / side)
    images = (0.5 + 0.3 * wave).expand(1, 3, side, side)
    factor = math.exp(-(up**2 + across**2) / (2 * (radius * side) ** 2))
    expected = (0.5 + 0.3 * factor * wave).expand(1, 3, side, side)
    assert torch.allclose(low_passed(images, radius), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [7, 8])
def test_the_low_pass_is_the_released_one_whose_center_is_in_the_middle(side):
    """With a radius in pixels of a shifted spectrum, by NumPy."""
    image, radius = np.random.RandomState(0).rand(side, side), 1.5
    rows, columns = np.indices((side, side)) - side // 2
    spectrum = np.fft.fftshift(np.fft.fft2(image))
    kept = spectrum * np.exp(-(rows**2 + columns**2) / (2 * radius**2))
    expected = np.fft.ifft2(np.fft.ifftshift(kept)).real.clip(0, 1)
    found = low_passed(torch.from_numpy(image)[None, None], radius / side)[0, 0]
    assert np.allclose(found.numpy(), expected, rtol=0, atol=1e-12)


def test_csr_follows_the_closed_form_of_a_linear_tower():
    """Of f = W x + b, the contrast's gradient is Wᵀ (1 - f fᵀ / |f|²) (f_low - f_own) / |f|."""
    classifier, images = classifier_of(linear=True), images_of(1)
    about = dataclasses.replace(ALWAYS_CSR, steps=1)
    weight = classifier.encoder[1].weight.numpy() / 0.3

    def embedding(x):
        return weight @ (x.ravel() - 0.4)

    def unit(f):
        return f / np.linalg.norm(f)

    x = images[0].numpy()
    f, low = embedding(x), embedding(low_passed(images, about.radius)[0].numpy())
    contrast = unit(low) - unit(f)
    slope = weight.T @ (contrast - unit(f) * (unit(f) @ contrast)) / np.linalg.norm(f)
    after = (x + about.step_size * np.sign(slope).reshape(x.shape)).clip(0, 1)
    gain = unit(embedding(after)) @ contrast - unit(f) @ contrast
    assert gain > 0
    found = Rectified(classifier, about)(images)[0].numpy()
    assert np.allclose(found, after, rtol=0, atol=1e-12)


def test_csr_leaves_an_image_that_agrees_with_its_low_passed_copy():
    classifier, images = classifier_of(), images_of(6)
    features, low = (classifier.features(each) for each in (images, low_passed(images, 0.1)))
    cosines = (features * low).sum(1)
    about = dataclasses.replace(ALWAYS_CSR, threshold=float(cosines.median()) + 1e-9)
    moved = (Rectified(classifier, about)(images) != images).flatten(1).any(1)
    assert torch.equal(moved, cosines < about.threshold)
    assert moved.sum() == 3
    never = dataclasses.replace(about, threshold=-1.1)
    assert torch.equal(wrapper_of(never).wrap(classifier)(images), classifier(images))


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 0.9), st.integers(1, 4), st.floats(0.02, 0.3))
def test_csr_never_ends_at_a_lower_contrast_than_it_started(step_size, steps, radius):
    """Large steps overshoot: the image itself is an iterate, too."""
    classifier, images = classifier_of(), images_of()
    about = CSR(**FIELDS, threshold=1.1, eps=0.9, step_size=step_size, steps=steps, radius=radius)
    own, low = (classifier.features(each) for each in (images, low_passed(images, radius)))
    after = classifier.features(Rectified(classifier, about)(images))
    assert ((after * (low - own)).sum(1) >= (own * (low - own)).sum(1)).all()


# MAC


def test_mac_of_one_view_without_weight_is_the_plain_classifier():
    classifier, images = classifier_of(), images_of()
    about = MAC(**FIELDS, views=1, tau=100.0)
    assert torch.equal(wrapper_of(about).wrap(classifier)(images), classifier(images))


def test_mac_without_weight_is_the_mean_over_views():
    classifier, images = classifier_of(), images_of()
    about = MAC(**FIELDS, views=3, tau=100.0)
    draws = Draws.of_images(images, 0, "mac 0")
    views = [images, augmented(images, draws, "view 1"), augmented(images, draws, "view 2")]
    expected = torch.stack([classifier(view) for view in views]).mean(0)
    found = wrapper_of(about).wrap(classifier)
    assert torch.allclose(found(images), expected, rtol=0, atol=1e-12)
    features = F.normalize(sum(classifier.features(view) for view in views), dim=1)
    assert torch.allclose(found.features(images), features, rtol=0, atol=1e-12)


def test_mac_with_all_weight_moves_every_view_as_far_as_the_ball_allows():
    """Steps of twice eps end on the surface, or at the range of pixels."""
    classifier, images = classifier_of(), images_of()
    about = MAC(**FIELDS, tau=-100.0, eps=0.05, step_size=0.2, steps=1)
    made = MultiView(classifier, about)
    views = made.views(images, made.draws(images))
    for view, moved in zip(views, made.purified(images), strict=True):
        ends = (view - 0.05).clamp(0, 1), (view + 0.05).clamp(0, 1)
        distance = torch.minimum((moved - ends[0]).abs(), (moved - ends[1]).abs())
        assert distance.max() < 1e-12


def test_augmentations_apply_each_small_change_to_half_of_the_images():
    images = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    images = images + torch.arange(400)[:, None, None, None] * 1e-6
    draws = Draws.of_images(images, 0, "test")
    shares = [
        draws.uniform((), "applied", kind, "k").lt(0.5).float().mean()
        for kind in ("jitter", "blur", "noise")
    ]
    assert all(abs(share - 0.5) < 0.1 for share in shares)
    found = augmented(images, draws, "k")
    assert not torch.equal(found, images)
    assert found.min() >= 0
    assert found.max() <= 1


# DOC


@pytest.mark.parametrize("orthogonal", [0.0, 0.5, 2.0])
def test_a_first_step_of_doc_has_a_unit_along_the_gradient_and_lambda_across(orthogonal):
    classifier, images = classifier_of(), images_of()
    about = dataclasses.replace(HALF_DOC, orthogonal=orthogonal, momentum=0.25)
    start = (images + 0.05).clamp(0, 1).requires_grad_()
    anchor = classifier.embeddings(images)
    (slope,) = torch.autograd.grad(((classifier.embeddings(start) - anchor) ** 2).sum(), start)
    slope = slope.flatten(1) / slope.flatten(1).norm(dim=1, keepdim=True)
    state = torch.stack([start.detach(), torch.zeros_like(images)])
    drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(3)).double()
    momentum = Orthogonal(classifier, about)._step((state, images, anchor, drawn), False)[1]
    along = (momentum.flatten(1) * slope).sum(1)
    across = (momentum.flatten(1) - along[:, None] * slope).norm(dim=1)
    assert torch.allclose(along, torch.full_like(along, 0.75))
    assert torch.allclose(across, torch.full_like(across, 0.75 * orthogonal), atol=1e-12)


def test_doc_without_a_counterattack_is_its_random_start():
    classifier, images = classifier_of(), images_of()
    about = DOC(**FIELDS, tau=-1000.0)
    draws = Draws.of_images(images, 0, "doc 0")
    noise = 2 * draws.uniform((3, SIDE, SIDE), "start", "view 0").to(images) - 1
    expected = classifier((images + about.eps * noise).clamp(0, 1))
    assert torch.allclose(wrapper_of(about).wrap(classifier)(images), expected, atol=1e-12)


def test_a_slope_of_zero_gives_doc_half_of_the_counterattack():
    classifier, images = classifier_of(), images_of()
    half, whole, none = (
        Orthogonal(classifier, dataclasses.replace(HALF_DOC, **changes)).purified(images)[0]
        for changes in ({"slope": 0.0}, {"tau": 1000.0}, {"tau": -1000.0})
    )
    assert torch.allclose(half, (whole + none) / 2, rtol=0, atol=1e-12)
    assert not torch.allclose(whole, none)


def test_purified_has_no_gradient_where_none_is_declared():
    """The deployed CSR is an exact function of pixels without a gradient: an attack needs a surrogate."""
    classifier, images = classifier_of(), images_of().requires_grad_()
    for about in CASES:
        wrapper = wrapper_of(about)
        assert not wrapper.wrap(classifier)(images).requires_grad
        assert wrapper.surrogate(classifier)(images).requires_grad
    assert isinstance(wrapper_of(ALWAYS_CSR).wrap(classifier), Purified)

"""l1 and patches: the projection, what attacks reach on linear classifiers, what they refuse."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optima import boxed, nonlinear, numbers, reach
from torch import nn

from zsrobust.attacks import Attack, attacks, l1, perturbation_size
from zsrobust.attacks.apgd import APGD, climb
from zsrobust.attacks.geometry import edge_start, project, uniform_start
from zsrobust.attacks.losses import margin
from zsrobust.attacks.notes import Note
from zsrobust.attacks.patch import Patch, promising
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.search import Search
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import format_eps, parse_eps
from zsrobust.evaluation.bounds import Bound, CheatError, check
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.redflags.measurements import examine
from zsrobust.results.plausible import most
from zsrobust.results.selection import Selection
from zsrobust.settings import suites
from zsrobust.testing import LinearClassifier, toy


def classifier_of(weight, bias=0.0):
    """Return a classifier that predicts class 0 where w · x + bias > 0, else class 1."""
    offset = torch.tensor([bias, 0.0], dtype=weight.dtype)
    return LinearClassifier(torch.stack([weight, 0 * weight]), offset)


def zeros(images):
    return torch.zeros(len(images), dtype=torch.long)


def drop(weight, images, found):
    return (images - found).flatten(1) @ weight


@st.composite
def to_project(draw):
    """Return images, points anywhere, and eps: some images at 0 and 1, some changes equal."""
    seed, side = draw(st.integers(0, 2**31 - 1)), draw(st.integers(1, 4))
    spread = draw(st.sampled_from([1e-3, 0.3, 1.0, 30.0]))
    generator = torch.Generator().manual_seed(seed)
    shape = (5, 3, side, side)
    images = 1.5 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.25
    delta = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        delta = (delta / spread).round() * spread  # many equal ones, and zeros
    eps = draw(st.sampled_from([1e-6, 1 / 255, 0.1, 1.0, 7.0, 100.0]))
    return images.clamp(0, 1), images.clamp(0, 1) + delta, eps


@settings(max_examples=200, deadline=None)
@given(to_project())
def test_the_projection_is_the_nearest_point_of_the_ball_and_the_box(case):
    """A point p of a convex set is nearest to z if and only if no q of it has (z - p) · (q - p) > 0.

    The q that maximizes it is the optimum of a linear function, which `reach` knows.
    """
    images, points, eps = case
    nearest = project(images, points, eps, "l1")
    assert nearest.min() >= 0
    assert nearest.max() <= 1
    assert perturbation_size(nearest - images, "l1").max() <= eps + 1e-12
    for image, point, found in zip(images, points, nearest, strict=True):
        left = (point - found).flatten()
        most_of_all = reach("l1", -left, image[None], eps)[0]
        assert most_of_all <= left @ (found - image).flatten() + 1e-10 * (1 + left.abs().sum())


@settings(max_examples=100, deadline=None)
@given(to_project())
def test_the_projection_of_a_projection_is_itself(case):
    images, points, eps = case
    once = project(images, points, eps, "l1")
    assert torch.allclose(project(images, once, eps, "l1"), once, rtol=0, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(to_project())
def test_in_float32_the_projection_passes_the_referee(case):
    images, points, eps = (
        each.float() if isinstance(each, torch.Tensor) else each for each in case
    )
    found = project(images, points, eps, "l1")
    check("l1", Bound(eps, "l1", returns_clean=False), images, found)
    inside = project(images, found, 2 * eps, "l1")
    assert torch.equal(inside, found), "points inside the ball keep their bits"


def test_the_referee_refuses_what_is_beyond_eps_in_l1():
    images = torch.full((2, 3, 32, 32), 0.5)
    moved = images.clone()
    moved[1, 0, :24, 0] = 1  # 24 values move by 1/2
    bound = Bound(12, "l1", returns_clean=False)
    _, sizes = check("l1", bound, images, moved)
    assert sizes.tolist() == [0, 12]
    moved[1, 1, 5, 5] += 2e-3
    with pytest.raises(CheatError, match=r"moved by 12.002, beyond eps 12\."):
        check("l1", bound, images, moved)
    assert most("l1", 12, 3 * 224 * 224) < 12.01, "the tolerance stays small beside eps"


def test_random_starts_in_l1_fill_the_ball():
    images = torch.full((600, 3, 2, 2), 0.5, dtype=torch.float64)
    starts = uniform_start(images, numbers(images), 0.1, "l1", "test")
    # The share of the volume within r is (r / eps) to the power 12: it is uniform.
    volume = (perturbation_size(starts - images, "l1") / 0.1) ** 12
    assert volume.max() <= 1 + 1e-9
    assert abs(volume.mean() - 1 / 2) < 4 / (12 * 600) ** 0.5
    # Each value has the second moment of the uniform distribution: 2 eps² / ((n + 1) (n + 2)).
    assert (starts - images).square().mean().item() == pytest.approx(
        2 * 0.1**2 / (13 * 14), rel=0.05
    )
    edges = edge_start(images, numbers(images), 0.1, "l1", "test")
    assert torch.allclose(
        perturbation_size(edges - images, "l1"), torch.full((600,), 0.1, dtype=torch.float64)
    )


def test_a_sparse_step_moves_the_largest_gradients():
    gradient = torch.tensor([[3.0, -4, 1, 0], [0, 0, 0, 0], [0, 0, 2, 0]]).view(3, 1, 2, 2)
    step = l1.sparse_step(gradient, 0.5, torch.tensor([2, 2, 3]))
    assert step.flatten(1).tolist() == [[0.25, -0.25, 0, 0], [0, 0, 0, 0], [0, 0, 0.5, 0]]
    # -4 is at 0 and does not count: 3 takes the step, and -4 keeps pushing.
    can = l1.can_move(torch.tensor([0.5, 0, 0.5, 0.5]).view(1, 1, 2, 2), gradient[:1])
    step = l1.sparse_step(gradient[:1], 0.5, 1, can)
    assert step.flatten().tolist() == [0.5, -0.5, 0, 0]


@pytest.mark.parametrize("eps", [0.2, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_reaches_the_linear_optimum_in_l1_exactly(eps, random_start):
    weight, images = boxed(0)
    attack = PGD(
        eps=eps,
        norm="l1",
        steps=100,
        step_size=eps / 20,
        loss="margin",
        early_stop=False,
        random_start=random_start,
    )
    found = attack(classifier_of(weight), images, zeros(images), numbers(images))
    best = reach("l1", weight, images, eps)
    assert torch.allclose(drop(weight, images, found), best, rtol=1e-9, atol=0)


def test_pgd_with_more_values_in_a_step_comes_near_the_optimum():
    weight, images = boxed(1)
    attack = PGD(
        eps=8,
        norm="l1",
        steps=50,
        step_size=0.4,
        loss="margin",
        early_stop=False,
        share=0.1,
    )
    found = attack(classifier_of(weight), images, zeros(images), numbers(images))
    share = drop(weight, images, found) / reach("l1", weight, images, 8)
    assert share.max() <= 1 + 1e-9
    assert share.min() > 0.9


@pytest.mark.parametrize(("norm", "eps"), [("l1", 0.5), ("l1", 3.0), ("l1", 8.0), ("l2", 1.5)])
def test_apgd_comes_near_the_linear_optimum(norm, eps):
    weight, images = boxed(2)
    labels, search = zeros(images), Search(images, zeros(images))
    start = edge_start(images, numbers(images), eps, norm, "test")
    rows = climb(
        classifier_of(weight, 1e3),
        search,
        search.left,
        labels,
        start,
        margin,
        eps=eps,
        norm=norm,
        steps=100,
    )
    share = drop(weight, images, rows.best_point) / reach(norm, weight, images, eps)
    assert share.max() <= 1 + 1e-9
    # l1-APGD can stop short: its steps become sparser only if the best point does.
    assert share.mean() > (0.99 if norm == "l2" else 0.97)
    assert share.min() > (0.97 if norm == "l2" else 0.75)


def test_pgd_comes_near_the_linear_optimum_in_l2_with_the_box():
    weight, images = boxed(3)
    attack = PGD(eps=2, norm="l2", steps=100, step_size=0.1, loss="margin", early_stop=False)
    found = attack(classifier_of(weight), images, zeros(images), numbers(images))
    best = reach("l2", weight, images, 2)
    free = 2 * weight.norm()
    assert (best < 0.98 * free).all(), "the box must matter"
    share = drop(weight, images, found) / best
    assert share.max() <= 1 + 1e-9
    assert share.min() > 0.99


@pytest.mark.parametrize(
    "attack",
    [
        PGD(eps=3, norm="l1", steps=60, step_size=0.15),
        APGD(eps=3, norm="l1", steps=60),
        APGD(eps=3, norm="l1", steps=60, loss="dlr"),
        Patch(eps=1 / 3),
    ],
    ids=["pgd", "apgd", "apgd-margin", "patch"],
)
@pytest.mark.filterwarnings("ignore::zsrobust.attacks.notes.Note")
def test_an_attack_breaks_an_image_if_and_only_if_the_optimum_does(attack):
    weight, images = boxed(4, count=8)
    norm = attack.norm
    best = reach(norm, weight, images, 2 if norm == "patch" else attack.eps)
    near = 0.05 if isinstance(attack, APGD) else 1e-6
    for image, most_of_it in zip(images[:, None], best, strict=True):
        for share in (0.5, 1 - near, 1 + 1e-6, 1.5):
            bias = share * most_of_it - image.flatten() @ weight
            classifier = classifier_of(weight, bias)
            found = attack(classifier, image, zeros(image), numbers(image))
            assert (classifier(found).argmax(1) == 1).item() == (share < 1)
            assert perturbation_size(found - image, norm).item() <= attack.eps + 1e-9


def test_apgd_in_l1_follows_its_rules():
    classifier, images, labels = nonlinear(8)
    search, eps = Search(images, labels), 0.05
    start = edge_start(images, numbers(images), eps, "l1", "test")
    rows = climb(
        classifier, search, search.left, labels, start, margin, eps=eps, norm="l1", steps=50
    )
    changed = (rows.best_point != rows.image).flatten(1).sum(1)
    assert (rows.best >= margin(classifier(start), labels)[rows.owner]).all()
    assert (rows.size <= eps).all()
    assert (rows.size >= eps / 10 - 1e-9).all()
    assert (rows.changed >= changed * 0.5).all()
    assert torch.equal(rows.count, (rows.changed / 1.5).long().clamp_min(1))
    assert (rows.count < int(0.2 * images[0].numel())).all()


@pytest.mark.parametrize("spec", ["pgd", "cw", "apgd", "feature_l2"])
def test_an_image_without_a_gradient_stays_finite_in_l1(spec):
    classifier = LinearClassifier(torch.zeros(3, 48))
    images = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    attack = attacks.create(
        f"{spec}:norm=l1,eps=2,step_size=1" if spec != "apgd" else "apgd:norm=l1,eps=2"
    )
    with pytest.warns(Note, match="^attack_zero_gradients$"):
        found = attack(classifier, images, zeros(images), numbers(images))
    check("l1", Bound.of(attack), images, found)


# Patches


def test_the_size_of_a_patch_is_its_smallest_square_window():
    delta = torch.zeros(5, 3, 8, 8)
    delta[1, 2, 3, 4] = 1e-9
    delta[2, 0, 0, 1] = delta[2, 1, 4, 2] = 1  # 5 rows, 2 columns
    delta[3, 0, 7, 0] = delta[3, 0, 7, 7] = -1  # one row
    delta[4, :, 2:4, 2:4] = 1
    sizes = perturbation_size(delta, "patch")
    assert (8 * sizes).tolist() == [0, 1, 5, 8, 2]


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_the_best_window_of_a_linear_function_is_among_the_promising_ones(side):
    weight, images = boxed(5)
    gradient = -weight.view(1, 3, 6, 6).expand_as(images)
    for grid in (1, 2, 3, 100):
        places = promising(images, gradient, side, grid)
        assert places.shape == (len(images), min(grid, 7 - side) ** 2)
        best = Patch(eps=side / 6, grid=grid, tries=1, steps=1)
        found = best(classifier_of(weight, 200.0), images, zeros(images), numbers(images))
        assert torch.equal(found, images), "nothing can be broken here"
        for image, candidates in zip(images, places, strict=True):
            room = torch.where(weight > 0, image.flatten(), 1 - image.flatten())
            gains = (weight.abs() * room).view(3, 6, 6).sum(0)
            sums = gains.unfold(0, side, 1).unfold(1, side, 1).sum((2, 3)).flatten()
            assert sums[candidates].max() == pytest.approx(sums.max())


def test_a_patch_is_one_window_and_breaks_a_network():
    classifier, images, labels = nonlinear()
    broken = {}
    for side in (1, 2, 4):
        attack = Patch(eps=side / 8)
        found = attack(classifier, images, labels, numbers(images))
        _, sizes = check("patch", Bound.of(attack), images, found)
        broken[side] = (classifier(found).argmax(1) != labels).sum()
        assert (sizes[(found == images).flatten(1).all(1)] == 0).all()
    assert 0 < broken[1] <= broken[2] <= broken[4] == len(images)
    assert broken[1] < len(images)


class Bowl(nn.Module):
    """A classifier of 0, unless the pixels are within a sum of squares of 0.7."""

    def __init__(self, radius):
        super().__init__()
        self.radius = radius

    def forward(self, images):
        return torch.stack(
            [self.distance(images), torch.full_like(images[:, 0, 0, 0], self.radius)], 1
        )

    @staticmethod
    def distance(images):
        return (images - 0.7).square().flatten(1).sum(1)


@pytest.mark.parametrize(("share", "broken"), [(0.5, True), (0.95, True), (1.001, False)])
def test_the_ascent_of_a_patch_reaches_an_optimum_inside_the_box(share, broken):
    """Black images: a window of ones nears the bowl by 0.7² - 0.3² per value, one of 0.7 by 0.7²."""
    images = torch.zeros(2, 3, 6, 6, dtype=torch.float64)
    gain = 3 * 2**2 * 0.7**2
    classifier = Bowl(3 * 6**2 * 0.7**2 - share * gain)
    corners, ascent = Patch(eps=1 / 3, steps=1), Patch(eps=1 / 3, steps=20)
    found = ascent(classifier, images, zeros(images), numbers(images))
    assert (classifier(found).argmax(1) == 1).tolist() == [broken] * 2
    found = corners(classifier, images, zeros(images), numbers(images))
    assert (classifier(found).argmax(1) == 1).tolist() == [share < 1 - (0.3 / 0.7) ** 2] * 2


def test_a_patch_takes_as_many_passes_as_it_says():
    classifier, data = toy(5)
    images, labels = torch.from_numpy(data.pixels).float() / 255, torch.from_numpy(data.labels)
    classifier.bias.data[:] = -1e4
    labels = torch.zeros_like(labels)
    classifier.bias.data[0] = 1e4  # nothing can be broken
    attack, meter = Patch(eps=1 / 4), Meter(classifier)
    with pytest.warns(Note):
        found = attack(meter, images, labels, numbers(images))
    assert torch.equal(found, images)
    forward, backward = attack.passes(5)
    assert meter.backward_passes == 24 * backward
    assert meter.forward_passes <= 24 * forward <= meter.forward_passes + 24


def test_the_referee_refuses_a_change_outside_the_window():
    images = torch.full((1, 3, 8, 8), 0.5)
    moved = images.clone()
    moved[0, :, 1:3, 1:3] = 0
    bound = Bound(0.25, "patch", returns_clean=True)
    check("patch", bound, images, moved)
    moved[0, 0, 7, 7] += 1e-6
    with pytest.raises(CheatError, match=r"moved by 0\.875, beyond eps 0\.25"):
        check("patch", bound, images, moved)


def test_a_patch_smaller_than_a_pixel_is_refused():
    classifier, images, labels = nonlinear(2)
    with pytest.raises(ZSRobustError, match="eps 6/255 is smaller than a pixel of images with 8 "):
        Patch(eps=6 / 255)(classifier, images, labels, numbers(images))
    assert Patch(eps=3 / 8).side(8) == 3
    assert Patch(eps=0.1).side(30) == 3
    assert Patch(eps=0.99).side(8) == 7


# What is refused, and how eps is written


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        ("fab:norm=l1,eps=12", "FAB does not attack in the norm l1, but in linf or l2"),
        ("square:norm=l1,eps=12", "Square does not attack in the norm l1"),
        ("mim:norm=l1", "MIM does not attack in the norm l1"),
        ("autoattack:norm=l1,eps=12", "AutoAttack does not attack in the norm l1"),
        ("ensemble:norm=l1,eps=12,step_size=3", "Square does not attack in the norm l1"),
        ("pgd:norm=patch,eps=1/8", "PGD does not attack in the norm patch, but in linf or l2 or"),
        ("patch:norm=linf", "Patch does not attack in the norm linf, but in patch"),
        ("pgd:norm=l1,eps=12", r"10 steps of 1/255 do not reach eps 12 in l1\. .* step_size=3"),
        ("pgd:share=0.1", "A share of 0.1 in linf is not valid"),
        ("pgd:norm=l1,step_size=1,share=2", "A share of 2 in l1 is not valid"),
        ("patch:eps=1", "eps 1 is not a patch's share"),
        ("patch:eps=1e-5", "eps 1e-05 is too small in patch"),
    ],
)
def test_what_an_attack_cannot_do_is_one_line(spec, wrong):
    with pytest.raises(ZSRobustError, match=wrong) as caught:
        attacks.create(spec)
    assert "\n" not in str(caught.value)


def test_an_attack_that_does_not_name_its_norms_has_the_first_two():
    assert Attack.norms == ("linf", "l2")


@given(st.floats(1, 1e6) | st.integers(1, 10**6).map(float))
def test_a_bound_of_one_and_more_makes_a_round_trip(eps):
    assert parse_eps(format_eps(eps), "l1") == eps
    assert parse_eps(format_eps(eps), None) == eps
    with pytest.raises(ZSRobustError, match="is not a bound on pixels"):
        parse_eps(format_eps(eps))


def test_a_selection_reads_eps_in_the_norm_of_its_attack():
    mini = suites.load("mini")
    own = Selection.of(mini, attack="pgd10:norm=l1,step_size=3,eps=12")
    given_apart = Selection.of(mini, attack="pgd10:norm=l1,step_size=3", eps=12.0)
    assert own == given_apart
    assert own.bound == "12"
    for attack, eps in (("pgd10", 12.0), ("pgd10:eps=12", None), ("patch:norm=patch", 2.0)):
        with pytest.raises(ZSRobustError, match="eps '(12|2)' is not a bound on pixels"):
            Selection.of(mini, attack=attack, eps=eps)


@pytest.mark.parametrize(
    "attack",
    [PGD(eps=0.5, norm="l1", step_size=0.2), Patch(eps=3 / 8)],
    ids=["l1", "patch"],
)
def test_red_flags_are_measured_beside_the_new_norms(attack):
    classifier, images, labels = nonlinear(8)
    survived = torch.ones(8, dtype=torch.bool)
    draws = numbers(images)
    checks = examine(classifier, attack, images, labels, draws, survived=survived)
    assert ("weak" in checks) == (attack.norm == "l1")
    assert np.isfinite(list(checks.values())).all()
    assert checks["zero_gradients"] == 0


def test_an_unknown_norm_is_refused_with_those_that_exist():
    with pytest.raises(ZSRobustError, match="Choose one of linf, l2, l1, patch"):
        PGD(norm="l0")

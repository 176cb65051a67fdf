"""What attacks know of defenses: several gradients and starts, draws of random numbers, unrolled optimizations."""

import weakref
from functools import partial

import numpy as np
import pytest
import torch
from optima import binary, numbers
from test_wrappers import between_two_levels, rounded

from zsrobust.attacks import attacks
from zsrobust.attacks.adaptive import Adaptive
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.scenes import Mixed, Scene, redrawn
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Images
from zsrobust.defenses.views import VIEWS, Randomized, views
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Case, judge
from zsrobust.models.randomized import UNSEEN, Judged, parse_judged
from zsrobust.models.unrolling import optimized
from zsrobust.models.wrappers import Purified, unchanged
from zsrobust.running.bench import Bench
from zsrobust.running.entries import load_suite
from zsrobust.running.plan import plan
from zsrobust.settings import protocols
from zsrobust.testing import LinearClassifier, toy

pytestmark = pytest.mark.filterwarnings("ignore::zsrobust.attacks.notes.Note")
EPS = 8 / 255


def judged(classifier, images, attack, ways=None, **more):
    scene = Scene(ways=ways or {}, **more)
    return judge(Case(classifier, attack, "attack", images, scene=scene))


# Adaptive


def test_a_further_surrogate_opens_the_eyes_of_adaptive():
    classifier, images = between_two_levels()
    deployed = Purified(classifier, rounded)
    given = {"eps": EPS, "steps": 3, "step_size": EPS}
    ways = {"identity": lambda: Purified(classifier, rounded, stand_in=unchanged)}
    assert judged(deployed, images, PGD(**given)).robust_correct > 12
    assert judged(deployed, images, Adaptive(**given)).robust_correct > 6
    assert judged(deployed, images, Adaptive(**given), ways).robust_correct == 0


def test_only_the_start_at_the_undefended_model_breaks_a_defense_without_gradient():
    classifier, images = toy(3)
    deployed = Purified(classifier, lambda given: given.detach() + 0 * given)
    attack = Adaptive(eps=16 / 255, steps=4, step_size=8 / 255)
    blind = judged(deployed, images, attack)
    seeing = judged(deployed, images, attack, {"undefended": lambda: classifier})
    plain = judged(classifier, images, PGD(eps=16 / 255, steps=4, step_size=8 / 255))
    assert blind.robust_correct > seeing.robust_correct
    assert seeing.robust_correct <= plain.robust_correct


def test_adaptive_is_never_worse_than_pgd_and_stops_at_the_reach_of_eps():
    """On a linear model the images that can be broken are known."""
    classifier, images, margin = binary(0, "linf", EPS)
    labels = torch.zeros(len(images), dtype=torch.long)
    given = {"eps": EPS, "steps": 5, "step_size": EPS / 2}
    seen = Meter(classifier, scene=Scene(ways={"undefended": lambda: classifier}))
    found = Adaptive(**given)(seen, images, labels, numbers(images))
    pgd = PGD(**given, early_stop=False)(classifier, images, labels, numbers(images))
    broken, plain = (classifier(points).argmax(1) == 1 for points in (found, pgd))
    assert broken[plain].all()
    assert torch.equal(broken, margin < 1)
    assert (found - images).abs().max() <= EPS + 1e-12


def test_all_passes_of_adaptive_are_counted_whatever_the_module():
    class Counting(LinearClassifier):
        passed = 0

        def forward(self, images):
            Counting.passed += len(images)
            return super().forward(images)

    classifier, data = toy(4)
    images, labels = torch.from_numpy(data.pixels).float() / 255, torch.from_numpy(data.labels)
    one, two, three = (
        Counting(classifier.weight.detach(), classifier.bias.detach()) for _ in range(3)
    )
    scene = Scene(ways={"other": lambda: two, "undefended": lambda: three}, other=lambda spec: two)
    seen = Meter(one, scene=scene)
    attack = Adaptive(eps=1 / 255, steps=2, step_size=1 / 255, transfer="clip", queries=5)
    attack(seen, images, labels, numbers(images))
    assert seen.forward_passes == Counting.passed > 0
    assert attack.reads == {"other": "clip"}
    assert attacks.create("worst").reads == {"other": "clip"}
    assert attacks.create("adaptive").reads == {}


def test_unrolled_needs_an_optimization_and_says_so():
    classifier, images = toy(2)
    with pytest.raises(ZSRobustError, match="needs a defense that optimizes at test time") as error:
        judged(classifier, images, attacks.create("unrolled"))
    assert "\n" not in str(error.value)


def test_unrolled_is_pgd_through_as_many_steps_as_asked():
    classifier, data = toy(3)
    other, _ = toy(3, seed=1)
    images, labels = torch.from_numpy(data.pixels).float() / 255, torch.from_numpy(data.labels)
    asked = []
    scene = Scene(
        ways={"unrolled": lambda: other}, unrolled=lambda steps: asked.append(steps) or classifier
    )
    plain = PGD(steps=3)
    for spec, module in (("unrolled:steps=3", other), ("unrolled:steps=3,depth=2", classifier)):
        attack = attacks.create(spec)
        found = attack(Meter(classifier, scene=scene), images, labels, numbers(images))
        assert torch.equal(found, plain(module, images, labels, numbers(images)))
    assert asked == [2]


# Random numbers


class Noisy(Randomized):
    def __init__(self, classifier, sigma=0.1):
        super().__init__(3, "noisy")
        self.classifier, self.sigma = classifier, sigma

    def forward(self, images):
        noise = self.draws(images).normal(images.shape[1:], "noise")
        return self.classifier(images + self.sigma * noise)


def some(number=6, side=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return 0.3 + 0.4 * torch.rand(number, 3, side, side, generator=generator, dtype=dtype)


def test_a_draw_depends_on_the_image_the_seed_and_the_number_alone():
    classifier, _ = toy(3)
    images, noisy = some(), Noisy(classifier)
    draws = noisy.draws(images).seeds
    assert torch.equal(noisy.draws(images.flip(0)).seeds.flip(0), draws)
    assert torch.equal(noisy.draws(images[2:3]).seeds, draws[2:3])
    assert torch.equal(noisy.draws(images[[2, 2]]).seeds, draws[[2, 2]])
    assert len(set(draws.tolist())) == 6
    moved = images.clone()
    moved[0, 0, 0, 0] = torch.nextafter(moved[0, 0, 0, 0], torch.ones(()))
    assert ((noisy.draws(moved).seeds == draws) == torch.tensor([False] + 5 * [True])).all()
    swapped = images.clone()
    swapped[0, 0, 0, :2] = images[0, 0, 0, :2].flip(0)  # the same values at other places
    assert noisy.draws(swapped).seeds[0] != draws[0]
    again, other = noisy.redrawn(0), noisy.redrawn(1)
    assert torch.equal(again(images), noisy(images))
    assert not torch.equal(other(images), noisy(images))
    assert other.classifier is noisy.classifier
    assert noisy.draw == 0
    different = Noisy(classifier)
    different.seed = 4
    assert not torch.equal(different(images), noisy(images))


def test_without_noise_a_randomized_classifier_is_the_plain_one():
    classifier, _ = toy(3)
    images = some()
    for draw in (0, 5, UNSEEN):
        assert torch.equal(Noisy(classifier, 0.0).redrawn(draw)(images), classifier(images))


def test_a_mean_with_an_undefended_model_draws_again():
    classifier, _ = toy(3)
    images, noisy = some(), Noisy(classifier)
    mixed = Mixed(Meter(noisy), Meter(classifier))
    for draw in (0, 3):
        expected = (noisy.redrawn(draw)(images) + classifier(images)) / 2
        assert torch.allclose(redrawn(mixed, draw)(images), expected)
    assert not torch.equal(redrawn(mixed, 3)(images), mixed(images))


class Known(Randomized):
    """Right in each draw that no attack sees, but for image i in the first `wrong(i)` of them."""

    def __init__(self, classifier):
        super().__init__(0, "known")
        self.classifier = classifier

    def forward(self, images):
        logits = self.classifier(images)
        bad = (images[:, 0, 0, 0] * 255).round().long() % 4
        wrong = (self.draw >= UNSEEN) & (self.draw - UNSEEN >= 3 - bad) & (self.draw < UNSEEN + 3)
        return torch.where(wrong[:, None], -logits, logits)


def test_verdicts_of_several_draws_are_those_that_are_known():
    """Image i is wrong in the last i mod 4 of three draws."""
    classifier, images = toy(2)
    pixels = images.pixels.copy()
    pixels[:, 0, 0, 0] = 100 + np.arange(24) % 4
    with torch.no_grad():
        labels = classifier(torch.from_numpy(pixels).float() / 255).argmax(1).numpy()
    images = Images(pixels=pixels, labels=labels)
    tiny = PGD(eps=1e-4, steps=1, step_size=1e-4)
    right = {
        how: judge(Case(Judged(Known(classifier), how), tiny, "pgd", images, target=classifier))
        for how in ("one_shot", "majority_of_3", "worst_of_3", "worst_of_2", "worst_of_1")
    }
    clean = {how: outcomes.clean_correct for how, outcomes in right.items()}
    assert clean == {
        "one_shot": 18,
        "majority_of_3": 12,
        "worst_of_3": 6,
        "worst_of_2": 12,
        "worst_of_1": 18,
    }
    robust = {how: outcomes.robust_correct for how, outcomes in right.items()}
    assert robust == clean


def test_of_two_votes_the_mean_probability_decides():
    class Two(Randomized):
        def forward(self, images):
            sure = torch.tensor([[0.0, 3.0]]) if self.draw % 2 else torch.tensor([[1.0, 0.0]])
            return sure.expand(len(images), 2)

    logits = Judged(Two(0, "two"), "majority_of_2")(some())
    assert (logits.argmax(1) == 1).all()
    assert torch.allclose(logits.exp().sum(1), torch.ones(6))
    assert (Judged(Two(0, "two"), "majority_of_3")(some()).argmax(1) == 0).all()


@pytest.mark.parametrize("how", ["best_of_5", "majority", "worst_of_0", "majority_of_-1", ""])
def test_another_way_to_judge_is_one_line(how):
    with pytest.raises(ZSRobustError, match="is not a way to judge") as error:
        parse_judged(how)
    assert "\n" not in str(error.value)


# Views


@pytest.mark.parametrize("kind", VIEWS)
def test_a_view_depends_on_its_image_alone_and_has_its_gradient(kind):
    images = some()
    seen = views(images, Draws.of_images(images, 0, "test"), 3, kind)
    assert seen.shape == (3, 6, 3, 8, 8)
    assert seen.min() >= 0
    assert seen.max() <= 1 + 1e-6
    assert not torch.equal(seen[0], seen[1])
    alone = views(images[4:5], Draws.of_images(images[4:5], 0, "test"), 3, kind)
    assert torch.allclose(alone[:, 0], seen[:, 4], atol=1e-6)
    small = some(2, 4, torch.float64).requires_grad_()
    draws = Draws.of(0, "view", np.arange(2))
    assert torch.autograd.gradcheck(lambda given: VIEWS[kind](given, draws, "view"), small)


class Middle(Draws):
    """Every uniform number is the same."""

    value = 0.5

    def uniform(self, shape, *key):
        return torch.full((len(self), *shape), self.value)


class Below(Middle):
    value = 0.49


def test_at_the_middle_of_its_numbers_a_view_is_the_image():
    images = some(dtype=torch.float64)
    middle = Middle(torch.zeros(6, dtype=torch.long))
    for kind in ("flip", "affine", "jitter"):
        assert torch.allclose(VIEWS[kind](images, middle, ""), images, atol=1e-6)
    below = Below(torch.zeros(6, dtype=torch.long))
    assert torch.equal(VIEWS["flip"](images, below, ""), images.flip(3))
    flat = torch.full((6, 3, 8, 8), 0.4, dtype=torch.float64)
    for kind in ("blur", "resized_crop", "affine"):
        assert torch.allclose(VIEWS[kind](flat, Draws.of(0, "flat", np.arange(6)), ""), flat)
    assert views(images, middle, 0, "flip").shape == (0, 6, 3, 8, 8)


# Unrolled optimizations


WEIGHT = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def descent(layers=1):
    def step(inputs, graph):
        state, target = inputs
        with torch.enable_grad():
            state = state if state.requires_grad else state.detach().requires_grad_()
            reached = state @ WEIGHT
            for _ in range(layers):
                reached = reached.tanh() * 1.5
            (gradient,) = torch.autograd.grad(
                (reached - target).square().sum(), state, create_graph=graph
            )
            return state - 0.1 * gradient

    return step


def start():
    generator = torch.Generator().manual_seed(1)
    state, target = (
        torch.randn(3, size, generator=generator, dtype=torch.float64) for size in (5, 4)
    )
    return state.requires_grad_(), target.requires_grad_()


@pytest.mark.parametrize("unroll", [0, 1, 2, 4])
def test_unrolled_steps_have_the_value_and_the_gradient_of_the_plain_loop(unroll):
    state, target = start()
    found = optimized(descent(), state, target, steps=4, unroll=unroll)
    expected = state
    for number in range(4):
        if number < 4 - unroll:
            expected = descent()((expected, target), False).detach()
        else:
            expected = descent()((expected, target), True)
    assert torch.equal(found, expected)
    if not unroll:
        assert not found.requires_grad
        return
    weight = torch.linspace(-1, 1, 15, dtype=torch.float64).view(3, 5)
    got, want = (
        torch.autograd.grad((each * weight).sum(), (state, target), allow_unused=True)
        for each in (found, expected)
    )
    assert (got[0] is None) == (want[0] is None) == (unroll < 4)
    for one, other in zip(got, want, strict=True):
        assert one is None or torch.allclose(one, other, rtol=1e-12, atol=1e-14)


def test_all_steps_pass_a_gradient_check_and_a_second_derivative_is_refused():
    state, target = start()
    whole = partial(optimized, descent(), steps=3, unroll=3)
    assert torch.autograd.gradcheck(whole, (state, target))
    (gradient,) = torch.autograd.grad(
        whole(state, target).square().sum(), target, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_memory_does_not_grow_with_what_a_step_computes():
    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor

    def saved(run):
        alive = weakref.WeakSet()

        def pack(tensor):
            kept = Kept(tensor)
            alive.add(kept)
            return kept

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            result = run()
            assert result.requires_grad
            return len(alive)

    def plain(layers):
        state, target = start()
        for _ in range(4):
            state = descent(layers)((state, target), True)
        return state

    def unrolled(layers):
        return optimized(descent(layers), *start(), steps=4, unroll=4)

    assert saved(lambda: unrolled(1)) == saved(lambda: unrolled(20)) == 2 * 4
    assert saved(lambda: plain(20)) > saved(lambda: plain(1)) > 2 * 4


def test_an_oblivious_attack_sees_no_part_of_the_defense(tmp_path):
    suite = load_suite("mini")
    bench = Bench(suite, protocols.load("sound"), Workshop(suite, tmp_path))
    cell = plan(suite, bench.protocol, ["ttc:of=clip"], ["adaptive"], ["mini_shapes"], limit=2)[0]
    seen = {}
    for knowledge in ("adaptive", "oblivious"):
        tower = bench.workshop.tower(f"ttc:of=clip,knowledge={knowledge}")
        scene = bench.deploy(cell, tower).scene
        seen[knowledge] = sorted(scene.ways), scene.unrolled is None
    assert seen == {"adaptive": (["undefended", "unrolled"], False), "oblivious": ([], True)}

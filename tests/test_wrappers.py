import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from zsrobust.attacks import Attack, attacks
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.notes import Note
from zsrobust.attacks.pgd import PGD
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import join_spec, split_spec
from zsrobust.datasets import Images
from zsrobust.defenses import Defense, Tower, defenses
from zsrobust.defenses.ttc import Counterattack
from zsrobust.defenses.tte import Ensemble
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.identity import identify_attack
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Case, judge, run_case
from zsrobust.models.wrappers import Purified, Wrapper, bpda, unchanged
from zsrobust.models.zeroshot import HalfPrecision, ZeroShotClassifier
from zsrobust.reporting.tables import build
from zsrobust.results.cell import Result
from zsrobust.results.identity import DefenseIdentity
from zsrobust.results.selection import Selection
from zsrobust.results.store import frame_of
from zsrobust.running.bench import Bench, identify_defense
from zsrobust.running.costs.model import cost_of
from zsrobust.running.plan import Cell, Key, plan
from zsrobust.running.single import evaluate
from zsrobust.settings import protocols, suites
from zsrobust.testing import LinearClassifier, check_defense, toy

WEAK = PGD(eps=8 / 255, steps=3, step_size=8 / 255, random_start=False)


def cell_of(bench, spec="clip"):
    return Cell.of(Key(spec, "pgd10", 1 / 255, "mini_shapes", 8, 0), bench.suite, bench.protocol)


def judged(classifier, images, attack=WEAK, target=None, **more):
    return judge(
        Case(
            Meter(classifier),
            attack,
            "pgd",
            images,
            seed=0,
            target=None if target is None else Meter(target),
            **more,
        )
    )


# The referee


def rounded(images):
    """Return images of five gray levels, whose gradient is zero."""
    return (4 * images).round() / 4


def between_two_levels(number=24):
    """Return a linear classifier, and images whose pixels are within 8/255 of where the level changes, at 95.6/255."""
    rng = np.random.RandomState(0)
    pixels = np.where(rng.rand(number, 3, 8, 8) < 0.5, 89, 102).astype(np.uint8)
    weight = torch.from_numpy(rng.randn(2, 192)).float()
    classifier = LinearClassifier(weight)
    with torch.no_grad():
        logits = Purified(classifier, rounded)(torch.from_numpy(pixels).float() / 255)
    return classifier, Images(pixels=pixels, labels=logits.argmax(1).numpy())


def test_rounding_blinds_pgd_and_its_declared_stand_in_opens_its_eyes():
    """Every pixel can take both levels, 0.25 and 0.5: the worst case is known from the weights, and breaks every image."""
    classifier, images = between_two_levels()
    difference = (classifier.weight[0] - classifier.weight[1]).detach()
    worst = 0.25 + 0.25 * (difference < 0).float(), 0.25 + 0.25 * (difference > 0).float()
    assert worst[0] @ difference < 0 < worst[1] @ difference
    deployed = Purified(classifier, rounded)
    surrogate = Purified(classifier, rounded, stand_in=unchanged)
    attack = dataclasses.replace(WEAK, random_start=True)
    with pytest.warns(Note, match="^attack_zero_gradients$"):
        blind = judged(deployed, images, attack)
    seeing = judged(deployed, images, attack, surrogate)
    assert seeing.clean_correct == blind.clean_correct == 24
    assert seeing.robust_correct == 0
    assert blind.robust_correct > 12


def test_verdicts_are_of_what_is_deployed_and_both_are_counted():
    """Deployed, every image is moved beyond the attack's reach; the attack breaks the plain classifier, for nothing."""
    classifier, images = toy(4)
    strong = LinearClassifier(classifier.weight.detach(), classifier.bias.detach())
    originals = torch.from_numpy(images.pixels).float() / 255

    def remembered(found):
        """Return the clean image nearest to each."""
        return originals[torch.cdist(found.flatten(1), originals.flatten(1)).argmin(1)]

    deployed = Purified(strong, remembered)
    attack = PGD(eps=16 / 255, steps=4, step_size=8 / 255, early_stop=False)
    oblivious = run_case(Case(deployed, attack, "pgd", images, target=classifier))
    outcomes = oblivious.outcomes
    plain = run_case(Case(classifier, attack, "pgd", images))
    assert (oblivious.clean_correct, oblivious.robust_correct) == (24, 24)
    assert plain.robust_correct == 0
    assert outcomes.perturbation.min() > 0
    assert (
        (oblivious.forward, oblivious.backward)
        == (plain.forward, plain.backward)
        == (24 + 4 * 24 + 24, 4 * 24)
    )


def test_an_image_that_the_attacked_classifier_has_wrong_from_the_start_is_no_cheat():
    """The deployed classifier has all right, the plain one none: there is nothing for PGD to do, and nothing to prove."""
    classifier, images = toy(2)
    inverted = LinearClassifier(-classifier.weight.detach(), -classifier.bias.detach())
    outcomes = judged(classifier, images, target=inverted)
    assert outcomes.robust_correct == 24
    assert not outcomes.perturbation.any()
    with pytest.raises(ZSRobustError, match="images unchanged"):
        judged(classifier, images, attack=Lazy(), target=classifier)


@dataclass(frozen=True)
class Lazy(Attack):
    eps: float = 8 / 255

    def __call__(self, classifier, images, labels, draws, start=None):
        return images


def test_where_memory_runs_out_for_the_target_both_get_smaller_batches():
    class Narrow(nn.Module):
        def __init__(self, classifier, most):
            super().__init__()
            self.classifier, self.most, self.largest = classifier, most, 0

        def forward(self, images):
            if len(images) > self.most:
                raise RuntimeError("out of memory")
            self.largest = max(self.largest, len(images))
            return self.classifier(images)

    classifier, images = toy(4)
    target = Narrow(classifier, 5)
    outcomes = judged(classifier, images, target=target, batch_size=16)
    assert target.largest == 4
    assert np.array_equal(outcomes.adversarial, judged(classifier, images).adversarial)


@pytest.mark.parametrize("spec", ["autoattack", "pgd:restarts=2"])
def test_attacks_that_know_only_a_classifier_attack_the_target(spec):
    classifier, images = toy(4)
    attack = dataclasses.replace(attacks.create(spec), eps=8 / 255)
    images = images.subset(6)
    same = judged(classifier, images, attack, batch_size=6)
    seen = judged(classifier, images, attack, Purified(classifier, unchanged), batch_size=6)
    assert np.array_equal(seen.adversarial, same.adversarial)
    assert seen.robust_correct < 6


# BPDA


def test_bpda_is_the_value_forward_and_the_stand_in_backward():
    x = torch.linspace(-1, 1, 7, dtype=torch.float64, requires_grad=True)
    value = bpda(x.sign(), x.tanh())
    assert torch.equal(value, x.sign())
    (gradient,) = torch.autograd.grad((3 * value).sum(), x)
    assert torch.allclose(gradient, 3 * (1 - x.tanh() ** 2), rtol=1e-12)
    (identity,) = torch.autograd.grad(bpda(x.round(), x).sum(), x)
    assert torch.equal(identity, torch.ones_like(x))
    with pytest.raises(ValueError, match="shape"):
        bpda(x, x[:1])


def test_a_purifier_with_a_stand_in_has_the_gradient_at_the_purified_image():
    weight = torch.randn(3, 12, dtype=torch.float64)

    class Squared(nn.Module):
        def forward(self, images):
            return (images.flatten(1) @ weight.T) ** 2

    images = torch.rand(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    surrogate = Purified(Squared(), rounded, unchanged)
    (gradient,) = torch.autograd.grad(surrogate(images).sum(), images)
    moved = rounded(images.detach()).requires_grad_()
    (expected,) = torch.autograd.grad(Squared()(moved).sum(), moved)
    assert torch.equal(gradient, expected)
    assert torch.equal(surrogate(images), Purified(Squared(), rounded)(images))


# EOT


class Alternating(nn.Module):
    """Linear logits, under one weight or another in turn: a random defense whose mean is known."""

    def __init__(self, *weights):
        super().__init__()
        self.weights, self.calls = weights, 0

    def forward(self, images):
        self.calls += 1
        return images.flatten(1) @ self.weights[self.calls % len(self.weights)].T


def some(number=6, side=4):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(number, 3, side, side, generator=generator) / 2 + 0.25
    return images, torch.zeros(number, dtype=torch.long), Draws.of(0, "some", np.arange(number))


def test_a_step_with_eot_follows_the_mean_gradient():
    """The margin of two linear classifiers: each alone leads elsewhere than their mean does."""
    images, labels, draws = some()
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 2, 48, generator=generator)
    attack = PGD(
        eps=0.1, steps=1, step_size=0.1, loss="margin", random_start=False, early_stop=False, eot=2
    )
    found = attack(Alternating(first, second), images, labels, draws)
    mean = (first + second) / 2
    expected = images + 0.1 * (mean[1] - mean[0]).sign().view(3, 4, 4)
    assert torch.allclose(found, expected)
    alone = dataclasses.replace(attack, eot=None)(Alternating(first, second), images, labels, draws)
    assert not torch.allclose(alone, expected)


def test_with_eot_no_image_leaves_on_one_lucky_draw():
    """The mean logits have all images right; one draw of two has all wrong."""
    images, labels, draws = some()
    right = torch.stack([torch.ones(48), torch.zeros(48)])
    wrong = torch.stack([torch.zeros(48), torch.full((48,), 0.1)])
    attack = PGD(eps=0.01, steps=3, step_size=0.01, random_start=False, restarts=2)
    lucky, patient = Alternating(right, wrong), Alternating(right, wrong)
    assert torch.equal(attack(lucky, images, labels, draws), images)
    moved = dataclasses.replace(attack, eot=2)(patient, images, labels, draws)
    assert torch.allclose(moved, images + 0.01)
    assert (lucky.calls, patient.calls) == (1, 14)


def test_eot_of_one_is_plain_pgd_and_passes_are_counted():
    classifier, data = toy(4)
    images, labels = torch.from_numpy(data.pixels).float() / 255, torch.from_numpy(data.labels)
    draws = Draws.of(0, "toy", np.arange(24))
    plain = PGD(eps=0.02, step_size=0.005, steps=4, restarts=2)
    once = dataclasses.replace(plain, eot=1)
    assert torch.equal(
        plain(classifier, images, labels, draws), once(classifier, images, labels, draws)
    )
    assert plain.passes(4) == (9, 8)
    assert dataclasses.replace(plain, eot=5).passes(4) == (45, 40)
    with pytest.raises(ZSRobustError, match="eot must be positive"):
        attacks.create("pgd:eot=0")


def test_a_field_that_is_none_stays_out_of_the_identity():
    assert "eot" not in identify_attack(attacks.create("pgd10"), 4)
    assert identify_attack(attacks.create("pgd10:eot=3"), 4)["eot"] == 3


# Specs, identities, tables


@pytest.mark.parametrize(
    ("spec", "title", "of"),
    [
        ("ttc", "TTC (FT-TeCoA)", "tecoa"),
        ("ttc:of=clip", "TTC (CLIP)", "clip"),
        ("ttc:of=tecoa,knowledge=oblivious", "TTC (FT-TeCoA), oblivious attack", "tecoa"),
        ("tte:of=tecoa,epochs=2", "TTE (FT-TeCoA)", "tecoa:epochs=2"),
        (
            "tte:of=tecoa:epochs=2,knowledge=oblivious",
            "TTE (FT-TeCoA), oblivious attack",
            "tecoa:epochs=2",
        ),
        (
            "ttc:of=interpolation,weight=0.25",
            "TTC (interpolation (0.25, FT-TeCoA))",
            "interpolation:weight=0.25",
        ),
        (
            "interpolation:of=tecoa:epochs=1,lr=1e-4",
            "interpolation (0.5, FT-TeCoA)",
            "tecoa:epochs=1,lr=1e-4",
        ),
        (
            "interpolation:lr=1e-4,of=tecoa:epochs=1",
            "interpolation (0.5, FT-TeCoA)",
            "tecoa:epochs=1,lr=1e-4",
        ),
        ("ttc:of=soup:of=tecoa", "TTC (soup (FT-TeCoA))", "soup:of=tecoa"),
        (
            "ttc:eps=2/255,epochs=1,of=soup:of=tecoa+tecoa:seed=1",
            "TTC (soup (FT-TeCoA + FT-TeCoA))",
            "soup:epochs=1,of=tecoa+tecoa:seed=1",
        ),
        ("soup", "soup (FT-TeCoA + PMG-AFT)", "tecoa+pmg_aft"),
        ("soup:of=tecoa + fare", "soup (FT-TeCoA + FARE)", "tecoa+fare"),
        (
            "task_arithmetic:of=tecoa+tecoa:seed=1,weight=-0.5,epochs=1",
            "task arithmetic (-0.5, FT-TeCoA + FT-TeCoA)",
            "tecoa:epochs=1+tecoa:epochs=1,seed=1",
        ),
        (
            "tte:of=interpolation:of=pmg_aft:epochs=1,weight=0.25,lr=1e-4",
            "TTE (interpolation (0.25, PMG-AFT))",
            "interpolation:lr=1e-4,of=pmg_aft:epochs=1,weight=0.25",
        ),
    ],
)
def test_a_wrapped_defense_is_another_one_and_says_so(spec, title, of):
    defense, suite = defenses.create(spec), suites.load("mini")
    assert (defense.title, defense.of) == (title, of)
    members = [defenses.create(each).recipes(suite) for each in of.split("+")]
    if "soup:" not in of:
        assert defense.recipes(suite) == [recipe for recipes in members for recipe in recipes]


def test_a_field_after_several_members_is_every_members():
    def seeds(spec):
        recipes = defenses.create(spec).recipes(suites.load("mini"))
        return [(recipe.epochs, recipe.seed) for recipe in recipes]

    assert seeds("soup:of=tecoa+tecoa:seed=1,epochs=3") == [(3, 0), (3, 1)]
    assert seeds("ttc:of=soup:of=tecoa+tecoa:seed=1,epochs=3") == [(3, 0), (3, 1)]
    assert seeds("soup:of=tecoa:epochs=2+fare") == [(2, 0), (4, 0)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ttc:of=tekoa", "Did you mean tecoa"),
        ("ttc:knowledge=some", "knowledge='some' is not one of adaptive, oblivious"),
        ("ttc:gamma=1", "defense 'ttc' of 'tecoa' has no field 'gamma'"),
        ("ttc:of=tte", "defense 'ttc': TTE is a wrapper, too"),
        ("ttc:of=ttc:of=ttc:of=clip", "TTC is a wrapper, too"),
        (f"ttc{':of=interpolation' * 2000}", "Write that one: interpolation:of=tecoa"),
        ("interpolation:of=interpolation", "Write that one: interpolation:of=tecoa"),
        ("interpolation:of=tte:of=clip", "only weights are mixed"),
        ("tte:of=interpolation:of=ttc", "only weights are mixed"),
        ("interpolation:of=tecoa:epochs=1,epochs=2", "sets epochs of 'tecoa' twice"),
        ("ttc:of=tecoa:epochs=1,eps=2/255", "write of=tecoa,epochs=1,eps=2/255; to set that of"),
        ("ttc:of=tecoa:eps=2/255,seed=3", "to set that of 'tecoa', write tecoa:seed=3"),
        (
            "tte:of=interpolation:of=tecoa:lr=1,seed=3",
            "write of=interpolation:of=tecoa,lr=1,seed=3; to set that of 'tecoa'",
        ),
        ("soup:of=tecoa+tekoa", "Did you mean tecoa"),
        ("soup:of=tecoa+tecoa", "is not a list of different defenses"),
        ("soup:of=tecoa+", "is not a list of different defenses"),
        ("soup:of=tecoa+ttc", "only weights are mixed, and TTC is a wrapper"),
        ("soup:of=tecoa+interpolation", "interpolation is made from another defense"),
        ("interpolation:of=soup", "soup is made from another defense"),
        ("interpolation:of=tecoa+fare", "Unknown defense 'tecoa.fare'"),
        ("soup:of=tecoa:seed=1,epochs=2+fare", "a comma ends the list of members"),
        ("soup:of=tecoa+clip,epochs=2", "'soup' of 'clip' has no field 'epochs'"),
        ("soup:of=tecoa:epochs=1+fare,epochs=2", "sets epochs of 'tecoa' twice"),
        ("soup:weight=0.5", "has no field 'weight'"),
        ("task_arithmetic:weight=inf", "weight=inf is not a finite number"),
        ("ttc:steps=0", "TTC needs eps in"),
        ("tte:crops=-1", "crops=0 or more"),
    ],
)
def test_a_bad_spec_of_a_wrapped_defense_is_one_clear_line(spec, message):
    with pytest.raises(ZSRobustError, match=message) as caught:
        defenses.create(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "own", "others"),
    [
        ("ttc:of=tecoa,eps=2/255", 2 / 255, None),
        ("ttc:of=tecoa:eps=2/255", 4 / 255, 2 / 255),
        ("ttc:of=tecoa:eps=2/255,eps=3/255", 3 / 255, 2 / 255),
        ("ttc:of=tecoa,eps=2/255,epochs=1", 2 / 255, None),
        ("ttc:of=interpolation:of=pmg_aft,weight=0.25,eps=2/255", 2 / 255, None),
        ("ttc:of=interpolation:of=tecoa:eps=2/255", 4 / 255, 2 / 255),
    ],
)
def test_a_field_that_two_defenses_have_means_what_the_spec_says(spec, own, others):
    defense, suite = defenses.create(spec), suites.load("mini")
    assert defense.eps == own
    (recipe,) = defense.recipes(suite)
    assert recipe.eps == (
        defenses.create("tecoa").recipes(suite)[0].eps if others is None else others
    )
    normal = join_spec(*split_spec(spec))
    assert defenses.create(normal) == defense


@pytest.fixture
def bench(tmp_path):
    suite = suites.load("mini")
    return Bench(suite, protocols.load("sound"), Workshop(suite, tmp_path))


def test_only_a_wrapped_defense_says_what_an_attack_knows(bench):
    """Cells of the same images and weights: three rows, told apart by spec, folder, title, identity and column."""
    specs = ["clip", "ttc:of=clip", "ttc:knowledge=oblivious,of=clip"]
    cells = plan(bench.suite, bench.protocol, specs, ["pgd10"], ["mini_shapes"], limit=8)
    towers = [bench.workshop.tower(cell.key.defense) for cell in cells]
    parts = [identify_defense(cell, tower) for cell, tower in zip(cells, towers, strict=True)]
    results = [
        Result(identity=bench.identify(cell, part), images=8)
        for cell, part in zip(cells, parts, strict=True)
    ]
    frame = frame_of(
        (bench.path(cell), result) for cell, result in zip(cells, results, strict=True)
    ).set_index("defense")
    assert frame["knowledge"].to_dict() == dict(
        zip(specs, ["", "adaptive", "oblivious"], strict=True)
    )
    assert (
        frame["made"].nunique() == frame["defense_title"].nunique() == frame["path"].nunique() == 3
    )
    assert results[0].identity.defense.details.keys() == {"backbone"}
    assert results[1].identity.defense.details["wrapper"] == {
        "of": "clip",
        "eps": 4 / 255,
        "steps": 2,
        "step_size": 1 / 255,
        "tau": 0.2,
        "beta": 2.0,
        "seed": 0,
    }


def test_both_kinds_of_knowledge_stand_in_a_table_under_their_own_titles(bench):
    specs = [f"ttc:knowledge={knowledge},of=tecoa" for knowledge in ("adaptive", "oblivious")]
    cells = plan(bench.suite, bench.protocol, specs, ["pgd10"])
    parts = [DefenseIdentity(cell.key.defense, cell.defense.title) for cell in cells]
    results = [
        Result(identity=bench.identify(cell, part), images=8)
        for cell, part in zip(cells, parts, strict=True)
    ]
    frame = frame_of(
        (bench.path(cell), result) for cell, result in zip(cells, results, strict=True)
    )
    page = build("1", frame, Selection.of(bench.suite), more=specs)
    assert [title for title, _ in page.rows[-2:]] == [
        "TTC (FT-TeCoA)",
        "TTC (FT-TeCoA), oblivious attack",
    ]


def test_a_mixture_of_weights_and_an_export_leave_no_wrapper_behind(bench, zsrobust):
    with pytest.raises(ZSRobustError, match="only weights are mixed"):
        bench.workshop.tower("interpolation:of=ttc:of=clip")
    done = zsrobust("export", "ttc:of=clip", "--suite", "mini", "--out", "folder", ok=2)
    assert "Export what it is around: zsrobust export clip" in done.stderr


def test_evaluate_takes_the_spec_of_a_wrapped_defense(tmp_path):
    found = evaluate(
        "ttc:of=clip,knowledge=oblivious",
        dataset="mini_shapes",
        attack="pgd:steps=1",
        limit=4,
        checkpoints=tmp_path,
    )
    assert found.identity.defense.knowledge == "oblivious"
    assert found.identity.attack.details["early_stop"] is False
    assert found.clean_correct > 0


def test_a_bench_deploys_the_wrapper_and_shows_the_attack_what_it_may_know(bench):
    for spec, seen in (
        ("clip", None),
        ("tte:of=clip", None),
        ("tte:of=clip,knowledge=oblivious", ZeroShotClassifier),
    ):
        tower = bench.workshop.tower(spec)
        deployed = bench.deploy(cell_of(bench, spec), tower)
        kind = ZeroShotClassifier if spec == "clip" else Ensemble
        assert isinstance(deployed.classifier, kind)
        assert type(deployed.target) is (type(None) if seen is None else seen)
    plain, wrapped = (cost_of(bench, cell_of(bench, spec)) for spec in ("clip", "tte:of=clip"))
    assert (wrapped.forward, wrapped.backward) == (plain.forward, plain.backward) == plain.tower
    assert wrapped.tower == (10 * plain.forward, 10 * plain.backward)


def test_half_precision_is_around_the_wrapper(tmp_path):
    suite = suites.load("mini")
    bench = Bench(suite, protocols.load("reference:precision=float16"), Workshop(suite, tmp_path))
    tower = bench.workshop.tower("ttc:of=clip")
    made = bench.deploy(cell_of(bench), tower)
    deployed, seen = made.classifier, made.target
    assert type(deployed) is type(seen) is HalfPrecision
    assert type(deployed.classifier) is type(seen.classifier) is Purified
    points = torch.rand(2, 3, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(seen(points).sum(), points)
    assert torch.isfinite(gradient).all()


# The two that are shipped


@pytest.mark.parametrize("spec", ["tte:of=clip", "ttc:of=clip", "ttc:knowledge=oblivious,of=clip"])
def test_shipped_wrappers_conform(spec, tmp_path):
    check_defense(spec, checkpoints=tmp_path)


def test_the_check_tells_of_a_wrapper_that_needs_a_surrogate(tmp_path, monkeypatch):
    class Cut(Defense):
        def tower(self, workshop):
            inner = workshop.tower("clip")
            wrapper = Wrapper(
                lambda classifier: Purified(classifier, lambda images: rounded(images).detach())
            )
            return Tower(inner.encoder, inner.identity, wrapper=wrapper)

    monkeypatch.setitem(defenses._entries, "cut", Cut(title="cut", paper="none"))
    with pytest.raises(AssertionError, match="declares a surrogate"):
        check_defense("cut", checkpoints=tmp_path)


def linear(side=8, out=6, seed=0):
    """Return a zero-shot classifier whose image tower is one matrix, in float64."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, 3 * side * side, generator=generator, dtype=torch.float64)

    class Tower(nn.Module):
        def forward(self, images):
            return images.flatten(1) @ weight.T

    head = torch.randn(4, out, generator=generator, dtype=torch.float64)
    return ZeroShotClassifier(Tower(), head, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), side), weight


def test_tte_is_the_mean_over_the_image_its_mirror_image_and_their_crops():
    classifier, _ = linear(32)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    mirrored = images.flip(3)
    about = defenses.create("tte:of=clip,crops=1")
    top, left = Draws.of(0, "tte", np.arange(1)).integers(9, (2,), "origin")[0].tolist()
    padded = [torch.zeros(2, 3, 40, 40, dtype=torch.float64) for _ in range(2)]
    for canvas, each in zip(padded, (images, mirrored), strict=True):
        canvas[..., 4:36, 4:36] = each
    views = [
        images,
        mirrored,
        *(canvas[..., top : top + 32, left : left + 32] for canvas in padded),
    ]
    expected = sum(classifier(view) for view in views) / 4
    assert torch.allclose(Ensemble(classifier, about)(images), expected, rtol=1e-12)
    assert torch.equal(
        Ensemble(classifier, defenses.create("tte:of=clip,crops=0,flip=false"))(images),
        classifier(images),
    )


def test_tte_takes_four_different_crops_of_both_images():
    assert defenses.create("tte").passes == len(
        Ensemble(None, defenses.create("tte"))._views(torch.rand(1, 3, 16, 16))
    )
    views = Ensemble(None, defenses.create("tte"))._views(torch.rand(1, 3, 32, 32))
    assert all(not torch.equal(one, other) for i, one in enumerate(views) for other in views[:i])


def counterattack(**fields):
    classifier, weight = linear()
    about = dataclasses.replace(defenses.create("ttc:of=clip"), **fields)
    return Counterattack(classifier, classifier.encoder, about), weight


def test_a_counterattack_of_a_linear_tower_is_its_closed_form():
    """‖A(x + d) - A(x)‖² = ‖A d‖² / std²: its gradient is 2 AᵀA d / std², of whose sign every step is."""
    images = torch.rand(3, 3, 8, 8, dtype=torch.float64) / 2 + 0.25
    counter, weight = counterattack(tau=math.inf, beta=1.5, eps=4 / 255, steps=2, step_size=1 / 255)
    noise = Draws.of(0, "ttc", np.arange(1)).uniform((3, 8, 8), "noise").double() * 2 - 1
    change = [4 / 255 * noise.expand_as(images)]
    for _ in range(2):
        gradient = (change[-1].flatten(1) @ weight.T @ weight).view_as(images)
        change.append((change[-1] + gradient.sign() / 255).clamp(-4 / 255, 4 / 255))
    weights = [math.exp(1.5 * step) for step in range(3)]
    expected = images + sum(w * d for w, d in zip(weights, change, strict=True)) / sum(weights)
    assert torch.allclose(counter(images), expected, atol=1e-7)
    assert torch.allclose(counterattack(tau=0.0)[0](images), images + change[0], atol=1e-12)


def test_only_what_is_falsely_stable_is_counterattacked():
    images = torch.rand(8, 3, 8, 8, dtype=torch.float64)
    probe, _ = counterattack(tau=1.0)
    noisy = counterattack(tau=0.0)[0](images)
    ratio = probe._change(images, noisy)
    middle = float(ratio.median())
    counter, _ = counterattack(tau=middle)
    same = (counter(images) == noisy).flatten(1).all(1)
    assert torch.equal(same, ratio >= middle)
    assert 0 < same.sum() < 8


def test_a_counterattack_depends_on_the_image_alone_and_works_without_gradients():
    images = torch.rand(5, 3, 8, 8, dtype=torch.float64)
    counter, _ = counterattack(tau=0.1)
    torch.manual_seed(0)
    whole = counter(images)
    torch.manual_seed(1)
    with torch.no_grad():
        parts = torch.cat([counter(image[None]) for image in images.flip(0)]).flip(0)
    assert torch.allclose(whole, parts, atol=1e-12)
    assert whole.min() >= 0
    assert whole.max() <= 1
    assert (whole - images).abs().max() <= 4 / 255 + 1e-12
    assert torch.equal(torch.random.get_rng_state(), torch.Generator().manual_seed(1).get_state())


def test_an_adaptive_attack_goes_through_ttc_as_its_author_declares():
    classifier, _ = linear()
    wrapper = dataclasses.replace(defenses.create("ttc:of=clip"), tau=math.inf).wrapper(
        _Shop(classifier.encoder)
    )
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    deployed, seen = wrapper.wrap(classifier), wrapper.target(classifier, "adaptive")
    assert torch.equal(deployed(images), seen(images))
    assert wrapper.target(classifier, "oblivious") is classifier
    moved = deployed.purify(images).requires_grad_()
    (expected,) = torch.autograd.grad(classifier(moved)[:, 0].sum(), moved)
    (gradient,) = torch.autograd.grad(seen(images)[:, 0].sum(), images)
    assert torch.equal(gradient, expected)
    assert not deployed(images).requires_grad


class _Shop:
    def __init__(self, encoder):
        self.clip = self
        self.encoder = encoder

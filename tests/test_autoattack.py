"""Our AutoAttack: its parts against closed forms, and against the library's."""

import logging
import sys
import warnings
from functools import partial

import pyautoattack
import pytest
import torch
from optima import linear, nonlinear, numbers
from torch import nn

from zsrobust.attacks import apgd as module
from zsrobust.attacks import attacks, perturbation_size
from zsrobust.attacks import autoattack as engine
from zsrobust.attacks.apgd import APGD, apgd, apgd_targeted
from zsrobust.attacks.autoattack import AutoAttack, AutoAttackRobustVLM, AutoAttackTGA
from zsrobust.attacks.fab import fab_targeted, to_boundary
from zsrobust.attacks.losses import cross_entropy, dlr, targeted_dlr
from zsrobust.attacks.notes import Note
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.search import Search
from zsrobust.attacks.square import bump, square, window
from zsrobust.core.errors import ZSRobustError
from zsrobust.evaluation.identity import identify_attack
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Case, judge
from zsrobust.testing import check_attack, toy

TARGETS = 3
NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])


def ranked(classifier, images, labels, targets):
    with torch.no_grad():
        return classifier(images).scatter(1, labels[:, None], -torch.inf).topk(targets).indices


def run(part, classifier, images, labels, eps, norm, **fewer):
    """Return the images that a part of ours breaks, having checked that it keeps the rules."""
    search, draws = Search(images, labels), numbers(images)
    targets = ranked(classifier, images, labels, TARGETS) if part in ("apgd-t", "fab-t") else None
    if part in ("apgd-ce", "apgd-dlr"):
        apgd(classifier, search, draws, part.removeprefix("apgd-"), eps=eps, norm=norm, **fewer)
    elif part == "apgd-t":
        apgd_targeted(classifier, search, targets, draws, eps=eps, norm=norm, **fewer)
    elif part == "fab-t":
        fab_targeted(classifier, search, targets, eps=eps, norm=norm, **fewer)
    else:
        square(classifier, search, draws, eps=eps, norm=norm, **fewer)
    assert perturbation_size(search.adversarial - images, norm).max() <= eps + 1e-6
    assert search.adversarial.min() >= 0
    assert search.adversarial.max() <= 1
    assert torch.equal(search.adversarial[~search.broken], images[~search.broken])
    with torch.no_grad():
        assert torch.equal(classifier(search.adversarial).argmax(1) != labels, search.broken)
    return search.broken


def library(part, classifier, images, labels, eps, norm, queries=5000):
    attack = pyautoattack.AutoAttack(
        classifier,
        attacks=[part],
        version="custom",
        eps=eps,
        norm={"linf": "Linf", "l2": "L2"}[norm],
        seed=0,
    )
    attack.apgd.n_restarts = attack.fab.n_restarts = 1
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = TARGETS
    attack.square.n_queries = queries
    trace = sys.gettrace()
    with torch.random.fork_rng():
        found, _ = attack.run_standard_evaluation(images, labels, batch_size=len(images))
    sys.settrace(trace)  # which the library removes
    with torch.no_grad():
        return classifier(found).argmax(1) != labels


def test_ours_holds_the_contract_in_l2_too():
    check_attack("autoattack:norm=l2,eps=2")


def test_the_library_can_still_be_asked_for():
    check_attack("autoattack:engine=library", classes=(4,))
    with pytest.raises(ZSRobustError, match="engine"):
        attacks.create("autoattack:engine=theirs")


@pytest.mark.parametrize(
    ("classes", "parts", "targets", "skipped"),
    [
        (2, ["apgd-ce", "margin", "fab-t", "square"], 1, ["apgd-t"]),
        (3, ["apgd-ce", "margin", "fab-t", "square"], 2, ["apgd-t"]),
        (4, ["apgd-ce", "apgd-t", "fab-t", "square"], 3, []),
        (100, ["apgd-ce", "apgd-t", "fab-t", "square"], 9, []),
    ],
)
def test_it_plans_its_parts_by_the_number_of_classes(classes, parts, targets, skipped):
    plan = AutoAttack().plan(classes)
    assert (plan["parts"], plan["targets"], plan["skipped"]) == (parts, targets, skipped)


@pytest.mark.parametrize(
    ("attack", "classes", "parts", "more"),
    [
        (AutoAttackTGA(), 2, ["apgd-ce", "margin"], {"skipped": ["apgd-dlr"]}),
        (AutoAttackTGA(), 3, ["apgd-ce", "apgd-dlr"], {"skipped": []}),
        (AutoAttackRobustVLM(), 3, ["apgd-ce", "margin"], {"restarts": 5, "skipped": ["apgd-t"]}),
        (
            AutoAttackRobustVLM(),
            100,
            ["apgd-ce", "apgd-t"],
            {"restarts": 5, "targets": 9, "skipped": []},
        ),
    ],
)
def test_what_others_print_as_autoattack_says_in_its_plan_what_it_is(attack, classes, parts, more):
    assert attack.plan(classes) == {"parts": parts, **more}


def test_a_list_of_parts_can_be_written_down():
    attack = attacks.create("autoattack:attacks=apgd-dlr+apgd-t+square")
    expected = {"parts": ["apgd-dlr", "apgd-t", "square"], "targets": 9, "skipped": []}
    assert attack.plan(100) == expected
    assert attack.plan(2) == {"parts": ["margin", "square"], "skipped": ["apgd-dlr", "apgd-t"]}
    assert identify_attack(attack, 100)["attacks"] == "apgd-dlr+apgd-t+square"
    assert attack.passes(100) == (101 * 10 + 5000, 101 * 10)
    library = attacks.create("autoattack:attacks=apgd-t,engine=library")
    assert library.passes(100) == (101 * 9, 101 * 9)
    for wrong, why in (("apgd", "does not exist"), ("", "does not exist"), ("square", "twice")):
        with pytest.raises(ZSRobustError, match=f"^attacks=square.* '{wrong}', .*{why}") as caught:
            attacks.create(f"autoattack:attacks=square+{wrong}")
        assert "apgd-ce, apgd-dlr, apgd-t, fab-t, square, margin" in str(caught.value)
    with pytest.raises(ZSRobustError, match="has no field 'attacks'"):
        attacks.create("autoattack_tga:attacks=square")


def test_a_name_and_its_list_find_the_same_images():
    classifier, images, labels = nonlinear(12)
    specs = ("autoattack_tga", "autoattack:attacks=apgd-ce+apgd-dlr")
    named, listed = (
        attacks.create(spec, {"eps": 0.008})(classifier, images, labels, numbers(images))
        for spec in specs
    )
    assert torch.equal(named, listed)
    assert not torch.equal(named, images)


class Turning(nn.Module):
    """A classifier that takes its weights in turn: its n-th pass uses number n."""

    def __init__(self, weights):
        super().__init__()
        self.weights, self.turn = weights, 0

    def forward(self, images):
        self.turn += 1
        return images.flatten(1) @ self.weights[(self.turn - 1) % len(self.weights)].T


@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_eot_averages_gradients_losses_and_logits(loss):
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(3, 5, 75, generator=generator, dtype=torch.float64)
    points = torch.rand(8, 3, 5, 5, generator=generator, dtype=torch.float64)
    labels = torch.arange(8) % 5
    value, gradient, wrong = module._look(
        Turning(weights), points, labels, labels, module.LOSSES[loss], 3
    )
    each = points.clone().requires_grad_()
    logits = [each.flatten(1) @ weight.T for weight in weights]
    losses = torch.stack([module.LOSSES[loss](part, labels) for part in logits])
    (expected,) = torch.autograd.grad(losses.mean(0).sum(), each)
    assert torch.allclose(value, losses.mean(0), rtol=1e-12)
    assert torch.allclose(gradient, expected, rtol=1e-12, atol=1e-14)
    means = torch.stack(logits).mean(0).argmax(1)
    assert torch.equal(wrong, means != labels)
    assert any(not torch.equal(part.argmax(1), means) for part in logits)


@NORMS
def test_the_mean_of_equal_passes_is_one_pass(norm):
    classifier, images, labels = nonlinear(8)
    bounds = {"eps": {"linf": 0.008, "l2": 0.08}[norm], "norm": norm, "steps": 20}
    one, four = (
        APGD(eot=eot, **bounds)(classifier, images, labels, numbers(images)) for eot in (None, 4)
    )
    assert torch.equal(one, four)
    assert not torch.equal(one, images)


def test_rand_is_the_version_of_the_library():
    attack = attacks.create("autoattack_rand")
    plan = {"parts": ["apgd-ce", "apgd-dlr"], "eot": 20, "skipped": []}
    assert identify_attack(attack, 10) == {
        **{"norm": "linf", "engine": "ours", "eot": 20},
        "plan": plan,
    }
    assert attack.passes(10) == (101 * 2 * 20, 101 * 2 * 20)
    theirs = pyautoattack.AutoAttack(nn.Identity(), version="rand")
    assert theirs.attacks_to_run == plan["parts"]
    assert (theirs.apgd.eot_iter, theirs.apgd.n_restarts) == (20, 1)


class Noisy(nn.Module):
    """A linear classifier with noise on its pixels."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, images):
        return self.classifier(images + 0.02 * torch.randn_like(images))


@pytest.mark.parametrize("engine_name", ["ours", "library"])
def test_rand_expects_random_outputs_and_passes_eot_on(engine_name):
    classifier, images, labels, reach = linear("linf", 5, 12)
    classifier, images = classifier.float(), images.float()
    specs = ("autoattack_rand:eot=2", "autoattack_rand:eot=6", "autoattack_rand:eot=none")
    passed, noted = [], []
    for spec in specs:
        attack = attacks.create(
            f"{spec},engine={engine_name}", {"eps": 1.05 * float(reach.median())}
        )
        meter = Meter(Noisy(classifier))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.manual_seed(0)
            found = attack(meter, images, labels, numbers(images))
        assert (found - images).abs().max() > 0
        passed.append(meter.backward_passes)
        noted.append("attack_saw_randomness" in {str(each.message) for each in caught})
    assert noted == [False, False, True]
    assert passed[1] > 2 * passed[0]


def test_the_identity_of_the_standard_version_is_as_it_was():
    plan = {"parts": ["apgd-ce", "apgd-t", "fab-t", "square"], "targets": 9, "skipped": []}
    expected = {"norm": "linf", "engine": "ours", "plan": plan}
    assert identify_attack(AutoAttack(), 100) == expected
    assert AutoAttack().passes(100) == (101 * 19 + 5000, 101 * 19)
    assert AutoAttack(engine="library").passes(3) == (101 * 4 + 5000 + 200, 101 * 4)
    with pytest.raises(ZSRobustError, match="has no field 'engine'"):
        attacks.create("autoattack_robustvlm:engine=library")


@NORMS
def test_its_variants_are_what_their_parts_find_one_after_the_other(norm):
    classifier, images, labels = nonlinear(12)
    eps = {"linf": 0.008, "l2": 0.08}[norm]
    draws, bounds = numbers(images), {"eps": eps, "norm": norm}
    alone = {
        loss: classifier(APGD(loss=loss, **bounds)(classifier, images, labels, draws)).argmax(1)
        != labels
        for loss in ("ce", "dlr", "targeted")
    }
    both = (
        classifier(AutoAttackTGA(**bounds)(classifier, images, labels, draws)).argmax(1) != labels
    )
    assert 2 < both.sum() < len(images) - 2
    assert torch.equal(both, alone["ce"] | alone["dlr"])
    five = (
        classifier(APGD(restarts=5, **bounds)(classifier, images, labels, draws)).argmax(1)
        != labels
    )
    theirs = (
        classifier(AutoAttackRobustVLM(**bounds)(classifier, images, labels, draws)).argmax(1)
        != labels
    )
    assert five[alone["ce"]].all()
    assert torch.equal(theirs, five | alone["targeted"])


def test_every_restart_begins_elsewhere(monkeypatch):
    classifier, images, labels = nonlinear(4)
    begun = []
    monkeypatch.setattr(
        module,
        "climb",
        lambda classifier, search, owners, targets, starts, loss, **_: begun.append(starts),
    )
    for restarts in (3, 1):
        apgd(
            classifier,
            Search(images, labels),
            numbers(images),
            eps=0.01,
            norm="linf",
            restarts=restarts,
        )
    assert torch.equal(begun[0], begun[3])
    assert not any(torch.equal(begun[0], other) for other in begun[1:3])
    assert not torch.equal(begun[1], begun[2])


@pytest.mark.parametrize(("loss", "classes"), [("dlr", 2), ("targeted", 3)])
def test_apgd_climbs_the_margin_where_classes_are_too_few_and_says_so(loss, classes):
    classifier, images, labels, reach = linear("linf", classes, 12)
    eps = float(reach.median()) * 1.0001
    attack = APGD(loss=loss, eps=eps)
    with pytest.warns(Note, match=f"^margin_for_{loss}$"):
        adversarial = attack(classifier, images, labels, numbers(images))
    assert attack.plan(classes) == {"loss": "margin", "skipped": [loss]}
    assert not attack.plan(classes + 1).get("skipped")
    broken = classifier(adversarial).argmax(1) != labels
    assert not broken[reach > eps].any()
    assert broken[reach < 0.95 * eps].all()


@pytest.mark.filterwarnings("ignore::zsrobust.attacks.notes.Note")  # they become flags of a result
@pytest.mark.parametrize("classes", [2, 4])
def test_it_breaks_what_pgd_breaks(classes):
    classifier, data = toy(classes, images=8)
    eps = 0.006
    weak = judge(
        Case(
            Meter(classifier),
            PGD(eps=eps, steps=10, step_size=eps / 4),
            "pgd",
            data,
            seed=0,
            batch_size=24,
        )
    )
    strong = judge(
        Case(Meter(classifier), AutoAttack(eps=eps), "autoattack", data, seed=0, batch_size=24)
    )
    assert 0 < strong.robust_correct <= weak.robust_correct < len(data)


@NORMS
@pytest.mark.parametrize("part", ["apgd-ce", "apgd-dlr", "apgd-t", "fab-t"])
def test_a_part_breaks_a_linear_classifier_if_and_only_if_eps_reaches_it(part, norm):
    classifier, images, labels, reach = linear(norm, classes=4)
    eps = float(reach.median()) * 1.0001
    broken = run(part, classifier, images, labels, eps, norm)
    decided = (reach / eps - 1).abs() > (
        0.005 if part == "fab-t" else 5e-5
    )  # FAB steps beyond the boundary by η
    # Cross-entropy pushes away from the label, toward no class in particular: it may miss what is barely in reach.
    assert torch.equal(broken[decided], (reach < eps)[decided]) or (
        part == "apgd-ce" and not broken[reach > eps].any()
    )


@NORMS
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.filterwarnings("ignore::zsrobust.attacks.notes.Note")
def test_the_engine_breaks_a_linear_classifier_if_and_only_if_eps_reaches_it(
    classes, norm, monkeypatch
):
    monkeypatch.setattr(engine, "square", partial(square, queries=200))
    classifier, images, labels, reach = linear(norm, classes, 12)
    eps = float(reach.median()) * 1.0001
    adversarial = AutoAttack(eps=eps, norm=norm)(classifier, images, labels, numbers(images))
    assert torch.equal(classifier(adversarial).argmax(1) != labels, reach < eps)
    assert torch.equal(adversarial[reach > eps], images[reach > eps])


@NORMS
@pytest.mark.parametrize("part", ["apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"])
def test_a_part_is_no_weaker_than_the_librarys(part, norm):
    classifier, images, labels = nonlinear()
    eps = {"linf": 0.01, "l2": 0.1}[norm] * (3 if part == "square" else 1)
    fewer = {"queries": 200} if part == "square" else {}
    ours = run(part, classifier, images, labels, eps, norm, **fewer)
    theirs = library(part, classifier, images, labels, eps, norm, **fewer)
    assert 2 < theirs.sum() < len(images) - 2
    if part == "square":  # whose windows are others
        assert ours.sum() >= theirs.sum()
    else:
        assert ours[theirs].all()


@NORMS
def test_apgd_keeps_the_best_point_it_saw(norm):
    classifier, images, labels = nonlinear(8)
    seen = []

    class Recorder(nn.Module):
        def forward(self, points):
            logits = classifier(points)
            seen.append(cross_entropy(logits, labels, labels).detach())
            return logits

    start, search = images.clone(), Search(images, labels)
    eps = 0.002
    rows = module.climb(
        Recorder(), search, search.left, labels, start, cross_entropy, eps=eps, norm=norm, steps=60
    )
    assert len(seen) == 61
    assert torch.equal(rows.best, torch.stack(seen).amax(0))
    assert torch.allclose(
        cross_entropy(classifier(rows.best_point), labels, labels), rows.best, atol=1e-6
    )
    assert (rows.best > seen[0]).all()
    assert (rows.size < 2 * eps).all()


def test_the_dlr_is_its_closed_form():
    logits = torch.tensor(
        [[5.0, 1.0, 3.0, 2.0, 0.0], [1.0, 2.0, 4.0, 0.0, 3.0], [7.0, 4.0, 1.0, 3.0, 2.0]],
        dtype=torch.float64,
    )
    labels = torch.tensor([0, 2, 4])
    expected = torch.tensor(
        [(3 - 5) / (5 - 2), (3 - 4) / (4 - 2), (7 - 2) / (7 - 3)], dtype=torch.float64
    )  # eq. 6
    assert torch.allclose(dlr(logits, labels, labels), expected)
    assert torch.allclose(dlr(7 * logits - 3, labels, labels), expected)


def test_the_targeted_dlr_is_its_closed_form():
    logits = torch.tensor(
        [[5.0, 1.0, 3.0, 2.0, 0.0], [1.0, 2.0, 4.0, 0.0, 3.0]], dtype=torch.float64
    )
    value = targeted_dlr(logits, torch.tensor([0, 2]), torch.tensor([3, 0]))
    expected = torch.tensor([-3 / (5 - 1.5), -3 / (4 - 1.5)], dtype=torch.float64)
    assert torch.allclose(value, expected)
    assert torch.allclose(
        targeted_dlr(7 * logits - 3, torch.tensor([0, 2]), torch.tensor([3, 0])), expected
    )


@NORMS
def test_the_nearest_point_of_a_linear_boundary(norm):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(20, 3, 5, 5, generator=generator, dtype=torch.float64).round(
        decimals=1
    )  # some on the edges
    gradients = torch.randn(20, 3, 5, 5, generator=generator, dtype=torch.float64)
    reach = torch.where(gradients > 0, 1 - points, points).mul(gradients.abs()).flatten(1).sum(1)
    gaps = -reach * torch.linspace(0.01, 1.2, 20, dtype=torch.float64)
    moves = to_boundary(points, gaps, gradients, norm)
    assert (points + moves).min() >= -1e-12
    assert (points + moves).max() <= 1 + 1e-12
    closed = (moves * gradients).flatten(1).sum(1)
    assert torch.allclose(closed, torch.minimum(-gaps, reach), rtol=1e-10)
    speed = gradients.sign() if norm == "linf" else gradients
    low, high = torch.zeros(20, dtype=torch.float64), torch.full((20,), 1e4, dtype=torch.float64)
    for _ in range(100):  # the same by bisection
        middle = (low + high) / 2
        trial = (points + speed * middle[:, None, None, None]).clamp(0, 1) - points
        short = (trial * gradients).flatten(1).sum(1) < -gaps
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    assert torch.allclose(perturbation_size(trial, norm), perturbation_size(moves, norm), rtol=1e-8)
    assert torch.allclose(to_boundary(points, -gaps, -gradients, norm), moves)


@NORMS
def test_fab_finds_the_boundary_of_a_linear_classifier_in_a_few_steps(norm):
    classifier, images, labels, reach = linear(norm, classes=4)
    targets = ranked(classifier, images, labels, 3)
    for steps, beyond in ((1, 1.0501), (4, 1.01)):  # η at first, then less
        for place, eps in enumerate((reach * beyond).tolist()):
            one = slice(place, place + 1)
            search = Search(images[one], labels[one])
            fab_targeted(classifier, search, targets[one], eps=eps, norm=norm, steps=steps)
            assert search.broken.all()


@NORMS
def test_square_asks_ahead_and_finds_the_same(norm):
    classifier, images, labels = nonlinear(6)
    eps = {"linf": 0.03, "l2": 0.3}[norm]
    found, calls = [], []
    for most in (1, 64):
        search, meter = Search(images, labels), Meter(classifier)
        search.most = most
        count = []
        meter.register_forward_hook(lambda *_, count=count: count.append(1))
        square(meter, search, numbers(images), eps=eps, norm=norm, queries=300)
        found.append(search.adversarial)
        calls.append(len(count))
    assert torch.allclose(*found, atol=1e-6)
    assert calls[1] < calls[0] / 2


def test_the_windows_of_square():
    sides = [
        window(query, (32, 32), "linf")
        for query in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 4999)
    ]
    assert sides == [29, 29, 20, 14, 10, 7, 5, 4, 3, 3]
    assert [window(query, (32, 32), "l2") for query in (0, 11, 51, 4001)] == [29, 21, 15, 3]
    assert window(0, (5, 4), "l2") == 4
    theirs = pyautoattack.square.SquareAttack(None, norm="L2", eps=1, device="cpu")
    for side in (1, 3, 4, 7, 16):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            eta = theirs.eta(side)
        assert min((bump(side) - each).abs().max() for each in (eta, eta.T)) < 1e-6


def test_only_one_point_of_an_image_is_kept():
    images = torch.zeros(3, 1, 1, 2)
    search = Search(images, torch.zeros(3, dtype=torch.long))
    owners, points = (
        torch.tensor([0, 2, 0, 1, 2]),
        torch.arange(1.0, 6)[:, None, None, None].expand(5, 1, 1, 2),
    )
    assert search.take(owners, points, torch.zeros(5, dtype=torch.bool)) is None
    assert search.take(owners, points, torch.tensor([True, False, True, False, True])).tolist() == [
        3
    ]
    assert search.adversarial[:, 0, 0].tolist() == [[1, 1], [0, 0], [5, 5]]
    assert search.left.tolist() == [1]


@NORMS
@pytest.mark.parametrize("part", ["apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"])
def test_a_verdict_does_not_depend_on_the_batch(part, norm):
    classifier, images, labels, reach = linear(norm, classes=4, count=8)
    eps = float(reach.median()) * 1.1
    fewer = {"queries": 100} if part == "square" else {"steps": 30}
    whole = run(part, classifier, images, labels, eps, norm, **fewer)
    draws, half = numbers(images), torch.arange(3, 8)
    search = Search(images[half], labels[half])
    targets = ranked(classifier, images[half], labels[half], TARGETS)
    if part in ("apgd-ce", "apgd-dlr"):
        apgd(
            classifier, search, draws[half], part.removeprefix("apgd-"), eps=eps, norm=norm, **fewer
        )
    elif part == "apgd-t":
        apgd_targeted(classifier, search, targets, draws[half], eps=eps, norm=norm, **fewer)
    elif part == "fab-t":
        fab_targeted(classifier, search, targets, eps=eps, norm=norm, **fewer)
    else:
        square(classifier, search, draws[half], eps=eps, norm=norm, **fewer)
    assert torch.equal(search.broken, whole[half])


class Odd(nn.Module):
    """A classifier that does what AutoAttack does not see through."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.linear = kind, toy(5)[0]

    def forward(self, images):
        logits = self.linear(images)
        if self.kind == "attack_saw_randomness":
            return logits + torch.rand(logits.shape)
        if self.kind == "attack_saw_gradients":
            with torch.enable_grad():
                points = images.detach().clone().requires_grad_()
                torch.autograd.grad(points.sum(), points)
        if self.kind == "attack_saw_probabilities":
            return logits.softmax(1)
        return (10 * logits).round() if self.kind == "attack_zero_gradients" else logits


ODD = [
    "attack_saw_randomness",
    "attack_saw_gradients",
    "attack_saw_probabilities",
    "attack_zero_gradients",
]


@pytest.mark.parametrize("kind", [*ODD, ""])
def test_it_notes_what_it_does_not_see_through(kind):
    _, data = toy(5, images=4)
    images, classifier = torch.from_numpy(data.pixels).float() / 255, Odd(kind)
    labels = classifier(images).argmax(1)
    with warnings.catch_warnings(record=True) as caught, torch.random.fork_rng():
        warnings.simplefilter("always")
        AutoAttack(eps=0.05)(classifier, images, labels, numbers(images))
    noted = {str(each.message) for each in caught}
    assert {each.category for each in caught} <= {Note}
    assert noted - {"square_found_more"} == ({kind} if kind else set())


@pytest.mark.parametrize("kind", ODD)
def test_the_log_of_the_library_becomes_notes(kind):
    _, data = toy(5, images=4)
    images, classifier = torch.from_numpy(data.pixels).float() / 255, Odd(kind)
    labels = classifier(images).argmax(1)
    with warnings.catch_warnings(record=True) as caught, torch.random.fork_rng():
        warnings.simplefilter("always")
        attack = AutoAttack(eps=0.05, engine="library")
        attack(classifier, images, labels, numbers(images))
    noted = {str(each.message) for each in caught if each.category is Note}
    assert kind in noted
    assert not [each for each in caught if each.category is UserWarning]


def test_what_is_not_known_of_the_librarys_log_is_a_warning_word_for_word():
    log = logging.getLogger("auto-attack")
    with warnings.catch_warnings(record=True) as caught, engine._contained(torch.device("cpu")):
        warnings.simplefilter("always")
        log.warning("something new")
        log.info("not a warning: points with zero gradient")
    assert [str(each.message) for each in caught] == ["AutoAttack: something new"]
    assert caught[0].category is UserWarning

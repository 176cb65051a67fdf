"""Targeted PGD: its targets, an optimum in closed form, and who counts its successes."""

import dataclasses
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from optima import binary, nonlinear, numbers
from test_results import make
from torch import nn

import zsrobust
from zsrobust.attacks import Attack, attacks
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.targeted import TargetedPGD
from zsrobust.cli import display
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.intervals import wilson
from zsrobust.datasets import Images
from zsrobust.evaluation.bounds import CheatError, TamperError
from zsrobust.evaluation.identity import identify_attack
from zsrobust.evaluation.referee import Case, Referee, judge, run_case
from zsrobust.reporting.columns import ends
from zsrobust.results import Outcomes, load_results, read, write
from zsrobust.results.store import Store
from zsrobust.results.verification import verify
from zsrobust.running.reporter import Reporter
from zsrobust.running.shares import joined
from zsrobust.settings import suites
from zsrobust.testing import check_attack

LEAST = "pgd_targeted:target=least_likely"


@pytest.mark.parametrize(
    "spec", [f"{LEAST},loss=margin", "pgd_targeted:norm=l2,eps=2,step_size=1,restarts=2", LEAST]
)
def test_it_holds_the_contract(spec):
    check_attack(spec)


def test_a_random_target_is_any_class_but_the_label_and_an_images_own():
    labels = torch.arange(3000) % 5
    draws = numbers(labels)
    targets = TargetedPGD().aims(torch.zeros(3000, 5), labels, draws)
    counts = torch.bincount(5 * labels + targets, minlength=25).view(5, 5)
    assert (counts.diagonal() == 0).all()
    others = counts[~torch.eye(5, dtype=torch.bool)]
    assert others.min() > 110  # of 150 expected
    assert others.max() < 190
    some = torch.tensor([7, 2000, 4])
    own = TargetedPGD().aims(torch.zeros(3, 5), labels[some], draws[some])
    assert torch.equal(own, targets[some])


def test_the_least_likely_class_is_never_the_label():
    logits = torch.tensor([[0.0, 1.0, 2.0], [5.0, -1.0, 3.0], [-2.0, 0.0, 1.0]])
    attack, labels = TargetedPGD(target="least_likely"), torch.tensor([2, 1, 0])
    assert attack.aims(logits, labels, numbers(labels)).tolist() == [0, 2, 1]
    with pytest.raises(ZSRobustError, match="needs two classes, and the classifier has 1"):
        attack.aims(torch.zeros(3, 1), 0 * labels, numbers(labels))
    assert PGD().targeted is False
    with pytest.raises(NotImplementedError):
        PGD().aims(logits, labels, numbers(labels))


def blocks(classes, count=40):
    """Return a classifier whose logits are sums of pixels of their own, images, labels, and logits.

    Any step that raises a target and lowers the others moves all pixels the best way at once.
    """
    generator = torch.Generator().manual_seed(classes)
    images = 0.4 + 0.2 * torch.rand(count, 3, 4, 5, generator=generator, dtype=torch.float64)
    own = 60 // classes

    class Blocks(nn.Module):
        def forward(self, images):
            return images.flatten(1).view(len(images), classes, own).sum(2)

    classifier = Blocks()
    logits = classifier(images)
    return classifier, images, logits.argmax(1), logits, own


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("target", ["random", "least_likely"])
def test_it_reaches_a_target_if_and_only_if_eps_does(target, loss, early_stop):
    """In l∞ a target gains eps for each of its pixels, and all others lose as much."""
    classifier, images, labels, logits, own = blocks(5)
    draws = numbers(images)
    aims = TargetedPGD(target=target).aims(logits, labels, draws)
    gap = (
        logits.scatter(1, aims[:, None], -torch.inf).amax(1) - logits.gather(1, aims[:, None])[:, 0]
    )
    eps = float(gap.median()) / (2 * own) * 1.0001
    attack = TargetedPGD(
        **{"eps": eps, "step_size": eps / 4, "steps": 40, "loss": loss, "target": target},
        early_stop=early_stop,
    )
    found = attack(classifier, images, labels, draws)
    reached = classifier(found).argmax(1) == aims
    if loss == "ce":
        assert torch.equal(reached, gap < 2 * own * eps)
    else:  # it pushes the highest of the others down, and may miss what is barely in reach
        assert not reached[gap > 2 * own * eps].any()
        assert reached[gap < own * eps].all()
    assert 10 < reached.sum() < 30


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_with_two_classes_it_breaks_what_eps_reaches(norm):
    eps = 0.02 if norm == "linf" else 0.05
    classifier, images, margin = binary(0, norm, eps)
    labels = torch.zeros(64, dtype=torch.long)
    attack = TargetedPGD(eps=eps, step_size=eps / 2, norm=norm, steps=20)
    found = attack(classifier, images, labels, numbers(images))
    decided = (margin - 1).abs() > 1e-6
    reached = classifier(found).argmax(1) == 1
    assert torch.equal(reached[decided], (margin < 1)[decided])


def test_with_two_classes_it_is_pgd():
    """The loss of the other class falls as that of the label rises."""
    classifier, images, _ = binary(1, "linf", 0.02)
    labels = torch.zeros(64, dtype=torch.long)
    bounds = {"eps": 0.02, "step_size": 0.005, "restarts": 2}
    one, two = (
        attack(**bounds)(classifier, images, labels, numbers(images))
        for attack in (PGD, TargetedPGD)
    )
    assert torch.equal(one, two)


def case_of(attack, **more):
    classifier, images, labels = nonlinear(24)
    pixels = (images * 255).round().byte().numpy()
    data = Images(pixels=pixels, labels=labels.numpy())
    return Case(classifier, attack, "mine", data, dataset="toy", batch_size=7, **more)


@pytest.mark.parametrize("spec", ["pgd_targeted", LEAST])
@pytest.mark.parametrize("attacked", ["correct", "all"])
def test_the_referee_counts_the_successes(spec, attacked):
    eps = 0.07 if spec == LEAST else 0.04
    case = case_of(attacks.create(spec, {"eps": eps, "step_size": eps / 4}), attacked=attacked)
    images = torch.from_numpy(case.images.pixels).float() / 255
    labels = torch.from_numpy(case.images.labels)
    case.images.labels[:4] = (case.images.labels[:4] + 1) % 6  # the classifier gets these wrong
    judged = run_case(case)
    found, aimed = judged.outcomes, judged.outcomes.targets >= 0
    assert aimed.tolist() == [attacked == "all" or place >= 4 for place in range(24)]
    with torch.no_grad():
        logits = case.classifier(images)
    expected = case.attack.aims(logits, labels, Referee(case, print)._draws).numpy()
    assert np.array_equal(found.targets[aimed], expected[aimed])
    assert judged.successes == (found.adversarial == found.targets).sum()
    assert 2 < judged.successes < aimed.sum() - 2
    third = aimed & (found.adversarial != found.labels) & (found.adversarial != found.targets)
    assert third.any() or spec != LEAST
    packed = run_case(replace(case, batch_size=24))
    assert np.array_equal(packed.outcomes.adversarial, found.adversarial)


def test_other_attacks_have_no_successes():
    judged = run_case(case_of(PGD(eps=0.03, step_size=0.01)))
    assert judged.successes is judged.outcomes.targets is None
    assert b"targets" not in judged.outcomes.to_bytes()


def test_an_oblivious_attack_aims_by_what_it_sees():
    """The targets are those of the attacked module; the deployed one is asked whether it takes them."""
    case = case_of(TargetedPGD(eps=0.03, step_size=0.01, target="least_likely"))

    class Other(nn.Module):
        def forward(self, images):
            return case.classifier(images).flip(1)

    other = Other()
    found = judge(replace(case, target=other))
    images = torch.from_numpy(case.images.pixels).float() / 255
    labels = torch.from_numpy(case.images.labels)
    with torch.no_grad():
        aims = case.attack.aims(other(images), labels, numbers(images))
    assert np.array_equal(found.targets, aims.numpy())


@dataclass(frozen=True, kw_only=True)
class Cheating(Attack):
    """An attack that chooses targets in a forbidden way, and searches well."""

    how: str = ""
    targeted = True

    def aims(self, logits, labels, draws):
        if self.how == "weights":
            CLASSIFIER[0].weights[0].data.add_(1)
        if self.how == "eps":
            object.__setattr__(self, "eps", 0.5)
        chosen = {
            "label": labels,
            "beyond": labels * 0 + 6,
            "negative": labels * 0 - 1,
            "float": labels + 1.0,
            "short": labels[:-1],
            "list": labels.tolist(),
        }
        return chosen.get(self.how, (labels + 1) % 6)

    def __call__(self, classifier, images, labels, draws, start=None, targets=None):
        assert torch.equal(targets, (labels + 1) % 6)
        targets.fill_(0)
        return (images + 0.9 * self.eps).clamp(0, 1)


CLASSIFIER = []


@pytest.mark.parametrize(
    ("how", "error", "why"),
    [
        ("label", CheatError, "chose a target that is the label, or no class"),
        ("beyond", CheatError, "from 0 to 5"),
        ("negative", CheatError, "or no class"),
        ("float", CheatError, "targets that are not int64"),
        ("short", CheatError, "targets that are not int64"),
        ("list", CheatError, "targets that are not int64"),
        ("weights", TamperError, "changed the classifier"),
        ("eps", CheatError, "changed its own eps"),
    ],
)
def test_targets_that_are_not_allowed(how, error, why):
    case = case_of(Cheating(eps=0.03, how=how))
    CLASSIFIER[:] = [case.classifier]
    with pytest.raises(error, match=why):
        judge(case)


def test_an_attack_cannot_move_its_targets_afterwards():
    found = judge(case_of(Cheating(eps=0.03)))
    assert np.array_equal(found.targets, (found.labels + 1) % 6)


def test_its_identity_and_its_passes():
    assert identify_attack(TargetedPGD(), 10)["target"] == "random"
    assert "target" not in identify_attack(PGD(), 10)
    assert TargetedPGD(steps=3).passes(5) == PGD(steps=3).passes(5)


def test_shares_add_up():
    whole = judge(case_of(TargetedPGD(eps=0.03, step_size=0.01)))
    parts = []
    for number in range(3):
        own = {name: array[number::3] for name, array in vars(whole).items() if array is not None}
        run = run_case(case_of(TargetedPGD(eps=0.03, step_size=0.01)))
        outcomes = Outcomes(**own)
        parts.append(replace(run, outcomes=outcomes, successes=outcomes.successes))
    together = joined(parts)
    assert np.array_equal(together.outcomes.targets, whole.targets)
    assert together.successes == whole.successes == together.outcomes.successes


def test_a_cell_of_mini_has_successes():
    result = zsrobust.evaluate("clip", attack=LEAST, dataset="mini_shapes", limit=8, suite="mini")
    assert 0 < result.successes <= result.attacked - result.robust_correct
    assert result.attacked == result.clean_correct


#: Of 4 images: 3 correct and attacked, 1 robust, 1 as its target, 1 as a third class.
OUTCOMES = Outcomes(
    labels=np.array([0, 1, 2, 0]),
    clean=np.array([0, 1, 2, 1]),
    adversarial=np.array([0, 2, 1, 1]),
    perturbation=np.array([0.01, 0.01, 0.01, 0.0], dtype=np.float32),
    classes=np.array(["a", "b", "c"]),
    targets=np.array([1, 2, 0, -1]),
)
COUNTS = {"images": 4, "clean_correct": 3, "robust_correct": 1, "successes": 1}


def stored(folder, outcomes=OUTCOMES, **changes):
    """Write a targeted cell and return its path; a forged one has right digests, too."""
    attack = attacks.create("pgd_targeted", suites.load("mini").attack)
    identity = make(attack="pgd_targeted").identity
    details = identify_attack(attack, 3)
    identity = dataclasses.replace(
        identity, attack=dataclasses.replace(identity.attack, details=details)
    )
    result = dataclasses.replace(make(), identity=identity, **{**COUNTS, **changes})
    return write(result, outcomes, folder)


def test_successes_are_stored_and_counted_again(tmp_path):
    path = stored(tmp_path)
    assert (read(path).successes, Outcomes.read(path).successes) == (1, 1)
    assert verify(tmp_path).findings == []
    frame = load_results(tmp_path)
    assert frame[["attacked", "successes"]].values.tolist() == [[3, 1]]
    for count in (0, 2, None):
        stored(tmp_path, successes=count)
        (finding,) = verify(tmp_path).findings
        assert finding.wrong == f"successes is {count}, but its outcomes give 1"
    stored(tmp_path, outcomes=replace(OUTCOMES, targets=None))
    (finding,) = verify(tmp_path).findings
    assert finding.wrong == "successes is 1, but its outcomes give None"
    for count in (-1, 3):
        with pytest.raises(ZSRobustError, match="impossible number of successes"):
            stored(tmp_path, successes=count)


@pytest.mark.parametrize(
    ("targets", "wrong"),
    [
        ([1, 2, 0, 2], "the images with a target are not those that were attacked"),
        ([1, 2, -1, -1], "the images with a target are not those that were attacked"),
        ([0, 2, 0, -1], "some targets are the labels"),
        ([1, 2, 3, -1], "some targets are of no class"),
        ([1, 2, 0], "its targets do not fit the labels"),
        ([1.0, 2.0, 0.0, -1.0], "its targets do not fit the labels"),
    ],
)
def test_impossible_targets(tmp_path, targets, wrong):
    forged = replace(OUTCOMES, targets=np.array(targets))
    stored(tmp_path, outcomes=forged, successes=1)
    assert any(wrong in each.wrong for each in verify(tmp_path).findings)


class Shown(Reporter):
    computed = 0
    fresh: list = []  # noqa: RUF012  # never changed


def test_a_run_prints_success_for_targeted_attacks_only(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    stored(tmp_path)
    (path,) = tmp_path.rglob("*.json")
    targeted = read(path)
    display.print_results([targeted], Shown(), Store(tmp_path))
    printed = capsys.readouterr().out
    assert "Success" in printed
    assert f"33.33 ({ends(wilson(1, 3))})" in printed
    plain = dataclasses.replace(make(), images=4, clean_correct=3, robust_correct=1)
    write(plain, replace(OUTCOMES, targets=None), tmp_path)
    display.print_results([plain], Shown(), Store(tmp_path))
    assert "Success" not in capsys.readouterr().out
    display.print_results([targeted, plain], Shown(), Store(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert any("pgd_targeted" in line and "33.33" in line for line in lines)
    assert any("pgd10" in line and "—" in line for line in lines)

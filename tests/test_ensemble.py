"""The ensemble: the union of what its members break, and no work on what is broken already."""

import json
import warnings
from dataclasses import dataclass

import pytest
import torch
from optima import nonlinear, numbers

from zsrobust.attacks import Attack, attacks
from zsrobust.attacks.ensemble import Ensemble
from zsrobust.core.errors import ZSRobustError
from zsrobust.evaluation.identity import identify_attack
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Case, judge
from zsrobust.testing import toy

NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])


@dataclass(frozen=True)
class Member(Attack):
    """An attack that moves the first images that it is given, and tells what it was given."""

    given: list
    by: float = 1.0

    def __call__(self, classifier, images, labels, draws, start=None):
        self.given.append((images.clone(), labels.clone(), draws.seeds.clone()))
        warnings.warn("Member: it was here.", stacklevel=2)
        found = images.clone()
        found[:2] = (found[:2] + self.by).clamp(images[:2] - self.eps, images[:2] + self.eps)
        return found


@NORMS
def test_it_breaks_what_any_member_breaks(norm):
    classifier, images, labels = nonlinear()
    eps = {"linf": 0.01, "l2": 0.1}[norm]
    given = {"eps": eps, "step_size": eps / 4, "norm": norm}
    specs = ["mim:steps=2", "pgd2", "square:queries=60", "apgd:loss=dlr"]
    each = [
        classifier(attacks.create(spec, given)(classifier, images, labels, numbers(images))).argmax(
            1
        )
        != labels
        for spec in specs
    ]
    adversarial = attacks.create(f"ensemble:of={'+'.join(specs)}", given)(
        classifier, images, labels, numbers(images)
    )
    broken = classifier(adversarial).argmax(1) != labels
    assert 2 < each[0].sum() < broken.sum() < len(images) - 2
    assert torch.equal(broken, torch.stack(each).any(0))
    assert torch.equal(adversarial[~broken], images[~broken])


def test_no_image_that_is_broken_passes_through_the_classifier_again():
    classifier, images, labels = nonlinear()
    given, specs = {"eps": 0.01, "step_size": 0.005}, ["pgd2", "mim", "apgd"]
    meter, passes, left = Meter(classifier), len(images), torch.arange(len(images))
    for spec in specs:
        alone = Meter(classifier)
        found = attacks.create(spec, given)(
            alone, images[left], labels[left], numbers(images)[left]
        )
        passes += alone.forward_passes + len(left)  # its own, and the verdict on what it found
        left = left[classifier(found).argmax(1) == labels[left]]
    attacks.create(f"ensemble:of={'+'.join(specs)}", given)(meter, images, labels, numbers(images))
    assert 0 < len(left) < len(images)
    assert meter.forward_passes == passes


@pytest.fixture
def members(monkeypatch):
    given = {"one": [], "other": []}
    monkeypatch.setitem(attacks._entries, "one", Member(given["one"], by=-1.0))
    monkeypatch.setitem(attacks._entries, "other", Member(given["other"]))
    return given


def test_members_get_images_labels_and_draws_of_what_is_left(members):
    images = torch.full((6, 3, 2, 2), 0.5)
    images[:, 0] += torch.linspace(0.01, 0.06, 6)[:, None, None]
    labels = torch.zeros(6, dtype=torch.long)

    class Reddish(torch.nn.Module):
        """Sees class 0 where the first channel is above a half; one of the images is wrong from the start."""

        def forward(self, images):
            red = images[:, 0].mean((1, 2)) - 0.5
            return torch.stack([red, -red], 1)

    labels[5] = 1
    with pytest.warns(UserWarning, match="it was here"):
        found = Ensemble(of="one+other", eps=0.1)(Reddish(), images, labels, numbers(images))
    (first,), (second,) = members["one"], members["other"]
    assert torch.equal(first[0], images[:5])
    assert torch.equal(first[2], numbers(images).seeds[:5])
    assert torch.equal(second[0], images[2:5]), "the first member broke two"
    assert torch.equal(second[1], labels[2:5])
    assert torch.equal(second[2], numbers(images).seeds[2:5])
    assert torch.allclose(found[:2], images[:2] - 0.1)
    assert torch.equal(found[2:], images[2:]), (
        "what a member moved without breaking it comes back as it was"
    )


def test_its_identity_says_what_each_member_is():
    ensemble = attacks.create(
        "ensemble:of=pgd10+apgd:loss=dlr+fab,norm=l2", {"eps": 0.1, "step_size": 2 / 255}
    )
    identity = identify_attack(ensemble, 2)
    assert (identity["norm"], identity["step_size"]) == ("l2", "2/255")
    pgd, apgd, fab = identity["plan"]["members"]
    assert (pgd["spec"], pgd["steps"], pgd["loss"], pgd["early_stop"]) == ("pgd10", 10, "ce", True)
    assert (apgd["spec"], apgd["plan"]) == ("apgd:loss=dlr", {"loss": "margin", "skipped": ["dlr"]})
    assert fab["plan"] == {"targets": 1}
    assert all(value is not None for value in pgd.values()), (
        "a new field that is None changes no identity"
    )
    assert not {"eps", "norm", "step_size"} & {*pgd, *apgd, *fab}
    assert json.loads(json.dumps(identity)) == identity
    assert ensemble.passes(2) == (1 + 3 + 10 + 103 + 103, 10 + 101 + 101)
    assert all(member.eps == 0.1 and member.norm == "l2" for member in ensemble.members.values())
    assert ensemble.members["pgd10"].step_size == 2 / 255


def test_members_take_all_their_steps_where_the_ensemble_says_so():
    ensemble = attacks.create("ensemble:of=pgd10+mim+apgd,early_stop=false")
    assert [getattr(member, "early_stop", None) for member in ensemble.members.values()] == [
        False,
        False,
        None,
    ]
    assert identify_attack(ensemble, 4)["early_stop"] is False
    assert "early_stop" not in identify_attack(attacks.create("ensemble"), 4)


def test_passes_are_missing_where_a_member_does_not_say(members):
    unknown = Ensemble(of="pgd+one", eps=0.1)
    assert (unknown.passes(5), unknown.steps_taken(5)) == (None, None)
    assert Ensemble(of="pgd10+mim").passes(5) == (1 + 2 + 10 + 10, 20)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ("pgd10+apdg", "Unknown attack 'apdg'. Did you mean apgd"),
        ("", "'' is not a list of different attacks"),
        ("pgd10++apgd", "is not a list of different attacks"),
        ("apgd+apgd", "is not a list of different attacks"),
        ("pgd10+apgd:loss=hinge", "loss='hinge' is not one of ce, dlr, targeted"),
        ("pgd10:eps=2/255+apgd", "'pgd10:eps=2/255' has another eps or norm"),
        ("pgd10:norm=l2+apgd", "'pgd10:norm=l2' has another eps or norm"),
    ],
)
def test_an_ensemble_of_what_is_no_attack_is_told_so(of, message):
    with pytest.raises(ZSRobustError, match=message.replace("'", ".")):
        attacks.create(f"ensemble:of={of}", {"eps": 0.1})


@pytest.mark.filterwarnings("ignore::zsrobust.attacks.notes.Note")
def test_the_referee_accepts_it():
    classifier, images = toy(5)
    ensemble = attacks.create(
        "ensemble:of=pgd2+apgd+square:queries=50", {"eps": 0.004, "step_size": 0.002}
    )
    outcomes = judge(Case(Meter(classifier), ensemble, "ensemble", images, seed=0, batch_size=7))
    weaker = judge(
        Case(Meter(classifier), ensemble.members["pgd2"], "pgd2", images, seed=0, batch_size=7)
    )
    assert 0 < outcomes.robust_correct < weaker.robust_correct < len(images)

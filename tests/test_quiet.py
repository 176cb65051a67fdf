"""`quiet` on defenses with a gate whose optimum is known, and MAC at rest."""

import dataclasses

import pytest
import torch
from optima import numbers
from test_counterattacks import FIELDS, HALF_MAC, classifier_of, images_of, wrapper_of
from torch import nn

from zsrobust.attacks.adaptive import Adaptive
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.quiet import Quiet
from zsrobust.attacks.scenes import Scene
from zsrobust.defenses.mac import MAC, MultiView, augmented
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.meter import Meter
from zsrobust.running.bench import Bench
from zsrobust.running.entries import load_suite
from zsrobust.running.plan import plan
from zsrobust.settings import protocols

pytestmark = pytest.mark.filterwarnings("ignore::zsrobust.attacks.notes.Note")
EPS, HALF = 0.02, 48  # of 96 values, the first half make the class, the others calm the alarm
BOUNDS = {"eps": EPS, "step_size": EPS / 2}


class Gated(nn.Module):
    """A defense of class 0 that answers 0, without a gradient, where it is alarmed.

    With s the sum of the first half's changes and t that of the second half's, class 1 wins by
    s - margin, and the alarm is s - t - slack. Both halves reach eps times their number of values.
    """

    def __init__(self, margin, slack, idle=False):
        super().__init__()
        self.margin, self.slack, self.idle = margin, slack, idle

    def forward(self, images):
        change = (images - 0.5).flatten(1)
        first, second = change[:, :HALF].sum(1), change[:, HALF:].sum(1)
        alarm = first - second - self.slack
        wins = 10 * (first - self.margin)
        logits = torch.stack([torch.zeros_like(wins), wins], dim=1)
        if self.idle:
            return torch.cat([logits, alarm[:, None]], dim=1)
        return torch.where(alarm[:, None] > 0, logits.new_tensor([1.0, 0.0]), logits)


def attacked(attack, margin, slack):
    """Return whether the attack breaks the gate; it may use the classifier without the gate."""
    images = torch.full((1, 3, 4, 8), 0.5, dtype=torch.float64)
    labels = torch.zeros(1, dtype=torch.long)
    deployed, idle = Gated(margin, slack), Gated(margin, slack, idle=True)
    scene = Scene(ways={"undefended": lambda: Gated(margin, 1e9)}, idle=lambda: idle)
    found = attack(Meter(deployed, scene=scene), images, labels, numbers(images))
    assert (found - images).abs().max() <= EPS + 1e-12
    return bool(deployed(found).argmax(1) == 1)


REACH = EPS * HALF


@pytest.mark.parametrize("slack", [-0.5 * REACH, 0.1 * REACH, 0.4 * REACH])
@pytest.mark.parametrize("margin", [0.3 * REACH, 0.9 * REACH, 1.1 * REACH])
def test_quiet_breaks_a_gate_if_and_only_if_some_point_is_wrong_and_calm(margin, slack):
    possible = margin < REACH and margin - REACH < slack
    assert attacked(Quiet(**BOUNDS), margin, slack) == possible


def test_the_general_attack_cannot_see_the_gate():
    """The alarm rings before the class changes: no gradient of the defense leads past it."""
    margin, slack = 0.8 * REACH, 0.1 * REACH
    assert not attacked(Adaptive(**BOUNDS, steps=20), margin, slack)
    assert attacked(Quiet(**BOUNDS), margin, slack)


def test_the_steps_shrink_and_every_gradient_has_new_draws():
    asked, seen = [], []

    class Drawn(nn.Module):
        def forward(self, images):
            if images.requires_grad:
                seen.append(images.detach().clone())
            first = images.flatten(1).sum(1)
            return torch.stack([torch.zeros_like(first) + 100, first], dim=1)

        def redrawn(self, draw):
            asked.append(draw)
            return self

    images, labels = torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, dtype=torch.long)
    attack = Quiet(eps=0.4, step_size=0.01, steps=3, eot=2, targets=1)
    attack(Drawn(), images, labels, numbers(images))
    # A look at first and after each of three searches; no gradient has its draws.
    looks, steps = [2, 3], [4, 5, 6, 7, 8, 9]
    assert asked == looks + 3 * (steps + looks)
    for first, second, third in zip(seen[0::6], seen[2::6], seen[4::6], strict=True):
        assert (second - first).median().item() == pytest.approx(0.01, abs=1e-6)
        assert (third - second).median().item() == pytest.approx(0.02 / 3, abs=1e-6)


def test_mac_at_rest_is_mac_without_weight_and_its_alarm_is_the_largest_change():
    classifier, images = classifier_of(), images_of()
    about = dataclasses.replace(HALF_MAC, tau=0.3, temperature=0.01)
    found = wrapper_of(about).idle(classifier)(images)
    calm = MultiView(classifier, MAC(**FIELDS, tau=100.0))
    assert torch.allclose(found[:, :-1], calm(images), rtol=0, atol=1e-12)
    for image, alarm in zip(images.split(1), found[:, -1], strict=True):
        draws = Draws.of_images(image, 0, "mac 0")
        changes = []
        for key, view in (("view 0", image), ("view 1", augmented(image, draws, "view 1"))):
            anchor = classifier.embeddings(view)
            again = classifier.embeddings(augmented(view, draws, f"{key} again"))
            changes.append((again - anchor).norm() / anchor.norm())
        weight = torch.sigmoid((torch.stack(changes) - about.tau) / about.temperature)
        assert (alarm < 0) == (weight.max() < 0.01)
        assert alarm.item() == pytest.approx(
            max(changes).item() - 0.3 + 0.01 * torch.tensor(99.0).log().item(), abs=1e-6
        )


def test_an_attack_that_knows_mac_sees_it_at_rest_and_an_oblivious_one_does_not(tmp_path):
    suite = load_suite("mini")
    bench = Bench(suite, protocols.load("sound"), Workshop(suite, tmp_path))
    cell = plan(suite, bench.protocol, ["mac:of=clip"], ["quiet"], ["mini_shapes"], limit=2)[0]
    for spec, known in (("mac:of=clip", True), ("mac:of=clip,knowledge=oblivious", False)):
        scene = bench.deploy(cell, bench.workshop.tower(spec)).scene
        assert (scene.idle is not None) == known
    scene = bench.deploy(cell, bench.workshop.tower("mac:of=clip")).scene
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert scene.idle()(images).shape == (2, len(cell.dataset.classes) + 1)

"""The attack on embeddings: against encoders whose worst direction is known, and through the wrappers of a classifier."""

import pytest
import torch
import torch.nn.functional as F
from optima import numbers
from torch import nn

from zsrobust.attacks import attacks, perturbation_size
from zsrobust.attacks.feature_l2 import FeatureL2
from zsrobust.attacks.notes import Note
from zsrobust.core.errors import ZSRobustError
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Case, run_case
from zsrobust.models.zeroshot import HalfPrecision, ZeroShotClassifier
from zsrobust.testing import check_attack, toy


class Encoder(nn.Module):
    """Embeds pixels by one matrix whose rows have no pixel in common; it has no logits to give."""

    def __init__(self, seed, rows=3, pixels=48):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        owner = torch.arange(pixels) % rows
        weight = torch.randn(rows, pixels, generator=generator, dtype=torch.float64)
        self.weight = (
            weight * (owner == torch.arange(rows)[:, None]) * 3 ** torch.arange(rows)[:, None]
        )

    def features(self, images):
        return images.flatten(1) @ self.weight.T


def gray(count=16, side=4):
    generator = torch.Generator().manual_seed(0)
    return 0.4 + 0.2 * torch.rand(count, 3, side, side, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_reaches_the_worst_direction_of_a_linear_encoder(norm):
    encoder, images, eps = Encoder(0), gray(), 0.05
    attack = FeatureL2(eps=eps, step_size=eps / 4, steps=100, norm=norm)
    adversarial = attack(encoder, images, torch.full((16,), -1), numbers(images))
    assert perturbation_size(adversarial - images, norm).max() <= eps * (1 + 1e-12)
    moved = encoder.features(adversarial) - encoder.features(images)
    if norm == "linf":  # every embedded number as far as its row's l1 norm allows, up or down
        assert torch.allclose(
            moved.abs(), (eps * encoder.weight.abs().sum(1)).expand(16, 3), rtol=1e-9
        )
    else:  # along the row of the largest norm, the matrix's first singular vector
        largest = torch.linalg.matrix_norm(encoder.weight, 2)
        assert torch.allclose(moved.norm(dim=1), (eps * largest).expand(16), rtol=1e-6)


def clip_like(classes=5, side=8, seed=0):
    """Return a zero-shot classifier with a small linear tower, images and labels that it is right about."""
    generator = torch.Generator().manual_seed(seed)
    tower = nn.Sequential(nn.Flatten(), nn.Linear(3 * side**2, 16, bias=False))
    with torch.no_grad():
        tower[1].weight.copy_(torch.randn(16, 3 * side**2, generator=generator))
    head = 20 * F.normalize(torch.randn(classes, 16, generator=generator), dim=1)
    return ZeroShotClassifier(tower, head, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), side)


def test_it_does_not_look_at_labels_or_logits():
    classifier, images = clip_like(), gray(side=8).float()
    attack = attacks.create("feature_l2", {"eps": 0.05, "step_size": 0.02})
    one = attack(classifier, images, torch.zeros(16, dtype=torch.long), numbers(images))
    other = attack(classifier, images, torch.arange(16) % 5, numbers(images))
    assert torch.equal(one, other)
    classifier.head = classifier.head.flip(0)
    assert torch.equal(
        one, attack(classifier, images, torch.zeros(16, dtype=torch.long), numbers(images))
    )


def test_the_meter_counts_embeddings_as_it_counts_logits():
    classifier, images = clip_like(), gray(side=8).float()
    meter, attack = Meter(classifier), FeatureL2(eps=0.05, step_size=0.02, steps=7)
    assert torch.equal(meter.features(images), classifier.features(images))
    before = meter.forward_passes
    attack(meter, images, torch.zeros(16, dtype=torch.long), numbers(images))
    assert (meter.forward_passes - before, meter.backward_passes) == (16 * 8, 16 * 7)
    assert attack.passes(5) == (8, 7)


def test_half_precision_embeds_in_half_precision():
    classifier, images = clip_like(), gray(side=8).float().requires_grad_()
    whole, half = classifier.features(images), HalfPrecision(classifier).features(images)
    assert half.dtype == torch.float32
    assert not torch.equal(whole, half)
    assert torch.allclose(whole, half, atol=2e-3)
    target = torch.randn(16, generator=torch.Generator().manual_seed(0))
    gradients = [torch.autograd.grad((found @ target).sum(), images)[0] for found in (whole, half)]
    assert torch.allclose(
        gradients[0] / 16, gradients[1], rtol=0.05, atol=0.02 * float(gradients[1].abs().max())
    )


def test_a_classifier_without_embeddings_is_told_so():
    linear, data = toy(4)
    classifier = nn.Sequential(linear)  # logits alone
    for wrapped in (classifier, Meter(classifier), Meter(HalfPrecision(classifier))):
        with pytest.raises(ZSRobustError, match="needs a classifier with `features`"):
            FeatureL2()(
                wrapped, gray(side=8).float(), torch.zeros(16, dtype=torch.long), numbers(gray())
            )
    result = run_case(Case(classifier, FeatureL2(), "feature_l2", data))
    assert result.failed
    assert "needs a classifier with `features`" in str(result.error)


@pytest.mark.parametrize("spec", ["feature_l2:norm=l2,eps=2,step_size=1"])
def test_it_holds_the_contract_in_l2(spec):
    check_attack(spec)


def test_an_encoder_that_does_not_move_raises_a_flag():
    class Constant(nn.Module):
        def features(self, images):
            return images.flatten(1)[:, :4] * 0

    with pytest.warns(Note, match="^attack_zero_gradients$"):
        FeatureL2()(Constant(), gray(), torch.zeros(16, dtype=torch.long), numbers(gray()))

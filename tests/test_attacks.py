import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zsrobust.attacks import attacks, frozen, perturbation_size
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.pgd import PGD, objective
from zsrobust.evaluation import Meter, judge
from zsrobust.registry import ZSRobustError
from zsrobust.testing import LinearClassifier, check_attack, toy

REGISTERED = [name for name in attacks if name not in ("torchattacks", "pgd100")]


@pytest.mark.parametrize(
    "spec", [*REGISTERED, "pgd100:steps=20", "pgd:norm=l2,eps=2,step_size=1", "pgd:loss=margin,restarts=2"]
)
def test_every_attack_holds_the_contract(spec):
    check_attack(spec)


def numbers(images):
    return Draws.of(0, "toy", np.arange(len(images)))


def binary(seed, norm, eps):
    """Return a two-class linear classifier, images, and for each the margin in units of what eps can move."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(3 * 4 * 4, generator=generator, dtype=torch.float64)
    images = 0.4 + 0.2 * torch.rand(64, 3, 4, 4, generator=generator, dtype=torch.float64)
    reach = eps * (direction.abs().sum() if norm == "linf" else direction.norm())
    projected = images.flatten(1) @ direction
    # The margins of the images spread over twice what eps can reach.
    wanted = torch.linspace(0.02, 2, 64, dtype=torch.float64) * reach
    images += ((wanted - projected) / direction.square().sum())[:, None, None, None] * direction.view(3, 4, 4)
    assert (images - 0.5).abs().max() < 0.5 - eps, "the pixels must stay away from the box"
    return LinearClassifier(torch.stack([direction, 0 * direction])), images, wanted / reach


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_breaks_a_linear_classifier_if_and_only_if_eps_reaches_over_the_margin(norm, loss, random_start):
    eps = 0.02 if norm == "linf" else 0.05
    classifier, images, margin = binary(0, norm, eps)
    labels = torch.zeros(64, dtype=torch.long)
    attack = PGD(eps=eps, steps=20, step_size=eps / 2, norm=norm, loss=loss, random_start=random_start)
    adversarial = attack(classifier, images, labels, numbers(images))
    assert perturbation_size(adversarial - images, norm).max() <= eps * (1 + 1e-12)
    broken = classifier(adversarial).argmax(1) != labels
    decided = (margin - 1).abs() > 1e-6
    assert torch.equal(broken[decided], (margin < 1)[decided])


def test_pgd_reaches_the_linear_optimum_exactly():
    classifier, images, _ = binary(1, "linf", 0.02)
    labels = torch.zeros(64, dtype=torch.long)
    attack = PGD(eps=0.02, steps=4, step_size=0.02, early_stop=False)
    adversarial = attack(classifier, images, labels, numbers(images))
    expected = images - 0.02 * classifier.weight[0].sign().view(3, 4, 4)
    assert torch.allclose(adversarial, expected, atol=1e-12)


def test_without_early_stop_broken_images_keep_climbing():
    classifier, images, _ = binary(2, "linf", 0.02)
    labels = torch.zeros(64, dtype=torch.long)
    runs = {}
    for early_stop in (True, False):
        attack = PGD(eps=0.02, steps=10, step_size=0.005, early_stop=early_stop)
        meter = Meter(classifier)
        adversarial = attack(meter, images, labels, numbers(images))
        runs[early_stop] = (meter.backward_passes, (classifier(adversarial).argmax(1) != labels))
    assert runs[True][0] < runs[False][0] == 640
    assert torch.equal(runs[True][1], runs[False][1])


def test_restarts_attack_only_what_is_left_and_never_lose_a_success():
    classifier, data = toy(5)
    one = judge(Meter(classifier), PGD(eps=0.01, steps=1, step_size=0.005), "one", data, seed=0, batch_size=24)
    five = judge(Meter(classifier), PGD(eps=0.01, steps=1, step_size=0.005, restarts=5), "five", data, seed=0, batch_size=24)
    assert five.robust_correct < one.robust_correct
    assert np.all((one.adversarial == one.labels) | (five.adversarial != five.labels))


def test_objectives_are_their_closed_forms():
    logits = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, 4.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    partition = logits.exp().sum(1).log()
    assert torch.allclose(objective("ce", logits, labels), partition - torch.tensor([2.0, 3.0], dtype=torch.float64))
    assert objective("margin", logits, labels).tolist() == [-1.0, 1.0]


def test_a_confident_image_still_has_a_gradient():
    """Where float32 rounds p_y to 1, the usual cross-entropy has none; on float64 the two are the same function."""
    logits = torch.tensor([[40.0, 0.0, 1.0]], requires_grad=True)
    labels = torch.tensor([0])
    (usual,) = torch.autograd.grad(F.cross_entropy(logits, labels), logits)
    (ours,) = torch.autograd.grad(objective("ce", logits, labels).sum(), logits)
    assert usual[0, 0] == 0
    assert ours[0, 0] < 0
    double = logits.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(objective("ce", double, labels).sum(), double)
    assert torch.allclose(ours.double(), exact, rtol=1e-5, atol=0)


def test_frozen_restores_modes_and_gradients():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    module[0].bias.requires_grad_(False)
    with frozen(module):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
    assert module.training
    assert module[1].training
    assert [parameter.requires_grad for parameter in module.parameters()] == [True, False]


def test_an_attack_without_its_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchattacks", None)
    with pytest.raises(ZSRobustError, match=r'pip install "zsrobust\[torchattacks\]"'):
        attacks.create("torchattacks:PGD,eps=8/255")


def test_torchattacks_classes_are_attacks_too():
    pytest.importorskip("torchattacks", reason="the extra torchattacks is not installed")
    attack = attacks.create("torchattacks:PGD,eps=8/255,alpha=2/255,steps=5")
    assert (attack.eps, attack.norm, attack.options) == (
        8 / 255,
        "linf",
        {"alpha": 2 / 255, "random_start": True, "steps": 5},
    )
    check_attack("torchattacks:PGD,eps=16/255,alpha=4/255,steps=5")
    check_attack("torchattacks:PGDL2,eps=2,alpha=1,steps=5")
    with pytest.raises(ZSRobustError, match="no attack 'PDG'"):
        attacks.create("torchattacks:PDG")
    with pytest.raises(ZSRobustError, match="has no field 'stepz'"):
        attacks.create("torchattacks:PGD,stepz=5")
    with pytest.raises(ZSRobustError, match="no eps to hold it to"):
        attacks.create("torchattacks:CW")

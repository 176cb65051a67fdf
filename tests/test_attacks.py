import numpy as np
import pytest
import torch
import torch.nn.functional as F
from optima import binary, nonlinear, numbers
from torch import nn

from zsrobust.attacks import attacks, frozen, perturbation_size
from zsrobust.attacks.cw import CW
from zsrobust.attacks.losses import cross_entropy
from zsrobust.attacks.mim import MIM
from zsrobust.attacks.notes import Note
from zsrobust.attacks.pgd import PGD, objective
from zsrobust.attacks.search import ascend
from zsrobust.core.errors import ZSRobustError
from zsrobust.evaluation.identity import identify_attack
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Case, judge
from zsrobust.testing import check_attack, toy

SHORTER = {
    "pgd100": "pgd100:steps=20",
    "square": "square:queries=200",
    "patch": "patch:eps=3/8",  # the usual eps is less than a pixel
}
REGISTERED = [
    SHORTER.get(name, name) for name in attacks if name != "torchattacks"
]  # an extra, below
VARIANTS = [
    "pgd:norm=l2,eps=2,step_size=1",
    "pgd:loss=margin,restarts=2",
    "cw:norm=l2,eps=2,step_size=1",
    "mim:norm=l2,eps=2,step_size=1",
    "mim:diversity=0.5,kernel=3,nesterov=true",
    "mim:diversity=1,nesterov=true,norm=l2,eps=2,step_size=1",
    "apgd:loss=dlr",
    "apgd:loss=targeted,norm=l2,eps=2",
    "fab:norm=l2,eps=2",
    "square:queries=200,norm=l2,eps=2",
    "ensemble:of=pgd2+apgd:loss=dlr,norm=l2,eps=2,step_size=1",
    "pgd:norm=l1,eps=6,step_size=2",
    "pgd:norm=l1,eps=6,step_size=2,share=0.05,restarts=2",
    "cw:norm=l1,eps=6,step_size=2",
    "apgd:norm=l1,eps=6",
    "apgd:loss=dlr,norm=l1,eps=6",
    "apgd:loss=targeted,norm=l1,eps=6",
    "feature_l2:norm=l1,eps=6,step_size=2",
    "ensemble:of=pgd2+apgd,norm=l1,eps=6,step_size=3",
    "patch:eps=1/4,grid=100,tries=1",
    "ensemble:of=patch+patch:grid=2,norm=patch,eps=3/8",
]
NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])


@pytest.mark.parametrize("spec", [*REGISTERED, *VARIANTS])
def test_every_attack_holds_the_contract(spec):
    check_attack(spec)


@NORMS
@pytest.mark.parametrize(
    "spec",
    [
        "cw",
        "mim",
        "mim:early_stop=false",
        "mim:nesterov=true",
        "apgd",
        "apgd:loss=dlr",
        "apgd:loss=targeted",
        "fab",
        "ensemble:of=mim+apgd",
    ],
)
@pytest.mark.filterwarnings("ignore::zsrobust.attacks.notes.Note")
def test_an_attack_breaks_a_linear_classifier_if_and_only_if_eps_reaches_over_the_margin(
    spec, norm
):
    eps = 0.02 if norm == "linf" else 0.05
    classifier, images, margin = binary(0, norm, eps)
    labels = torch.zeros(64, dtype=torch.long)
    attack = attacks.create(spec, {"eps": eps, "step_size": eps / 2, "norm": norm})
    adversarial = attack(classifier, images, labels, numbers(images))
    assert perturbation_size(adversarial - images, norm).max() <= eps * (1 + 1e-12)
    broken = classifier(adversarial).argmax(1) != labels
    decided = (margin - 1).abs() > (
        0.005 if spec == "fab" else 1e-6
    )  # FAB steps beyond the boundary
    assert torch.equal(broken[decided], (margin < 1)[decided])


@NORMS
def test_square_breaks_nothing_beyond_eps_and_what_is_far_inside(norm):
    eps = 0.02 if norm == "linf" else 0.05
    classifier, images, margin = binary(0, norm, eps)
    labels = torch.zeros(64, dtype=torch.long)
    attack = attacks.create("square:queries=600", {"eps": eps, "norm": norm})
    broken = classifier(attack(classifier, images, labels, numbers(images))).argmax(1) != labels
    assert not broken[margin > 1].any()
    assert broken[margin < 0.5].all()


@pytest.mark.parametrize(
    "spec",
    [
        "pgd:restarts=2",
        "cw",
        "mim",
        "mim:nesterov=true",
        "mim:diversity=0.5,early_stop=false",
        "mim:kernel=3",
        "apgd",
        "apgd:restarts=3",
        "apgd:loss=targeted",
        "fab",
        "fab:targets=1",
        "square:queries=100",
        "ensemble:of=pgd10+apgd+fab",
        "autoattack_tga",
        "autoattack_robustvlm",
        "apgd:eot=3",
        "autoattack_rand:eot=2",
        "quiet:eot=1,steps=10",
    ],
)
def test_an_attack_says_how_many_passes_an_image_takes_at_most(spec):
    classifier, data = toy(5)
    images, labels = torch.from_numpy(data.pixels).float() / 255, torch.from_numpy(data.labels)
    attack, meter = attacks.create(spec, {"eps": 1e-5, "step_size": 1e-5}), Meter(classifier)
    adversarial = attack(meter, images, labels, numbers(images))
    forward, backward = attack.passes(5)
    assert torch.equal(classifier(adversarial).argmax(1), labels), "nothing must be broken here"
    assert meter.backward_passes == 24 * backward
    about = 1.1 if spec.startswith(("square", "autoattack")) else 1.0
    assert 0.95 < meter.forward_passes / (24 * forward) <= about


def test_cw_is_pgd_on_the_margin():
    classifier, images, labels = nonlinear()
    cw, pgd = CW(eps=0.01, step_size=0.004), PGD(eps=0.01, step_size=0.004, loss="margin")
    found = [attack(classifier, images, labels, numbers(images)) for attack in (cw, pgd)]
    assert torch.equal(*found)
    assert (classifier(found[0]).argmax(1) != labels).any()
    with pytest.raises(ZSRobustError, match="'cw' has no field 'loss'"):
        attacks.create("cw:loss=ce")


def by_hand(classifier, image, label, attack, steps):
    """Return the point of MI-FGSM after so many steps: eqs. 6 and 7 of the paper, for one image."""
    point, momentum = image, torch.zeros_like(image)
    values = image.numel() if attack.norm == "linf" else image.numel() ** 0.5
    for _ in range(steps):
        ahead = attack.step_size * attack.decay * values * momentum if attack.nesterov else 0
        point = point.detach().requires_grad_()
        loss = F.cross_entropy(classifier((point + ahead)[None]), label[None])
        (gradient,) = torch.autograd.grad(loss, point)
        momentum = attack.decay * momentum + gradient / gradient.abs().sum()
        if attack.norm == "linf":
            change = point.detach() + attack.step_size * momentum.sign() - image
            change = change.clamp(-attack.eps, attack.eps)
        else:
            change = (
                point.detach()
                + attack.step_size * momentum / momentum.square().sum().sqrt()
                - image
            )
            size = change.square().sum().sqrt()
            change = change * min(1, attack.eps / size)
        point = (image + change).clamp(0, 1)
    return point


@NORMS
@pytest.mark.parametrize("nesterov", [None, False, True])
@pytest.mark.parametrize("decay", [1.0, 0.5, 0.0])
def test_mim_is_its_equations_step_by_step(norm, decay, nesterov):
    classifier, images, labels = nonlinear(6)
    classifier, images = classifier.double(), images.double()
    eps = 0.02 if norm == "linf" else 0.2
    for steps in (1, 2, 3, 7):
        attack = MIM(
            **{"eps": eps, "step_size": eps / 3, "steps": steps, "norm": norm, "decay": decay},
            **{"nesterov": nesterov, "early_stop": False},
        )
        adversarial = attack(classifier, images, labels, numbers(images))
        plain = [
            by_hand(classifier, image, label, attack, steps)
            for image, label in zip(images, labels, strict=True)
        ]
        assert torch.allclose(
            adversarial, torch.stack(plain), rtol=0, atol=1e-9
        )  # 1 - p_y is rounded by hand


def test_an_image_that_mim_broke_stays_where_it_is():
    classifier, images, labels = nonlinear()
    meter, eps = Meter(classifier), 0.01
    early = MIM(eps=eps, step_size=eps / 4, steps=20)(meter, images, labels, numbers(images))
    late = MIM(eps=eps, step_size=eps / 4, steps=20, early_stop=False)(
        classifier, images, labels, numbers(images)
    )
    broken = classifier(early).argmax(1) != labels
    assert 2 < broken.sum() < len(images) - 2
    assert torch.equal(early[~broken], late[~broken])
    assert broken[classifier(late).argmax(1) != labels].all()
    assert meter.forward_passes < 20 * len(images)


class Hill(nn.Module):
    """Two classes; the logit of the second falls with the squared distance to a summit."""

    def __init__(self, summit):
        super().__init__()
        self.summit = summit

    def forward(self, images):
        far = 50 * (images - self.summit).flatten(1).square().sum(1)
        return torch.stack([torch.zeros_like(far), -far], dim=1)


def test_nesterov_looks_ahead_on_a_hill():
    """The slope at the point ahead is a positive number times c - (x + α·μ·n·g)."""
    generator = torch.Generator().manual_seed(5)
    images = 0.3 + 0.4 * torch.rand(4, 3, 2, 2, generator=generator, dtype=torch.float64)
    summit = images + 0.01 * torch.randn(images.shape, generator=generator, dtype=torch.float64)
    size, decay, labels = 0.004, 0.9, torch.zeros(4, dtype=torch.long)
    attack = MIM(eps=0.1, step_size=size, steps=6, decay=decay, nesterov=True, early_stop=False)
    found = attack(Hill(summit), images, labels, numbers(images))
    for one in range(4):
        point, momentum = images[one].clone(), torch.zeros(3, 2, 2, dtype=torch.float64)
        for _ in range(6):
            slope = summit[one] - point - size * decay * 12 * momentum
            momentum = decay * momentum + slope / slope.abs().sum()
            point = point + size * momentum.sign()
        assert torch.allclose(found[one], point, rtol=0, atol=1e-12)
    plain = MIM(eps=0.1, step_size=size, steps=6, decay=decay, early_stop=False)
    assert not torch.equal(found, plain(Hill(summit), images, labels, numbers(images)))


@NORMS
@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("off", [{"kernel": 1}, {"diversity": 0.0}, {"nesterov": False}])
def test_a_variant_that_does_nothing_is_mim_bit_for_bit(norm, early_stop, off):
    classifier, images, labels = nonlinear()
    eps = {"linf": 0.01, "l2": 0.1}[norm]
    bounds = {"eps": eps, "step_size": eps / 4, "norm": norm, "early_stop": early_stop}
    one, two = (
        attack(classifier, images, labels, numbers(images))
        for attack in (MIM(**bounds), MIM(**bounds, **off))
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, images)


@pytest.mark.parametrize("on", [{"kernel": 3}, {"diversity": 0.6}, {"nesterov": True}])
def test_an_early_stop_leaves_the_others_where_they_are(on):
    """Gradients are taken elsewhere; what counts as broken is the iterate, not what the classifier saw."""
    classifier, images, labels = nonlinear()
    classifier, images = classifier.double(), images.double()
    eps = 0.02 if "diversity" in on else 0.01  # it is the weakest on images of 8 pixels
    given = {"eps": eps, "step_size": eps / 4, "steps": 12, **on}
    early = MIM(**given)(classifier, images, labels, numbers(images))
    late = MIM(**given, early_stop=False)(classifier, images, labels, numbers(images))
    plain = MIM(**{**given, **dict.fromkeys(on)})(classifier, images, labels, numbers(images))
    broken = classifier(early).argmax(1) != labels
    assert 2 < broken.sum() < len(images) - 2
    assert torch.allclose(early[~broken], late[~broken], rtol=0, atol=1e-9)
    assert broken[classifier(late).argmax(1) != labels].all()
    assert not torch.equal(early, plain)


def test_diverse_images_are_resized_and_padded():
    """As torch resizes and pads, for each image by itself."""
    attack, side = MIM(diversity=0.5), 20
    images = torch.rand(64, 3, side, side, generator=torch.Generator().manual_seed(0)).double()
    draws = numbers(images)
    seen = attack.diverse(images, draws, 3)
    sides = 18 + draws.integers(2, (), "mim side", 3)
    places = draws.uniform((2,), "mim place", 3)
    assert set(sides.tolist()) == {18, 19}
    changed = 0
    for number, image in enumerate(images):
        if draws.uniform((), "mim diversity", 3)[number] >= 0.5:
            assert torch.equal(seen[number], image)
            continue
        small, changed = int(sides[number]), changed + 1
        free = side - small
        top, left = (int(place * (free + 1)) for place in places[number])
        resized = F.interpolate(image[None], size=(small, small), mode="bilinear")
        expected = F.pad(resized, (left, free - left, top, free - top))
        assert torch.allclose(seen[number], expected[0], rtol=0, atol=1e-12)
    assert 20 < changed < 44


def test_what_an_image_becomes_does_not_depend_on_its_batch():
    attack = MIM(diversity=0.7)
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    draws = numbers(images)
    whole = [attack.diverse(images, draws, step) for step in range(3)]
    chosen = torch.tensor([7, 2, 11])
    for step in range(3):
        part = attack.diverse(images[chosen], draws[chosen], step)
        assert torch.allclose(part, whole[step][chosen], rtol=0, atol=1e-14)
    assert not torch.equal(whole[0], whole[1])
    classifier, images, labels = nonlinear(12)
    attack = MIM(eps=0.01, step_size=0.003, diversity=0.7, kernel=3, nesterov=True)
    together = attack(classifier, images, labels, numbers(images))
    for one in range(12):
        own = torch.tensor([one])
        alone = attack(classifier, images[own], labels[own], numbers(images)[own])
        assert (alone - together[own]).abs().max() < 1e-5


def test_a_kernel_is_a_gaussian_around_each_pixel():
    gradient = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0)).double()
    smooth = MIM(kernel=5).smooth(gradient)
    offsets = [(row, column) for row in range(-2, 3) for column in range(-2, 3)]
    # The edge, 2 pixels away, is at 3 standard deviations.
    weights = {at: np.exp(-(at[0] ** 2 + at[1] ** 2) / 2 * (3 / 2) ** 2) for at in offsets}
    for row, column in [(0, 0), (3, 4), (6, 2)]:
        expected = sum(
            weight * gradient[:, :, row + down, column + right]
            for (down, right), weight in weights.items()
            if 0 <= row + down < 7 and 0 <= column + right < 7
        ) / sum(weights.values())
        assert torch.allclose(smooth[:, :, row, column], expected, rtol=1e-12)


def test_a_variant_of_mim_has_its_field_in_its_identity():
    assert not {"diversity", "kernel", "nesterov"} & identify_attack(MIM(), 10).keys()
    assert identify_attack(attacks.create("mim:kernel=15"), 10)["kernel"] == 15
    for wrong in ("diversity=1.5", "diversity=-0.1", "kernel=4", "kernel=0", "kernel=-3"):
        with pytest.raises(ZSRobustError, match=f"{wrong.partition('=')[0]} must be"):
            attacks.create(f"mim:{wrong}")


def test_a_decay_is_a_share():
    for decay in ("-1", "1.5", "nan"):
        with pytest.raises(ZSRobustError, match="decay must be in .0, 1."):
            attacks.create(f"mim:decay={decay}")


def test_mim_tells_of_images_without_a_gradient():
    class Dead(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :3] * 0

    images = torch.full((2, 3, 4, 4), 0.5)
    with pytest.warns(Note, match="^attack_zero_gradients$"):
        MIM()(Dead(), images, torch.zeros(2, dtype=torch.long), numbers(images))


@NORMS
@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_breaks_a_linear_classifier_if_and_only_if_eps_reaches_over_the_margin(
    norm, loss, random_start
):
    eps = 0.02 if norm == "linf" else 0.05
    classifier, images, margin = binary(0, norm, eps)
    labels = torch.zeros(64, dtype=torch.long)
    attack = PGD(
        eps=eps, steps=20, step_size=eps / 2, norm=norm, loss=loss, random_start=random_start
    )
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
    one = judge(
        Case(
            Meter(classifier),
            PGD(eps=0.01, steps=1, step_size=0.005),
            "one",
            data,
            seed=0,
            batch_size=24,
        )
    )
    five = judge(
        Case(
            Meter(classifier),
            PGD(eps=0.01, steps=1, step_size=0.005, restarts=5),
            "five",
            data,
            seed=0,
            batch_size=24,
        )
    )
    assert five.robust_correct < one.robust_correct
    assert np.all((one.adversarial == one.labels) | (five.adversarial != five.labels))


def test_objectives_are_their_closed_forms():
    logits = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, 4.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    partition = logits.exp().sum(1).log()
    assert torch.allclose(
        objective("ce", logits, labels), partition - torch.tensor([2.0, 3.0], dtype=torch.float64)
    )
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


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_gradient_ascent_takes_the_steps_of_pgd_and_leaves_weights_alone(norm):
    classifier, images, labels = nonlinear(8)
    attack = PGD(eps=0.05, step_size=0.02, steps=4, norm=norm, random_start=False, early_stop=False)
    found = ascend(
        lambda points: cross_entropy(classifier(points), labels),
        images,
        images,
        eps=0.05,
        norm=norm,
        steps=4,
        step_size=0.02,
    )
    assert torch.equal(found, attack(classifier, images, labels, numbers(images)))
    assert not found.requires_grad
    assert not images.requires_grad
    assert all(weight.grad is None for weight in classifier.parameters())

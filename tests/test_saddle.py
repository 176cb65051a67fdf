"""LORE: its saddle point, its constraint, and its dual network's place in a training."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import make_clip

from zsrobust.datasets import Images, datasets
from zsrobust.defenses import defenses
from zsrobust.defenses.lore import network
from zsrobust.models.clip import load_clip
from zsrobust.settings import suites
from zsrobust.training import Recipe, Step, objectives, train
from zsrobust.training.learner import Learner


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(make_clip(tmp_path_factory.mktemp("clip")).backbone)


@pytest.fixture
def step(clip):
    """A batch in float64, a student some steps away from its teacher, and a dual network."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(6, 3, 16, 16, generator=generator, dtype=torch.float64)
    prompts = [[f"a photo of {name}"] for name in ("a cat", "a dog", "a red circle")]
    teacher = clip.classifier(prompts, copy.deepcopy(clip.encoder)).double()
    student = clip.classifier(prompts, clip.copy()).double()
    with torch.no_grad():
        for weight in student.encoder.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    torch.manual_seed(0)
    return Step(
        images,
        torch.tensor([0, 1, 2, 0, 1, 2]),
        student,
        teacher,
        lambda x, y: (x + 0.03).clamp(0, 1),
        {"rho": 0.1, "primal_steps": 5, "dual_lr": 1e-3},
        dual=network(16).double(),
    )


def gradients(loss, module):
    return torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)


def test_lore_is_the_papers_lagrangian_image_by_image(step):
    expected = torch.zeros((), dtype=torch.float64)
    first, _, second = step.dual
    for image in step.images:
        org = step.teacher.encoder(step.teacher.prepared(image[None]))[0].detach()
        clean = step.student.encoder(step.student.prepared(image[None]))[0]
        moved = (image + 0.03).clamp(0, 1)
        adversarial = step.student.encoder(step.student.prepared(moved[None]))[0]
        hidden = (first.weight @ org + first.bias).clamp(min=0)
        multiplier = torch.log1p(torch.exp(second.weight @ hidden + second.bias))[0]
        constraint = (clean - org).pow(2).sum() - 0.1 * org.pow(2).sum()
        expected = expected + ((adversarial - org).pow(2).sum() + multiplier * constraint) / 6
    loss = objectives["lore"](step)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for module in (step.student.encoder, step.dual):
        ours, theirs = gradients(loss_of(step), module), gradients_again(expected, module)
        for one, other in zip(ours, theirs, strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-14)


def loss_of(step):
    return objectives["lore"](replace(step))


def gradients_again(loss, module):
    return torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)


def test_lore_without_a_multiplier_is_fare(step):
    without = replace(step, dual=None)
    lore, fare = objectives["lore"](without), objectives["fare"](replace(without))
    assert lore.item() == pytest.approx(fare.item(), rel=1e-14)
    ours, theirs = (gradients(each, step.student.encoder) for each in (lore, fare))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-15)


def test_parts_of_a_batch_add_up_for_student_and_dual_network(step):
    whole = objectives["lore"](replace(step))
    everything = [*step.student.encoder.parameters(), *step.dual.parameters()]
    expected = torch.autograd.grad(whole, everything)
    summed = [torch.zeros_like(each) for each in expected]
    for part in (slice(0, 4), slice(4, 6)):
        images, labels = step.images[part], step.labels[part]
        share = len(images) / 6
        loss = objectives["lore"](replace(step, images=images, labels=labels, share=share))
        for total, each in zip(summed, torch.autograd.grad(loss * share, everything), strict=True):
            total += each
    for one, other in zip(summed, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-14)


RECIPE = Recipe(
    objective="lore",
    attack="pgd2",
    eps=0.02,
    step_size=0.01,
    epochs=1,
    batch_size=4,
    lr=0.01,
    warmup=0,
    train_on="mini_train",
    options={"rho": 0.1, "primal_steps": 2, "dual_lr": 1e-3},
)


@pytest.fixture
def learner(clip):
    images = datasets["mini_train"].load("train").subset(8)
    small = Images(pixels=images.pixels[:, :, ::2, ::2].copy(), labels=images.labels)
    dataset = replace(datasets["mini_train"], side=16)
    return Learner(RECIPE, clip, dataset, small, None, False)


def test_the_dual_network_climbs_after_its_number_of_steps(learner):
    before = {name: one.detach().clone() for name, one in learner.dual.named_parameters()}
    positions = torch.arange(4)
    learner.gradients(0, positions)
    learner.move(0)
    for name, one in learner.dual.named_parameters():
        assert torch.equal(one, before[name])
    learner.gradients(0, positions)
    climbing = {name: one.grad.clone() for name, one in learner.dual.named_parameters()}
    learner.move(1)
    for name, one in learner.dual.named_parameters():
        # Adam's first step: the rate, in the direction of the gradient (epsilon is 1e-8).
        expected = 1e-3 * climbing[name] / (climbing[name].abs() + 1e-8)
        assert torch.allclose(one - before[name], expected, atol=1e-7)
    assert any(each.abs().sum() > 0 for each in climbing.values())


def test_a_violated_constraint_raises_its_multiplier(step):
    """The gradient of the Lagrangian with respect to λ is the violation itself."""
    embeddings = step.teacher_clean.embeddings
    moved = replace(step, options={"rho": 0.0})
    (climb,) = torch.autograd.grad(objectives["lore"](moved), step.dual[2].bias)
    loose = replace(step, options={"rho": 100.0})
    (fall,) = torch.autograd.grad(objectives["lore"](loose), step.dual[2].bias)
    assert climb.item() > 0 > fall.item()
    assert embeddings.requires_grad is False


def test_the_multiplier_is_state_of_the_training_and_not_of_the_tower(clip, learner, tmp_path):
    assert any(name.startswith("weight/dual.") for name in learner.tensors())
    assert not any(name.startswith("dual.") for name in learner.trained())
    images, dataset = learner.images, replace(datasets["mini_train"], side=16)
    checkpoint = train(RECIPE, clip, dataset, images, tmp_path / "lore.safetensors")
    assert checkpoint.weights.keys() == dict(clip.encoder.named_parameters()).keys()
    assert checkpoint.history[0]["memory"] > 0


def test_the_dual_networks_start_depends_on_the_seed_alone(clip, learner):
    torch.manual_seed(123)
    again = Learner(
        RECIPE, clip, replace(datasets["mini_train"], side=16), learner.images, None, False
    )
    other = Learner(
        replace(RECIPE, seed=1),
        clip,
        replace(datasets["mini_train"], side=16),
        learner.images,
        None,
        False,
    )
    for name, one in learner.dual.named_parameters():
        assert torch.equal(one, dict(again.dual.named_parameters())[name])
    assert not torch.equal(learner.dual[0].weight, other.dual[0].weight)


def test_lore_shares_the_suites_budget_with_fare():
    mini = suites.load("mini")
    ours, fares = (defenses.create(name).recipe_for(mini) for name in ("lore", "fare"))
    assert replace(ours, objective="fare", options={}) == fares

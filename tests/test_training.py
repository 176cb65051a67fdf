import json
import math
import re
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import two_classes
from torch import nn

from zsrobust.attacks.draws import Draws
from zsrobust.attacks.pgd import PGD
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Images, datasets
from zsrobust.defenses import defenses
from zsrobust.defenses.pmg_aft import OPTIONS, kl
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.clip import Clip, load_clip
from zsrobust.models.visual_prompts import BorderPrompt, PromptedEncoder, prompted
from zsrobust.models.zeroshot import ZeroShotClassifier
from zsrobust.results.identity import differences
from zsrobust.settings import suites
from zsrobust.testing import check_defense
from zsrobust.training import (
    Checkpoint,
    MinMax,
    Recipe,
    Step,
    objectives,
    train,
    trained_encoder,
)
from zsrobust.training.learner import Learner
from zsrobust.training.memory import with_peak_bytes

MINI = suites.load("mini")
TRAINED = [
    "ft_standard",
    "tecoa",
    "pmg_aft",
    "pmg_aft_code",
    "fare",
    "vpt_tecoa",
    "vpt_tecoa_code",
    "vpt_pmg_aft",
]


@pytest.fixture
def step():
    """A batch in float64 with a student, another teacher, and given adversarial images."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def classifier():
        tower = nn.Sequential(nn.Flatten(), nn.Linear(12, 5).double())
        with torch.no_grad():
            tower[1].weight.copy_(randn(5, 12))
        return ZeroShotClassifier(tower, head, [0.5] * 3, [0.25] * 3, 2)

    head = F.normalize(randn(4, 5), dim=-1) * 10
    images = torch.rand(6, 3, 2, 2, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    return Step(
        images,
        labels,
        classifier(),
        classifier(),
        lambda x, y: (x + 0.05).clamp(0, 1),
        dict(OPTIONS),
    )


def by_hand(step):
    """Return the three losses of section 3.3 as plain sums over images and classes."""
    adversarial = step.craft(step.images, step.labels)
    p_adv = step.student(adversarial).softmax(1).tolist()
    p_ori = step.teacher(adversarial).softmax(1).tolist()
    p_clean = step.student(step.images).softmax(1).tolist()
    n = len(step.labels)
    robust = -sum(math.log(p_adv[i][y]) for i, y in enumerate(step.labels.tolist())) / n

    def divergence(p, q):
        return (
            sum(
                a * math.log(a / b)
                for row, other in zip(p, q, strict=True)
                for a, b in zip(row, other, strict=True)
            )
            / n
        )

    return (
        robust,
        divergence(p_adv, p_ori),
        divergence(p_adv, p_clean),
        divergence(p_ori, p_adv),
        divergence(p_clean, p_adv),
    )


def test_pmg_aft_is_the_papers_equation_direction_and_mean_included(step):
    robust, general, clean, *_ = by_hand(step)
    step.options.update(alpha=0.7, beta=0.3)
    assert objectives["pmg_aft"](step).item() == pytest.approx(
        robust + 0.7 * general + 0.3 * clean, rel=1e-12
    )


def test_the_released_code_sums_and_turns_the_divergences_around(step):
    robust, general, clean, general_code, clean_code = by_hand(step)
    step.options = {"direction": "code"}
    assert objectives["pmg_aft_code"](step).item() == pytest.approx(
        robust + 6 * (general_code + clean_code), rel=1e-12
    )
    step.options = {"direction": "paper"}
    assert objectives["pmg_aft_code"](step).item() == pytest.approx(
        robust + 6 * (general + clean), rel=1e-12
    )


def test_pmg_aft_with_alpha_and_beta_zero_is_tecoa_and_asks_for_nothing_else(step):
    step.options.update(alpha=0.0, beta=0.0)
    loss = objectives["pmg_aft"](step)
    assert not step.teacher_adversarial.computed
    assert not step.teacher_clean.computed
    assert not step.student_clean.computed
    again = Step(step.images, step.labels, step.student, step.teacher, step.craft, {})
    assert (
        loss.item()
        == objectives["tecoa"](again).item()
        == pytest.approx(by_hand(step)[0], rel=1e-12)
    )


def test_ft_standard_never_crafts(step):
    loss = objectives["ft_standard"](step)
    assert "adversarial" not in step.__dict__
    assert loss.item() == pytest.approx(
        F.cross_entropy(step.student(step.images), step.labels).item(), rel=1e-12
    )


@pytest.mark.parametrize(
    ("layer", "distance", "expected"),
    [
        ("output", "l2", lambda s, t: ((s[0].softmax(1) - t[0].softmax(1)) ** 2).sum(1).mean()),
        ("feature", "l2", lambda s, t: ((s[1] - t[1]) ** 2).sum(1).mean()),
        ("feature", "cosine", lambda s, t: (1 - (s[1] * t[1]).sum(1)).mean()),
    ],
)
def test_the_layers_and_distances_of_table_5(step, layer, distance, expected):
    adversarial = step.craft(step.images, step.labels)
    student = (step.student(adversarial), step.student.features(adversarial))
    teacher = (step.teacher(adversarial), step.teacher.features(adversarial))
    step.options.update(layer=layer, distance=distance, beta=0.0)
    loss = objectives["pmg_aft"](step) - F.cross_entropy(student[0], step.labels)
    assert loss.item() == pytest.approx(expected(student, teacher).item(), rel=1e-10)


def test_kl_on_features_is_refused(step):
    step.options.update(layer="feature", distance="kl")
    with pytest.raises(ZSRobustError, match="l2 or cosine"):
        objectives["pmg_aft"](step)


def test_the_teacher_takes_no_gradient_and_the_clean_target_does_unless_stopped(step):
    gradients = {}
    for stop in (False, True):
        fresh = Step(
            step.images,
            step.labels,
            step.student,
            step.teacher,
            step.craft,
            {**OPTIONS, "stop_gradient": stop},
        )
        step.student.zero_grad()
        objectives["pmg_aft"](fresh).backward()
        gradients[stop] = step.student.encoder[1].weight.grad.clone()
        assert step.teacher.encoder[1].weight.grad is None
    assert not torch.allclose(gradients[False], gradients[True])


def test_fare_is_the_papers_equation_and_its_gradient_is_the_one_derived_by_hand(step):
    objectives["fare"](step).backward()
    points, clean = step.craft(step.images, step.labels).numpy(), step.images.numpy()

    def pixels(images):
        return ((images - 0.5) / 0.25).reshape(len(images), -1)

    def weights(classifier):
        return [each.detach().numpy() for each in classifier.encoder[1].parameters()]

    (ours, our_bias), (theirs, their_bias) = weights(step.student), weights(step.teacher)
    residuals = pixels(points) @ ours.T + our_bias - pixels(clean) @ theirs.T - their_bias
    expected = sum(value**2 for value in residuals.flatten()) / len(residuals)
    fresh = Step(step.images, step.labels, step.student, step.teacher, step.craft, {})
    assert objectives["fare"](fresh).item() == pytest.approx(expected, rel=1e-12)
    weight, bias = step.student.encoder[1].parameters()
    by_weight = 2 / len(residuals) * residuals.T @ pixels(points)
    assert np.allclose(weight.grad.numpy(), by_weight, rtol=1e-12, atol=1e-12)
    assert np.allclose(bias.grad.numpy(), 2 * residuals.mean(0), rtol=1e-12, atol=1e-12)
    assert all(parameter.grad is None for parameter in step.teacher.parameters())


def test_fare_asks_for_nothing_but_two_embeddings_and_no_label(step):
    step.labels = None
    objectives["fare"](step)
    assert step.student_adversarial.computed
    assert step.teacher_clean.computed
    assert not step.student_clean.computed
    assert not step.teacher_adversarial.computed


def test_fare_is_zero_where_the_student_is_the_teacher_and_nothing_is_perturbed(step):
    alike = Step(step.images, step.labels, step.teacher, step.teacher, lambda x, y: x, {})
    assert objectives["fare"](alike).item() == 0
    moved = Step(step.images, step.labels, step.teacher, step.teacher, step.craft, {})
    assert objectives["fare"](moved).item() > 0


def passes(classifier):
    """Return a list that grows with every pass through a classifier's tower."""
    seen = []
    classifier.encoder.register_forward_hook(lambda *_: seen.append(1))
    return seen


def test_one_pass_serves_all_that_is_asked_of_the_same_images(step):
    students, teachers = passes(step.student), passes(step.teacher)
    assert torch.equal(step.clean_logits, step.student_clean.logits)
    assert torch.equal(step.clean_features, F.normalize(step.student_clean.embeddings, dim=-1))
    assert (len(students), len(teachers)) == (1, 0)
    assert torch.equal(step.adversarial_logits, step.student(step.adversarial))
    assert torch.equal(step.adversarial_features, step.student_adversarial.features)
    assert torch.equal(step.teacher_logits, step.teacher_adversarial.logits)
    assert torch.equal(step.teacher_features, step.teacher.features(step.adversarial))
    assert step.student_clean.embeddings.requires_grad
    assert not step.teacher_logits.requires_grad


def test_soft_labels_are_the_teachers_at_a_temperature_of_their_own(step):
    teachers = passes(step.teacher)
    scaled = [[math.exp(z / 2.5) for z in row] for row in step.teacher(step.images).tolist()]
    expected = torch.tensor([[z / sum(row) for z in row] for row in scaled], dtype=torch.float64)
    assert torch.allclose(step.soft_labels(2.5), expected, rtol=1e-12)
    assert torch.equal(step.soft_labels(), step.teacher_clean.logits.softmax(1))
    assert not step.soft_labels(2.5).requires_grad
    assert len(teachers) == 2  # one of them is by hand


def test_counting_what_is_correct_makes_no_pass(step):
    students = passes(step.student)
    assert step.correct() is None
    step.student_clean.embeddings.sum().backward()
    clean = (step.student(step.images).argmax(1) == step.labels).sum()
    assert step.correct() == clean
    assert len(students) == 2  # one of them is by hand
    objectives["fare"](step)
    attacked = (step.student(step.adversarial).argmax(1) == step.labels).sum()
    assert step.correct() == attacked
    assert len(students) == 4


def test_kl_of_equal_rows_is_zero_and_survives_certainty():
    logits = torch.tensor([[1000.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    assert kl(logits, logits).tolist() == [0.0, 0.0]


def test_the_paper_recipes_and_their_digests_are_pinned():
    digests = {name: defenses[name].recipe.digest for name in TRAINED}
    assert digests == PINNED
    recipe = defenses["pmg_aft"].recipe
    assert (recipe.lr, recipe.epochs, recipe.batch_size, recipe.momentum, recipe.warmup) == (
        5e-5,
        10,
        256,
        0.9,
        1000,
    )


def test_the_mini_recipes_of_adversarial_methods_differ_in_their_losses_alone():
    recipes = [
        defenses[name].recipe_for(MINI).to_dict() for name in ("tecoa", "pmg_aft", "pmg_aft_code")
    ]
    code = (
        "logit_scale",
        "normalization",
        "zoom",
        "interpolation",
        "prompts",
    )  # of the released code's classifier
    shared = [
        {k: v for k, v in recipe.items() if k not in ("objective", "options", *code)}
        for recipe in recipes
    ]
    assert shared[0] == shared[1] == shared[2]
    assert (
        defenses.create("tecoa:lr=1,epochs=2").recipe_for(MINI).digest
        != defenses["tecoa"].recipe_for(MINI).digest
    )
    assert defenses.create("pmg_aft:alpha=1").recipe_for(MINI) == defenses["pmg_aft"].recipe_for(
        MINI
    )


def test_unset_fields_stay_out_of_the_digest():
    assert "logit_scale" not in Recipe(objective="tecoa").to_dict()
    assert Recipe(objective="tecoa", logit_scale=1.0).digest != Recipe(objective="tecoa").digest


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(MINI.backbone)


@pytest.fixture
def tiny():
    """A dataset of 12 images in two classes, and a quick recipe on it."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (12, 3, 32, 32), generator=generator, dtype=torch.uint8).numpy()
    dataset, images = two_classes(pixels)
    recipe = Recipe(
        objective="tecoa",
        attack="pgd2",
        eps=0.01,
        step_size=0.01,
        epochs=2,
        batch_size=5,
        lr=0.01,
        warmup=2,
    )
    return dataset, images, recipe


def test_training_writes_a_checkpoint_that_gives_back_the_same_tower(clip, tiny, tmp_path):
    dataset, images, recipe = tiny
    calls = []
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    written = train(
        recipe, clip, dataset, images, tmp_path / "a.safetensors", lambda *call: calls.append(call)
    )
    assert [call[:2] for call in calls] == [(done, 6) for done in range(1, 7)]
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in clip.model.state_dict().items()
    )
    read = Checkpoint.read(tmp_path / "a.safetensors")
    assert read.recipe == recipe.to_dict()
    assert len(read.history) == 2
    assert read.weights.keys() == dict(clip.encoder.named_parameters()).keys()
    tower = trained_encoder(clip, recipe, read)
    assert all(
        torch.equal(tensor, written.weights[name]) for name, tensor in tower.named_parameters()
    )
    moved = sum(
        (read.weights[n] - p).double().square().sum() for n, p in clip.encoder.named_parameters()
    )
    size = sum(p.double().square().sum() for p in clip.encoder.parameters())
    assert read.history[-1]["distance"] == pytest.approx(float((moved / size).sqrt()), rel=1e-9)
    again = train(recipe, clip, dataset, images, tmp_path / "b.safetensors")
    assert again.digest == read.digest
    assert again.sources == read.sources == {"backbone": clip.digest, "images": images.digest}
    assert all(torch.equal(tensor, again.weights[name]) for name, tensor in written.weights.items())


def logged(clip, tiny, path, **options):
    """Train PMG-AFT with a log, and return the checkpoint and the calls of the log."""
    dataset, images, recipe = tiny
    recipe = replace(recipe, objective="pmg_aft", options={**OPTIONS, "alpha": 0.5, "beta": 2.0})
    calls = []
    options.setdefault("log", lambda *call: calls.append(call))
    return train(recipe, clip, dataset, images, path, **options), calls


def test_the_log_has_the_numbers_of_every_step_and_changes_none(clip, tiny, tmp_path):
    made, calls = logged(clip, tiny, tmp_path / "a.safetensors")
    steps = [numbers for _, numbers in calls if "loss" in numbers]
    assert [done for done, numbers in calls if "loss" in numbers] == [1, 2, 3, 4, 5, 6]
    assert [done for done, numbers in calls if "distance" in numbers] == [3, 6]
    for numbers in steps:
        assert numbers["loss"] == pytest.approx(
            numbers["terms/robust"] + 0.5 * numbers["terms/general"] + 2 * numbers["terms/clean"],
            rel=1e-6,
        )
        assert numbers["images_per_second"] > 0
    for epoch, history in enumerate(made.history):  # batches of 5, 5 and 2 images
        for name in ("loss", "accuracy"):
            whole = sum(
                n * numbers[name]
                for n, numbers in zip((5, 5, 2), steps[3 * epoch : 3 * epoch + 3], strict=True)
            )
            assert whole / 12 == pytest.approx(history[name], rel=1e-12)
    assert [numbers["lr"] for numbers in steps[:2]] == [0.005, 0.01]  # the warm-up of two steps
    silent, _ = logged(clip, tiny, tmp_path / "b.safetensors", log=None)
    assert silent.digest == made.digest


def test_terms_of_parts_of_a_batch_add_up_to_the_batch(clip, tiny, tmp_path):
    _, whole = logged(clip, tiny, tmp_path / "a.safetensors")
    _, parts = logged(clip, tiny, tmp_path / "b.safetensors", micro_batch=2)
    names = [name for name in whole[0][1] if name != "images_per_second"]
    assert {"loss", "accuracy", "lr", "terms/robust", "terms/general", "terms/clean"} == set(names)
    for name in names:
        assert parts[0][1][name] == pytest.approx(whole[0][1][name], rel=1e-4)


def test_a_resumed_training_logs_what_the_interrupted_one_did_not(clip, tiny, tmp_path):
    _, whole = logged(clip, tiny, tmp_path / "a.safetensors")
    stop = iter(range(1, 7))

    def progress(done, total, note):
        if next(stop, None) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        logged(clip, tiny, tmp_path / "b.safetensors", progress=progress)
    _, rest = logged(clip, tiny, tmp_path / "b.safetensors")

    def timeless(calls):
        return [
            (
                done,
                {name: number for name, number in numbers.items() if name != "images_per_second"},
            )
            for done, numbers in calls
        ]

    assert timeless(rest)[0][0] == 3
    for (done, ours), (other, theirs) in zip(timeless(rest), timeless(whole)[2:], strict=True):
        assert done == other
        assert ours == pytest.approx(theirs, rel=1e-9)


class Writer:
    """What of TensorBoard's writer is called, and remembered here."""

    folders: ClassVar[dict] = {}

    def __init__(self, folder, purge_step):
        self.scalars = self.folders[folder] = {}

    def add_scalar(self, name, value, step):
        self.scalars.setdefault(name, []).append((step, value))

    def flush(self):
        self.flushed = True


def test_tensorboard_has_a_folder_for_each_training(zsrobust, monkeypatch):
    monkeypatch.setattr(Writer, "folders", {})
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer)
    )
    spec = "tecoa:epochs=1,limit=32,lr=1e-4"
    zsrobust("train", spec, "--suite", "mini", "--tensorboard", "logs")
    ((folder, scalars),) = Writer.folders.items()
    assert re.fullmatch(r"logs/FT-TeCoA-[0-9a-f]{4}", folder)  # title and digest of the recipe
    assert scalars.keys() == {"loss", "accuracy", "lr", "images_per_second", "distance"}
    assert [step for step, _ in scalars["loss"]] == [1]


def test_without_tensorboard_one_line_says_so(zsrobust, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = zsrobust("train", "tecoa", "--suite", "mini", "--tensorboard", "logs", ok=2)
    assert done.stderr.splitlines()[-1] == (
        "Error: --tensorboard needs the package tensorboard, which is not installed. "
        "Next: pip install tensorboard"
    )


def test_training_images_take_every_step_of_the_attack(tiny):
    _, _, recipe = tiny
    assert recipe.crafting() == PGD(eps=0.01, step_size=0.01, steps=2, early_stop=False)


class LinearClip:
    """A CLIP whose tower is one matrix, of pictures of 2 pixels a side in 5 dimensions."""

    name, side, interpolation, squash, pad = "linear", 2, "bicubic", False, None

    def __init__(self):
        self.encoder = self._tower(0).requires_grad_(False)

    def _tower(self, seed):
        tower = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        generator = torch.Generator().manual_seed(seed)
        for parameter in tower.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        return tower

    def copy(self):
        """Return another tower than the teacher's, so that the distance has a gradient at the image."""
        return self._tower(1)

    def classifier(self, prompts, tower, scale, normalization):
        head = F.normalize(torch.eye(5)[: len(prompts)] + 0.1, dim=-1)
        return ZeroShotClassifier(tower, head, [0.5] * 3, [0.25] * 3, self.side)


def linear_learner(tiny, **changes):
    """Return a learner of FARE, if nothing else is asked for, on a linear tower, and its first step."""
    dataset, images, recipe = tiny
    small = Images(pixels=images.pixels[:, :, :2, :2].copy(), labels=images.labels)
    recipe = replace(recipe, **{"objective": "fare", "attack": "pgd:steps=1", **changes})
    learner = Learner(recipe, LinearClip(), replace(dataset, side=2), small, None, False)
    return learner, learner._step(0, torch.arange(5), 1.0)


@pytest.mark.parametrize("random_start", [False, True])
def test_the_attack_of_fare_climbs_the_distance_itself(tiny, random_start):
    """On a linear tower its gradient is 2 Wᵀ(φ(z) - φ_org(x)) / std: the first step follows its sign."""
    attack = f"pgd:steps=1,random_start={str(random_start).lower()}"
    learner, step = linear_learner(tiny, attack=attack, eps=0.05, step_size=0.02)
    clean = step.images
    draws = Draws.of(learner.recipe.seed, "epoch 0", np.arange(5))
    noise = draws.uniform((3, 2, 2), "pgd", 0) * 2 - 1
    start = (clean + 0.05 * noise).clamp(0, 1) if random_start else clean

    def embedding(images, linear):
        return ((images - 0.5) / 0.25).flatten(1) @ linear.weight.T + linear.bias

    student, teacher = learner.student.encoder[1], learner.teacher.encoder[1]
    with torch.no_grad():
        gap = embedding(start, student) - embedding(clean, teacher)
        gradient = (2 / 0.25 * gap @ student.weight).view_as(clean)
    moved = start + 0.02 * gradient.sign()
    expected = (clean + (moved - clean).clamp(-0.05, 0.05)).clamp(0, 1)
    assert torch.equal(step.adversarial, expected)


def test_more_steps_of_the_attack_of_fare_find_more(tiny):
    losses = []
    for steps in (1, 3, 10):
        changes = {"attack": f"pgd:steps={steps}", "eps": 0.05, "step_size": 0.02}
        _, step = linear_learner(tiny, **changes)
        losses.append(objectives["fare"](step).item())
    assert losses[0] < losses[1] <= losses[2]


@pytest.mark.filterwarnings("ignore::UserWarning")  # noise has images without a gradient
def test_other_objectives_craft_with_their_recipes_attack_on_the_label(clip, tiny):
    dataset, images, recipe = tiny
    learner = Learner(recipe, clip, dataset, images, None, False)
    step = learner._step(1, torch.arange(5), 1.0)
    draws = Draws.of(recipe.seed, "epoch 1", np.arange(5))
    assert torch.equal(step.draws.seeds, draws.seeds)
    expected = recipe.crafting()(learner.student, step.images, step.labels, draws)
    assert torch.equal(step.adversarial, expected)


def test_what_the_inner_loss_asks_of_the_student_is_not_what_the_outer_learns_from(
    tiny, monkeypatch
):
    """As in FAP: the attack moves the logits away from the student's own clean ones."""

    def away(step, outputs):
        assert not step.student_clean.logits.requires_grad
        return (outputs.logits - step.student_clean.logits).square().sum(1)

    def both(step):
        return (step.adversarial_logits - step.clean_logits).square().sum(1).mean()

    objective = {"own": MinMax(minimize=both, maximize=away)}
    monkeypatch.setattr("zsrobust.training.steps.objectives", objective)
    _, step = linear_learner(tiny, objective="own")
    both(step)
    assert step.student_clean.logits.requires_grad


def test_the_attack_of_an_objective_can_have_a_target(tiny, monkeypatch):
    def towards(step, outputs):
        return -F.cross_entropy(outputs.logits, 1 - step.labels, reduction="none")

    def loss(step):
        return F.cross_entropy(step.adversarial_logits, step.labels)

    objective = {"own": MinMax(minimize=loss, maximize=towards)}
    monkeypatch.setattr("zsrobust.training.steps.objectives", objective)
    changes = {"objective": "own", "attack": "pgd10", "eps": 0.2, "step_size": 0.05}
    _, step = linear_learner(tiny, **changes)
    target = torch.arange(5), 1 - step.labels
    before, after = (
        each.log_softmax(1)[target] for each in (step.clean_logits, step.adversarial_logits)
    )
    assert (after > before).all()


def test_an_inner_loss_that_asks_for_its_own_result_is_one_line(tiny, monkeypatch):
    def circular(step, outputs):
        return step.adversarial_logits.sum(1)

    objective = {"own": MinMax(minimize=lambda step: step.adversarial.mean(), maximize=circular)}
    monkeypatch.setattr("zsrobust.training.steps.objectives", objective)
    _, step = linear_learner(tiny, objective="own")
    with pytest.raises(ZSRobustError, match="Use: outputs.embeddings"):
        step.adversarial  # noqa: B018 (a property that crafts)


@pytest.mark.parametrize("objective", ["fare", "tecoa"])
def test_an_objective_that_needs_an_attack_asks_for_one(tiny, objective):
    _, step = linear_learner(tiny, objective=objective, attack=None)
    with pytest.raises(ZSRobustError, match="has no attack.*Add one to the recipe: attack=pgd2"):
        objectives[objective](step)


@pytest.mark.parametrize("attack", ["apgd", "cw", "mim", "pgd:restarts=2", "pgd:loss=margin"])
def test_an_attack_that_cannot_climb_another_loss_is_refused_before_training(tiny, attack):
    with pytest.raises(ZSRobustError, match="cannot maximize the loss of the objective 'fare'"):
        linear_learner(tiny, attack=attack)


def test_an_objective_that_classifies_nothing_has_no_accuracy(clip, tiny, tmp_path, monkeypatch):
    def decay(step):
        return sum(weight.square().sum() for weight in step.student.parameters())

    dataset, images, recipe = tiny
    monkeypatch.setattr("zsrobust.training.steps.objectives", {"decay": decay})
    recipe = replace(recipe, objective="decay", attack=None, lr=1e-6)
    notes, path = [], tmp_path / "a.safetensors"

    def stop(done, total, note):
        notes.append(note)
        if len(notes) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, clip, dataset, images, path, stop)
    read = train(recipe, clip, dataset, images, path, stop)
    assert [epoch.keys() for epoch in read.history] == [
        {"loss", "distance", "distance_code", "memory", "seconds"}
    ] * 2
    assert "accuracy" not in "".join(notes)
    assert "resumed at step 2" in notes[-1]


def test_a_loss_that_is_not_finite_stops_the_training(clip, tiny, tmp_path):
    dataset, images, recipe = tiny
    with pytest.raises(ZSRobustError, match=r"the loss is nan at step \d+. Lower lr"):
        train(
            Recipe(**{**vars(recipe), "lr": 1e30}),
            clip,
            dataset,
            images,
            tmp_path / "a.safetensors",
        )
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_is_cut_short_or_does_not_fit_is_refused(clip, tiny, tmp_path):
    dataset, images, recipe = tiny
    path = tmp_path / "a.safetensors"
    checkpoint = train(recipe, clip, dataset, images, path)
    del checkpoint.weights["proj"]
    with pytest.raises(ZSRobustError, match=r"does not fit .* proj"):
        trained_encoder(clip, recipe, checkpoint)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ZSRobustError, match="is damaged"):
        Checkpoint.read(path)


def test_a_checkpoint_made_from_other_weights_or_images_is_refused(checkpoints):
    workshop = Workshop(MINI, checkpoints)
    workshop.tower("tecoa:epochs=1,limit=128")
    workshop.clip.digest = "another"
    with pytest.raises(
        ZSRobustError, match="was made from another backbone than there is now. Move it away"
    ):
        workshop.tower("tecoa:epochs=1,limit=128")


def test_a_checkpoint_of_images_resized_otherwise_is_refused(tmp_path, monkeypatch):
    """Older versions resized as torch does, and stored nothing about it."""
    workshop, spec = Workshop(MINI, tmp_path), "ft_standard:epochs=1,limit=64,zoom=1.25"
    with monkeypatch.context() as older:
        older.setattr("zsrobust.training.checkpoints.resizing", lambda images, cut: {})
        assert "resized" not in workshop.tower(spec).identity
    with pytest.raises(ZSRobustError, match="was made from another resizing of images than"):
        workshop.tower(spec)
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    assert workshop.tower(spec).identity["resized"] == "pillow"
    assert "resized" not in workshop.tower("ft_standard:epochs=1,limit=64").identity


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tecoa:momentum=-1", "momentum = -1.0 is not valid; expected a number, 0 or above"),
        ("tecoa:epochs=0", "epochs = 0 is not valid; expected a whole number above 0"),
        ("tecoa:eps=8", "eps = 8.0 is not valid; expected a bound such as '8/255'"),
        ("tecoa:lr=nan", "lr = nan is not valid; expected a number above 0"),
        (f"tecoa:seed={2**63}", r"is not a whole number \(of 64 bits\)"),
        ("vpt_tecoa:tokens=4097", "options.tokens = 4097 is not valid"),
        ("vpt_tecoa_code:border=112", "options.border = 112 is not valid"),
        ("vpt_tecoa:tokens=-1", "options.tokens = -1 is not valid; expected a whole number from 0"),
        ("tecoa:train_on=mini_shapes", "mini_train and mini_objects have a training split"),
        ("tecoa:train_on=mini_handwriting", "mini_train and mini_objects have a training split"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(spec, message, tmp_path):
    with pytest.raises(ZSRobustError, match=message):
        Workshop(MINI, tmp_path).tower(spec)


def test_a_seed_beyond_64_bits_is_refused_from_python_too():
    assert Recipe(objective="tecoa", seed=2**63 - 1).seed == 2**63 - 1
    with pytest.raises(ZSRobustError, match="The recipe: seed = 9223372036854775808 is not valid"):
        Recipe(objective="tecoa", seed=2**63)


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.25])
def test_interpolation_lies_on_the_line_and_ends_at_its_ends(weight, checkpoints):
    workshop = Workshop(MINI, checkpoints)
    mixed = workshop.tower(
        f"interpolation:of=tecoa,epochs=1,limit=128,weight={weight}"
    ).encoder.state_dict()
    tuned = workshop.tower("tecoa:epochs=1,limit=128").encoder.state_dict()
    for name, original in workshop.clip.encoder.state_dict().items():
        if weight in (0.0, 1.0):
            assert torch.equal(mixed[name], (original, tuned[name])[int(weight)])
        else:
            assert torch.allclose(mixed[name], 0.75 * original + 0.25 * tuned[name], atol=1e-6)


def test_interpolation_needs_a_tower_of_clips_shape(checkpoints):
    tower = Workshop(MINI, checkpoints).tower(
        "interpolation:of=vpt_tecoa,epochs=1,limit=128,tokens=0"
    )
    with pytest.raises(ZSRobustError, match="does not have CLIP's shape"):
        _ = tower.encoder


SHORT = "epochs=1,limit=128"


@pytest.fixture(scope="module")
def weights(checkpoints):
    """A function that returns the weights of a defense's tower."""
    workshop = Workshop(MINI, checkpoints)
    return lambda spec: workshop.tower(spec).encoder.state_dict()


def test_a_soup_of_one_is_that_one_bit_for_bit(weights):
    soup, member = weights(f"soup:of=tecoa,{SHORT}"), weights(f"tecoa:{SHORT}")
    assert soup.keys() == member.keys()
    assert all(torch.equal(soup[name], member[name]) for name in member)


def test_a_soup_is_the_mean_rounded_once(weights):
    soup = weights(f"soup:of=tecoa+fare+tecoa:seed=1,{SHORT}")
    members = [weights(f"{spec}{SHORT}") for spec in ("tecoa:", "fare:", "tecoa:seed=1,")]
    for name, weight in soup.items():
        mean = np.mean([each[name].double().numpy() for each in members], axis=0)
        assert np.array_equal(weight.numpy(), mean.astype(np.float32))
    assert not torch.equal(soup["proj"], members[0]["proj"])


@pytest.mark.parametrize(("of", "weight"), [("clip", "0"), ("tecoa", "1")])
def test_task_arithmetic_ends_at_its_ends(of, weight, weights):
    """In float64 θ₀ + (θ - θ₀) is θ up to 2⁻⁵², so that float32 rounds it to θ."""
    found = weights(f"task_arithmetic:of=tecoa,{SHORT},weight={weight}")
    expected = weights("clip" if of == "clip" else f"tecoa:{SHORT}")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_two_half_task_vectors_are_a_soup(weights):
    found = weights(f"task_arithmetic:of=tecoa+fare,{SHORT},weight=0.5")
    soup = weights(f"soup:of=tecoa+fare,{SHORT}")
    for name in soup:
        torch.testing.assert_close(found[name], soup[name], rtol=2**-23, atol=0)


@given(
    st.lists(st.floats(-2, 2), min_size=2, max_size=5),
    st.floats(-3, 3, allow_subnormal=False),
)
def test_task_arithmetic_is_linear_in_its_weight_and_in_each_change(values, weight):
    original, *tuned = (torch.tensor([each], dtype=torch.float64) for each in values)
    entry = replace(defenses["task_arithmetic"], weight=weight)
    exact = values[0] + weight * math.fsum(each - values[0] for each in values[1:])
    assert entry.mix(original, tuned).item() == pytest.approx(exact, abs=1e-12)
    assert entry.mix(original, tuned[::-1]).item() == pytest.approx(exact, abs=1e-12)


def test_another_checkpoint_of_any_member_is_another_identity(checkpoints, tmp_path):
    spec = f"soup:of=ft_standard+tecoa,{SHORT}"
    first = Workshop(MINI, checkpoints).tower(spec).identity
    assert first["towers"].keys() == {f"ft_standard:{SHORT}", f"tecoa:{SHORT}"}
    digests = [each["checkpoint"] for each in first["towers"].values()]
    assert len(set(digests)) == 2
    workshop = Workshop(MINI, tmp_path)
    place = workshop.checkpoint_path(defenses.create(f"tecoa:{SHORT}").recipe_for(MINI))
    place.parent.mkdir(parents=True)
    for path in checkpoints.rglob("*.safetensors"):
        shutil.copy(path, place.parent)
    checkpoint = Checkpoint.read(place)
    weights = {name: each + 1e-3 for name, each in checkpoint.weights.items()}
    metadata = {"recipe": json.dumps(checkpoint.recipe), "sources": json.dumps(checkpoint.sources)}
    metadata |= {"history": json.dumps(checkpoint.history), "prompts": checkpoint.prompts}
    safetensors.torch.save_file(weights, place, metadata)
    second = workshop.tower(spec).identity
    found = [each.name for each in differences({"defense": first}, {"defense": second})]
    assert found == [f"defense.towers.tecoa:{SHORT}.checkpoint"]


@pytest.mark.parametrize("name", ["soup", "task_arithmetic"])
def test_a_mixture_needs_towers_of_clips_shape(name, checkpoints):
    tower = Workshop(MINI, checkpoints).tower(f"{name}:of=tecoa+vpt_tecoa:tokens=0,{SHORT}")
    with pytest.raises(ZSRobustError, match="tower of vpt_tecoa.* does not have CLIP's shape"):
        _ = tower.encoder


def test_zero_prompts_and_no_tokens_are_the_plain_encoder(clip):
    images = torch.randn(3, 3, 32, 32)
    plain = PromptedEncoder(clip.encoder, 32, torch.zeros(0, 128))
    with torch.no_grad():
        assert torch.equal(plain(images), clip.encoder(images))
    assert [name for name, p in plain.named_parameters() if p.requires_grad] == ["image_prompt"]


def test_tokens_stand_beside_the_patches_and_both_prompts_matter(clip):
    images = torch.randn(3, 3, 32, 32)
    seen = []
    prompted = PromptedEncoder(clip.encoder, 32, torch.randn(7, 128))
    prompted.tower.transformer.register_forward_hook(
        lambda module, given, out: seen.append(out.shape)
    )
    assert not torch.allclose(prompted(images), clip.encoder(images))
    assert seen[0] == (3, 1 + 16 + 7, 128)
    prompted(images).sum().backward()
    learned = {name: p.grad for name, p in prompted.named_parameters() if p.grad is not None}
    assert learned.keys() == {"image_prompt", "tower.ln_pre.tokens"}
    assert all(g.abs().sum() > 0 for g in learned.values())


def test_the_prompts_of_tecoas_code_are_a_border_and_start_at_a_deviation_of_one(clip):
    images = torch.randn(3, 3, 32, 32)
    encoder = prompted(clip, 7, 0, border=30, std=1.0)
    added = encoder.border()
    assert added.shape == (3, 32, 32)
    assert added[:, 4:28, 4:28].abs().sum() == 0  # 30 of 224 pixels are 4 of 32
    assert (added != 0).sum() == encoder.border.pixels.numel() == 3 * (32**2 - 24**2)
    for start in (encoder.border.pixels, encoder.tower.ln_pre.tokens):
        assert 0.9 < start.std() < 1.1
    encoder(images).sum().backward()
    learned = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    assert learned.keys() == {"border.pixels", "tower.ln_pre.tokens"}
    assert all(g.abs().sum() > 0 for g in learned.values())


def test_the_border_has_as_many_numbers_as_tecoas():
    pixels = torch.zeros(3, 224**2 - 164**2)
    assert BorderPrompt(224, 30, pixels)().shape == (3, 224, 224)
    assert pixels.numel() + 100 * 768 == 146_640


def test_the_codes_warmup_takes_all_its_steps(clip, tiny):
    dataset, images, recipe = tiny

    def rates(**changed):
        learner = Learner(replace(recipe, warmup=4, **changed), clip, dataset, images, None, False)
        return [round(learner.rate(step), 3) for step in range(learner.steps)]

    assert rates() == [0.333, 0.667, 1.0, 1.0, 0.75, 0.25]  # at most half of 6 steps
    assert rates(schedule="code") == [0.25, 0.5, 0.75, 1.0, 1.0, 0.5]
    assert (
        replace(recipe, schedule=None).digest
        == recipe.digest
        != replace(recipe, schedule="code").digest
    )


@pytest.mark.parametrize("name", ["mini", "mini_second", "paper", "paper_cifar100"])
def test_only_on_cifar100_is_the_warmup_longer_than_half_of_the_training(name):
    recipe = defenses.create("pmg_aft_code").recipe_for(suites.load(name))
    images = datasets[recipe.train_on].train_size
    steps = recipe.epochs * math.ceil(images / recipe.batch_size)
    assert (recipe.warmup > steps // 2) == (recipe.schedule == "code") == (name == "paper_cifar100")


def test_visual_prompts_say_that_they_need_a_vision_transformer():
    with pytest.raises(ZSRobustError, match="need a vision transformer"):
        PromptedEncoder(SimpleNamespace(), 32, torch.zeros(0, 128))


@pytest.mark.parametrize(
    "spec",
    [
        "clip",
        *(f"{name}:epochs=1,limit=128" for name in TRAINED if "vpt" not in name),
        "interpolation:epochs=1,limit=128",
        "soup:epochs=1,limit=128",
        "task_arithmetic:epochs=1,limit=128",
        "vpt_tecoa:epochs=1,limit=128,tokens=2",
        "vpt_tecoa_code:epochs=1,limit=128,tokens=2",
        "vpt_pmg_aft:epochs=1,limit=128,tokens=2",
    ],
)
def test_every_defense_holds_the_contract(spec, checkpoints):
    check_defense(spec, checkpoints=checkpoints)


PINNED = {
    "ft_standard": "2f7809439f57223b",
    "tecoa": "1b87ddc243d35be7",
    "pmg_aft": "55bfe8f4ca52deff",
    "pmg_aft_code": "68b3ac33915fbcdf",
    "fare": "cf68e55c17d80383",
    "vpt_tecoa": "7fa6e461de88621c",
    "vpt_tecoa_code": "f499e9a8e563c4db",
    "vpt_pmg_aft": "91122aad3c12a9fc",
}


def test_the_peak_is_what_lives_at_the_same_time():
    """Bytes of float32 tensors of 1,000 numbers: 4,000 each."""

    def chain():
        first = torch.zeros(1000)
        second = first + 1
        del first
        return second * 2  # beside `second` alone

    def kept_for_the_gradient():
        weight = nn.Parameter(torch.zeros(1000))
        weight.exp().sum().backward()  # exp is kept; its sum is 4 bytes, and so is its gradient

    def views():
        whole = torch.zeros(1000)
        return [whole[:10], whole.view(10, 100)]

    cpu = torch.device("cpu")
    assert with_peak_bytes(lambda: 7, cpu) == (7, 0)
    assert with_peak_bytes(chain, cpu)[1] == 8000
    assert with_peak_bytes(kept_for_the_gradient, cpu)[1] == 3 * 4000 + 8
    assert with_peak_bytes(views, cpu)[1] == 4000


def test_measuring_memory_leaves_the_training_as_it_is(clip, tiny, tmp_path, monkeypatch):
    dataset, images, recipe = tiny
    measured = train(recipe, clip, dataset, images, tmp_path / "a.safetensors")
    monkeypatch.setattr("zsrobust.training.loop.with_peak_bytes", lambda work, device: (work(), 1))
    plain = train(recipe, clip, dataset, images, tmp_path / "b.safetensors")
    assert measured.digest == plain.digest
    assert [epoch["memory"] for epoch in plain.history] == [1.0] * recipe.epochs
    assert measured.history[0]["memory"] > sum(
        weight.nbytes for weight in measured.weights.values()
    )  # the gradients alone are as large as the weights

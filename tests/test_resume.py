"""Trainings that are stopped, split, shared, or in half precision."""

import math
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import fresh
import numpy as np
import pytest
import torch
from tiny import make_clip
from torch import Tensor, nn

from zsrobust.attacks.pgd import PGD
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Dataset, Images
from zsrobust.defenses import defenses
from zsrobust.defenses.lore import network
from zsrobust.defenses.pmg_aft import OPTIONS
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.clip import Clip, load_clip
from zsrobust.models.zeroshot import ZeroShotClassifier
from zsrobust.results.digests import read_weights, seal
from zsrobust.training import Checkpoint, Recipe, Step, loop, objectives, train
from zsrobust.training.learner import BFloat16, Learner
from zsrobust.training.loop import Tally
from zsrobust.training.partial import Partial

generator = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (12, 3, 16, 16), generator=generator, dtype=torch.uint8).numpy()
IMAGES = Images(pixels=PIXELS, labels=torch.arange(12).remainder(3).numpy())
DATASET = Dataset(
    title="tiny",
    group="general",
    about="",
    classes=("cat", "dog", "cow"),
    templates=("a {}",),
    describe=lambda: [[f"{name} {i}" for i in range(5)] for name in ("cat", "dog", "cow")],
    size=12,
    side=16,
    load=lambda split: IMAGES,
)
#: 12 images in batches of 5: 6 steps, the third and the last of which end an epoch, on 2 images.
TECOA = Recipe(
    objective="tecoa",
    attack="pgd2",
    eps=0.02,
    step_size=0.01,
    epochs=2,
    batch_size=5,
    lr=0.01,
    warmup=2,
)
PMG_AFT = replace(TECOA, objective="pmg_aft", options=OPTIONS)
ADAMW = replace(TECOA, optimizer="adamw", lr=1e-3, weight_decay=0.1)
PROMPTS = replace(PMG_AFT, trainable="prompts", lr=1.0, options={**OPTIONS, "tokens": 2})
BF16 = replace(PMG_AFT, precision="bfloat16")
LORE = replace(TECOA, objective="lore", options={"rho": 0.1, "primal_steps": 2, "dual_lr": 1e-3})
STEPS = 6


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Clip]:
    folder = tmp_path_factory.mktemp("clips")
    return {kind: load_clip(make_clip(folder / kind, kind).backbone) for kind in ("vit", "resnet")}


@pytest.fixture(scope="module")
def clip(clips) -> Clip:
    return clips["vit"]


@pytest.fixture(scope="module")
def undisturbed(clips, tmp_path_factory):
    """What a training gives that nothing stops, by kind of tower and recipe."""
    folder, made = tmp_path_factory.mktemp("undisturbed"), {}

    def trained(recipe, kind="vit"):
        key = f"{kind}-{recipe.digest}"
        if key not in made:
            made[key] = train(recipe, clips[kind], DATASET, IMAGES, folder / f"{key}.safetensors")
        return made[key]

    return trained


class Stop:
    """A progress that raises when it hears of a step, and keeps the notes."""

    def __init__(self, at=-1, error=KeyboardInterrupt):
        self.at, self.error, self.calls = at, error, []

    def __call__(self, done, total, note):
        self.calls.append((done, total, note))
        if done == self.at and not note.startswith("resumed"):
            raise self.error

    @property
    def notes(self):
        return [note for _, _, note in self.calls]


def alike(one: Checkpoint, other: Checkpoint) -> None:
    """Hold two checkpoints to be the same, times and memory apart."""
    assert one.digest == other.digest
    assert (one.recipe, one.sources, one.prompts) == (other.recipe, other.sources, other.prompts)
    measured = {"memory": 0, "seconds": 0}  # memory is that of the first step after a stop
    histories = [[{**epoch, **measured} for epoch in each.history] for each in (one, other)]
    assert histories[0] == histories[1]


#: Every trained defense's own recipe, as short as the others.
BUDGET = {"epochs": 2, "batch_size": 5, "warmup": 2}
ATTACK = {"attack": "pgd2", "eps": 0.02, "step_size": 0.01}
CONTEXT = {"options": {"tokens": 4}}  # the tiny text tower reads 16 tokens
SHIPPED = {name: defenses[name] for name in defenses if getattr(defenses[name], "recipe", None)}
OWN = {
    name: replace(
        defense.recipe,
        **BUDGET,
        **(ATTACK if defense.recipe.attack else {}),
        lr=min(defense.recipe.lr * 20, 1.0),
        **(CONTEXT if defense.recipe.trainable == "context" else {}),
    )
    for name, defense in SHIPPED.items()
}
KINDS = {"adamw": ADAMW, "prompts": PROMPTS, "bfloat16": BF16, "dual": LORE}


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [*(("vit", recipe) for recipe in (OWN | KINDS).values()), ("resnet", TECOA)],
    ids=[*(OWN | KINDS), "resnet"],
)
def test_a_training_stopped_after_every_step_ends_as_one_that_was_not(
    clips, undisturbed, kind, recipe, tmp_path
):
    path = tmp_path / "stopped.safetensors"
    for step in range(1, STEPS + 1):
        heard = Stop(step)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, clips[kind], DATASET, IMAGES, path, heard)
        assert heard.notes[0].startswith(f"resumed at step {step - 1} of 6") == (step > 1)
        assert not path.exists()
    alike(train(recipe, clips[kind], DATASET, IMAGES, path), undisturbed(recipe, kind))
    assert list(tmp_path.iterdir()) == [path]


def test_an_objectives_own_random_numbers_return_when_a_training_is_resumed(
    clip, tmp_path, monkeypatch
):
    drawn = []

    def noisy(step: Step) -> Tensor:
        noise = step.draws.uniform(step.images.shape[1:], "noisy")
        drawn.append(noise)
        logits = step.student((step.images + 0.1 * noise).clamp(0, 1))
        return nn.functional.cross_entropy(logits, step.labels)

    monkeypatch.setattr("zsrobust.training.steps.objectives", {"noisy": noisy})
    recipe = replace(TECOA, objective="noisy", attack=None)
    undisturbed = train(recipe, clip, DATASET, IMAGES, tmp_path / "a.safetensors")
    whole = list(drawn)
    drawn.clear()
    with pytest.raises(KeyboardInterrupt):
        train(recipe, clip, DATASET, IMAGES, tmp_path / "b.safetensors", Stop(2))
    alike(train(recipe, clip, DATASET, IMAGES, tmp_path / "b.safetensors"), undisturbed)
    assert len(drawn) == len(whole) == STEPS
    assert all(map(torch.equal, drawn, whole))
    epochs = [torch.cat(whole[:3]).flatten(1), torch.cat(whole[3:]).flatten(1)]
    assert len(torch.cat(epochs).unique(dim=0)) == 2 * len(IMAGES)  # no numbers twice


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_training_stopped_in_the_midst_of_a_step_ends_as_one_that_was_not(
    clips, undisturbed, kind, step, tmp_path, monkeypatch
):
    asked = 0

    def stops(given: Step) -> Tensor:
        nonlocal asked
        loss = objectives["pmg_aft"](given)
        asked += 1
        if asked == step + 1:
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr("zsrobust.training.steps.objectives", {"pmg_aft": stops})
    with pytest.raises(KeyboardInterrupt):
        train(PMG_AFT, clips[kind], DATASET, IMAGES, tmp_path / "a.safetensors")
    monkeypatch.undo()
    assert (tmp_path / "a.partial").exists() == (step > 0)
    heard = Stop()
    found = train(PMG_AFT, clips[kind], DATASET, IMAGES, tmp_path / "a.safetensors", heard)
    alike(found, undisturbed(PMG_AFT, kind))
    assert heard.notes[0].startswith("resumed") == (step > 0)


def test_half_a_move_is_not_saved(clip, undisturbed, tmp_path, monkeypatch):
    move = torch.optim.SGD.step
    moves = 0

    def half(optimizer, *arguments):
        nonlocal moves
        move(optimizer, *arguments)
        moves += 1
        if moves == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.SGD, "step", half)
    with pytest.raises(KeyboardInterrupt):
        train(TECOA, clip, DATASET, IMAGES, tmp_path / "a.safetensors", save_every=0)
    monkeypatch.undo()
    heard = Stop()
    alike(
        train(TECOA, clip, DATASET, IMAGES, tmp_path / "a.safetensors", heard), undisturbed(TECOA)
    )
    assert heard.calls[0][0] == 2


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_what_was_saved_on_the_way_is_enough_when_a_training_dies(
    clip, undisturbed, step, tmp_path
):
    with pytest.raises(RuntimeError):
        train(
            TECOA,
            clip,
            DATASET,
            IMAGES,
            tmp_path / "a.safetensors",
            Stop(step, RuntimeError),
            save_every=0,
        )
    heard = Stop()
    alike(
        train(TECOA, clip, DATASET, IMAGES, tmp_path / "a.safetensors", heard), undisturbed(TECOA)
    )
    assert heard.calls[0][0] == (step - 1 or 1)


def test_seconds_go_on_where_they_ended(clip, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train(TECOA, clip, DATASET, IMAGES, tmp_path / "a.safetensors", Stop(2))
    read = Partial.read(tmp_path / "a.partial", {})
    assert read.done == 2
    assert read.seconds > 0
    monkeypatch.setattr(Partial, "read", lambda path, made_from: replace(read, seconds=1000.0))
    history = train(TECOA, clip, DATASET, IMAGES, tmp_path / "a.safetensors").history
    assert history[0]["seconds"] > 1000 > history[1]["seconds"]


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def another_format(path):
    path.write_bytes(path.read_bytes().replace(b"zsrobust-partial-2", b"zsrobust-partial-0"))


def empty(path):
    path.write_bytes(b"")


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, another_format, empty, a_folder])
def test_a_damaged_partial_is_set_aside(clip, undisturbed, damage, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(TECOA, clip, DATASET, IMAGES, tmp_path / "a.safetensors", Stop(2))
    damage(tmp_path / "a.partial")
    heard = Stop()
    alike(
        train(TECOA, clip, DATASET, IMAGES, tmp_path / "a.safetensors", heard), undisturbed(TECOA)
    )
    assert heard.notes[0].startswith("begun anew: a.partial is damaged (")
    assert (tmp_path / "a.partial.aside").exists()
    assert not (tmp_path / "a.partial").exists()


@pytest.mark.parametrize("what", ["recipe", "backbone", "images", "prompts"])
def test_a_partial_from_something_else_is_set_aside(clip, clips, what, tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(TECOA, clip, DATASET, IMAGES, path, Stop(2))
    recipe = replace(TECOA, lr=0.02) if what == "recipe" else TECOA
    backbone = clips["resnet"] if what == "backbone" else clip
    images = Images(pixels=255 - PIXELS, labels=IMAGES.labels) if what == "images" else IMAGES
    dataset = replace(DATASET, templates=("one {}",)) if what == "prompts" else DATASET
    heard = Stop()
    train(recipe, backbone, dataset, images, path, heard)
    other = {"recipe": "recipe", "prompts": "prompts"}.get(what, "sources")
    assert heard.calls[0] == (0, STEPS, f"begun anew: a.partial was made from other {other}")


def test_weights_that_do_not_fit_are_set_aside(clip, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train(TECOA, clip, DATASET, IMAGES, tmp_path / "a.safetensors", Stop(2))
    read = Partial.read(tmp_path / "a.partial", {})
    for wrong in (
        {name: tensor for name, tensor in read.tensors.items() if name != "weight/proj"},
        {**read.tensors, "weight/proj": torch.zeros(2)},
        {**read.tensors, "momentum_buffer/another": torch.zeros(2)},
    ):
        (tmp_path / "a.partial").touch()
        monkeypatch.setattr(
            Partial, "read", lambda path, made_from, wrong=wrong: replace(read, tensors=wrong)
        )
        heard = Stop()
        train(TECOA, clip, DATASET, IMAGES, tmp_path / "a.safetensors", heard)
        assert heard.notes[0] == "begun anew: its weights do not fit"


def test_a_partial_that_cannot_be_written_stops_nothing(clip, undisturbed, tmp_path, monkeypatch):
    def full(*arguments):
        raise ZSRobustError("Cannot write a.partial: the disk is full.")

    monkeypatch.setattr(Partial, "write", full)
    heard = Stop()
    alike(
        train(TECOA, clip, DATASET, IMAGES, tmp_path / "a.safetensors", heard, save_every=0),
        undisturbed(TECOA),
    )
    assert heard.notes[-1].endswith("%; Cannot write a.partial: the disk is full.")


def test_the_workshop_goes_on_with_a_training(tmp_path):
    spec, suite = "tecoa:epochs=1,batch_size=32,limit=64", make_clip(tmp_path / "clip")
    workshop = Workshop(suite, tmp_path)
    heard = []

    def stop(name, done, total, note):
        heard.append(note)
        if len(heard) == 1:
            raise KeyboardInterrupt

    workshop.progress = stop
    with pytest.raises(KeyboardInterrupt):
        workshop.tower(spec)
    workshop.micro_batch, workshop.checkpoint_activations = 20, True
    workshop.tower(spec)
    assert heard[1] == "resumed at step 1 of 2"
    assert heard[2].endswith("; 20 images at a time; resumed at step 1 of 2")


@pytest.fixture
def given(clip):
    """A batch in float64, a student and another teacher, and what else an objective may need."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def classifier():
        tower = clip.copy().double()
        for weight in tower.parameters():
            weight.data += 0.05 * randn(*weight.shape)
        return ZeroShotClassifier(tower, head, [0.5] * 3, [0.25] * 3, 16)

    head = randn(4, 16)
    images = torch.rand(7, 3, 16, 16, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 1])
    dual = network(16).double()
    return Step(
        images,
        labels,
        classifier(),
        classifier(),
        lambda x, y: (x + 0.05).clamp(0, 1),
        {},
        heads=randn(5, 4, 16),
        dual=dual,
    )


@pytest.mark.parametrize(
    "recipe", [defense.recipe for defense in SHIPPED.values()], ids=list(SHIPPED)
)
def test_the_parts_of_a_batch_have_its_gradient(given, recipe):
    learned = [*given.student.parameters(), *given.dual.parameters()]

    def gradient(size):
        for weight in learned:
            weight.grad = None
        total = 0.0
        for some, wanted in zip(given.images.split(size), given.labels.split(size), strict=True):
            share = len(some) / len(given.images)
            part = {"images": some, "labels": wanted, "share": share, "options": recipe.options}
            loss = objectives[recipe.objective](replace(given, **part)) * share
            loss.backward()
            total += loss.item()
        found = [weight.grad.flatten() for weight in learned if weight.grad is not None]
        return total, torch.cat(found)

    loss, whole = gradient(len(given.images))
    for size in (1, 3, 5):
        in_parts, parts = gradient(size)
        assert in_parts == pytest.approx(loss, rel=1e-9)
        assert torch.allclose(parts, whole, rtol=1e-7, atol=1e-9 * float(whole.abs().max()))


def close(one: Checkpoint, other: Checkpoint, start: nn.Module) -> None:
    """Hold the ways of two towers from their start to be the same, but for a thousandth of their length."""
    for name, weight in start.named_parameters():
        ways = [each.weights[name] - weight for each in (one, other)]
        assert (ways[0] - ways[1]).norm() <= 1e-3 * ways[0].norm() + 1e-6
    for first, second in zip(one.history, other.history, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
        assert second["accuracy"] == first["accuracy"]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_micro_batches_change_what_is_learned_in_the_last_bits_at_most(
    clip, undisturbed, size, tmp_path
):
    whole = undisturbed(PMG_AFT)
    parts = train(PMG_AFT, clip, DATASET, IMAGES, tmp_path / "parts.safetensors", micro_batch=size)
    assert parts.recipe == whole.recipe
    assert (parts.digest == whole.digest) == (size == 100)
    close(whole, parts, clip.encoder)


def test_a_micro_batch_of_none_is_refused(clip, tmp_path):
    with pytest.raises(ZSRobustError, match="micro-batch of 0"):
        train(TECOA, clip, DATASET, IMAGES, tmp_path / "a.safetensors", micro_batch=0)


def test_what_does_not_fit_into_memory_is_tried_in_halves(clip, clips, tmp_path, monkeypatch):
    sizes = []

    def objective(fits):
        def needs(step: Step) -> Tensor:
            loss = objectives["tecoa"](step)
            sizes.append(len(step.labels))
            if len(step.labels) > fits:
                raise torch.cuda.OutOfMemoryError
            return loss

        return {"tecoa": needs}

    expected = train(TECOA, clip, DATASET, IMAGES, tmp_path / "two.safetensors", micro_batch=2)
    monkeypatch.setattr("zsrobust.training.steps.objectives", objective(fits=2))
    heard = Stop()
    found = train(TECOA, clip, DATASET, IMAGES, tmp_path / "a.safetensors", heard)
    assert sizes == [5, 3, *[2, 2, 1], *[2, 2, 1], 2, *[2, 2, 1], *[2, 2, 1], 2]
    assert heard.notes[-1].endswith("; 2 images at a time")
    alike(found, expected)
    monkeypatch.setattr("zsrobust.training.steps.objectives", objective(fits=0))
    with pytest.raises(
        ZSRobustError, match="One image at a time is too much for the memory of cpu"
    ):
        train(TECOA, clip, DATASET, IMAGES, tmp_path / "b.safetensors")
    with pytest.raises(ZSRobustError, match="normalizes over the batch"):
        train(TECOA, clips["resnet"], DATASET, IMAGES, tmp_path / "c.safetensors")


def test_a_tower_that_normalizes_over_the_batch_takes_it_whole(clips, tmp_path):
    with pytest.raises(ZSRobustError, match="would learn something else from parts of it"):
        train(TECOA, clips["resnet"], DATASET, IMAGES, tmp_path / "a.safetensors", micro_batch=2)


def test_bfloat16_is_for_the_passes_and_for_nothing_else(clip, undisturbed, tmp_path, monkeypatch):
    assert BF16.digest != PMG_AFT.digest
    assert defenses.create("tecoa:precision=bfloat16").overrides == {"precision": "bfloat16"}
    inner, outer, images = set(), set(), set()
    forward = BFloat16.forward

    def spy(tower, given):
        images.add(given.dtype)
        hook = tower.tower.register_forward_hook(lambda module, given, out: inner.add(out.dtype))
        found = forward(tower, given)
        hook.remove()
        outer.add(found.dtype)
        return found

    monkeypatch.setattr(BFloat16, "forward", spy)
    half = train(BF16, clip, DATASET, IMAGES, tmp_path / "half.safetensors")
    assert (inner, outer, images) == ({torch.bfloat16}, {torch.float32}, {torch.float32})
    full = undisturbed(PMG_AFT)
    assert {weight.dtype for weight in half.weights.values()} == {torch.float32}
    assert half.digest != full.digest
    assert half.history[0]["loss"] == pytest.approx(full.history[0]["loss"], rel=0.02)
    assert half.weights.keys() == full.weights.keys()
    learner = Learner(BF16, clip, DATASET, IMAGES, None, False)
    learner.gradients(0, torch.arange(5))
    learner.move(0)
    assert {tensor.dtype for tensor in learner.tensors().values()} == {torch.float32}
    assert "momentum_buffer/proj" in learner.tensors()


@pytest.mark.parametrize("recipe", [PMG_AFT, PROMPTS, BF16], ids=["encoder", "prompts", "bfloat16"])
def test_activations_computed_twice_are_the_same(clip, undisturbed, recipe, tmp_path):
    kept = undisturbed(recipe)
    state = torch.random.get_rng_state()
    twice = train(
        recipe, clip, DATASET, IMAGES, tmp_path / "twice.safetensors", checkpoint_activations=True
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert not clip.encoder.transformer.grad_checkpointing
    for name, weight in kept.weights.items():
        assert torch.allclose(twice.weights[name], weight, rtol=1e-4, atol=1e-6)


def test_activation_checkpoints_pass_the_blocks_twice(clip):
    passes = {}
    for again in (False, True):
        learner = Learner(
            replace(TECOA, attack=None, objective="ft_standard"), clip, DATASET, IMAGES, None, again
        )
        seen = []
        learner.student.encoder.transformer.resblocks[0].ln_1.register_forward_hook(
            lambda *_, seen=seen: seen.append(1)
        )
        learner.gradients(0, torch.arange(5))
        passes[again] = len(seen)
    assert passes == {False: 1, True: 2}


def test_crafting_takes_no_gradient_of_a_weight(clip, monkeypatch):
    attack, modes = PGD.__call__, []

    def spy(self, classifier, *arguments):
        found = attack(self, classifier, *arguments)
        modes.append(classifier.training)
        assert not any(parameter.requires_grad for parameter in classifier.parameters())
        assert all(parameter.grad is None for parameter in classifier.parameters())
        assert not found.requires_grad
        return found

    monkeypatch.setattr(PGD, "__call__", spy)
    learner = Learner(PMG_AFT, clip, DATASET, IMAGES, None, False)
    for done in range(2):
        learner.gradients(0, torch.arange(5))
        assert all(weight.grad is not None for weight in learner.weights.values())
        learner.move(done)
    assert modes == [False, False]
    assert all(parameter.grad is None for parameter in learner.teacher.parameters())


def test_the_first_loss_that_is_not_finite_is_remembered():
    tally = Tally(torch.device("cpu"))
    for step, total in enumerate([3.0, 6.0, math.inf, 3.0, math.nan]):
        tally.add(torch.tensor([total, 1.0], dtype=torch.float64), 3, step)
    with pytest.raises(ZSRobustError, match="the loss is inf at step 2. Lower lr"):
        tally.look()
    tally = Tally(torch.device("cpu"))
    for step in range(4):
        tally.add(torch.tensor([3.0, 1.0], dtype=torch.float64), 3, step, torch.tensor(step < 2))
    with pytest.raises(ZSRobustError, match="the gradient is not finite at step 2. Lower lr"):
        tally.look()
    tally = Tally(torch.device("cpu"), 3.0, 2.0)
    tally.add(torch.tensor([3.0, 1.0], dtype=torch.float64), 3, 0)
    assert tally.look() == (6.0, 3.0)


def poisoned(monkeypatch, poison, at):
    """Let `poison` change the loss of step `at`."""
    asked = 0

    def objective(step: Step) -> Tensor:
        nonlocal asked
        loss, asked = objectives["tecoa"](step), asked + 1
        return poison(loss) if asked == at + 1 else loss

    monkeypatch.setattr("zsrobust.training.steps.objectives", {"tecoa": objective})


def spoil_the_gradient(loss):
    loss.register_hook(lambda gradient: gradient * math.nan)
    return loss


@pytest.mark.parametrize(
    ("poison", "what"),
    [
        (lambda loss: loss * math.nan, "the loss is nan"),
        (lambda loss: loss + math.inf, "the loss is inf"),
        (spoil_the_gradient, "the gradient is not finite"),
    ],
    ids=["loss", "infinite", "gradient"],
)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("at", [0, 1, 4])
def test_what_is_not_finite_stops_with_its_step_its_images_and_the_last_good_state(
    clip, undisturbed, poison, what, every, at, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "LOOK_EVERY", {"cpu": every})
    poisoned(monkeypatch, poison, at)
    path, chosen = tmp_path / "a.safetensors", np.arange(100, 112)
    images = replace(IMAGES, chosen=chosen)
    with pytest.raises(ZSRobustError) as caught:
        train(TECOA, clip, DATASET, images, path, save_every=0)
    epoch, positions = list(loop.batches(TECOA, len(images)))[at]
    told = ", ".join(str(place) for place in chosen[positions.numpy()])
    kept = (
        f"The last good state is {path.with_suffix('.partial')}, of step {at}."
        if at
        else "No state was saved before it."
    )
    assert str(caught.value) == (
        f"Training tecoa: {what} at step {at}. Lower lr. "
        f"It is in epoch {epoch + 1}, on the images {told} of {TECOA.train_on}. {kept}"
    )
    assert not path.exists()
    monkeypatch.undo()
    heard = Stop()
    alike(train(TECOA, clip, DATASET, images, path, heard), undisturbed(TECOA))
    assert heard.notes[0].startswith(f"resumed at step {at} of 6") == (at > 0)


def test_weights_that_are_not_finite_are_neither_saved_nor_a_checkpoint(
    clip, tmp_path, monkeypatch
):
    move, moves = Learner.move, 0

    def overflow(learner, done):
        nonlocal moves
        move(learner, done)
        moves += 1
        if moves == STEPS:
            next(iter(learner.weights.values())).data.view(-1)[0] = math.inf

    monkeypatch.setattr(Learner, "move", overflow)
    path, heard = tmp_path / "a.safetensors", Stop()
    with pytest.raises(
        ZSRobustError, match=r"Training tecoa: weights are not finite after step 5\. Lower lr\."
    ):
        train(TECOA, clip, DATASET, IMAGES, path, heard, save_every=0)
    assert not path.exists()
    assert Partial.read(path.with_suffix(".partial"), {}).done == STEPS - 1


def test_a_checkpoint_carries_its_digest(clip, undisturbed, tmp_path):
    path = tmp_path / "a.safetensors"
    train(TECOA, clip, DATASET, IMAGES, path)
    metadata, weights = read_weights(path)
    assert weights == undisturbed(TECOA).digest
    assert metadata["digest"] == seal(metadata, weights)
    assert metadata["digest"] != seal({**metadata, "history": "[]"}, weights)


def test_what_a_killed_process_left_of_its_writing_is_removed(clip, tmp_path):
    path = tmp_path / "a.safetensors"
    for name in (
        ".a.safetensors.abcd_123",
        ".a.partial.abcd_123",
        ".b.partial.abcd_123",
        ".a.safetensors.claim",
    ):
        (tmp_path / name).touch()
    train(TECOA, clip, DATASET, IMAGES, path)
    assert {each.name for each in tmp_path.iterdir()} == {
        path.name,
        ".b.partial.abcd_123",
        ".a.safetensors.claim",
    }


def test_where_looking_is_waiting_it_is_done_now_and_then(clip, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOOK_EVERY", {"cpu": 2})
    looks = []
    look = Tally.look
    monkeypatch.setattr(Tally, "look", lambda tally: looks.append(1) or look(tally))
    heard = Stop()
    seldom = train(TECOA, clip, DATASET, IMAGES, tmp_path / "a.safetensors", heard)
    assert (
        len(looks) == 6
    )  # at steps 0, 2 and 4, at the ends of both epochs, where the history looks too
    assert heard.notes[0] == heard.notes[1] != heard.notes[2]
    monkeypatch.undo()
    alike(seldom, undisturbed(TECOA))
    monkeypatch.setattr(loop, "LOOK_EVERY", {"cpu": 2})
    with pytest.raises(ZSRobustError, match=r"the loss is nan at step 1\. Lower lr"):
        train(
            replace(TECOA, lr=1e30), clip, DATASET, IMAGES, tmp_path / "c.safetensors", save_every=0
        )


#: 12 images in batches of 11: of the second and of the last, there is one image for two processes.
SHARED = {"pmg_aft": replace(PMG_AFT, batch_size=11), "resumed": replace(TECOA, batch_size=11)}


def share_the_work(rank: int, folder: Path) -> None:
    """Train as one of two processes; the second recipe is stopped in both, and resumed."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=2
    )
    clip = load_clip(f"local-dir:{folder}/clip")
    for name, recipe in SHARED.items():
        path = folder / f"shared_{name}.safetensors"
        if name == "resumed":
            with suppress(KeyboardInterrupt):
                train(recipe, clip, DATASET, IMAGES, path, Stop(3))
            torch.distributed.barrier()  # now what the first saved is there
        heard = Stop()
        read = train(recipe, clip, DATASET, IMAGES, path, heard, micro_batch=4)
        assert read.digest == Checkpoint.read(path).digest
        assert heard.notes[0].startswith("resumed at step 3 of 4") == (name == "resumed")
    with pytest.raises(ZSRobustError, match=r"the loss is nan at step 1\. Lower lr"):
        train(replace(TECOA, lr=1e30), clip, DATASET, IMAGES, folder / "nan.safetensors")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_processes_share_every_batch_and_learn_what_one_would(tmp_path):
    make_clip(tmp_path / "clip")
    processes = [
        fresh.Process(share_the_work, rank, tmp_path, folder=tmp_path, environment=os.environ)
        for rank in range(2)
    ]
    clip = load_clip(f"local-dir:{tmp_path}/clip")
    for process in processes:
        done = process.end()
        assert done.returncode == 0, done.stderr
    for name, recipe in SHARED.items():
        alone = train(recipe, clip, DATASET, IMAGES, tmp_path / f"alone_{name}.safetensors")
        shared = Checkpoint.read(tmp_path / f"shared_{name}.safetensors")
        assert shared.recipe == alone.recipe
        close(alone, shared, clip.encoder)
    assert not list(tmp_path.glob("*.partial*"))

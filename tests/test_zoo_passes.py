"""One training step costs the passes that its equation needs, and no more."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from tiny import make_clip

from zsrobust.core.registry import load_plugins
from zsrobust.datasets import Images, datasets
from zsrobust.defenses import defenses
from zsrobust.models.clip import load_clip
from zsrobust.training.learner import Learner

#: Passes of each image through the student forward, the teacher forward, and the student backward.
#: A PGD of n steps takes n forward and n backward passes through the student. Then come the images
#: of the loss: x' are adversarial, x are clean images. Every one whose outputs take a gradient has
#: a backward pass. The teacher never has one.
PASSES = {
    "ft_standard": (1, 0, 1),  # f(x)
    "tecoa": (2 + 1, 0, 2 + 1),  # PGD-2, f(x')
    "vpt_tecoa": (2 + 1, 0, 2 + 1),
    "vpt_tecoa_code": (2 + 1, 0, 2 + 1),
    "pmg_aft": (2 + 2, 1, 2 + 2),  # PGD-2, f(x'), f(x); f0(x')
    "pmg_aft:stop_gradient=true": (2 + 2, 1, 2 + 1),  # f(x) is a fixed target
    "pmg_aft:alpha=0": (2 + 2, 0, 2 + 2),
    "pmg_aft:beta=0": (2 + 1, 1, 2 + 1),
    "pmg_aft_code": (2 + 2, 1, 2 + 2),
    "vpt_pmg_aft": (2 + 2, 1, 2 + 2),
    "fare": (10 + 1, 1, 10 + 1),  # PGD-10 and loss share f0(x); f(x')
    "lore": (10 + 2, 1, 10 + 2),  # FARE, and f(x) in the constraint
    "sim_clip": (10 + 2, 1, 10 + 2),  # f0(x) for the attack; f(x'), f(x)
    "sim_clip_code": (10 + 1, 1, 10 + 1),  # f(x'); f0(x) for both
    "agft": (2 + 1, 1, 2 + 1),  # f(x'); f0(x) for the targets of both
    "tga_zsr": (2 + 2, 1, 2 + 2),  # f(x'), f(x); f0(x) for both terms
    "tga_zsr:alpha=0": (2 + 2, 1, 2 + 2),
    "tga_zsr:beta=0": (2 + 1, 1, 2 + 1),
    "tga_zsr:alpha=0,beta=0": (2 + 1, 0, 2 + 1),
    "tga_zsr_code": (2 + 2, 1, 2 + 2),
    "comp_tga": (2 + 2, 1, 2 + 2),  # both attentions come from the same tokens
    "saft": (2 + 2, 1, 2 + 2),  # as TGA-ZSR; more texts cost no passes
    "apt:of=clip,tokens=4": (3 + 1, 0, 3),  # PGD-3; f(x') is of a frozen tower
    "ucat": (2 + 1, 1, 2 + 1),  # f(x'); f0(x)
    "ucat:kl_weight=0": (2 + 1, 0, 2 + 1),
}


def trained():
    """Return the registered defenses that have a recipe."""
    load_plugins()
    return {name for name in defenses if defenses[name].recipe is not None}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip"))


def count(classifier, seen, who):
    """Count rows that go through the first layer of a tower, and gradients that come back to it."""
    (tower,) = (part for part in classifier.encoder.modules() if hasattr(part, "grid_size"))

    def passed(module, given, out):
        seen[who, "forward"] += len(out)
        if out.requires_grad:
            out.register_hook(lambda grad: seen.update({(who, "backward"): len(grad)}))

    tower.conv1.register_forward_hook(passed)


def test_the_table_has_every_trained_defense_and_no_other():
    assert {spec.partition(":")[0] for spec in PASSES} == trained()


@pytest.mark.parametrize("spec", PASSES)
def test_a_training_step_costs_the_passes_that_its_equation_needs(suite, spec):
    recipe = defenses.create(spec).recipe_for(suite)
    recipe = dataclasses.replace(recipe, batch_size=5)
    dataset = datasets[recipe.train_on]
    pixels = np.random.RandomState(0).randint(0, 256, (10, 3, 16, 16)).astype(np.uint8)
    images = Images(pixels=pixels, labels=np.arange(10))
    learner = Learner(recipe, load_clip(suite.backbone), dataset, images, None, False)
    seen = Counter()
    count(learner.student, seen, "student")
    count(learner.teacher, seen, "teacher")
    for done in range(2):  # the second step costs what the first one does
        seen.clear()
        learner.gradients(0, torch.arange(5) + 5 * done)
        learner.move(done)
        assert seen["teacher", "backward"] == 0
        found = seen["student", "forward"], seen["teacher", "forward"], seen["student", "backward"]
        assert [passes / 5 for passes in found] == list(PASSES[spec])

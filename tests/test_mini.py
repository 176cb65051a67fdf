"""The embedded suite: the world, its datasets, and the weights of its CLIP."""

import hashlib

import numpy as np
import pytest
import torch
from numpy.random import RandomState

from zsrobust.attacks import attacks
from zsrobust.datasets import Cut, Images, datasets
from zsrobust.datasets.pixels import resizing
from zsrobust.evaluation.referee import predict
from zsrobust.mini import world
from zsrobust.mini.pretrain import CONFIG, draw
from zsrobust.models.clip import load_clip
from zsrobust.reporting.rows import Need
from zsrobust.running.plan import plan
from zsrobust.settings import protocols, suites
from zsrobust.testing import check_dataset

MINI = suites.load("mini")
WEIGHTS = "5604d78d412fbd2da164e34ab742ff53fecc6f2713c4c2cc18b7eaed2c720635"  # sha256 of open_clip_model.safetensors
#: Zero-shot accuracy (%) on the whole test sets, as in results/mini/table2.md, and how far another machine may be off.
ACCURACY = {
    "mini_shapes": 82.67,
    "mini_train": 93.25,
    "mini_handwriting": 55.6,
    "mini_cells": 100.0,
}


@pytest.mark.parametrize("name", MINI.datasets)
def test_every_dataset_holds_the_contract(name):
    check_dataset(name)
    assert 200 <= datasets[name].size <= 500


def test_there_are_sixteen_datasets_in_five_groups_of_many_sizes():
    chosen = [datasets[name] for name in MINI.datasets]
    assert len(set(MINI.datasets)) == 16
    assert len({dataset.group for dataset in chosen}) == 5
    assert {2, 100} <= {len(dataset.classes) for dataset in chosen}


def test_no_image_is_resized():
    for name in MINI.datasets:
        assert resizing(datasets[name].load("test"), Cut(32)) == {}


def test_the_target_dataset_has_a_training_split_of_its_own():
    test, train = datasets[MINI.train_on].load("test"), datasets[MINI.train_on].load("train")
    assert len(train) == 2000
    seen = {picture.tobytes() for picture in train.pixels}
    assert not seen & {picture.tobytes() for picture in test.pixels}


@pytest.mark.parametrize("kind", world.KINDS, ids=lambda kind: kind.__name__)
def test_a_kind_draws_the_same_from_the_same_seed_and_says_what_it_drew(kind):
    first, captions = kind(RandomState(7))
    again, same = kind(RandomState(7))
    other, _ = kind(RandomState(8))
    assert np.array_equal(first, again)
    assert captions == same
    assert not np.array_equal(first, other)
    assert first.shape == (3, 32, 32)
    assert np.isfinite(first).all()
    assert captions[-1].startswith("this is a photo of ")


def test_the_world_is_the_same_on_every_machine():
    pictures, captions = draw(seed=3, number=50)
    assert hashlib.sha256(repr(captions).encode()).hexdigest()[:16] == WORLD[0]
    assert hashlib.sha256(pictures.tobytes()).hexdigest()[:16] == WORLD[1]


def test_a_subset_is_balanced_nested_and_fixed():
    images = datasets["mini_colors"].load("test")
    small, large = images.subset(25), images.subset(60)
    assert sorted(np.bincount(small.labels).tolist()) == [2] * 5 + [3] * 5
    assert np.bincount(large.labels).tolist() == [6] * 10
    inside = {picture.tobytes() for picture in large.pixels}
    assert all(picture.tobytes() in inside for picture in small.pixels)
    assert images.subset(None) is images.subset(10_000) is images
    positions = Images(
        pixels=np.arange(30, dtype=np.uint8).reshape(30, 1, 1, 1), labels=np.arange(30) % 3
    ).subset(6)
    assert positions.pixels.ravel().tolist() == SUBSET


def test_the_weights_are_the_ones_that_were_measured():
    weights = CONFIG.with_name("open_clip_model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == WEIGHTS


@pytest.mark.parametrize("name", ACCURACY)
def test_the_zero_shot_accuracy_is_the_one_that_was_measured(name):
    dataset = datasets[name]
    classifier = load_clip(MINI.backbone).classifier(dataset.prompts())
    images = dataset.load("test")
    correct = (
        predict(classifier, torch.from_numpy(images.pixels).float() / 255) == images.labels
    ).mean()
    assert 100 * correct == pytest.approx(ACCURACY[name], abs=0.5)


def test_the_suites_eps_is_that_of_training_and_of_attacks():
    assert MINI.attack["eps"] == MINI.recipe["eps"] == attacks.create("autoattack", MINI.attack).eps


WORLD = ("d93346d1c9f3c6c5", "19f1ed62483c7fd5")
SUBSET = [11, 15, 16, 25, 27, 29]


def test_a_need_of_every_fourth_dataset_plans_those_once():
    suite, protocol = MINI, protocols.load("sound")
    few, all_of_them = Need("clip", "autoattack", every=4), Need("clip", "autoattack")

    def names(*needs, **chosen):
        return [cell.key.dataset for cell in plan(suite, protocol, needs=needs, **chosen)]

    assert names(few) == ["mini_shapes", "mini_letters", "mini_scenes", "mini_positions"]
    assert names(all_of_them, few) == list(suite.datasets)
    assert sorted(names(few, all_of_them)) == sorted(suite.datasets)
    assert names(few, dataset_names=["mini_colors", "mini_letters"]) == ["mini_letters"]


def test_strong_attacks_are_on_subsets_of_one_size():
    suite, protocol = MINI, protocols.load("sound")
    needs = [Need("clip", attack) for attack in ("autoattack", "pgd100", "pgd10")]
    sizes = {(c.key.attack, c.key.limit) for c in plan(suite, protocol, needs=needs)}
    assert sizes == {("autoattack", 32), ("pgd100", 32), ("pgd10", None)}

"""What is attacked: the classifiers, their correctly classified images, and the attacks."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from adapters import Task
from numpy.typing import NDArray
from torch import Tensor, nn

from zsrobust.datasets.pixels import tensor
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.referee import predict
from zsrobust.models.clip import load_clip
from zsrobust.running.bench import Bench
from zsrobust.running.entries import load_suite
from zsrobust.running.plan import Cell, Key
from zsrobust.settings import protocols

MINI = ("clip", "tecoa", "pmg_aft")
DATASETS = ("mini_shapes", "mini_scenes")  # of ten classes: the targeted DLR loss needs four
VIT = "vit_b32"  # with random weights
POOL = 64  # images of a dataset, among which those are drawn that are classified correctly
VIT_IMAGES, VIT_CLASSES, VIT_STEPS = 4, 10, 10
VIT_EPS = 0.5 / 255  # at 1/255 PGD breaks every image, at 0.1/255 none


@dataclass(frozen=True)
class Family:
    """An attack as the literature names it."""

    kind: str  #: its name in the adapters
    steps: int
    seeds: int  #: 1 where none draws random numbers, and for APGD-T and AutoAttack, which take long
    images: int  #: of each mini dataset
    vit: bool = False  #: whether ViT-B/32 is attacked too
    queries: int = 1000
    targets: int = 9


FAMILIES = {
    "PGD-10": Family("pgd", 10, 3, 32, vit=True),
    "CW": Family("cw", 10, 3, 32),
    "MIM": Family("mim", 10, 1, 32),
    "PGD-100": Family("pgd", 100, 3, 8),
    "APGD-CE": Family("apgd-ce", 100, 3, 16, vit=True),
    "APGD-DLR": Family("apgd-dlr", 100, 3, 8),
    "APGD-T": Family("apgd-t", 100, 1, 4),
    "FAB-T": Family("fab-t", 100, 1, 6, targets=3),
    "Square": Family("square", 0, 3, 4),
    "AutoAttack": Family("autoattack", 100, 1, 3, queries=5000),
}


@dataclass(frozen=True)
class Target:
    """A classifier and the images of one dataset that it classifies correctly."""

    name: str
    classifier: nn.Module
    images: Tensor  #: (N, 3, S, S) in [0, 1]
    labels: Tensor
    task: Task  #: of seed 0

    @cached_property
    def weights(self) -> str:
        """The digest of the classifier's weights: results on others are measured again."""
        digest = hashlib.sha256()
        for parameter in self.classifier.parameters():
            digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def first(self, count: int) -> "Target":
        """Return the same with its first images only."""
        task = replace(self.task, positions=self.task.positions[:count])
        return Target(self.name, self.classifier, self.images[:count], self.labels[:count], task)


def mini(defense: str, checkpoints: Path) -> Iterator[Target]:
    """Yield a defense of the mini suite on each of DATASETS."""
    suite = load_suite("mini")
    bench = Bench(suite, protocols.load(), Workshop(suite, checkpoints, device()))
    for dataset in DATASETS:
        eps, step_size = suite.attack["eps"], suite.attack["step_size"]
        cell = Cell.of(Key(defense, "pgd10", eps, dataset, POOL, 0), suite, bench.protocol)
        classifier = bench.deploy(cell, bench.workshop.tower(defense)).classifier
        found = bench.images(cell)
        pixels = tensor(found, np.arange(len(found)), bench.cut_of(cell), device())
        chosen = correct(classifier, pixels, found.labels)
        labels = torch.from_numpy(found.labels[chosen]).to(pixels.device)
        task = Task(eps, step_size, 0, 0, dataset, found.positions[chosen])
        yield Target(defense, classifier, pixels[torch.from_numpy(chosen)], labels, task)


def vit() -> Iterator[Target]:
    """Yield ViT-B/32 with random weights; the labels are its own predictions."""
    torch.manual_seed(0)
    clip = load_clip("ViT-B-32-quickgelu/openai", device(), weights=False)
    prompts = [[f"This is a photo of a thing of kind {number}"] for number in range(VIT_CLASSES)]
    classifier = clip.classifier(prompts).eval().requires_grad_(False)
    coarse = torch.from_numpy(np.random.RandomState(0).rand(VIT_IMAGES, 3, 7, 7)).float()
    smooth = nn.functional.interpolate(coarse, size=(224, 224), mode="bicubic")
    images = smooth.clamp(0, 1).to(device())
    labels = torch.from_numpy(predict(classifier, images)).to(images.device)
    task = Task(VIT_EPS, VIT_EPS / 2, 0, 0, "pictures", np.arange(VIT_IMAGES))
    yield Target(VIT, classifier, images, labels, task)


def correct(classifier: nn.Module, pixels: Tensor, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places of correctly classified images, in an order that a fixed seed shuffles."""
    shuffled = np.random.RandomState(0).permutation(len(labels))
    return shuffled[(predict(classifier, pixels) == labels)[shuffled]]


def device() -> str:
    """Return the device of the measurements: "cuda" if there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"

"""The bench: a suite measured under a protocol, and what it makes of a cell."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from zsrobust.attacks import frozen
from zsrobust.attacks.draws import Draws
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Cut, Images, Split, datasets
from zsrobust.datasets.pixels import tensor
from zsrobust.defenses import Tower
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.identity import identify_attack, identify_dataset
from zsrobust.evaluation.meter import device_of
from zsrobust.evaluation.referee import Case, Search
from zsrobust.models.clip import cut_for
from zsrobust.models.wrappers import ADAPTIVE, Knowledge
from zsrobust.models.zeroshot import HalfPrecision, ZeroShotClassifier
from zsrobust.results.identity import (
    AttackIdentity,
    DatasetIdentity,
    DefenseIdentity,
    Identity,
)
from zsrobust.running.cost import Speed, measure
from zsrobust.running.plan import Cell
from zsrobust.running.reporter import Reporter
from zsrobust.settings.protocols import Protocol
from zsrobust.settings.suites import Suite

#: The generator of the attacks' random numbers; see `zsrobust.attacks.draws`.
DRAWS = "splitmix64"


@dataclass(frozen=True)
class Deployed:
    """A defense on a dataset's classes: what is judged, and what the attack sees of it."""

    classifier: nn.Module
    target: nn.Module | None = None  #: what the attack sees; None for the classifier itself
    knowledge: Knowledge = ADAPTIVE


class Sample(NamedTuple):
    """A few images of a cell on the device, for red flags."""

    pixels: Tensor  #: (N, 3, S, S) float32 in [0, 1]
    labels: Tensor  #: (N,) int64
    draws: Draws


@dataclass(frozen=True)
class Bench:
    """A suite measured under a protocol, and the workshop that makes its towers."""

    suite: Suite
    protocol: Protocol
    workshop: Workshop
    search: Search = "float32"  #: the precision in which attacks search

    def __post_init__(self) -> None:
        if self.search != "float32" and self.protocol.precision != "float32":
            raise ZSRobustError(
                f"--precision {self.search} is not possible: the protocol {self.protocol.name} "
                "sets "
                "the precision itself. Leave out --precision."
            )

    @cached_property
    def cut(self) -> Cut:
        """How pictures become what is attacked."""
        chosen = self.protocol.interpolation
        interpolation = None if chosen == "backbone" else chosen
        return cut_for(self.workshop.shape, self.protocol.zoom, interpolation)

    @property
    def batch_size(self) -> int | None:
        """How many images the classifier gets at once; None for what fits.

        Half precision divides gradients by it.
        """
        return 256 if self.protocol.precision == "float16" else None

    @cached_property
    def speed(self) -> Speed:
        """The speed of the backbone's tower on the workshop's device, measured now."""
        return measure(self.workshop.shape.encoder, self.workshop.shape.side)

    def cut_of(self, cell: Cell) -> Cut | None:
        """Return how a cell's pictures are cut; None if they are attacked at their own size."""
        return None if cell.key.dataset in self.protocol.native else self.cut

    def images(self, cell: Cell) -> Images:
        """Return the images of a cell."""
        return _select(cell.key.dataset, self.cut, self.protocol.select, cell.key.limit)

    def sample(self, cell: Cell, size: int, device: torch.device) -> Sample:
        """Return a class-balanced subset of at most so many images of a cell."""
        limit = min(size, cell.key.limit or size)
        images = _select(cell.key.dataset, self.cut, self.protocol.select, limit)
        return Sample(
            tensor(images, np.arange(len(images)), self.cut_of(cell), device),
            torch.from_numpy(images.labels).to(device),
            Draws.of(cell.key.seed, cell.key.dataset, images.positions, device),
        )

    def deploy(self, cell: Cell, tower: Tower) -> Deployed:
        """Return a defense on a cell's classes, frozen, in eval mode."""
        if tower.wrapper is None:
            return Deployed(self._ready(self._plain(cell, tower)))
        target = tower.wrapper.target(self._plain(cell, tower), tower.knowledge)
        return Deployed(
            self._ready(tower.wrapper.wrap(self._plain(cell, tower))),
            None if target is None else self._ready(target),
            tower.knowledge,
        )

    def _plain(self, cell: Cell, tower: Tower) -> ZeroShotClassifier:
        protocol = self.protocol
        prompts = cell.dataset.prompts(protocol.prompts)
        return self.workshop.clip.classifier(
            prompts, tower.encoder, protocol.logit_scale, protocol.normalization
        )

    def _ready(self, classifier: nn.Module) -> nn.Module:
        if self.protocol.precision == "float16":
            # Outermost: a wrapper needs features, and its arithmetic is half precision, too.
            classifier = HalfPrecision(classifier)
        return classifier.eval().requires_grad_(False)

    def case(self, cell: Cell, deployed: Deployed, images: Images) -> Case:
        """Return what the referee judges: a cell on these of its images."""
        return Case(
            deployed.classifier,
            cell.attack,
            cell.key.attack,
            images,
            seed=cell.key.seed,
            dataset=cell.key.dataset,
            target=deployed.target,
            batch_size=self.batch_size,
            cut=self.cut_of(cell),
            attacked=self.protocol.attacked,
            search=self.search,
        )

    def identify(self, cell: Cell, defense: DefenseIdentity) -> Identity:
        """Return everything that a cell's numbers depend on."""
        classes, wording = len(cell.dataset.classes), self.protocol.prompts
        details = identify_dataset(cell.dataset, self.images(cell), wording, self.cut_of(cell))
        return Identity(
            suite=self.suite.name,
            protocol=self.protocol.name,
            defense=defense,
            attack=AttackIdentity(
                cell.key.attack, cell.attack.eps, identify_attack(cell.attack, classes)
            ),
            dataset=DatasetIdentity(cell.key.dataset, cell.dataset.title, cell.key.limit, details),
            seed=cell.key.seed,
            switches=self.protocol.switches,
            search=self.search,
            draws=DRAWS,
        )

    def path(self, cell: Cell) -> Path:
        """Return the relative place of a cell's JSON; no image is opened."""
        key = cell.key
        place = Identity(
            suite=self.suite.name,
            protocol=self.protocol.name,
            defense=DefenseIdentity(key.defense, ""),
            attack=AttackIdentity(key.attack, key.eps),
            dataset=DatasetIdentity(key.dataset, "", key.limit),
            seed=key.seed,
        ).path
        return place.with_name(place.name + ".json")

    def prepare_named(self, names: Sequence[str], reporter: Reporter) -> Iterator[str]:
        """Prepare datasets, a training split as NAME:train; yield a line for each."""
        for named in names:
            name, _, split = named.partition(":")
            if split not in ("", "test", "train"):
                raise ZSRobustError(
                    f"The split of {named!r} is not valid. Write test or train, as in "
                    "tiny_imagenet:train."
                )
            chosen: Split = "train" if split == "train" else "test"
            cut = self.train_cut if chosen == "train" else self.cut
            folder = datasets[name].prepare(chosen, cut, reporter.preparing)
            yield f"{named} is prepared in {folder}" if folder else f"{name} needs no preparation"

    @property
    def train_cut(self) -> Cut:
        """How training pictures become squares, by the suite's recipes."""
        values = self.suite.recipe
        return cut_for(self.workshop.shape, values.get("zoom", 1.0), values.get("interpolation"))


@cache
def _select(dataset: str, cut: Cut, select: str, limit: int | None) -> Images:
    """Return a dataset's test images, or the selection of them; opened once."""
    if limit is not None:
        return _select(dataset, cut, select, None).subset(limit)
    images = datasets[dataset].open("test", cut)
    if select == "every_20th_batch":
        return images.every(20, 256, datasets[dataset].by_class)
    return images


def identify_defense(cell: Cell, tower: Tower) -> DefenseIdentity:
    """Return what identifies the defense of a cell, once its tower is made."""
    knowledge = {"knowledge": tower.knowledge} if tower.wrapper else {}
    title = cell.defense.title if cell.defense else cell.key.defense
    return DefenseIdentity(cell.key.defense, title, {**knowledge, **tower.identity})


def checked(module: nn.Module, images: Images, cut: Cut | None, cell: Cell) -> nn.Module:
    """Return the module; raises ZSRobustError unless it has one logit per class."""
    pixels = tensor(images, np.arange(1), cut, device_of(module))
    with torch.no_grad(), frozen(module):
        shape = tuple(module(pixels).shape)
    classes = len(cell.dataset.classes)
    if shape != (1, classes):
        raise ZSRobustError(
            f"The module returns logits {shape} for one image. The dataset {cell.key.dataset} "
            "needs "
            f"(1, {classes})."
        )
    return module

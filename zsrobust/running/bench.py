"""The bench: a suite measured under a protocol, and what it makes of a cell."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zsrobust.attacks import Attack, frozen
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import format_eps
from zsrobust.datasets import Cut, Images, Split, datasets
from zsrobust.datasets.pixels import tensor
from zsrobust.defenses import Tower, Wrapped, defenses
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.identity import describe_attack, describe_dataset
from zsrobust.evaluation.meter import device_of
from zsrobust.evaluation.referee import Search
from zsrobust.models.clip import cut_for
from zsrobust.models.zeroshot import HalfPrecision, ZeroShotClassifier
from zsrobust.results.cell import Result
from zsrobust.running.cost import Cost, Speed, measure
from zsrobust.running.plan import MODULE, Cell, resolve_attack
from zsrobust.running.reporter import Reporter
from zsrobust.settings.protocols import Protocol
from zsrobust.settings.suites import Suite


@dataclass(frozen=True)
class Bench:
    """A suite measured under a protocol, and the workshop that makes its towers."""

    suite: Suite
    protocol: Protocol
    workshop: Workshop
    search: Search = (
        "float32"  #: the precision in which attacks search; verdicts are made in the protocol's
    )

    def __post_init__(self) -> None:
        if self.search != "float32" and self.protocol.precision != "float32":
            raise ZSRobustError(
                f"The protocol {self.protocol.name} has a precision of its own: leave out --precision."
            )

    @cached_property
    def cut(self) -> Cut:
        """How pictures become what is attacked."""
        chosen = self.protocol.interpolation
        return cut_for(
            self.workshop.shape, self.protocol.zoom, None if chosen == "backbone" else chosen
        )

    @property
    def batch_size(self) -> int | None:
        """How many images the classifier gets at once; None for what fits. Half precision divides gradients by it."""
        return 256 if self.protocol.precision == "float16" else None

    def cut_of(self, dataset: str) -> Cut | None:
        """Return how a dataset's squares become what is attacked; None if they are attacked at their own size."""
        return None if dataset in self.protocol.native else self.cut

    def images(self, cell: Cell) -> Images:
        """Return the images of a cell."""
        return _select(cell.dataset, self.cut, self.protocol.select, cell.limit)

    def attack(self, cell: Cell) -> Attack:
        """Return the attack of a cell.

        It takes all its steps where the last iterate is judged, and where it does not know what is deployed: an image that
        stops just behind the border of what the attack sees has hardly left that of what it does not.
        """
        attack = resolve_attack(cell.attack, self.suite, cell.eps)[0]
        defense = None if cell.defense == MODULE else defenses.create(cell.defense)
        oblivious = getattr(defense, "knowledge", "") == "oblivious"
        all_steps = oblivious or self.protocol.judged == "final"
        return attack.full() if all_steps else attack

    @cached_property
    def speed(self) -> Speed:
        """The speed of the backbone's tower on the workshop's device, measured now."""
        return measure(self.workshop.shape.encoder, self.workshop.shape.side)

    def cost(self, cell: Cell) -> Cost:
        """Return what a cell takes at most: its clean predictions, the attack, and the verdicts; red flags aside."""
        dataset, attack = datasets[cell.dataset], self.attack(cell)
        size = min(dataset.size, cell.limit or dataset.size)
        if self.protocol.select == "every_20th_batch":
            size = min(
                size,
                sum(min(256, dataset.size - start) for start in range(0, dataset.size, 20 * 256)),
            )
        passes = attack.passes(len(dataset.classes))
        forward, backward = passes or (0, 0)
        times = (
            1 if self.search == "float32" else 2
        )  # what a lower precision leaves is attacked again
        defense = defenses.create(cell.defense)
        deployed = defense.passes if isinstance(defense, Wrapped) else 1
        seen = deployed if getattr(defense, "knowledge", "") == "adaptive" else 1
        return Cost(
            size,
            size * (2 + times * forward),
            size * times * backward,
            passes is not None,
            (size * (2 * deployed + times * forward * seen), size * times * backward * seen),
        )

    def predicted(self, cell: Cell, shares: int) -> dict[str, float] | None:
        """Return the most that a cell takes, in passes, and in seconds where so many processes share it.

        None if the attack does not say how many passes it takes.
        """
        cost = self.cost(cell)
        if not cost.known:
            return None
        seconds = self.speed.seconds(*cost.tower) / shares
        return {"seconds": round(seconds, 3), "forward": cost.forward, "backward": cost.backward}

    def classifier(self, cell: Cell, tower: Tower) -> nn.Module:
        """Return the classifier of a cell, frozen, in eval mode: what is deployed, wrapped where the defense says so."""
        plain = self._plain(cell, tower)
        return self._ready(tower.wrapper.wrap(plain) if tower.wrapper else plain)

    def target(self, cell: Cell, tower: Tower) -> nn.Module | None:
        """Return what the attack of a cell sees, if that is something other than what is deployed."""
        seen = (
            tower.wrapper.target(self._plain(cell, tower), tower.knowledge)
            if tower.wrapper
            else None
        )
        return None if seen is None else self._ready(seen)

    def _plain(self, cell: Cell, tower: Tower) -> ZeroShotClassifier:
        protocol, prompts = self.protocol, datasets[cell.dataset].prompts(self.protocol.prompts)
        return self.workshop.clip.classifier(
            prompts, tower.encoder, protocol.logit_scale, protocol.normalization
        )

    def _ready(self, classifier: nn.Module) -> nn.Module:
        if self.protocol.precision == "float16":
            classifier = HalfPrecision(
                classifier
            )  # outermost: a wrapper needs features, and its arithmetic is half, too
        return classifier.eval().requires_grad_(False)

    def identify(self, cell: Cell, defense: dict[str, Any]) -> dict[str, Any]:
        """Return everything that a cell's numbers depend on; `defense` is what its part holds beside the spec."""
        dataset = datasets[cell.dataset]
        switches = self.protocol.switches
        identity = {
            "suite": self.suite.name,
            "protocol": self.protocol.name,
            **({"switches": switches} if switches else {}),
            **({"search": self.search} if self.search != "float32" else {}),
            "defense": {"spec": cell.defense, **defense},
            "attack": describe_attack(cell.attack, self.attack(cell), len(dataset.classes)),
            "dataset": describe_dataset(
                cell.dataset,
                dataset,
                self.images(cell),
                cell.limit,
                self.protocol.prompts,
                self.cut_of(cell.dataset),
            ),
            "seed": cell.seed,
            "draws": "splitmix64",  # of the seed, the dataset's name, the position: see zsrobust.attacks.draws
        }
        return dict(json.loads(json.dumps(identity)))  # as it will be read again: lists for tuples

    def prepare_named(self, names: Sequence[str], reporter: Reporter) -> Iterator[str]:
        """Prepare datasets by name, the training split of one by its name and ":train"; yield a line for each."""
        for named in names:
            name, _, split = named.partition(":")
            if split not in ("", "test", "train"):
                raise ZSRobustError(
                    f"{named!r}: a split is test or train, as in tiny_imagenet:train."
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

    def path(self, cell: Cell) -> Path:
        """Return a cell's place in the results folder, before anything of it is opened."""
        identity = {
            "suite": self.suite.name,
            "protocol": self.protocol.name,
            "defense": {"spec": cell.defense},
            "attack": {"spec": cell.attack, "eps": format_eps(cell.eps)},
            "dataset": {"name": cell.dataset, "limit": cell.limit},
            "seed": cell.seed,
        }
        place = Result(identity).path
        return place.with_name(place.name + ".json")


@cache
def _select(dataset: str, cut: Cut, select: str, limit: int | None) -> Images:
    """Return a dataset's test images, or the selection of them; opened once."""
    if limit is not None:
        return _select(dataset, cut, select, None).subset(limit)
    images = datasets[dataset].open("test", cut)
    return (
        images.every(20, 256, datasets[dataset].by_class)
        if select == "every_20th_batch"
        else images
    )


def about(cell: Cell, tower: Tower) -> dict[str, Any]:
    """Return what identifies a registered defense beside its spec."""
    knowledge = {"knowledge": tower.knowledge} if tower.wrapper else {}
    return {"title": defenses.create(cell.defense).title, **knowledge, **tower.identity}


def checked(module: nn.Module, images: Images, cut: Cut | None, dataset: str) -> nn.Module:
    """Return the module; raises ZSRobustError unless it has one logit for each class of the dataset."""
    pixels = tensor(images, np.arange(1), cut, device_of(module))
    with torch.no_grad(), frozen(module):
        shape = tuple(module(pixels).shape)
    classes = len(datasets[dataset].classes)
    if shape != (1, classes):
        raise ZSRobustError(
            f"The module returns logits {shape} for one image; {dataset} needs (1, {classes})."
        )
    return module

"""The bench: a suite under a protocol. It builds the images, classifiers and cases of cells."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zsrobust.attacks import frozen
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.scenes import Scene
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Cut, Facts, Images, Split, datasets
from zsrobust.datasets.pixels import tensor
from zsrobust.defenses import Tower
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.identity import identify_attack, identify_dataset
from zsrobust.evaluation.meter import device_of
from zsrobust.evaluation.redflags.measurements import Kept
from zsrobust.evaluation.referee import Case, Search
from zsrobust.models.clip import cut_for
from zsrobust.models.compiled import compiler
from zsrobust.models.remembered import facts_of
from zsrobust.models.wrappers import ADAPTIVE, Knowledge
from zsrobust.models.zeroshot import HalfPrecision, ZeroShotClassifier
from zsrobust.results.identity import AttackIdentity, DatasetIdentity, DefenseIdentity, Identity
from zsrobust.running.costs.model import Speed, measure
from zsrobust.running.plan import Cell
from zsrobust.running.reporter import Reporter
from zsrobust.running.stage import Stage
from zsrobust.settings.protocols import Protocol
from zsrobust.settings.suites import Suite

#: The generator of the attacks' random numbers; see `zsrobust.attacks.draws`.
DRAWS = "splitmix64"


@dataclass(frozen=True)
class Deployed:
    """A defense on a dataset's classes: the judged classifier, and the attacked one."""

    classifier: nn.Module
    target: nn.Module | None = None  #: the attacked module; None: the classifier itself
    knowledge: Knowledge = ADAPTIVE
    scene: Scene | None = None  #: what the attack may use beside the target
    compiler: dict[str, Any] | None = None  #: of what the attack searches in; see `Case`


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
    compiled: bool = False  #: whether attacks search in compiled classifiers
    #: What was measured for red flags, by defense, dataset, limit and seed: cells share it.
    probed: defaultdict[tuple[object, ...], Kept] = field(
        default_factory=lambda: defaultdict(dict), compare=False
    )

    def __post_init__(self) -> None:
        if self.search != "float32" and self.protocol.precision != "float32":
            raise ZSRobustError(
                f"--precision {self.search} is not valid: the protocol {self.protocol.name} sets "
                "the precision itself. Leave out --precision."
            )

        if self.compiled and self.protocol.precision != "float32":
            raise ZSRobustError(
                f"--compile is not valid: the protocol {self.protocol.name} divides gradients by "
                "the size of the batch. Leave out --compile."
            )

    def forget(self) -> None:
        """Forget weights and what was measured on them: an attack has changed the weights."""
        self.workshop.forget()
        self.probed.clear()

    @cached_property
    def cut(self) -> Cut:
        """How pictures are resized and cropped before the attack."""
        chosen = self.protocol.interpolation
        interpolation = None if chosen == "backbone" else chosen
        return cut_for(self.workshop.shape, self.protocol.zoom, interpolation)

    @property
    def batch_size(self) -> int | None:
        """The number of images in a batch; None: as many as fit.

        Half precision divides gradients by this number.
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

    def facts(self, cell: Cell) -> Facts:
        """Return what identities store of a cell's images, which stay closed if it is known."""
        part = f"{self.protocol.select} {cell.key.limit}"
        return facts_of(cell.dataset, "test", self.cut, part, lambda: self.images(cell))

    def sample(self, cell: Cell, size: int, device: torch.device) -> Sample:
        """Return a class-balanced subset of a cell's images, at most `size` of them."""
        limit = min(size, cell.key.limit or size)
        images = _select(cell.key.dataset, self.cut, self.protocol.select, limit)
        return Sample(
            tensor(images, np.arange(len(images)), self.cut_of(cell), device),
            torch.from_numpy(images.labels).to(device),
            Draws.of(cell.key.seed, cell.key.dataset, images.positions, device),
        )

    def places(self, cell: Cell, size: int) -> NDArray[np.int64]:
        """Return where the images of `sample` are among the cell's images, (N,)."""
        chosen = _select(cell.key.dataset, self.cut, self.protocol.select, size)
        return np.flatnonzero(np.isin(self.images(cell).positions, chosen.positions))

    def deploy(self, cell: Cell, tower: Tower) -> Deployed:
        """Return a defense on a cell's classes, frozen, in eval mode."""
        scene = Stage(self, cell, tower).scene
        if tower.wrapper is None:
            plain = self.ready(self.plain(cell, tower))
            if tower.attacked is None:
                chosen = compiler(device_of(plain)) if self.compiled else None
                return Deployed(plain, scene=scene, compiler=chosen)
            attacked = self.plain(cell, tower, attacked=True)
            return Deployed(plain, self.ready(attacked), tower.knowledge, scene)
        target = tower.wrapper.target(self.plain(cell, tower), tower.knowledge)
        return Deployed(
            self.ready(tower.wrapper.deployed(self.plain(cell, tower))),
            None if target is None else self.ready(target),
            tower.knowledge,
            scene,
        )

    def undefended(self, cell: Cell) -> nn.Module | None:
        """Return the suite's CLIP on a cell's classes; None if it does not take its images."""
        if self.cut_of(cell) is None:
            return None
        prompts = cell.dataset.prompts(self.protocol.prompts)
        protocol = self.protocol
        plain = self.workshop.clip.classifier(
            prompts, None, protocol.logit_scale, protocol.normalization
        )
        return self.ready(plain)

    def plain(self, cell: Cell, tower: Tower, attacked: bool = False) -> ZeroShotClassifier:
        """Return a tower's classifier of a cell's classes, without a wrapper."""
        protocol = self.protocol
        return tower.classifier(
            self.workshop.clip,
            cell.dataset.worded(protocol.prompts),
            protocol.logit_scale,
            protocol.normalization,
            attacked=attacked,
        )

    def ready(self, classifier: nn.Module) -> nn.Module:
        """Return a classifier as it is judged or attacked: its precision, frozen, in eval mode."""
        if self.protocol.precision == "float16":
            # Outermost: a wrapper needs features, and its arithmetic is half precision, too.
            classifier = HalfPrecision(classifier)
        return classifier.eval().requires_grad_(False)

    def case(self, cell: Cell, deployed: Deployed, images: Images) -> Case:
        """Return the referee's case: the cell on these images."""
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
            scene=deployed.scene,
            compiler=deployed.compiler,
        )

    def identify(
        self, cell: Cell, defense: DefenseIdentity, tower: Tower | None = None
    ) -> Identity:
        """Return the identity of a cell: everything that its numbers depend on."""
        classes, wording = len(cell.dataset.classes), self.protocol.prompts
        details = identify_dataset(cell.dataset, self.facts(cell), wording, self.cut_of(cell))
        read = Stage(self, cell, tower).identity() if tower and cell.attack.reads else {}
        return Identity(
            suite=self.suite.name,
            protocol=self.protocol.name,
            defense=defense,
            attack=AttackIdentity(
                cell.key.attack, cell.attack.eps, {**identify_attack(cell.attack, classes), **read}
            ),
            dataset=DatasetIdentity(cell.key.dataset, cell.dataset.title, cell.key.limit, details),
            seed=cell.key.seed,
            switches=self.protocol.switches,
            search=self.search,
            compiled=self.compiled and not defense.knowledge,
            draws=DRAWS,
        )

    def path(self, cell: Cell) -> Path:
        """Return the relative path of a cell's JSON in a results folder; opens no images."""
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
        """Prepare the splits NAME or NAME:train, and yield a line for each.

        Raises ZSRobustError for a name or a split that is unknown.
        """
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
        """How training pictures are resized and cropped, by the suite's recipes."""
        values = self.suite.recipe
        return cut_for(self.workshop.shape, values.get("zoom", 1.0), values.get("interpolation"))


@cache
def _select(dataset: str, cut: Cut, select: str, limit: int | None) -> Images:
    """Return the selected test images of a dataset; they are opened once."""
    if limit is not None:
        return _select(dataset, cut, select, None).subset(limit)
    images = datasets[dataset].open("test", cut)
    if select == "every_20th_batch":
        return images.every(20, 256, datasets[dataset].by_class)
    return images


def identify_defense(cell: Cell, tower: Tower) -> DefenseIdentity:
    """Return the identity of a cell's defense, with the tower that was made for it."""
    knowledge = {"knowledge": tower.knowledge} if tower.wrapper or tower.attacked else {}
    title = cell.defense.title if cell.defense else cell.key.defense
    return DefenseIdentity(cell.key.defense, title, {**knowledge, **tower.identity})


def checked(module: nn.Module, images: Images, cut: Cut | None, cell: Cell) -> nn.Module:
    """Return the module; raises ZSRobustError unless it returns one logit for each class."""
    pixels = tensor(images, np.arange(1), cut, device_of(module))
    with torch.no_grad(), frozen(module):
        shape = tuple(module(pixels).shape)
    classes = len(cell.dataset.classes)
    if shape != (1, classes):
        raise ZSRobustError(
            f"The module returns logits {shape} for one image. "
            f"The dataset {cell.key.dataset} needs (1, {classes})."
        )
    return module

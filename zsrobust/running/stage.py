"""The stage: builds what a cell's attack may use beside the classifier, when it asks for it."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from zsrobust.attacks.scenes import DESCRIPTIONS, NUMBER, Scene, Training
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Wording, datasets
from zsrobust.datasets.pixels import tensor
from zsrobust.defenses import Tower
from zsrobust.models.heads import Context
from zsrobust.models.wrappers import Make
from zsrobust.models.zeroshot import ZeroShotClassifier
from zsrobust.running.plan import Cell

if TYPE_CHECKING:
    from zsrobust.running.bench import Bench


@dataclass(frozen=True)
class Stage:
    """A cell, the tower of its defense, and the bench that builds modules for both."""

    bench: "Bench"
    cell: Cell
    tower: Tower

    @property
    def scene(self) -> Scene:
        """What the cell's attack may use; nothing is built before it asks."""
        known = self.tower.knowledge == "adaptive"  # an oblivious attack sees no part of it
        wrapper = self.tower.wrapper if known else None
        makes = {} if wrapper is None else wrapper.ways()
        unrolled = None if wrapper is None else wrapper.unrolled
        idle = None if wrapper is None else wrapper.idle

        def unroll(steps: int) -> nn.Module:
            assert unrolled is not None
            return self._made(lambda classifier: unrolled(classifier, steps))

        return Scene(
            ways={name: partial(self._made, make) for name, make in makes.items()},
            unrolled=None if unrolled is None else unroll,
            idle=None if idle is None else partial(self._made, idle),
            other=self.other,
            worded=self.worded,
            training=cache(self.training),  # an attack asks for it with every batch
        )

    def other(self, spec: str) -> nn.Module:
        """Return the classifier of another defense on this cell's classes, as attacks see it."""
        deployed = self.bench.deploy(self.cell, self.bench.workshop.tower(spec))
        return deployed.target or deployed.classifier

    def worded(self, texts: str) -> list[nn.Module]:
        """Return what the attack sees, with other texts: a head for each.

        `texts` is a template with one "{}", or `descriptions`: five heads, the n-th of the n-th
        description of each class. Raises ZSRobustError for other texts.
        """
        return [self._made(self._target, head) for head in self._prompts(texts)]

    def _prompts(self, texts: str) -> list[list[list[str]]]:
        dataset = self.cell.dataset
        if texts == DESCRIPTIONS:
            return dataset.described(NUMBER)
        if texts.count("{}") != 1:
            raise ZSRobustError(
                f"texts={texts!r} is no template: it has {texts.count('{}')} places for the class. "
                "Expected one, as in texts=a photo of a {}. Or write texts=descriptions"
            )
        names = dataset.worded(self.bench.protocol.prompts).classes
        return [Wording(names, (texts,)).prompts]

    def training(self, count: int) -> Training:
        """Return so many images of the suite's training set, and the attacked classifier there."""
        bench, seed = self.bench, self.cell.key.seed
        dataset = datasets[bench.suite.train_on]
        cell = dataclasses.replace(self.cell, dataset=dataset)
        images = dataset.open("train", bench.train_cut).subset(count)
        device = next(bench.workshop.clip.encoder.parameters()).device
        deployed = bench.deploy(cell, self.tower)
        return Training(
            tensor(images, np.arange(len(images)), bench.train_cut, device),
            torch.from_numpy(images.labels).to(device),
            deployed.target or deployed.classifier,
            (*map(repr, self._dependencies), dataset.name, images.digest, str(seed), str(device)),
            seed,
        )

    @property
    def _dependencies(self) -> tuple[Any, ...]:
        """What the attacked classifier depends on, beside the classes."""
        bench, tower = self.bench, self.tower
        # The spec has the fields of what is around the tower.
        names = self.cell.key.defense, tower.knowledge, bench.workshop.clip.digest
        return *names, tower.identity, bench.protocol

    def _target(self, classifier: ZeroShotClassifier) -> nn.Module:
        wrapper = self.tower.wrapper
        if wrapper is None:
            return classifier
        return wrapper.target(classifier, self.tower.knowledge) or wrapper.wrap(classifier)

    def _made(self, make: Make, prompts: Sequence[Sequence[str]] | None = None) -> nn.Module:
        """Return the module that `make` makes of the plain classifier, ready to be attacked."""
        plain = self.bench.plain(self.cell, self.tower)
        if prompts is not None:
            plain.head = self._head(prompts).to(plain.head)
        return self.bench.ready(make(plain))

    def _head(self, prompts: Sequence[Sequence[str]]) -> Tensor:
        """Return the head of an attacker's prompts, one for each class, (K, D).

        The text tower is the defense's own, if it has one. A learned context is the defender's: the
        attacker's texts replace it.
        """
        own, scale = self.tower.head, self.bench.protocol.logit_scale
        if own is None or isinstance(own, Context):
            return self.bench.workshop.clip.head(prompts, scale)
        with torch.no_grad():
            return own(Wording(tuple(text for (text,) in prompts), ("{}",)), scale)

    def identity(self) -> dict[str, Any]:
        """Return what the attack reads beside the classifier, as a part of the cell's identity."""
        reads, found = self.cell.attack.reads, dict[str, Any]()
        if spec := reads.get("other"):
            found["other"] = self.bench.workshop.tower(spec).identity
        if texts := reads.get("worded"):
            found["prompts"] = hashlib.sha256(repr(self._prompts(texts)).encode()).hexdigest()[:16]
        if count := reads.get("training"):
            name = self.bench.suite.train_on
            images = datasets[name].open("train", self.bench.train_cut).subset(int(count))
            found["training"] = {"dataset": name, "digest": images.digest}
        return found

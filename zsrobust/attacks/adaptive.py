"""Attacks on a defense that they know: several surrogates and starts, the worst kept per image.

Most test-time defenses were published under attacks on the undefended CLIP. These attacks follow
Tramèr et al., "On adaptive attacks to adversarial example defenses" (NeurIPS 2020, arXiv
2002.08347): they see the deployed defense, and try several gradients and losses on it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.attacks import attacks, frozen, slots
from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.feature_l2 import away
from zsrobust.attacks.geometry import uniform_start
from zsrobust.attacks.losses import margin
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.scenes import Mixed, beside, redrawn, scene_of
from zsrobust.attacks.search import Iterative
from zsrobust.attacks.square import Square
from zsrobust.core.errors import ZSRobustError

EOT = 4  #: draws of a randomized defense for each gradient, and for each comparison of images

#: A search: images, labels, draws, and the worst points so far, to points (N, 3, S, S).
Search = Callable[[Tensor, Tensor, Draws, Tensor], Tensor]


class Worst:
    """The worst point so far of each image, by the deployed defense's own logits.

    A point is worse if more draws of the defense are wrong; then, if their mean margin is larger.
    A defense that is not random has one draw.
    """

    def __init__(self, classifier: nn.Module, images: Tensor, labels: Tensor, times: int) -> None:
        """Start with the clean images (N, 3, S, S) in [0, 1] and labels (N,)."""
        self.classifier, self.labels, self.times = classifier, labels, times
        self.points = images.clone()
        self.score, self.broken = self._look(images, labels)

    @property
    def left(self) -> Tensor:
        """The indices of the images that some draw still classifies correctly."""
        return (~self.broken).nonzero()[:, 0]

    def take(self, which: Tensor, points: Tensor) -> None:
        """Keep those of the points (R, 3, S, S) of the images `which` (R,) that are worse."""
        score, broken = self._look(points, self.labels[which])
        better = score > self.score[which]
        chosen = which[better]
        self.points[chosen] = points[better]
        self.score[chosen], self.broken[chosen] = score[better], broken[better]

    @torch.no_grad()
    def _look(self, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        wrong, margins = torch.zeros_like(labels), torch.zeros(len(labels), device=labels.device)
        for draw in range(self.times):
            # Not the draws that the gradients were taken of.
            one = redrawn(self.classifier, self.times + draw)
            parts = points.split(slots(one, len(points)))
            logits = torch.cat([one(part) for part in parts])
            wrong = wrong + (logits.argmax(1) != labels)
            margins = margins + margin(logits, labels) / self.times
        return wrong + margins / (2 + 2 * margins.abs()), wrong == self.times


@dataclass(frozen=True, kw_only=True)
class Adaptive(Iterative):
    """PGD and APGD through all that a defense declares, the worst kept per image.

    In this order, each on the images that the others left: PGD on the undefended classifier; PGD on
    the surrogate, with cross-entropy and with the margin, the latter from the worst points so far;
    PGD on every further surrogate, and through the unrolled optimization; PGD on the mean of
    defended and undefended logits; PGD on the defended embedding; APGD on cross-entropy and DLR.
    A randomized defense gives gradients and comparisons of several draws.

    With `transfer`, images found on another defense are tried, too, and with `queries`, Square.
    """

    steps: int = 20  #: of each search
    eot: int | None = None  #: draws of a randomized defense; None: four
    transfer: str | None = None  #: the spec of another defense
    queries: int | None = None  #: of Square
    returns_clean = True
    positive = (*Iterative.positive, "eot", "queries")

    @property
    def reads(self) -> dict[str, str]:
        """The other defense that images are transferred from."""
        return {"other": self.transfer} if self.transfer else {}

    def passes(self, classes: int) -> tuple[int, int] | None:  # type: ignore[override]
        """Return None: the number of surrogates is the defense's."""
        return None

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1], or clean ones where none was worse."""
        random = getattr(classifier, "redrawn", None) is not None
        times = (self.eot or EOT) if random else 1
        with frozen(classifier):
            worst = Worst(classifier, images, labels, times)
            for search in self._searches(classifier, times):
                left = worst.left
                if not len(left):
                    break
                given = images[left], labels[left], draws[left], worst.points[left]
                worst.take(left, search(*given).detach())
        return worst.points

    def _searches(self, classifier: nn.Module, times: int) -> Iterator[Search]:
        """Yield the searches in their order; modules are built when their turn comes."""
        scene = scene_of(classifier)
        undefended = scene.ways.get("undefended")
        plain = beside(classifier, undefended()) if undefended else None
        if plain is not None:
            yield self._pgd(plain, 1)
        yield self._pgd(classifier, times)
        yield self._pgd(classifier, times, loss="margin", onward=True)
        for name, make in scene.ways.items():
            if name != "undefended":
                yield self._pgd(beside(classifier, make()), times, onward=True)
        if plain is not None:
            yield self._pgd(Mixed(classifier, plain), times, onward=True)
        if getattr(classifier, "features", None) is not None:
            yield lambda *given: self._away(classifier, *given)
        for loss in ("ce", "dlr"):
            apgd = APGD(
                eps=self.eps,
                norm=self.norm,
                steps=self.steps,
                loss=loss,
                eot=times if times > 1 else None,
            )
            yield lambda images, labels, draws, points, apgd=apgd: apgd(  # type: ignore[misc]
                classifier, images, labels, draws
            )
        if self.transfer:
            yield self._pgd(beside(classifier, scene.other(self.transfer)), 1)
        if self.queries:
            square = Square(eps=self.eps, norm=self.norm, queries=self.queries)
            yield lambda images, labels, draws, points: square(classifier, images, labels, draws)

    def _pgd(self, module: nn.Module, times: int, loss: Any = "ce", onward: bool = False) -> Search:
        """Return PGD on a module, from a random start or onward from the worst points so far."""
        attack = PGD(
            eps=self.eps,
            norm=self.norm,
            steps=self.steps,
            step_size=self.step_size,
            loss=loss,
            early_stop=False,
            eot=times if times > 1 else None,
        )
        return lambda images, labels, draws, points: attack(
            module, images, labels, draws, points if onward else None
        )

    def _away(
        self, classifier: nn.Module, images: Tensor, labels: Tensor, draws: Draws, points: Tensor
    ) -> Tensor:
        """Return points whose defended embedding is far from that of the clean image."""
        begin = uniform_start(images, draws, self.eps, self.norm, "adaptive")
        return away(classifier.features, images, begin, self)


@dataclass(frozen=True, kw_only=True)
class Unrolled(PGD):
    """PGD through a test-time optimization: gradients of its last steps are exact.

    `depth` is the number of these steps; None: all. Memory does not grow with it; see
    `zsrobust.models.unrolling`. Raises ZSRobustError for a defense without such an optimization.
    """

    depth: int | None = None
    positive = (*PGD.positive, "depth")

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1]; see `zsrobust.attacks.Attack`."""
        scene = scene_of(classifier)
        if scene.unrolled is None:
            raise ZSRobustError(
                "The attack unrolled needs a defense that optimizes at test time, such as ttc. "
                "Attack this one with adaptive"
            )
        module = scene.ways["unrolled"]() if self.depth is None else scene.unrolled(self.depth)
        return super().__call__(beside(classifier, module), images, labels, draws, start)


attacks.register("adaptive")(Adaptive())
attacks.register("worst")(Adaptive(transfer="clip", queries=1000))
attacks.register("unrolled")(Unrolled())

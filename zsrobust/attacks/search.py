"""Searches that attacks share: plain gradient ascent, and images that are left to break."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zsrobust.attacks import Attack, frozen, slots
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.geometry import Norm, project, uphill
from zsrobust.attacks.l1 import can_move, sparse_step
from zsrobust.attacks.notes import note_if
from zsrobust.attacks.scenes import redrawn
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import format_eps

ROWS = 64  # a batch that fits wherever an attack runs at all
#: The share of an image's values that a step in l1 moves, if it is not given: SLIDE of Tramèr &
#: Boneh (NeurIPS 2019, arXiv 1904.13000) moves those above the 99th percentile.
SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class Iterative(Attack):
    """An attack that takes steps of one size, each followed by a projection."""

    steps: int = 10
    step_size: float = 1 / 255
    positive: ClassVar[tuple[str, ...]] = ("steps", "step_size")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "l1" and self.steps * self.step_size < self.eps:
            raise ZSRobustError(
                f"{self.steps} steps of {format_eps(self.step_size)} do not reach eps "
                f"{format_eps(self.eps)} in l1. Set longer ones, for example "
                f"step_size={2.5 * self.eps / self.steps:.3g}"
            )

    def passes(self, classes: int) -> tuple[int, int]:
        """Return the numbers of forward and of backward passes that an image takes at most."""
        return self.steps, self.steps

    def steps_taken(self, classes: int) -> float:
        """Return how many gradient steps an image takes at most."""
        return float(self.steps)

    def move(self, images: Tensor, points: Tensor, direction: Tensor) -> Tensor:
        """Return points (N, 3, S, S) one step uphill, within eps of the images and [0, 1]."""
        return advance(
            images, points, direction, eps=self.eps, norm=self.norm, step_size=self.step_size
        )


def advance(
    images: Tensor,
    points: Tensor,
    direction: Tensor,
    *,
    eps: float,
    norm: Norm,
    step_size: float,
    share: float | None = None,
) -> Tensor:
    """Return points (N, 3, S, S) one step uphill, within eps of the images and [0, 1].

    In l1 a step moves the `share` of values with the largest gradients, at least one value. A value
    at 0 or 1 that would leave [0, 1] does not count among them. If its gradient is as large it
    steps, too, so that the projection, which shrinks every change, leaves it where it is.
    """
    if norm == "l1":
        count = max(1, int((share or SHARE) * images[0].numel()))
        moved = points + sparse_step(direction, step_size, count, can_move(points, direction))
    else:
        moved = points + uphill(direction, step_size, norm)
    return project(images, moved, eps, norm)


def ascend(
    loss: Callable[[Tensor], Tensor],
    images: Tensor,
    start: Tensor,
    *,
    eps: float,
    norm: Norm,
    steps: int,
    step_size: float,
) -> Tensor:
    """Return the last of `steps` points of projected gradient ascent, (N, 3, S, S) in [0, 1].

    `loss` maps points (N, 3, S, S) to a value for each, (N,). The points begin at `start` and stay
    within eps of `images`. Gradients are taken with respect to the points only. A gradient of
    exactly zero is noted.
    """
    points = start.detach()
    moving = torch.ones((), dtype=torch.bool, device=images.device)
    for _ in range(steps):
        points.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(points).sum(), points)
        moving &= gradient.flatten(1).any(dim=1).all()
        points = advance(images, points.detach(), gradient, eps=eps, norm=norm, step_size=step_size)
    note_if(~moving, "attack_zero_gradients")
    return points


class Search:
    """Images under a search, and the first adversarial image found for each."""

    def __init__(self, images: Tensor, labels: Tensor, times: int = 1) -> None:
        """Start with nothing found for images (N, 3, S, S) in [0, 1] and labels (N,).

        A prediction is the mean of `times` forward passes.
        """
        self.times = times
        self.images, self.labels = images.contiguous(), labels
        self.adversarial = self.images.clone()
        self.broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.most = max(len(images), ROWS)  #: rows that go through the classifier together

    @classmethod
    @torch.no_grad()
    def begin(
        cls, classifier: nn.Module, images: Tensor, labels: Tensor, times: int = 1
    ) -> tuple[Self, Tensor]:
        """Return a search, and the clean logits (N, K); misclassified images count as broken.

        Each prediction of the search is the mean of `times` forward passes.
        """
        search = cls(images, labels, times)
        search.most = slots(classifier, search.most)
        logits = search.predict(classifier, images)
        search.broken = logits.argmax(1) != labels
        return search, logits

    def predict(self, classifier: nn.Module, points: Tensor) -> Tensor:
        """Return logits (R, K) of points (R, 3, S, S): the mean of some forward passes."""
        logits = torch.zeros((), device=points.device)
        for draw in range(self.times):
            logits = logits + redrawn(classifier, draw)(points)
        return logits / self.times

    @property
    def left(self) -> Tensor:
        """The indices of the images that are not broken."""
        return (~self.broken).nonzero()[:, 0]

    def pairs(self, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows (image, rank of the target), as two tensors (R,), for targets (N, T).

        As many targets at a time as keep the number of rows below `most`.
        """
        rank = 0
        while rank < targets.shape[1] and len(left := self.left):
            end = min(rank + max(1, self.most // len(left)), targets.shape[1])
            ranks = torch.arange(rank, end, device=left.device)
            yield left.repeat(len(ranks)), ranks.repeat_interleave(len(left))
            rank = end

    def take(self, owners: Tensor, points: Tensor, wrong: Tensor) -> Tensor | None:
        """Keep the misclassified `points` (R, 3, S, S), one for each of their `owners`.

        Return which rows are left, those of images not broken; None if that is all of them.
        The host waits for the device once, and once more if a point is misclassified.
        """
        rows = wrong.nonzero()[:, 0]
        if not len(rows):
            return None
        first = torch.full_like(self.labels, len(owners)).scatter_reduce(
            0, owners[rows], rows, "amin"
        )[owners[rows]]
        self.adversarial[owners[first]] = points[first]
        self.broken[owners[first]] = True
        return (~self.broken[owners]).nonzero()[:, 0]

    @torch.no_grad()
    def verify(self, classifier: nn.Module, before: Tensor) -> None:
        """Predict new findings again; drop those that this batch classifies correctly."""
        new = (self.broken & ~before).nonzero()[:, 0]
        if len(new):
            logits = self.predict(classifier, self.adversarial[new])
            lost = new[logits.argmax(1) == self.labels[new]]
            self.adversarial[lost], self.broken[lost] = self.images[lost], False


@dataclass(frozen=True, kw_only=True)
class SearchAttack(Attack):
    """An attack that keeps the first point that breaks an image; other images return clean."""

    returns_clean = True

    @property
    def times(self) -> int:
        """How many forward passes each prediction is the mean of."""
        return 1

    @abstractmethod
    def seek(self, classifier: nn.Module, search: Search, logits: Tensor, draws: Draws) -> None:
        """Search for the images that are left; `logits` (N, K) are those of the clean images."""

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1]; clean images where none was found."""
        with frozen(classifier):
            search, logits = Search.begin(classifier, images, labels, self.times)
            before = search.broken.clone()
            self.seek(classifier, search, logits, draws)
            search.verify(classifier, before)
        return search.adversarial


@dataclass
class Rows:
    """Tensors of R rows each."""

    def __getitem__(self, chosen: Tensor) -> Self:
        """Return the rows at some indices."""
        return type(self)(**{name: tensor[chosen] for name, tensor in vars(self).items()})


def index_of(places: NDArray[np.int64], like: Tensor) -> Tensor:
    """Return places that the host knows, (n,), as an index on a tensor's device, without a wait."""
    return torch.from_numpy(places).to(like.device, non_blocking=True)


def rivals(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the classes (N, count), other than the labels, that have the highest logits (N, K)."""
    return logits.scatter(1, labels[:, None], -torch.inf).topk(count).indices

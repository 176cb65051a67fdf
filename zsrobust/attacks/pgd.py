"""Projected gradient descent, in l∞, l2 and l1."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zsrobust.attacks import attacks, frozen, slots
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.geometry import per_image, uniform_start
from zsrobust.attacks.losses import objective
from zsrobust.attacks.notes import note_if
from zsrobust.attacks.scenes import redrawn
from zsrobust.attacks.search import Iterative, advance, index_of
from zsrobust.core.errors import ZSRobustError

Places = NDArray[np.int64]  # of images among those that an attack was given


@dataclass(frozen=True, kw_only=True)
class PGD(Iterative):
    """Projected gradient descent (Madry et al., ICLR 2018, arXiv 1706.06083).

    Steps of gradient ascent on the loss, projected to the ball around the image and to [0, 1].
    In l1 the steps are sparse, as those of SLIDE (Tramèr & Boneh, NeurIPS 2019, arXiv 1904.13000),
    and the projection is that of Croce & Hein (ICML 2021, arXiv 2103.01208).

    The defaults are those of the code released beside the paper: 1/255, steps of 1/255, a uniform
    start.
    """

    restarts: int = 1
    loss: Literal["ce", "margin"] = "ce"
    random_start: bool = True
    #: An image leaves the batch at the first iterate that breaks it; else the last one counts.
    early_stop: bool = True
    #: Gradients, and the logits that tell whether an image is broken, are means over so many
    #: forward passes: expectation
    #: over transformation, for defenses that are random (Athalye et al., ICML 2018, arXiv
    #: 1802.00420, section 4.2).
    eot: int | None = None
    #: The share of an image's values that a step in l1 moves; None is 0.01, as in SLIDE.
    share: float | None = None
    norms = ("linf", "l2", "l1")
    packs = True
    continues = True
    positive = (*Iterative.positive, "restarts", "eot", "share")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share is not None and (self.norm != "l1" or self.share > 1):
            raise ZSRobustError(
                f"A share of {self.share:g} in {self.norm} is not valid. It is a number in (0, 1], "
                "and for l1 only: pgd:norm=l1,share=0.05"
            )

    def passes(self, classes: int) -> tuple[int, int]:
        """Return the numbers of forward and of backward passes that an image takes at most."""
        steps, times = self.restarts * self.steps, self.eot or 1
        return (steps + self.restarts - 1) * times, steps * times

    def full(self) -> Self:
        """Return the same attack without early stops: every image takes all steps."""
        return replace(self, early_stop=False)

    def value(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return what the steps raise, (N,), from logits (N, K) and labels (N,)."""
        return objective(self.loss, logits, labels)

    def unfinished(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return which images (N,) are still to break, from logits (N, K) and labels (N,)."""
        return logits.argmax(1) == labels

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1]; see `zsrobust.attacks.Attack`.

        `start`, (N, 3, S, S), is where the first restart begins.
        """
        adversarial = images.clone() if start is None else start.clone()
        left = np.arange(len(images))  # images that no restart has broken
        with frozen(classifier):
            for restart in range(self.restarts):
                begin = partial(self._start, restart=restart) if restart or start is None else None
                left = self._climb(classifier, images, labels, draws, adversarial, left, begin)
                if (
                    restart + 1 < self.restarts
                ):  # after the last one, the last iterate is the referee's to judge
                    left = self._unbroken(classifier, adversarial, labels, left)
        return adversarial

    def _climb(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        adversarial: Tensor,
        left: Places,
        begin: Callable[[Tensor, Draws], Tensor] | None,
    ) -> Places:
        """Take the steps for the images `left`, in place; return those not seen broken.

        The classifier's batches stay full: an image that is broken, or has taken its steps, makes
        room for the next in line. Who is where is known on the host; it waits for the device once a
        step, and with `early_stop` only.
        """
        size, line, survivors = slots(classifier, len(left)), left, []
        here = taken = left[:0]  # the images in the batch, and the steps that each has taken
        stuck = torch.zeros((), dtype=torch.bool, device=images.device)
        while len(here) or len(line):
            new, line = line[: size - len(here)], line[size - len(here) :]
            if begin and len(new):
                at = index_of(new, images)
                adversarial[at] = begin(images[at], draws[at])
            here, taken = (
                np.concatenate([here, new]),
                np.concatenate([taken, np.zeros_like(new)]) + 1,
            )
            at = index_of(here, images)
            adversarial[at], safe, moving = self._step(
                classifier, images[at], labels[at], adversarial[at]
            )
            stuck |= ~moving[len(here) - len(new) :].all()
            stay = safe.cpu().numpy() if self.early_stop else np.ones(len(here), dtype=bool)
            survivors.append(here[stay & (taken == self.steps)])
            stay &= taken < self.steps
            here, taken = here[stay], taken[stay]
        note_if(stuck, "attack_zero_gradients")
        return np.concatenate([left[:0], *survivors])

    def _step(
        self, classifier: nn.Module, images: Tensor, labels: Tensor, points: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the points after a step, which were unbroken before it, and which had a gradient.

        With `early_stop` a broken one stays where it is.
        """
        points.requires_grad_()
        logits = gradient = torch.zeros((), device=points.device)
        for draw in range(self.eot or 1):
            drawn = redrawn(classifier, draw)(points)
            logits = logits + drawn.detach()
            gradient = gradient + torch.autograd.grad(self.value(drawn, labels).sum(), points)[0]
        safe, points, gradient = (
            self.unfinished(logits, labels),
            points.detach(),
            gradient / (self.eot or 1),
        )
        moved = advance(
            images,
            points,
            gradient,
            eps=self.eps,
            norm=self.norm,
            step_size=self.step_size,
            share=self.share,
        )
        if self.early_stop:
            moved = torch.where(per_image(safe), moved, points)
        return moved, safe, gradient.flatten(1).any(dim=1)

    def _start(self, images: Tensor, draws: Draws, restart: int) -> Tensor:
        """Return points drawn uniformly from the ball around the images, or the images."""
        return (
            uniform_start(images, draws, self.eps, self.norm, "pgd", restart)
            if self.random_start
            else images
        )

    @torch.no_grad()
    def _unbroken(
        self, classifier: nn.Module, adversarial: Tensor, labels: Tensor, left: Places
    ) -> Places:
        """Return which images of `left` are unfinished, by the mean of some passes."""
        size, times = slots(classifier, len(left)), self.eot or 1
        parts = [left[start : start + size] for start in range(0, len(left), size)]
        indices = [index_of(part, labels) for part in parts]
        logits = [
            torch.stack([redrawn(classifier, draw)(adversarial[at]) for draw in range(times)]).sum(
                0
            )
            for at in indices
        ]
        pairs = zip(logits, indices, strict=True)
        unfinished = [self.unfinished(each, labels[at]) for each, at in pairs]
        return left[torch.cat(unfinished).cpu().numpy()] if unfinished else left


attacks.register("pgd")(PGD())
attacks.register("pgd2")(PGD(steps=2))
attacks.register("pgd10")(PGD(steps=10))
attacks.register("pgd100")(PGD(steps=100))

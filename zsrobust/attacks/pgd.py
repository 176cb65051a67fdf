"""Projected gradient descent, in l∞ and l2."""

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsrobust.attacks import Norm, attacks, check_bounds, frozen
from zsrobust.attacks.draws import Draws


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient descent (Madry et al., ICLR 2018, arXiv 1706.06083).

    Steps of gradient ascent on the loss, projected to the ball around the image and to [0, 1].

    The defaults are those of the code released beside the paper: 1/255, steps of 1/255, a uniform start.
    """

    eps: float = 1 / 255
    steps: int = 10
    step_size: float = 1 / 255
    restarts: int = 1
    norm: Norm = "linf"
    loss: Literal["ce", "margin"] = "ce"
    random_start: bool = True
    early_stop: bool = True  #: an image leaves the batch at the first iterate that breaks it; else the last one counts

    def __post_init__(self) -> None:
        check_bounds(self.eps, self.norm, steps=self.steps, step_size=self.step_size, restarts=self.restarts)

    def passes(self, classes: int) -> tuple[int, int]:
        """Return the numbers of forward and of backward passes that an image takes at most."""
        steps = self.restarts * self.steps
        return steps + (self.restarts if self.restarts > 1 else 0), steps

    def __call__(self, classifier: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1]; see `zsrobust.attacks.Attack`."""
        adversarial = images.clone()
        left = torch.arange(len(images), device=images.device)  # images that no restart has broken
        with frozen(classifier):
            for restart in range(self.restarts):
                if self.random_start:
                    adversarial[left] = self._start(images[left], draws[left], restart)
                else:
                    adversarial[left] = images[left]
                left = self._climb(classifier, images, labels, adversarial, left)
                if not len(left):
                    break
        return adversarial

    def _climb(self, classifier: nn.Module, images: Tensor, labels: Tensor, adversarial: Tensor, left: Tensor) -> Tensor:
        """Take the steps for the images `left`, in place; return those not seen broken (all, without `early_stop`)."""
        for step in range(self.steps):
            points = adversarial[left].requires_grad_()
            logits = classifier(points)
            (gradient,) = torch.autograd.grad(objective(self.loss, logits, labels[left]).sum(), points)
            points = points.detach()
            if step == 0 and not gradient.flatten(1).any(dim=1).all():
                warnings.warn("PGD: some images have a gradient of exactly zero; the numbers may flatter.", stacklevel=2)
            if self.early_stop:
                safe = logits.argmax(1) == labels[left]
                left, points, gradient = left[safe], points[safe], gradient[safe]
                if not len(left):
                    break
            adversarial[left] = self._project(images[left], points + self._move(gradient))
        if self.restarts == 1:
            return left  # the last iterate is the referee's to judge
        with torch.no_grad():
            return left[classifier(adversarial[left]).argmax(1) == labels[left]] if len(left) else left

    def _start(self, images: Tensor, draws: Draws, restart: int) -> Tensor:
        """Return points drawn uniformly from the ball around the images, clipped to [0, 1]."""
        shape = images.shape[1:]
        if self.norm == "linf":
            noise = draws.uniform(shape, "pgd", restart).to(images) * 2 - 1
            return (images + self.eps * noise).clamp(0, 1)
        direction = draws.normal(shape, "pgd", restart).to(images)
        radius = draws.uniform((), "pgd radius", restart).to(images)
        radius = self.eps * radius ** (1 / images[0].numel())
        return (images + _unit(direction) * _per_image(radius)).clamp(0, 1)

    def _move(self, gradient: Tensor) -> Tensor:
        return self.step_size * (gradient.sign() if self.norm == "linf" else _unit(gradient))

    def _project(self, images: Tensor, points: Tensor) -> Tensor:
        """Return the points moved into the ball around the images and into [0, 1]."""
        delta = points - images
        if self.norm == "linf":
            delta = delta.clamp(-self.eps, self.eps)
        else:
            delta = delta * _per_image((self.eps / delta.flatten(1).norm(dim=1).clamp_min(1e-12)).clamp_max(1))
        return (images + delta).clamp(0, 1)


def objective(loss: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Return what an attack maximizes, (N,), from logits (N, K): cross-entropy, or the margin max_j≠y z_j - z_y.

    Cross-entropy is written as softplus(logsumexp_j≠y z_j - z_y), which it equals. The usual form takes 1 - p_y, which
    float32 rounds to 0 for an image that CLIP is sure of: its gradient would vanish, and a weak attack look like a
    robust model.
    """
    true = F.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(true, -torch.inf)
    if loss == "ce":
        return F.softplus(others.logsumexp(1) - logits[true])
    return others.amax(1) - logits[true]


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _unit(direction: Tensor) -> Tensor:
    return direction / _per_image(direction.flatten(1).norm(dim=1).clamp_min(1e-12))


attacks.register("pgd")(PGD())
attacks.register("pgd2")(PGD(steps=2))
attacks.register("pgd10")(PGD(steps=10))
attacks.register("pgd100")(PGD(steps=100))

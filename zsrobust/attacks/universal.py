"""A universal perturbation: one δ for all images of all datasets."""

import math
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsrobust.attacks import Attack, attacks, exact, frozen, slots
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.losses import cross_entropy
from zsrobust.attacks.notes import note_if
from zsrobust.attacks.scenes import Training, beside, redrawn, scene_of
from zsrobust.core.errors import ZSRobustError

KEPT = 16  #: perturbations in the cache, the newest

#: The perturbations that this process trained, by attack and `Training.key`. The key names all that
#: a perturbation depends on, and its training is deterministic: the bits are those of training
#: again. A plugin's scene that sets an empty key trains every time.
_trained: dict[Hashable, Tensor] = {}


@dataclass(frozen=True, kw_only=True)
class Universal(Attack):
    """One perturbation in l∞, trained on the suite's training set and added to every image.

    Universal perturbations are those of Moosavi-Dezfooli et al. (CVPR 2017, arXiv 1610.08401),
    trained by sign steps on mini-batches as in Shafahi et al., "Universal adversarial training"
    (AAAI 2020, arXiv 1811.11304, algorithm 2), here on cross-entropy without their clipping:
    δ ← clip(δ + α · sign(Σᵢ ∇ L(clip(xᵢ + δ), yᵢ)), -eps, eps), from δ = 0. It needs no image of
    the attacked dataset. It is trained in float32 against what the attack sees of the defense, as
    a classifier of the training classes; a randomized defense has another draw in each step.
    """

    epochs: int = 10  #: passes over the training images
    images: int = 512  #: of the training set, balanced over its classes
    batch: int = 32  #: training images of a step
    rate: float = 0.1  #: of a step: α, as a share of eps
    norms = ("linf",)
    positive = ("epochs", "images", "batch", "rate")

    @property
    def reads(self) -> dict[str, str]:
        """The number of training images."""
        return {"training": str(self.images)}

    def steps_taken(self, classes: int) -> float:
        """Return the number of steps of the training, if the training set is large enough."""
        return float(self.epochs * math.ceil(self.images / self.batch))

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the images plus δ, (N, 3, S, S) in [0, 1], whatever the labels.

        On images of another size, δ is resized (bilinear). The training's passes count in the cell
        that trains.
        """
        delta = self.trained(classifier, scene_of(classifier).training(self.images)).to(images)
        if delta.shape[-1] != images.shape[-1]:
            size = images.shape[-2:]
            delta = F.interpolate(delta[None], size=size, mode="bilinear", align_corners=False)[0]
        return (images + delta).clamp(0, 1)

    def trained(self, classifier: nn.Module, training: Training) -> Tensor:
        """Return δ, (3, S, S), from the cache or trained now; see `train`."""
        key = (self, training.key)
        if not training.key or key not in _trained:
            delta = self.train(beside(classifier, training.classifier), training)
            if not training.key:
                return delta
            _trained[key] = delta
            for old in list(_trained)[:-KEPT]:
                del _trained[old]
        return _trained[key]

    def train(self, classifier: nn.Module, training: Training) -> Tensor:
        """Return δ, (3, S, S), trained on the training's images against a classifier of them.

        Raises ZSRobustError if there are no images.
        """
        images, labels = training.images, training.labels
        if not len(images):
            raise ZSRobustError(
                "A universal perturbation needs training images, and there are none. Expected one "
                "or more. Set another number: universal:images=512"
            )
        source = Draws.of(training.seed, "universal", np.arange(len(images)), images.device)
        delta, taken = torch.zeros_like(images[0]), 0
        moving = torch.zeros((), dtype=torch.bool, device=images.device)
        autocast = torch.autocast(images.device.type, enabled=False)
        with frozen(classifier), exact(), autocast, torch.enable_grad():
            for epoch in range(self.epochs):
                order = source.uniform((), "universal order", epoch).argsort(stable=True)
                for chosen in order.split(self.batch):
                    drawn = redrawn(classifier, taken)
                    gradient = _gradient(drawn, images[chosen], labels[chosen], delta)
                    moving |= gradient.any()
                    delta = delta + self.rate * self.eps * gradient.sign()
                    delta, taken = delta.clamp(-self.eps, self.eps), taken + 1
        note_if(~moving, "attack_zero_gradients")
        return delta


def _gradient(classifier: nn.Module, images: Tensor, labels: Tensor, delta: Tensor) -> Tensor:
    """Return the gradient, (3, S, S), of the summed loss for δ.

    The images' gradients are added at the end, so that the sum does not depend on the `slots`.
    """
    size, found = slots(classifier, len(images)), []
    for part, truth in zip(images.split(size), labels.split(size), strict=True):
        deltas = delta.repeat(len(part), 1, 1, 1).requires_grad_()
        loss = cross_entropy(classifier((part + deltas).clamp(0, 1)), truth).sum()
        found.append(torch.autograd.grad(loss, deltas)[0])
    return torch.cat(found).sum(0)


attacks.register("universal")(Universal())

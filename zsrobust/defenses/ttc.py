"""TTC: test-time counterattacks (Xing, Zhao & Sebe, CVPR 2025, arXiv 2503.03613).

The image is moved, inside a ball of its own, to where its embedding is farthest from what it was:
images that an attack has made are "falsely stable", their embeddings hardly change under noise, and
the counterattack drives them out. Around any defense of the weights: `ttc:of=clip`.

A counterattack is made of signs of gradients, which have no useful gradient themselves. Declared
for adaptive attacks (BPDA): it counts as the identity, so that they see the gradient of the logits
at the image that it makes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from zsrobust.attacks.draws import Draws
from zsrobust.core.errors import ZSRobustError
from zsrobust.defenses import Wrapped, defenses
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.wrappers import Purified, Wrapper, unchanged
from zsrobust.models.zeroshot import ZeroShotClassifier


@dataclass(frozen=True, kw_only=True)
class TTC(Wrapped):
    """A counterattack before the classifier.

    The defaults are those of the authors' TTC.sh and test_time_counterattack.py. Their noise is
    drawn anew for every batch; ours is drawn from `seed` and the same for every image, so that the
    defense is a function of the image alone.
    """

    eps: float = 4 / 255  #: of the counterattack, l∞
    steps: int = 2
    step_size: float = 1 / 255
    #: The relative change of the embedding under noise, from which an image gets the noise alone.
    tau: float = 0.2
    beta: float = 2.0  #: how much more later steps weigh
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.eps < 1 and self.steps > 0 and self.step_size > 0):
            raise ZSRobustError(
                "TTC needs eps in (0, 1), and positive steps and step_size. See: zsrobust list "
                "defenses"
            )

    @property
    def passes(self) -> int:
        """Two for tau, one for the embedding to leave, one a step, and the last for the logits."""
        return 4 + self.steps

    def wrapper(self, workshop: Workshop) -> Wrapper:
        """Return the counterattack, and the identity that stands in for it."""
        original = workshop.clip.encoder
        return Wrapper(
            wrap=lambda classifier: Purified(classifier, Counterattack(classifier, original, self)),
            surrogate=lambda classifier: Purified(
                classifier, Counterattack(classifier, original, self), unchanged
            ),
        )


class Counterattack(nn.Module):
    """Images to images: each moved away from its own embedding."""

    def __init__(self, classifier: ZeroShotClassifier, original: nn.Module, about: TTC) -> None:
        """Take the classifier, CLIP's own image tower, and the fields of the defense."""
        super().__init__()
        self.classifier, self.original, self.about = classifier, original, about

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return counterattacked images (N, 3, S, S) in [0, 1], without gradient."""
        about = self.about
        noise = (
            Draws.of(about.seed, "ttc", np.arange(1)).uniform(images.shape[1:], "noise").to(images)
            * 2
            - 1
        )
        points = [(images + about.eps * noise).clamp(0, 1)]
        falsely_stable = self._change(images, points[0]) < about.tau
        anchor = self._embed(images)
        for _ in range(about.steps):
            moved = points[-1] + about.step_size * self._away(anchor, points[-1]).sign()
            points.append((images + (moved - images).clamp(-about.eps, about.eps)).clamp(0, 1))
        weights = torch.softmax(about.beta * torch.arange(len(points)).to(images), dim=0)
        weighted = sum(
            (weight * point for weight, point in zip(weights, points, strict=True)),
            torch.zeros_like(images),
        )
        return torch.where(falsely_stable[:, None, None, None], weighted, points[0]).clamp(0, 1)

    def _change(self, images: Tensor, noisy: Tensor) -> Tensor:
        """Return ‖f(noisy) - f(images)‖ / ‖f(images)‖, (N,), for CLIP's own embedding f."""
        before, after = (self._embed(each, self.original) for each in (images, noisy))
        change: Tensor = (after - before).norm(dim=-1) / before.norm(dim=-1)
        return change

    def _embed(self, images: Tensor, tower: nn.Module | None = None) -> Tensor:
        """Return embeddings, (N, D), in float32 at least: squares of half precision overflow."""
        embeddings: Tensor = (self.classifier.encoder if tower is None else tower)(
            self.classifier.prepared(images)
        )
        return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))

    def _away(self, anchor: Tensor, points: Tensor) -> Tensor:
        """Return the gradient of ‖f(points) - anchor‖² with respect to the points."""
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            distance = (self._embed(points) - anchor).square().sum()
            return torch.autograd.grad(distance, points)[0]


defenses.register("ttc")(TTC(title="TTC", paper="Xing, Zhao & Sebe, CVPR 2025, arXiv 2503.03613"))

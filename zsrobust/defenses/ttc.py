"""TTC: test-time counterattacks (Xing, Zhao & Sebe, CVPR 2025, arXiv 2503.03613).

The image is moved, inside a ball of its own, to where its embedding is farthest from what it was:
images that an attack has made are "falsely stable", their embeddings hardly change under noise, and
the counterattack drives them out. Around any defense of the weights: `ttc:of=clip`.

A counterattack is made of signs of gradients, which have no useful gradient themselves. Declared
for adaptive attacks (BPDA): it counts as the identity, so that they see the gradient of the logits
at the image that it makes. Unrolled, a sign has the gradient of `signs`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from zsrobust.attacks.draws import Draws
from zsrobust.core.errors import ZSRobustError
from zsrobust.defenses import Wrapped, defenses
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.unrolling import optimized, signs
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

        def counterattack(classifier: ZeroShotClassifier, unroll: int = 0) -> Counterattack:
            return Counterattack(classifier, original, self, unroll)

        return Wrapper(
            wrap=lambda classifier: Purified(classifier, counterattack(classifier)),
            surrogate=lambda classifier: Purified(classifier, counterattack(classifier), unchanged),
            unrolled=lambda classifier, steps: Purified(
                classifier, counterattack(classifier, steps)
            ),
            steps=self.steps,
        )


class Counterattack(nn.Module):
    """Images to images: each moved away from its own embedding."""

    def __init__(
        self, classifier: ZeroShotClassifier, original: nn.Module, about: TTC, unroll: int = 0
    ) -> None:
        """Take the classifier, CLIP's own image tower, and the fields of the defense.

        Gradients go through the last `unroll` steps.
        """
        super().__init__()
        self.classifier, self.original, self.about = classifier, original, about
        self.unroll = unroll

    def forward(self, images: Tensor) -> Tensor:
        """Return counterattacked images (N, 3, S, S) in [0, 1]; no gradient if not unrolled."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.unroll > 0):
            return self._counterattacked(images)

    def _counterattacked(self, images: Tensor) -> Tensor:
        about = self.about
        noise = (
            Draws.of(about.seed, "ttc", np.arange(1)).uniform(images.shape[1:], "noise").to(images)
            * 2
            - 1
        )
        points = [(images + about.eps * noise).clamp(0, 1)]
        falsely_stable = self._change(images, points[0]) < about.tau
        anchor = self._embed(images)
        for step in range(about.steps):
            live = about.steps - step <= self.unroll
            moved = optimized(
                self._step, points[-1], images, anchor, steps=1, unroll=1 if live else 0
            )
            points.append(moved)
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

    def _step(self, given: tuple[Tensor, ...], graph: bool) -> Tensor:
        """Return the points one step away from the anchor, inside the ball and [0, 1]."""
        points, images, anchor = given
        about = self.about
        with torch.enable_grad():
            points = points if graph else points.detach().requires_grad_()
            distance = (self._embed(points) - anchor).square().sum()
            (gradient,) = torch.autograd.grad(distance, points, create_graph=graph)
        moved = points + about.step_size * signs(gradient)
        return (images + (moved - images).clamp(-about.eps, about.eps)).clamp(0, 1)


defenses.register("ttc")(TTC(title="TTC", paper="Xing, Zhao & Sebe, CVPR 2025, arXiv 2503.03613"))

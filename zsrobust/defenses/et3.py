"""ET3: energy-guided test-time transformation (Mirza et al., CVPR 2026, arXiv 2603.26984).

The image is moved to a lower energy E(x) = -T log Σ_k exp(logit_k(x) / T), which needs no label.
Each step is x ← x - α ∇E / |∇E|₂, clipped to an l∞ ball around the image and to [0, 1]. Around any
defense of the weights; the authors use FARE's and TeCoA's: `et3:of=fare`.

The defaults are those of the released script (OmnAI-Lab/Energy-Guided-Test-Time-Defense at
010cfd2, CLIP/scripts/run_eval.sh): α = 2.5, 5/255, two steps, T = 1, the energy of the dataset's
own classes. The same program has defaults of 10/255 and five steps. α is a length in pixels: on
images of 32 pixels, the ball stops most of a step that stays inside it on 224. There, AutoAttack at
4/255 attacks the classifier without the transformation, and "attack with transform" uses the same
stored images. The paper claims to withstand adaptive attacks. Their details and its numbers could
not be read.

The gradient of the deployed defense is cut, as in that code. Declared for adaptive attacks (BPDA):
the transformation counts as the identity. They also differentiate through the unrolled steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.defenses import Wrapped, defenses
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.unrolling import optimized
from zsrobust.models.wrappers import Purified, Wrapper, unchanged

TINY = 1e-8  #: the least norm of a gradient; of the released code


@dataclass(frozen=True, kw_only=True)
class ET3(Wrapped):
    """A descent of the energy before the classifier."""

    eps: float = 5 / 255  #: of the transformation, l∞
    steps: int = 2
    alpha: float = 2.5  #: the length of a step before it is clipped, l2
    temperature: float = 1.0  #: T of the energy

    def __post_init__(self) -> None:
        if not (0 <= self.eps < 1 and self.steps >= 0 and min(self.alpha, self.temperature) > 0):
            raise ZSRobustError(
                f"ET3 cannot take eps={self.eps}, steps={self.steps}, alpha={self.alpha}, "
                f"temperature={self.temperature}. Expected eps in [0, 1), steps of 0 or more, and "
                "positive alpha and temperature. See: zsrobust list defenses"
            )

    @property
    def passes(self) -> int:
        """One a step, and the last for the logits."""
        return 1 + self.steps

    def wrapper(self, workshop: Workshop) -> Wrapper:
        """Return the transformation, the identity that stands in for it, and the unrolled one."""

        def deployed(classifier: nn.Module) -> Purified:
            return Purified(classifier, Descent(classifier, self))

        return Wrapper(
            wrap=deployed,
            surrogate=lambda classifier: Purified(classifier, Descent(classifier, self), unchanged),
            unrolled=lambda classifier, n: Purified(classifier, Descent(classifier, self, n)),
            steps=self.steps,
        )


class Descent(nn.Module):
    """Images to images of lower energy."""

    def __init__(self, classifier: nn.Module, about: ET3, unroll: int = 0) -> None:
        """Take the classifier, the fields, and how many last steps can be differentiated."""
        super().__init__()
        self.classifier, self.about, self.unroll = classifier, about, unroll

    def forward(self, images: Tensor) -> Tensor:
        """Return moved images (N, 3, S, S) in [0, 1]."""
        return optimized(self._step, images, images, steps=self.about.steps, unroll=self.unroll)

    def _step(self, tensors: tuple[Tensor, ...], graph: bool) -> Tensor:
        (points, images), about = tensors, self.about
        with torch.enable_grad():
            points = points if points.requires_grad and graph else points.detach().requires_grad_()
            scaled = self.classifier(points) / about.temperature
            energy = -about.temperature * torch.logsumexp(scaled, dim=1)
            (slope,) = torch.autograd.grad(energy.sum(), points, create_graph=graph)
        norm = slope.flatten(1).norm(dim=1)[:, None, None, None].clamp_min(TINY)
        moved = (points - about.alpha * slope / norm).clamp(0, 1)
        inside: Tensor = images + (moved - images).clamp(-about.eps, about.eps)
        return inside.clamp(0, 1)


defenses.register("et3")(ET3(title="ET3", paper="Mirza et al., CVPR 2026, arXiv 2603.26984"))

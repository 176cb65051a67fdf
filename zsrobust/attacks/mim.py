"""The momentum iterative method, in l∞ and l2."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from zsrobust.attacks import attacks, frozen
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.geometry import per_image
from zsrobust.attacks.losses import cross_entropy
from zsrobust.attacks.notes import note
from zsrobust.attacks.search import Iterative
from zsrobust.core.errors import ZSRobustError


@dataclass(frozen=True, kw_only=True)
class MIM(Iterative):
    """MI-FGSM (Dong et al., CVPR 2018, arXiv 1710.06081): steps along a sum of gradients.

    Eqs. 6 and 7 on cross-entropy, from the image itself: g ← μ·g + ∇J / ‖∇J‖₁; x ← x + α·sign(g),
    in l2 x + α·g / ‖g‖₂. The paper's α is eps / steps; here it is `step_size`, as for PGD. It draws
    no random numbers.
    """

    decay: float = 1.0  #: μ; 0 leaves the iterative method without momentum
    early_stop: bool = True  #: an image stays at the first iterate that breaks it

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay <= 1:
            raise ZSRobustError(
                f"An attack's decay must be in [0, 1], not {self.decay}. See: zsrobust list attacks"
            )

    def full(self) -> Self:
        """Return the same attack without early stops: every image takes all steps."""
        return replace(self, early_stop=False)

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1]; see `zsrobust.attacks.Attack`."""
        adversarial, momentum = images.clone(), torch.zeros_like(images)
        left = torch.arange(len(images), device=images.device)
        with frozen(classifier):
            for step in range(self.steps):
                points = adversarial[left].requires_grad_()
                logits = classifier(points)
                (gradient,) = torch.autograd.grad(cross_entropy(logits, labels[left]).sum(), points)
                if self.early_stop and step:  # the first is the clean image
                    safe = logits.argmax(1) == labels[left]
                    left, points, gradient = left[safe], points[safe], gradient[safe]
                if not len(left):
                    break
                size = per_image(gradient.flatten(1).norm(p=1, dim=1))
                if not size.all():
                    note("attack_zero_gradients")
                momentum[left] = self.decay * momentum[left] + gradient / size.clamp_min(
                    torch.finfo(size.dtype).tiny
                )
                adversarial[left] = self.move(images[left], points.detach(), momentum[left])
        return adversarial


attacks.register("mim")(MIM())

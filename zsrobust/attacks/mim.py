"""The momentum iterative method, in l∞ and l2."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zsrobust.attacks import Norm, attacks, check_bounds, frozen
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.geometry import per_image, project, uphill
from zsrobust.attacks.losses import cross_entropy
from zsrobust.attacks.notes import note
from zsrobust.core.errors import ZSRobustError


@dataclass(frozen=True, kw_only=True)
class MIM:
    """MI-FGSM (Dong et al., CVPR 2018, arXiv 1710.06081): steps along a running sum of gradients of l1 norm 1.

    Eqs. 6 and 7 on cross-entropy, from the image itself: g ← μ·g + ∇J / ‖∇J‖₁; x ← x + α·sign(g), in l2 x + α·g / ‖g‖₂.
    The paper's α is eps / steps; here it is `step_size`, as for PGD. It draws no random numbers.
    """

    eps: float = 1 / 255
    steps: int = 10
    step_size: float = 1 / 255  #: α
    decay: float = 1.0  #: μ; 0 leaves the iterative method without momentum
    norm: Norm = "linf"
    early_stop: bool = True  #: an image stays at the first iterate that breaks it

    def __post_init__(self) -> None:
        check_bounds(self.eps, self.norm, steps=self.steps, step_size=self.step_size)
        if not 0 <= self.decay <= 1:
            raise ZSRobustError(
                f"An attack's decay is between 0 and 1, not {self.decay}. See: zsrobust list attacks"
            )

    def passes(self, classes: int) -> tuple[int, int]:
        """Return the numbers of forward and of backward passes that an image takes at most."""
        return self.steps, self.steps

    def __call__(
        self, classifier: nn.Module, images: Tensor, labels: Tensor, draws: Draws
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
                moved = points.detach() + uphill(momentum[left], self.step_size, self.norm)
                adversarial[left] = project(images[left], moved, self.eps, self.norm)
        return adversarial


attacks.register("mim")(MIM())

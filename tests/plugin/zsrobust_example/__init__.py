"""An example plugin: a one-step attack, a dataset of patterns, and a defense that adds noise to TeCoA's clean images."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsrobust.attacks import Attack, attacks, frozen
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.pgd import objective
from zsrobust.datasets import Dataset, Images, Split, datasets
from zsrobust.defenses import Defense, defenses
from zsrobust.training import Recipe, Step, objectives


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One step along the sign of the gradient (Goodfellow et al., ICLR 2015, arXiv 1412.6572)."""

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1]."""
        points = images.clone().requires_grad_()
        with frozen(classifier):
            loss = objective("ce", classifier(points), labels)
        (gradient,) = torch.autograd.grad(loss.sum(), points)
        return (images + self.eps * gradient.sign()).clamp(0, 1)


attacks.register("example_fgsm")(FGSM())


def patterns(split: Split) -> Images:
    """Return 40 pictures, of stripes and of checkers."""
    labels = np.arange(40, dtype=np.int64) % 2
    phase = np.random.RandomState(0).randint(0, 8, 40)
    y, x = np.mgrid[0:32, 0:32]
    waves = np.stack(
        [((x + p) // 4 + label * (y // 4)) % 2 for label, p in zip(labels, phase, strict=True)]
    )
    return Images(
        pixels=np.repeat(waves[:, None] * 200 + 30, 3, axis=1).astype(np.uint8), labels=labels
    )


datasets.register("example_patterns")(
    Dataset(
        title="Patterns",
        group="domain-specific",
        about="Stripes and checkers.",
        classes=("striped", "checkered"),
        templates=("a {} texture",),
        size=40,
        side=32,
        load=patterns,
    )
)


@objectives.register("example_noise")
def noise(step: Step) -> Tensor:
    """Return the cross-entropy of images with noise as large as the attack's bound."""
    noisy = step.images + step.options["noise"] * torch.randn_like(step.images).sign()
    return F.cross_entropy(step.student(noisy.clamp(0, 1)), step.labels)


defenses.register("example_noise")(
    Defense(
        title="FT-Noise",
        paper="none; an example",
        recipe=Recipe(objective="example_noise", options={"noise": 0.02}),
    )
)

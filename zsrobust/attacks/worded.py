"""Attacks with other texts than the defender's: prompt mismatch and the semantic ensemble."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zsrobust.attacks import attacks, frozen
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.geometry import uniform_start
from zsrobust.attacks.losses import cross_entropy
from zsrobust.attacks.notes import note_if
from zsrobust.attacks.scenes import DESCRIPTIONS, NUMBER, beside, scene_of
from zsrobust.attacks.search import Iterative


@dataclass(frozen=True, kw_only=True)
class Worded(Iterative):
    """PGD on the mean cross-entropy of the attacked defense with other texts of the classes.

    `texts` is a template with one "{}", or `descriptions`: five classifiers, the n-th with the n-th
    description of each class, as in SAFT's semantic ensemble. The verdicts are those of the
    defender's own texts, so that no image stops early. A template in a spec has no comma: a comma
    ends a field.
    """

    texts: str = DESCRIPTIONS
    random_start: bool = True
    norms = ("linf", "l2", "l1")

    @property
    def reads(self) -> dict[str, str]:
        """The texts."""
        return {"worded": self.texts}

    def passes(self, classes: int) -> tuple[int, int]:
        """Return the numbers of forward and of backward passes that an image takes."""
        number = self.steps * (NUMBER if self.texts == DESCRIPTIONS else 1)
        return number, number

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1], the last iterates.

        Gradients are taken of one module after the other, so that memory does not grow with their
        number. Raises ZSRobustError for texts that are not valid, and for missing descriptions.
        """
        modules = [beside(classifier, each) for each in scene_of(classifier).worded(self.texts)]
        points = images.clone()
        if self.random_start:
            points = uniform_start(images, draws, self.eps, self.norm, "pgd", 0)
        moving = torch.ones((), dtype=torch.bool, device=images.device)
        with frozen(nn.ModuleList(modules)):
            for _ in range(self.steps):
                gradient = _gradient(modules, points, labels)
                moving &= gradient.flatten(1).any(dim=1).all()
                points = self.move(images, points, gradient)
        note_if(~moving, "attack_zero_gradients")
        return points


def _gradient(modules: list[nn.Module], points: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient, (N, 3, S, S), of the modules' mean cross-entropy at the points."""
    points = points.detach().requires_grad_()
    total = torch.zeros_like(points)
    for module in modules:
        loss = cross_entropy(module(points), labels).sum()
        total += torch.autograd.grad(loss, points)[0]
    return total / len(modules)


attacks.register("semantic")(Worded())
attacks.register("prompt_mismatch")(Worded(texts="a picture of the {}."))

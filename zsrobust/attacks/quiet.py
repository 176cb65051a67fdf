"""An attack that keeps a test-time defense still, written by hand for defenses with a gate.

MAC measures how much an embedding changes under an augmentation, and moves the image only if the
change is large. Its weight is a steep sigmoid. Gradients through it vanish, and hide the gate. The
known way around a test before a classifier is to attack both (Carlini & Wagner, AISec 2017, arXiv
1705.07263): climb the loss of the classifier, and where that has succeeded, lower the score of the
test (selective gradients of Bryniarski et al., ICLR 2022, arXiv 2106.15023).

A defense declares itself at rest (`Wrapper.idle`): DBD's gate is its score, and the tuned prompts
of R-TPT and SS-TPT move little. One without such a state is attacked as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from zsrobust.attacks import attacks, frozen
from zsrobust.attacks.adaptive import Worst
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.geometry import uniform_start
from zsrobust.attacks.losses import cross_entropy, margin
from zsrobust.attacks.notes import note_if
from zsrobust.attacks.scenes import beside, redrawn, scene_of
from zsrobust.attacks.search import Iterative, advance, rivals

#: From logits (N, K) to what the steps raise, (N,).
Raised = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Quiet(Iterative):
    """Long searches at a defense at rest, the worst point kept for each image.

    A step goes along the mean gradient of `eot` draws of the defense, new ones at each step. A draw
    that is right, or not alarmed, raises the loss; one that is wrong and alarmed lowers the alarm.
    Steps shrink linearly to zero. The first search climbs cross-entropy from a random start. The
    others go on from the worst points: one on the margin, and one toward each of `targets` classes,
    those with the highest logits there. Each is on the images that some draw of the deployed
    defense still classifies correctly.
    """

    steps: int = 20  #: of each search
    eot: int = 4  #: draws for a gradient, and for a comparison of points; one if nothing is drawn
    targets: int = 2
    returns_clean = True
    positive = (*Iterative.positive, "eot", "targets")

    def passes(self, classes: int) -> tuple[int, int]:
        """Return the most passes that an image takes: those of a defense that is random."""
        targets = min(self.targets, classes - 1)
        steps = self.eot * (2 + targets) * self.steps
        return steps + self.eot * (3 + targets) + targets, steps

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1], or clean ones where none was worse."""
        idle = scene_of(classifier).idle
        module = AtRest(classifier) if idle is None else beside(classifier, idle())
        times = self.eot if getattr(classifier, "redrawn", None) is not None else 1
        with frozen(classifier):
            worst = Worst(classifier, images, labels, times)
            for search in range(2 + self.targets):
                left = worst.left
                if not len(left):
                    break
                given, truth, points = images[left], labels[left], worst.points[left]
                if search == 0:
                    points = uniform_start(given, draws[left], self.eps, self.norm, "quiet")
                raised = self._raised(search, module, points, truth)
                if raised is not None:
                    worst.take(left, self._climb(module, raised, given, truth, points, times))
        return worst.points

    def _raised(
        self, search: int, module: nn.Module, points: Tensor, labels: Tensor
    ) -> Raised | None:
        """Return what a search raises; None if there are not so many classes to aim at."""
        if search < 2:
            return partial((cross_entropy, margin)[search], labels=labels)
        with torch.no_grad():
            logits = module(points)[:, :-1]
        rank = search - 2
        if rank >= logits.shape[1] - 1:
            return None
        pair = torch.stack([rivals(logits, labels, rank + 1)[:, rank], labels], dim=1)

        def toward(logits: Tensor) -> Tensor:
            target, true = logits.gather(1, pair).unbind(1)
            return target - true

        return toward

    def _climb(
        self,
        module: nn.Module,
        raised: Raised,
        images: Tensor,
        labels: Tensor,
        points: Tensor,
        times: int,
    ) -> Tensor:
        """Return the last of the steps from some points, (N, 3, S, S)."""
        stuck = torch.zeros((), dtype=torch.bool, device=images.device)
        for step in range(self.steps):
            points = points.detach().requires_grad_()
            gradient = torch.zeros_like(points)
            for draw in range((step + 2) * times, (step + 3) * times):  # not those of `Worst`
                found = redrawn(module, draw)(points)
                logits, alarm = found[:, :-1], found[:, -1]
                lower = (alarm > 0) & (logits.argmax(1) != labels)
                score = torch.where(lower, -alarm, raised(logits))
                gradient = gradient + torch.autograd.grad(score.sum(), points)[0]
            stuck |= ~gradient.flatten(1).any(1).all()
            points = advance(
                images,
                points.detach(),
                gradient,
                eps=self.eps,
                norm=self.norm,
                step_size=self.step_size * (1 - step / self.steps),
            )
        note_if(stuck, "attack_zero_gradients")
        return points


class AtRest(nn.Module):
    """A defense that is never alarmed."""

    def __init__(self, classifier: nn.Module) -> None:
        """Take the defense."""
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images, and in a last column no alarm, (N, K + 1)."""
        logits = self.classifier(images)
        return torch.cat([logits, -torch.ones_like(logits[:, :1])], dim=1)

    def redrawn(self, draw: int) -> "AtRest":
        """Return another draw of the defense; one that is not random stays as it is."""
        return AtRest(redrawn(self.classifier, draw))


attacks.register("quiet")(Quiet())

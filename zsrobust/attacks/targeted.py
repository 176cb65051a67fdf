"""PGD toward a class: random, or the least likely one."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from zsrobust.attacks import attacks, frozen, slots
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.losses import objective
from zsrobust.attacks.pgd import PGD
from zsrobust.core.errors import ZSRobustError


@dataclass(frozen=True, kw_only=True)
class TargetedPGD(PGD):
    """PGD that lowers the loss of a target class (Kurakin et al., ICLR 2017, arXiv 1607.02533).

    The target is a random class, or the least likely one on the clean image (section 2.3 there). It
    is never the label. An image leaves when it is predicted as its target. With `loss=margin` the
    steps raise the target's logit above all others.

    A result counts two things: the images that are still classified correctly, and the successes,
    which are predicted as their target. An image that is predicted as a third class is neither.
    """

    target: Literal["random", "least_likely"] = "random"
    targeted = True

    def aims(self, logits: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Return the targets (N,) int64 for clean logits (N, K) and labels (N,).

        Raises ZSRobustError for a single class.
        """
        classes = logits.shape[1]
        if classes < 2:
            raise ZSRobustError(
                f"A targeted attack needs two classes, and the classifier has {classes}. "
                "Try: --attack pgd10"
            )
        if self.target == "least_likely":
            return logits.scatter(1, labels[:, None], torch.inf).argmin(1)
        drawn = draws.integers(classes - 1, (), "target").to(labels.device)
        return drawn + (drawn >= labels)

    def value(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return what the steps raise, (N,): the loss of the targets, here `labels`, negated."""
        return -objective(self.loss, logits, labels)

    def unfinished(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return which images (N,) are not predicted as their targets, here `labels`."""
        return logits.argmax(1) != labels

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1]; see `zsrobust.attacks.Attack`.

        Without `targets`, (N,) int64, it predicts the clean images to choose them.
        """
        if targets is None:
            with frozen(classifier), torch.no_grad():
                parts = images.split(slots(classifier, len(images)))
                logits = torch.cat([classifier(part) for part in parts])
            targets = self.aims(logits, labels, draws)
        return super().__call__(classifier, images, targets, draws, start)


attacks.register("pgd_targeted")(TargetedPGD())

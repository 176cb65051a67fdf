"""Wrappers: what a test-time defense puts around the classifier, and what an attack sees of it.

Verdicts are always made with what is deployed. An adaptive attack sees it too, or the stand-in that
the wrapper's author declares where it has no useful gradient (BPDA; Athalye, Carlini & Wagner, ICML
2018, arXiv 1802.00420). An oblivious one sees the classifier without the wrapper.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zsrobust.models.zeroshot import ZeroShotClassifier

#: What the attack knows: everything, or nothing of the wrapper.
Knowledge = Literal["adaptive", "oblivious"]
ADAPTIVE: Knowledge = "adaptive"


@dataclass(frozen=True)
class Wrapper:
    """How a classifier is wrapped, and what an adaptive attack sees in its place."""

    wrap: Callable[[ZeroShotClassifier], nn.Module]  #: what is deployed
    #: What an adaptive attack sees in its place: the same logits, with a gradient. None: it goes
    #: straight through.
    surrogate: Callable[[ZeroShotClassifier], nn.Module] | None = None

    def target(self, classifier: ZeroShotClassifier, knowledge: Knowledge) -> nn.Module | None:
        """Return what an attack sees of the wrapped classifier; None for the deployed one."""
        if knowledge == "oblivious":
            return classifier
        return None if self.surrogate is None else self.surrogate(classifier)


class Purified(nn.Module):
    """A classifier that sees other images than it was given: classifier(purify(images))."""

    def __init__(
        self,
        classifier: nn.Module,
        purify: Callable[[Tensor], Tensor],
        stand_in: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Take the classifier, the purifier, and the stand-in of its gradient or None."""
        super().__init__()
        self.classifier, self.purify, self.stand_in = classifier, purify, stand_in

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (N, K), of images (N, 3, S, S) in [0, 1]."""
        logits: Tensor = self.classifier(self._purified(images))
        return logits

    @property
    def features(self) -> Callable[[Tensor], Tensor]:
        """The classifier's image embeddings, (N, D), of what it sees; missing where it has none."""
        return self._of_purified(self.classifier.features)

    @property
    def embeddings(self) -> Callable[[Tensor], Tensor]:
        """Un-normalized embeddings of purified images; missing where the classifier has none."""
        return self._of_purified(self.classifier.embeddings)

    @property
    def tokens(self) -> Callable[[Tensor], Tensor]:
        """The classifier's patch tokens, of what it sees; missing where it has none."""
        return self._of_purified(self.classifier.tokens)

    def _of_purified(self, function: Any) -> Callable[[Tensor], Tensor]:
        return lambda images: function(self._purified(images))

    def _purified(self, images: Tensor) -> Tensor:
        purified = self.purify(images)
        return purified if self.stand_in is None else bpda(purified, self.stand_in(images))


def unchanged(images: Tensor) -> Tensor:
    """Return the images: a stand-in for small changes (Athalye et al., section 4.1.1)."""
    return images


def bpda(value: Tensor, stand_in: Tensor) -> Tensor:
    """Return `value`, to the last bit, with the gradient of `stand_in`, a tensor of the same shape.

    The backward pass differentiable approximation of Athalye et al., section 4.1: `bpda(exact(x),
    smooth(x))`. Raises ValueError for another shape.
    """
    if value.shape != stand_in.shape:
        raise ValueError(
            f"The stand-in has the shape {tuple(stand_in.shape)}, what it stands for "
            f"{tuple(value.shape)}."
        )
    replaced: Tensor = _Replaced.apply(value.detach(), stand_in)
    return replaced


class _Replaced(torch.autograd.Function):
    """Its first argument forward, its second backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, stand_in: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient

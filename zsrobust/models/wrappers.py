"""Wrappers: test-time defenses around a classifier, and the classifier that an attack sees.

The referee always judges the deployed classifier. An adaptive attack sees it too, or its surrogate.
The wrapper's author declares a surrogate if the deployed classifier has no useful gradient (BPDA;
Athalye, Carlini & Wagner, ICML 2018, arXiv 1802.00420). An oblivious attack sees the classifier
without the wrapper.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zsrobust.models.randomized import Judged, is_random
from zsrobust.models.zeroshot import ZeroShotClassifier

#: Whether the attack knows the wrapper.
Knowledge = Literal["adaptive", "oblivious"]
ADAPTIVE: Knowledge = "adaptive"


#: Makes a classifier of pixels around a plain one.
Make = Callable[[ZeroShotClassifier], nn.Module]


@dataclass(frozen=True)
class Wrapper:
    """How a classifier is wrapped: pixels (N, 3, S, S) in [0, 1] still become logits (N, K)."""

    wrap: Make  #: makes the deployed classifier
    #: Makes the adaptive attack's surrogate: the same logits, with a gradient. None: not needed.
    surrogate: Make | None = None
    #: Makes further surrogates, by name, which the attack `adaptive` tries, too.
    others: Mapping[str, Make] = field(default_factory=dict)
    #: Makes the classifier whose last n steps of an optimization can be differentiated.
    unrolled: Callable[[ZeroShotClassifier, int], nn.Module] | None = None
    steps: int = 0  #: of that optimization
    #: Makes a defense as it is where it does not act: the logits (N, K), and in a last column the
    #: alarm of its gate. Where that is negative, the deployed defense has (almost) these logits.
    idle: Make | None = None
    #: How a randomized defense is judged: `one_shot`, `majority_of_n` or `worst_of_n`.
    judged: str = "one_shot"

    def deployed(self, classifier: ZeroShotClassifier) -> nn.Module:
        """Return the classifier that the referee judges."""
        made = self.wrap(classifier)
        return Judged(made, self.judged) if is_random(made) else made

    def target(self, classifier: ZeroShotClassifier, knowledge: Knowledge) -> nn.Module | None:
        """Return the classifier that an attack sees; None for the deployed one."""
        if knowledge == "oblivious":
            return classifier
        if self.surrogate is not None:
            return self.surrogate(classifier)
        made = self.wrap(classifier)
        return made if is_random(made) else None

    def ways(self) -> dict[str, Make]:
        """Return what an attack can differentiate beside the target, by name.

        These are further surrogates, the unrolled optimization, and the undefended classifier.
        """
        found = dict(self.others)
        unrolled = self.unrolled
        if unrolled is not None:
            found["unrolled"] = lambda classifier: unrolled(classifier, self.steps)
        return {**found, "undefended": lambda classifier: classifier}


class Purified(nn.Module):
    """A classifier of purified images: classifier(purify(images))."""

    def __init__(
        self,
        classifier: nn.Module,
        purify: Callable[[Tensor], Tensor],
        stand_in: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Take the classifier, the purification of images, and its differentiable stand-in.

        `stand_in` is None if the purification has a useful gradient.
        """
        super().__init__()
        self.classifier, self.purify, self.stand_in = classifier, purify, stand_in

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (N, K), of images (N, 3, S, S) in [0, 1]."""
        logits: Tensor = self.classifier(self._purified(images))
        return logits

    @property
    def features(self) -> Callable[[Tensor], Tensor]:
        """The purified images' features, (N, D); missing if the classifier has none."""
        return self._of_purified(self.classifier.features)

    @property
    def embeddings(self) -> Callable[[Tensor], Tensor]:
        """The purified images' raw embeddings, (N, D); missing if the classifier has none."""
        return self._of_purified(self.classifier.embeddings)

    @property
    def tokens(self) -> Callable[[Tensor], Tensor]:
        """The purified images' patch tokens; missing if the classifier has none."""
        return self._of_purified(self.classifier.tokens)

    def _of_purified(self, function: Any) -> Callable[[Tensor], Tensor]:
        return lambda images: function(self._purified(images))

    def _purified(self, images: Tensor) -> Tensor:
        purified = self.purify(images)
        return purified if self.stand_in is None else bpda(purified, self.stand_in(images))


class OnFeatures(nn.Module):
    """A classifier whose image features are changed before they are compared with the texts."""

    def __init__(
        self,
        classifier: ZeroShotClassifier,
        change: Callable[[Tensor], Tensor],
        stand_in: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Take the classifier, the change of unit-norm features (N, D), and its stand-in.

        `stand_in` is None if the change has a useful gradient.
        """
        super().__init__()
        self.classifier, self.change, self.stand_in = classifier, change, stand_in

    def features(self, images: Tensor) -> Tensor:
        """Return the changed features, (N, D), of images (N, 3, S, S) in [0, 1]."""
        before = self.classifier.features(images)
        changed = self.change(before)
        return changed if self.stand_in is None else bpda(changed, self.stand_in(before))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (N, K), of images (N, 3, S, S) in [0, 1]."""
        return self.features(images) @ self.classifier.head.T


def unchanged(images: Tensor) -> Tensor:
    """Return what was given, the stand-in for a small change (Athalye et al., section 4.1.1)."""
    return images


def bpda(value: Tensor, stand_in: Tensor) -> Tensor:
    """Return `value`, to the last bit, with the gradient of `stand_in`, a tensor of the same shape.

    This is the backward pass differentiable approximation of Athalye et al., section 4.1:
    `bpda(exact(x), smooth(x))`. Raises ValueError if the shapes differ.
    """
    if value.shape != stand_in.shape:
        raise ValueError(
            f"The stand-in has the shape {tuple(stand_in.shape)}. Expected {tuple(value.shape)}."
        )
    replaced: Tensor = _Replaced.apply(value.detach(), stand_in)
    return replaced


class _Replaced(torch.autograd.Function):
    """The value in the forward pass, the stand-in's gradient in the backward pass."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, stand_in: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient

"""Prompt tuning at test time: what R-TPT and SS-TPT share.

The words before the class names are vectors, which start as the embeddings of "a photo of a". For
each image, one step of AdamW moves them on a loss of the image's views. Then every view is
classified with the tuned prompt, and the logits are averaged with weights that come from how
reliable a view looks. Images are tuned one by one, as in the released codes.

In closed form, the first step of AdamW on vectors v with gradient g is
v · (1 - lr · decay) - lr · g / (|g| + 1e-8), element by element. That is almost the sign of g.

How an attack sees such a defense:

- the deployed module is exact, and differentiates the views' features. It treats the tuned prompt
  and the weights as constants;
- `unrolled` differentiates all of it. The derivative of g / (|g| + 1e-8) is almost zero, so that
  it adds the weights and little else;
- `smooth` is the same with the step's direction replaced by g / rms(g) in the backward pass;
- at rest, where the attack `quiet` climbs, the prompt is the one before tuning.

Which views are selected is a choice that none of them differentiates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from zsrobust.attacks.draws import Draws
from zsrobust.core.errors import ZSRobustError
from zsrobust.defenses import Drawn, Tower
from zsrobust.defenses.views import VIEWS, Randomized
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.heads import Context
from zsrobust.models.unrolling import optimized
from zsrobust.models.wrappers import Wrapper, bpda
from zsrobust.models.zeroshot import ZeroShotClassifier

#: Of AdamW; the released codes keep PyTorch's defaults.
DECAY, TINY = 0.01, 1e-8


@dataclass(frozen=True, kw_only=True)
class PromptTuning(Drawn):
    """A prompt that is tuned on each image. A subclass says which module does it."""

    name: ClassVar[str]  #: of its random numbers, and in errors
    module: ClassVar[type["Tuned"]]
    views: int = 64  #: the image itself is the first
    lr: float = 5e-3  #: of AdamW; zero leaves the prompt as it is
    temperature: float = 0.01  #: of the weights of views

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.views >= 1 and self.lr >= 0 and self.temperature > 0):
            raise ZSRobustError(
                f"{self.name} takes views=1 or more, lr=0 or more, and a positive temperature. "
                "See: zsrobust list defenses"
            )

    @property
    def selected(self) -> int:
        """The number of views that the prompt is tuned on: those of the lowest entropy."""
        raise NotImplementedError

    @property
    def passes(self) -> int:
        """The number of views; texts are passes through the other tower."""
        return self.views

    def tower(self, workshop: Workshop) -> Tower:
        """Return the other defense's tower, to be wrapped.

        Raises ZSRobustError if that tower has a head of its own.
        """
        tower = super().tower(workshop)
        if tower.head is not None:
            raise ZSRobustError(
                f"{self.name}: {self.of} has texts of its own, and the prompt is tuned for the "
                f"backbone's text tower. Choose another defense: {self.name}:of=tecoa"
            )
        return tower

    def wrapper(self, workshop: Workshop) -> Wrapper:
        """Return the tuning; without a surrogate, attacks see its first draws."""

        def made(classifier: ZeroShotClassifier, unroll: int = 0, smooth: bool = False) -> "Tuned":
            context = Context.of_words(workshop.clip, "a photo of a").requires_grad_(False)
            return self.module(classifier, context, self, unroll, smooth)

        return Wrapper(
            wrap=made,
            others={"smooth": lambda classifier: made(classifier, 1, smooth=True)},
            unrolled=made,
            steps=1,
            idle=lambda classifier: Untuned(made(classifier)),
            judged=self.judged,
        )


class Tuned(Randomized):
    """A classifier whose prompt is tuned on each image's views. Subclasses score the views."""

    start: Tensor

    def __init__(
        self,
        classifier: ZeroShotClassifier,
        context: Context,
        about: PromptTuning,
        unroll: int = 0,
        smooth: bool = False,
    ) -> None:
        """Take the classifier, the prompt before tuning, and the fields of the defense.

        With `unroll`, the tuning and the weights are differentiated, too, and with `smooth` its
        step counts as one along the gradient. Raises ZSRobustError without the names of classes.
        """
        super().__init__(about.seed, about.name)
        if classifier.wording is None:
            raise ZSRobustError(
                f"{about.name} tunes the words before the names of classes, and this classifier "
                "has no names. Make it with Tower.classifier, or use: zsrobust run"
            )
        self.classifier, self.context, self.about = classifier, context, about
        self.unroll, self.smooth, self.wording = unroll, smooth, classifier.wording
        self.scale = float(classifier.head[0].detach().norm())  # a row of the head has this length
        with torch.no_grad():
            self.register_buffer("start", context(self.wording, self.scale))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (N, K), of images (N, 3, S, S) in [0, 1]."""
        seen, scores = self._scored(images)
        pooled = self._pooled(seen, scores)
        heads = torch.stack([self._head(*each) for each in zip(seen, scores, strict=True)])
        return (heads @ pooled[..., None])[..., 0]

    def features(self, images: Tensor) -> Tensor:
        """Return the weighted mean of the views' features, (N, D), of images in [0, 1]."""
        return self._pooled(*self._scored(images))

    def scores(self, images: Tensor, seen: Tensor) -> Tensor:
        """Return (N, V, C): C scores of each view, from the views' features (N, V, D)."""
        raise NotImplementedError

    def weights(self, scores: Tensor) -> Tensor:
        """Return the weights of views, (..., V), which sum to one, from scores (..., V, C)."""
        raise NotImplementedError

    def loss(self, logits: Tensor, before: Tensor, scores: Tensor) -> Tensor:
        """Return the loss that tunes the prompt, a scalar.

        Of the selected views it gets the logits (M, K), those before tuning, and scores (M, C).
        """
        raise NotImplementedError

    def view(self, images: Tensor, draws: Draws, place: int) -> Tensor:
        """Return a view of each image: the image itself, or a mix of random crops and changes."""
        return images if place == 0 else VIEWS["augmix"](images, draws, f"view {place}")

    def seen(self, images: Tensor, make: Callable[[Tensor, Draws, int], Tensor]) -> Tensor:
        """Return the features, (N, V, D), of the views that `make` makes, one at a time.

        The backward pass makes them again, so that one view's graph is in memory.
        """
        draws = self.draws(images)

        def one(place: int, given: Tensor) -> Tensor:
            return self.classifier.features(make(given, draws, place))

        found = [
            checkpoint(partial(one, place), images, use_reentrant=False, preserve_rng_state=False)
            for place in range(self.about.views)
        ]
        return torch.stack(found, dim=1)

    def _scored(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of the views, (N, V, D), and their scores, (N, V, C)."""
        seen = self.seen(images, self.view)
        with self._exact():
            return seen, self.scores(images, seen)

    def _pooled(self, seen: Tensor, scores: Tensor) -> Tensor:
        return (self.weights(scores)[..., None] * seen).sum(1)

    def _exact(self) -> torch.set_grad_enabled:
        """Within it, gradients are those of the unrolled module, and the deployed one has none."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and self.unroll > 0)

    def _head(self, seen: Tensor, scores: Tensor) -> Tensor:
        """Return the head, (K, D), tuned on an image's views (V, D)."""
        entropies = entropy(seen.detach() @ self.start.T)
        best = entropies.argsort(stable=True)[: self.about.selected]
        vectors = optimized(
            self._step,
            self.context.vectors.detach(),
            seen[best],
            scores[best],
            steps=1,
            unroll=self.unroll,
        )
        with self._exact():
            return self._texts(vectors)

    def _texts(self, vectors: Tensor) -> Tensor:
        head: Tensor = functional_call(
            self.context, {"vectors": vectors}, (self.wording, self.scale)
        )
        return head

    def _step(self, given: tuple[Tensor, ...], graph: bool) -> Tensor:
        """Return the vectors after the first step of AdamW."""
        vectors, seen, scores = given if graph else tuple(each.detach() for each in given)
        with torch.enable_grad():
            vectors.requires_grad_()
            loss = self.loss(seen @ self._texts(vectors).T, seen @ self.start.T, scores)
            (gradient,) = torch.autograd.grad(loss, vectors, create_graph=graph)
            direction = gradient / (gradient.abs() + TINY)
            if graph and self.smooth:
                size = gradient.detach().square().mean().sqrt()
                direction = bpda(direction, gradient / (size + TINY))
            return vectors * (1 - self.about.lr * DECAY) - self.about.lr * direction


class Untuned(nn.Module):
    """The classifier of the weighted views with the prompt before tuning, which moves it little."""

    def __init__(self, tuned: Tuned) -> None:
        """Take the defense."""
        super().__init__()
        self.tuned = tuned

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, and in a last column no alarm, (N, K + 1), of images in [0, 1]."""
        logits = self.tuned.features(images) @ self.tuned.start.T
        return torch.cat([logits, -torch.ones_like(logits[:, :1])], dim=1)

    def redrawn(self, draw: int) -> "Untuned":
        """Return another draw of the views."""
        return Untuned(self.tuned.redrawn(draw))


def entropy(logits: Tensor) -> Tensor:
    """Return the entropies, (...), of the softmax of logits (..., K)."""
    entropies: Tensor = torch.special.entr(logits.softmax(-1)).sum(-1)
    return entropies

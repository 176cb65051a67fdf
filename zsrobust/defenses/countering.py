"""Steps of test-time defenses that move an image in pixels, inside an l∞ ball of their own."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from zsrobust.attacks.draws import Draws
from zsrobust.defenses.views import Randomized
from zsrobust.models.unrolling import signs
from zsrobust.models.wrappers import Wrapper, bpda
from zsrobust.models.zeroshot import ZeroShotClassifier


def embedded(classifier: ZeroShotClassifier, images: Tensor) -> Tensor:
    """Return raw embeddings (N, D) of images (N, 3, S, S) in [0, 1], in float32 at least.

    Squares of half precision overflow.
    """
    embeddings = classifier.embeddings(images)
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def uphill(score: Callable[[Tensor], Tensor], points: Tensor, graph: bool) -> Tensor:
    """Return the gradient (N, 3, S, S) of each image's score at points of this shape.

    `score` takes points to (N,). With `graph`, the gradient can be differentiated.
    """
    with torch.enable_grad():
        points = points if graph else points.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(score(points).sum(), points, create_graph=graph)
    return gradient


def stepped(
    points: Tensor, images: Tensor, direction: Tensor, step_size: float, eps: float
) -> Tensor:
    """Return points (N, 3, S, S) after a step of the direction's signs.

    They stay within eps of the images, l∞, and in [0, 1].
    """
    moved = points + step_size * signs(direction)
    return (images + (moved - images).clamp(-eps, eps)).clamp(0, 1)


def random_start(images: Tensor, draws: Draws, eps: float, *key: object) -> Tensor:
    """Return images (N, 3, S, S) in [0, 1] with uniform noise within eps, clipped to [0, 1]."""
    noise = 2 * draws.uniform(images.shape[1:], *key).to(images) - 1
    return (images + eps * noise).clamp(0, 1)


class Countered(Randomized):
    """A classifier of moved views of an image; the move has random numbers of its own.

    Its logits are the mean over the views. A subclass sets the views, if the image is not the only
    one, and how a view is moved.
    """

    def __init__(
        self,
        classifier: ZeroShotClassifier,
        seed: int,
        name: str,
        unroll: int = 0,
        straight: bool = False,
    ) -> None:
        """Take the classifier, and the seed and the name of the random numbers.

        Gradients go through the last `unroll` steps of the move. If `straight`, the move counts as
        the identity (BPDA). If neither, there is no gradient.
        """
        super().__init__(seed, name)
        self.classifier, self.unroll, self.straight = classifier, unroll, straight

    def views(self, images: Tensor, draws: Draws) -> list[Tensor]:
        """Return the views of images (N, 3, S, S) in [0, 1]: the images themselves."""
        return [images]

    def moved(self, view: Tensor, draws: Draws, key: str) -> Tensor:
        """Return a view (N, 3, S, S) in [0, 1] after its move; `key` is that of its draws."""
        raise NotImplementedError

    def purified(self, images: Tensor) -> list[Tensor]:
        """Return the moved views of images (N, 3, S, S) in [0, 1], with the declared gradient."""
        draws, found = self.draws(images), []
        for number, view in enumerate(self.views(images, draws)):
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.unroll > 0):
                after = self.moved(view, draws, f"view {number}")
            found.append(bpda(after, view) if self.straight else after)
        return found

    def features(self, images: Tensor) -> Tensor:
        """Return the mean features of the moved views, (N, D), at unit norm."""
        return F.normalize(self._mean(images), dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean logits, (N, K), of the moved views of images in [0, 1]."""
        return self._mean(images) @ self.classifier.head.T

    def _mean(self, images: Tensor) -> Tensor:
        found = [self.classifier.features(each) for each in self.purified(images)]
        return torch.stack(found).mean(0)


class Make(Protocol):
    """Makes a countered classifier; see `Countered` for the arguments."""

    def __call__(
        self, classifier: ZeroShotClassifier, unroll: int = 0, straight: bool = False
    ) -> Countered:
        """Return it."""


def countering(make: Make, steps: int, judged: str) -> Wrapper:
    """Return the wrapper of a random move of some steps: the identity stands in, or it unrolled."""
    return Wrapper(
        wrap=lambda classifier: make(classifier),
        surrogate=lambda classifier: make(classifier, straight=True),
        unrolled=lambda classifier, last: make(classifier, unroll=last),
        steps=steps,
        judged=judged,
    )

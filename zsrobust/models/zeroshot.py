"""The zero-shot classifier: pixels in [0, 1] to logits."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsrobust.datasets import Wording
from zsrobust.models.tokens import embed, project

#: Means and standard deviations that may replace the backbone's own.
NORMALIZATIONS = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}


class ZeroShotClassifier(nn.Module):
    """A map from images (N, 3, S, S) float32 in [0, 1] to logits (N, K).

    A logit is the scaled cosine to a class's text embedding. Images are resized and normalized
    inside, so that attacks work on pixels. The text head is a buffer.
    """

    head: Tensor
    mean: Tensor
    std: Tensor
    #: The names of the classes, if they are known: for a defense that encodes texts of its own.
    wording: Wording | None = None

    def __init__(
        self,
        encoder: nn.Module,
        head: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        side: int,
    ) -> None:
        """Take the image tower, the head (K, D), the normalization, and the input side."""
        super().__init__()
        self.encoder, self.side = encoder, side
        self.register_buffer("head", head)
        self.register_buffer("mean", head.new_tensor(mean)[:, None, None])
        self.register_buffer("std", head.new_tensor(std)[:, None, None])

    def prepared(self, images: Tensor) -> Tensor:
        """Return the resized and normalized images, the tower's input, of images in [0, 1]."""
        if images.shape[-1] != self.side:
            images = F.interpolate(images, size=self.side, mode="bicubic", align_corners=False)
        return (images - self.mean) / self.std

    def embeddings(self, images: Tensor) -> Tensor:
        """Return the embeddings before normalization, (N, D), of images in [0, 1]."""
        embeddings: Tensor = self.encoder(self.prepared(images))
        return embeddings

    def features(self, images: Tensor) -> Tensor:
        """Return the unit-norm image embeddings, (N, D), of images (N, 3, S, S) in [0, 1]."""
        return F.normalize(self.embeddings(images), dim=-1)

    def tokens(self, images: Tensor) -> Tensor:
        """Return the patch tokens, (N, L, D), of images in [0, 1], without the class token.

        The tower's own last norm and projection are applied. Raises ZSRobustError for a tower
        without patch tokens.
        """
        return project(self.encoder, embed(self.encoder, self.prepared(images))[1])

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (N, K), of images (N, 3, S, S) in [0, 1]."""
        return self.features(images) @ self.head.T


class HalfPrecision(nn.Module):
    """A classifier in half precision, as the released code runs its attacks and verdicts.

    It computes in float16 autocast. The gradient of a summed loss is divided by the number of
    images, which makes it the gradient of the mean. Without scaling, small gradients become zeros.
    """

    def __init__(self, classifier: nn.Module) -> None:
        """Wrap a classifier."""
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K), float32, of images (N, 3, S, S) in [0, 1]."""
        return self._halved(self.classifier, images)

    @property
    def features(self) -> Callable[[Tensor], Tensor]:
        """The classifier's unit-norm embeddings (N, D), float32; missing if it has none."""
        return partial(self._halved, self.classifier.features)

    @property
    def embeddings(self) -> Callable[[Tensor], Tensor]:
        """The classifier's embeddings (N, D) before normalization; missing if it has none."""
        return partial(self._halved, self.classifier.embeddings)

    @property
    def tokens(self) -> Callable[[Tensor], Tensor]:
        """The classifier's patch tokens (N, L, D), float32; missing if it has none."""
        return partial(self._halved, self.classifier.tokens)

    @property
    def redrawn(self) -> Callable[[int], "HalfPrecision"]:
        """Another draw of a randomized classifier; missing if it has none."""
        make: Any = self.classifier.redrawn
        return lambda draw: HalfPrecision(make(draw))

    @property
    def worst_of(self) -> int:
        """How many draws the referee asks for; missing if the classifier does not say it."""
        number: Any = self.classifier.worst_of
        return int(number)

    def _halved(self, function: Any, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.float16):
            found: Tensor = function(images)
        if found.requires_grad:
            found.register_hook(lambda gradient: gradient / len(gradient))
        return found.float()

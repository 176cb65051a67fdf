"""The zero-shot classifier: pixels in [0, 1] to logits."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsrobust.models.tokens import embed, project

#: Means and standard deviations that a classifier may use in the place of its backbone's.
NORMALIZATIONS = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}


class ZeroShotClassifier(nn.Module):
    """Images (N, 3, S, S) in [0, 1] to logits (N, K): scaled cosines to class texts.

    Resize and normalize happen inside, so that attacks live in pixel space. The text head is a
    buffer.
    """

    head: Tensor
    mean: Tensor
    std: Tensor

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
        self.register_buffer(
            "mean", torch.tensor(mean, dtype=head.dtype, device=head.device)[:, None, None]
        )
        self.register_buffer(
            "std", torch.tensor(std, dtype=head.dtype, device=head.device)[:, None, None]
        )

    def prepared(self, images: Tensor) -> Tensor:
        """Return the image tower's input for images (N, 3, S, S): resized and normalized."""
        if images.shape[-1] != self.side:
            images = F.interpolate(images, size=self.side, mode="bicubic", align_corners=False)
        return (images - self.mean) / self.std

    def embeddings(self, images: Tensor) -> Tensor:
        """Return the embeddings, (N, D), of images (N, 3, S, S), not normalized."""
        embeddings: Tensor = self.encoder(self.prepared(images))
        return embeddings

    def features(self, images: Tensor) -> Tensor:
        """Return the unit-norm image embeddings, (N, D), of images (N, 3, S, S) in [0, 1]."""
        return F.normalize(self.embeddings(images), dim=-1)

    def tokens(self, images: Tensor) -> Tensor:
        """Return the patch tokens, (N, L, D), of images (N, 3, S, S), without the class token.

        The tower's own last norm and projection are applied. Raises ZSRobustError for a tower
        without patch tokens.
        """
        return project(self.encoder, embed(self.encoder, self.prepared(images))[1])

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (N, K), of images (N, 3, S, S) in [0, 1]."""
        return self.features(images) @ self.head.T


class HalfPrecision(nn.Module):
    """A classifier in half precision, as the released code runs its attacks and verdicts.

    Within float16 autocast; the gradient of a loss that is summed is divided by the number of
    images, as that of its mean over the batch: without scaling, small gradients become exact zeros.
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
        """The classifier's unit-norm embeddings (N, D) as float32; missing where it has none."""
        return partial(self._halved, self.classifier.features)

    @property
    def embeddings(self) -> Callable[[Tensor], Tensor]:
        """The classifier's un-normalized embeddings (N, D); missing where it has none."""
        return partial(self._halved, self.classifier.embeddings)

    @property
    def tokens(self) -> Callable[[Tensor], Tensor]:
        """The classifier's patch tokens (N, L, D) as `features` are; missing where it has none."""
        return partial(self._halved, self.classifier.tokens)

    def _halved(self, function: Any, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.float16):
            found: Tensor = function(images)
        if found.requires_grad:
            found.register_hook(lambda gradient: gradient / len(gradient))
        return found.float()

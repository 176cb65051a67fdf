"""TTE: test-time transformation ensembling (Pérez et al., ICCVW 2021, arXiv 2107.14110).

The logits are the mean over views of the image: itself, its mirror image, four crops, and the same
crops of the mirror image. Around any defense of the weights: `tte:of=tecoa`. Every view is
differentiable, so that an adaptive attack goes straight through.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsrobust.attacks.draws import Draws
from zsrobust.core.errors import ZSRobustError
from zsrobust.defenses import Wrapped, defenses
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.wrappers import Wrapper


@dataclass(frozen=True, kw_only=True)
class TTE(Wrapped):
    """Mean logits over flips and crops.

    The defaults are those of the authors' flip_crops4.sh. Their crops are drawn once, when the
    model is made: nothing is random when it is deployed. Ours are drawn from `seed`, as splitmix64
    does. (In their code, all four are the one that was drawn last, because its lambdas share a
    variable; here, they are four.)
    """

    flip: bool = True
    crops: int = 4
    pad: float = (
        4 / 32
        #: Zeros around the image before it is cropped, as a share of its side: 4 of 32
        #: pixels.
    )
    seed: int = 0

    def __post_init__(self) -> None:
        if self.crops < 0 or not 0 <= self.pad < 1:
            raise ZSRobustError(
                "TTE takes crops=0 or more, and pad in [0, 1). See: zsrobust list defenses"
            )

    @property
    def passes(self) -> int:
        """The number of views."""
        return (1 + self.flip) * (1 + self.crops)

    def wrapper(self, workshop: Workshop) -> Wrapper:
        """Return the ensemble; it needs no surrogate."""
        return Wrapper(lambda classifier: Ensemble(classifier, self))


class Ensemble(nn.Module):
    """The mean of a classifier's logits over views of an image."""

    def __init__(self, classifier: nn.Module, views: TTE) -> None:
        """Take the classifier, and which views there are."""
        super().__init__()
        self.classifier, self.views = classifier, views

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean logits, (N, K), of images (N, 3, S, S) in [0, 1]."""
        return torch.stack([self.classifier(view) for view in self._views(images)]).mean(0)

    def _views(self, images: Tensor) -> list[Tensor]:
        mirrored = [images, images.flip(3)] if self.views.flip else [images]
        side = images.shape[-1]
        margin = round(self.views.pad * side)
        origins = Draws.of(self.views.seed, "tte", np.arange(self.views.crops)).integers(
            2 * margin + 1, (2,), "origin"
        )
        padded = [F.pad(each, (margin,) * 4) for each in mirrored]
        crops = [
            each[..., top : top + side, left : left + side]
            for each in padded
            for top, left in origins.tolist()
        ]
        return mirrored + crops


defenses.register("tte")(TTE(title="TTE", paper="Pérez et al., ICCVW 2021, arXiv 2107.14110"))

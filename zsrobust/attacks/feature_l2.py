"""An attack on the embedding of an image, without labels."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.attacks import attacks, frozen
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.geometry import uniform_start
from zsrobust.attacks.search import Iterative, ascend
from zsrobust.core.errors import ZSRobustError


@dataclass(frozen=True, kw_only=True)
class FeatureL2(Iterative):
    """PGD that moves the unit-norm embedding of an image away in l2. It uses no labels.

    The inner maximization of FARE (Schlarmann et al., ICML 2024, arXiv 2402.12336, section 3),
    there on embeddings that are not normalized; TTC's counterattack (Xing et al., CVPR 2025) climbs
    the same distance. The distance is least at the image itself, where its gradient is zero, so
    that the start is random. It needs a classifier that has `features`.
    """

    norms = ("linf", "l2", "l1")

    def passes(self, classes: int) -> tuple[int, int]:
        """Return the numbers of forward and of backward passes that an image takes."""
        return self.steps + 1, self.steps

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1], whatever the labels; see `Attack`.

        Raises ZSRobustError for a classifier without `features`.
        """
        embed: Any = getattr(classifier, "features", None)
        if embed is None:
            raise ZSRobustError(
                "The attack feature_l2 needs a classifier with `features`, and this one has no "
                "such method. "
                "Choose another: zsrobust list attacks"
            )
        with frozen(classifier):
            begin = uniform_start(images, draws, self.eps, self.norm, "feature_l2")
            return away(embed, images, begin, self)


def away(embed: Any, images: Tensor, start: Tensor, attack: Iterative) -> Tensor:
    """Return points (N, 3, S, S) whose embeddings are far from those of the images, in l2.

    `embed` takes images to (N, D). The bound, the steps and their size are those of the attack.
    """
    with torch.no_grad():
        clean = embed(images)
    return ascend(
        lambda points: (embed(points) - clean).square().sum(1),
        images,
        start,
        eps=attack.eps,
        norm=attack.norm,
        steps=attack.steps,
        step_size=attack.step_size,
    )


attacks.register("feature_l2")(FeatureL2())

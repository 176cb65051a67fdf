"""MAC: multi-view guided adaptive counterattacks (Kim & Um, CVPR 2026, arXiv 2606.06938).

A counterattack as in TTC, on the image and on augmented views of it. From a random start δ in a
ball of its own, four steps of signs increase ‖f(v + δ) - f(v)‖² for each view v. The move is
scaled by how much one more augmentation of the view changes its embedding:

    w = sigmoid((ρ - 0.7) / 0.01),   ρ = ‖f(aug(v)) - f(v)‖ / ‖f(v)‖.

The logits are the mean over v + w δ. The settings are those of the released code (sunoh-kim/MAC,
mac.py and mac_test.sh): two views, the image included, eps 8/255, steps of a quarter of it.

Facts about the code: PGD-100 at 4/255 attacks the undefended CLIP. The views and starts come from
the global generator, so that a result depends on the batch and its place. Here they come from the
image. The code augments with a small affine map, always, and with color jitter, blur and noise,
each with probability 1/2. So do we, with the ranges of `views.py`. The code's differ: it shifts by
4% and scales by 8%, changes brightness, contrast and saturation by 8% and the hue by 2%, blurs 5 by
5 pixels with σ in [0.5, 1.2], and adds noise of standard deviation up to 0.02. We read the code,
and nobody ran it for this page.

Adaptive attacks see the identity for the move (BPDA), and the steps unrolled, the weight included.
`quiet` keeps ρ below 0.7, where nothing moves.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from zsrobust.attacks.draws import Draws
from zsrobust.core.errors import ZSRobustError
from zsrobust.defenses import Drawn, defenses
from zsrobust.defenses.countering import (
    Countered,
    countering,
    embedded,
    random_start,
    stepped,
    uphill,
)
from zsrobust.defenses.views import VIEWS
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.unrolling import optimized
from zsrobust.models.wrappers import Wrapper
from zsrobust.models.zeroshot import ZeroShotClassifier

STILL = math.log(99)  #: temperatures below tau, where the weight is 1%
SOMETIMES = ("jitter", "blur", "noise")  #: applied after the affine map with probability 1/2 each


@dataclass(frozen=True, kw_only=True)
class MAC(Drawn):
    """Mean logits over counterattacked views."""

    views: int = 2  #: the image included
    eps: float = 8 / 255  #: of the counterattack, l∞
    steps: int = 4
    step_size: float = 2 / 255
    tau: float = 0.7  #: the relative change of the embedding at which half of the move is kept
    temperature: float = 0.01  #: of the weight

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = min(self.views, self.steps, self.step_size, self.temperature) > 0
        if not (positive and 0 < self.eps < 1):
            raise ZSRobustError(
                f"MAC has views={self.views}, eps={self.eps}, steps={self.steps}, "
                f"step_size={self.step_size} and temperature={self.temperature}. Expected positive "
                "values, and eps below 1. See: zsrobust list defenses"
            )

    @property
    def passes(self) -> int:
        """For each view, two for its weight, one a step, and the last for the logits."""
        return self.views * (3 + self.steps)

    def wrapper(self, workshop: Workshop) -> Wrapper:
        """Return the counterattacks, the identity for them, them unrolled, and none at all."""

        def make(
            classifier: ZeroShotClassifier, unroll: int = 0, straight: bool = False
        ) -> MultiView:
            return MultiView(classifier, self, unroll, straight)

        wrapper = countering(make, self.steps, self.judged)
        return replace(wrapper, idle=lambda classifier: Idle(classifier, self))


class MultiView(Countered):
    """A classifier of counterattacked views."""

    def __init__(
        self, classifier: ZeroShotClassifier, about: MAC, unroll: int = 0, straight: bool = False
    ) -> None:
        """Take the classifier, the fields of the defense, and the gradient; see `Countered`."""
        super().__init__(classifier, about.seed, "mac", unroll, straight)
        self.about = about

    def views(self, images: Tensor, draws: Draws) -> list[Tensor]:
        """Return images (N, 3, S, S) in [0, 1], and augmented copies of them."""
        others = range(1, self.about.views)
        return [images, *(augmented(images, draws, f"view {place}") for place in others)]

    def moved(self, view: Tensor, draws: Draws, key: str) -> Tensor:
        """Return a view (N, 3, S, S) in [0, 1] after its weighted counterattack."""
        about = self.about
        anchor = embedded(self.classifier, view)
        change = self.change(view, anchor, draws, key)
        weight = torch.sigmoid((change - about.tau) / about.temperature)
        start = random_start(view, draws, about.eps, "start", key)
        found = optimized(self._step, start, view, anchor, steps=about.steps, unroll=self.unroll)
        return view + weight.to(view)[:, None, None, None] * (found - view)

    def change(self, view: Tensor, anchor: Tensor, draws: Draws, key: str) -> Tensor:
        """Return ρ, (N,), of a view (N, 3, S, S) in [0, 1] with the embedding `anchor`, (N, D)."""
        changed = embedded(self.classifier, augmented(view, draws, f"{key} again")) - anchor
        change: Tensor = changed.norm(dim=1) / anchor.norm(dim=1)
        return change

    def _step(self, given: tuple[Tensor, ...], graph: bool) -> Tensor:
        points, view, anchor = given

        def distance(each: Tensor) -> Tensor:
            return (embedded(self.classifier, each) - anchor).square().sum(1)

        gradient = uphill(distance, points, graph)
        return stepped(points, view, gradient, self.about.step_size, self.about.eps)


class Idle(MultiView):
    """The classifier of the views as they are, and the largest ρ: how near they are to a move."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, and in a last column the alarm, (N, K + 1), of images in [0, 1].

        Where the alarm is negative, each view keeps less than 1% of its counterattack.
        """
        draws, features, changes = self.draws(images), [], []
        for number, view in enumerate(self.views(images, draws)):
            anchor = embedded(self.classifier, view)
            features.append(F.normalize(anchor, dim=-1))
            changes.append(self.change(view, anchor, draws, f"view {number}"))
        logits = torch.stack(features).mean(0) @ self.classifier.head.T
        alarm = torch.stack(changes).amax(0) - self.about.tau + STILL * self.about.temperature
        return torch.cat([logits, alarm[:, None]], dim=1)


def augmented(images: Tensor, draws: Draws, key: str) -> Tensor:
    """Return images (N, 3, S, S) in [0, 1], each under an affine map and some of `SOMETIMES`."""
    found = VIEWS["affine"](images, draws, key)
    for kind in SOMETIMES:
        applied = draws.uniform((), "applied", kind, key)[:, None, None, None] < 0.5
        found = torch.where(applied, VIEWS[kind](found, draws, key), found)
    return found


defenses.register("mac")(MAC(title="MAC", paper="Kim & Um, CVPR 2026, arXiv 2606.06938"))

"""DOC: directional orthogonal counterattack (Jiang et al., AAAI 2026, arXiv 2511.09064).

A counterattack as in TTC whose steps explore more. g is the gradient of ‖f(x + δ) - f(x)‖², and r
is random, made orthogonal to g (Gram and Schmidt). With momentum, a step is

    d = g + λ r⊥,   m ← μ m + (1 - μ) d,   δ ← clip(δ + sign(m) · 3/255, ±4/255),

four times, from a random start δ⁰. The counterattack is mixed with its start,

    δ = w δ + (1 - w) δ⁰,   w = sigmoid(γ (τ - τ̂)),   τ̂ = 1 - mean of cos(f(x + noise), f(x)),

so that an image whose embedding noise changes, probably a clean one, hardly gets more than noise.

We found no released code. We could read the equations, eps, the step and their number, but not
λ, μ, γ, τ, the number of noisy copies, their noise, nor how g and r⊥ are scaled. These values are
ours, and were set before any measurement: g and r⊥ at unit length, λ = 1, μ = 0.9, four copies
with uniform noise within eps, τ = 0.02 and γ = 200. TTC's threshold is a relative change of 0.2 in
the embedding. At equal lengths, that is a cosine of 1 - 0.2² / 2, which sets τ; γ sets w = 0.98 at
τ̂ = 0. So a number of this page is not a number of the paper's.

The authors attack with PGD-10 at 4/255 and claim 31.02 robust (TTC: 21.22) and 58.26 clean. They do
not fully discuss attacks that know the defense. Adaptive attacks see the identity (BPDA), and the
steps unrolled, the weight included.
"""

from dataclasses import dataclass

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
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.unrolling import optimized
from zsrobust.models.wrappers import Wrapper
from zsrobust.models.zeroshot import ZeroShotClassifier


@dataclass(frozen=True, kw_only=True)
class DOC(Drawn):
    """A counterattack with random orthogonal directions and momentum before the classifier."""

    eps: float = 4 / 255  #: of the counterattack, l∞
    steps: int = 4
    step_size: float = 3 / 255
    orthogonal: float = 1.0  #: λ; ours
    momentum: float = 0.9  #: μ, in [0, 1); ours
    tau: float = 0.02  #: the mean change of the cosine at which both halves weigh the same; ours
    slope: float = 200.0  #: γ; ours
    copies: int = 4  #: noisy copies of an image for its weight; ours

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = min(self.steps, self.step_size, self.copies) > 0
        if not (positive and 0 < self.eps < 1 and self.orthogonal >= 0 and 0 <= self.momentum < 1):
            raise ZSRobustError(
                f"DOC has eps={self.eps}, steps={self.steps}, step_size={self.step_size}, "
                f"copies={self.copies}, orthogonal={self.orthogonal} and momentum={self.momentum}. "
                "Expected positive values, eps and momentum below 1. See: zsrobust list defenses"
            )

    @property
    def passes(self) -> int:
        """One for the embedding to leave, one a noisy copy, one a step, and the last for logits."""
        return 2 + self.copies + self.steps

    def wrapper(self, workshop: Workshop) -> Wrapper:
        """Return the counterattack, the identity that stands in for it, and it unrolled."""

        def make(
            classifier: ZeroShotClassifier, unroll: int = 0, straight: bool = False
        ) -> Orthogonal:
            return Orthogonal(classifier, self, unroll, straight)

        return countering(make, self.steps, self.judged)


class Orthogonal(Countered):
    """A classifier of counterattacked images."""

    def __init__(
        self, classifier: ZeroShotClassifier, about: DOC, unroll: int = 0, straight: bool = False
    ) -> None:
        """Take the classifier, the fields of the defense, and the gradient; see `Countered`."""
        super().__init__(classifier, about.seed, "doc", unroll, straight)
        self.about = about

    def moved(self, view: Tensor, draws: Draws, key: str) -> Tensor:
        """Return images (N, 3, S, S) in [0, 1] after the weighted counterattack."""
        about = self.about
        anchor = embedded(self.classifier, view)
        start = random_start(view, draws, about.eps, "start", key)
        state = torch.stack([start, torch.zeros_like(start)])  # points and momentum
        for step in range(about.steps):
            drawn = draws.normal(view.shape[1:], "direction", key, step).to(view)
            live = 1 if about.steps - step <= self.unroll else 0
            state = optimized(self._step, state, view, anchor, drawn, steps=1, unroll=live)
        weight = self._weight(view, anchor, draws, key).to(view)[:, None, None, None]
        return weight * state[0] + (1 - weight) * start

    def _weight(self, view: Tensor, anchor: Tensor, draws: Draws, key: str) -> Tensor:
        """Return w, (N,): how much of the counterattack each image gets."""
        about = self.about
        cosines = torch.zeros_like(anchor[:, 0])
        for copy in range(about.copies):
            noisy = random_start(view, draws, about.eps, "copy", key, copy)
            found = embedded(self.classifier, noisy)
            cosines = cosines + F.cosine_similarity(found, anchor, dim=1) / about.copies
        return torch.sigmoid(about.slope * (about.tau - (1 - cosines)))

    def _step(self, given: tuple[Tensor, ...], graph: bool) -> Tensor:
        state, view, anchor, drawn = given
        about, points = self.about, state[0]

        def distance(each: Tensor) -> Tensor:
            return (embedded(self.classifier, each) - anchor).square().sum(1)

        gradient = _unit(uphill(distance, points, graph))
        along = (drawn * gradient).sum(dim=(1, 2, 3), keepdim=True)
        direction = gradient + about.orthogonal * _unit(drawn - along * gradient)
        momentum = about.momentum * state[1] + (1 - about.momentum) * direction
        points = stepped(points, view, momentum, about.step_size, about.eps)
        return torch.stack([points, momentum])


def _unit(directions: Tensor) -> Tensor:
    """Return directions (N, 3, S, S), each at l2 length 1; zero stays zero."""
    return F.normalize(directions.flatten(1), dim=1).view_as(directions)


defenses.register("doc")(DOC(title="DOC", paper="Jiang et al., AAAI 2026, arXiv 2511.09064"))

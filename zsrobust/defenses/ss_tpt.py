"""SS-TPT: stability and suitability guide prompt tuning (Kim & Um, ICML 2026, arXiv 2606.06943).

As R-TPT, with 16 views and two scores for each of them:

- suitability: 1 / (mean squared distance of its features to those of the other views);
- stability: 1 / J(p, q), with the predictions p of the view and q of a weak augmentation of it.

An image's scores are scaled to [0, 1] over its views and mixed: 0.4 suitability + 0.6 stability.
The softmax of the mix over 0.25 weights the logits. The loss is the mean entropy of the three views
of lowest entropy, plus the mean KL divergence of their predictions from those of the other two,
weighted the same way and held constant. Around any defense of the weights: `ss_tpt:of=clip`.

The text was not readable here: this page follows the authors' sstpt.py (sunoh-kim/SS-TPT, commit
00fe022). In it, J is named a Jensen-Shannon divergence. As PyTorch orders the arguments, it is
(KL(m ‖ p) + KL(m ‖ q)) / 2 for the mean m of p and q, which has the arguments in the other order.
All views of an image share the numbers of the weak augmentation. Ours are an affine map, and
jitter, blur and noise with probability 1/2 each; hue and saturation do not change.

The authors attack the undefended CLIP: PGD-7 with a step of eps/4, and 8-bit pictures afterwards.
Their tables were not verified here.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zsrobust.attacks.draws import Draws
from zsrobust.core.errors import ZSRobustError
from zsrobust.defenses import defenses
from zsrobust.defenses.tuning import PromptTuning, Tuned, entropy
from zsrobust.defenses.views import VIEWS

SMALL = 1e-8  #: keeps divisions and logarithms finite, as in the authors' code


class Guided(Tuned):
    """A prompt tuned on entropies and consistency, and views weighted by two scores."""

    about: "SSTPT"

    def scores(self, images: Tensor, seen: Tensor) -> Tensor:
        """Return (N, V, 2): suitability and stability of each view."""
        views = seen.shape[1]
        distances = (2 - 2 * seen @ seen.mT).clamp_min(0)
        others = distances.sum(-1) - distances.diagonal(dim1=-2, dim2=-1)
        suitable = 1 / (others / max(1, views - 1) + SMALL)
        weak = self.seen(images, self.weak)
        p, q = ((each @ self.start.T).softmax(-1) for each in (seen, weak))
        return torch.stack([suitable, 1 / (divergence(p, q) + SMALL)], dim=-1)

    def weak(self, images: Tensor, draws: Draws, place: int) -> Tensor:
        """Return a view of each image, slightly changed."""
        images = VIEWS["affine"](self.view(images, draws, place), draws, "weak")
        for kind in ("jitter", "blur", "noise"):
            applied = draws.uniform((), "weak", kind)[:, None, None, None] < 0.5
            images = torch.where(applied, VIEWS[kind](images, draws, "weak"), images)
        return images

    def weights(self, scores: Tensor) -> Tensor:
        """Return the softmax of the mixed scores, each scaled to [0, 1] over the views."""
        low, high = scores.amin(-2, keepdim=True), scores.amax(-2, keepdim=True)
        suitable, stable = ((scores - low) / (high - low + SMALL)).unbind(-1)
        mixed = self.about.ratio * suitable + (1 - self.about.ratio) * stable
        return (mixed / self.about.temperature).softmax(-1)

    def loss(self, logits: Tensor, before: Tensor, scores: Tensor) -> Tensor:
        """Return the mean entropy, and the consistency with the other selected views."""
        found = entropy(logits).mean()
        if len(logits) == 1:
            return found
        weights = self.weights(scores)[:, None]
        shares = weights * before.softmax(-1).clamp_min(SMALL)
        others = (shares.sum(0) - shares) / (weights.sum() - weights).clamp_min(SMALL)
        predicted = logits.softmax(-1).clamp_min(SMALL).log()
        consistency = F.kl_div(predicted, others, reduction="batchmean")
        return found + self.about.consistency * consistency


@dataclass(frozen=True, kw_only=True)
class SSTPT(PromptTuning):
    """A prompt tuned on few views, guided by their stability and suitability."""

    name = "ss_tpt"
    module = Guided
    views: int = 16
    temperature: float = 0.25
    chosen: int = 3  #: views that the prompt is tuned on
    ratio: float = 0.4  #: of suitability in the mix; the rest is stability
    consistency: float = 1.0  #: the weight of the second term of the loss

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.chosen >= 1 and 0 <= self.ratio <= 1 and self.consistency >= 0):
            raise ZSRobustError(
                "ss_tpt takes chosen=1 or more, ratio in [0, 1], and consistency=0 or more. "
                "See: zsrobust list defenses"
            )

    @property
    def selected(self) -> int:
        """The number of chosen views, or of all if there are fewer."""
        return min(self.views, max(2, self.chosen))

    @property
    def passes(self) -> int:
        """Two for each view: itself, and its weak augmentation."""
        return 2 * self.views


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return (KL(m ‖ p) + KL(m ‖ q)) / 2, (...), of probabilities (..., K) with the mean m."""
    mean = (p + q) / 2 + SMALL
    halves = [(mean * (mean.log() - (each + SMALL).log())).sum(-1) for each in (p, q)]
    return (halves[0] + halves[1]) / 2


defenses.register("ss_tpt")(SSTPT(title="SS-TPT", paper="Kim & Um, ICML 2026, arXiv 2606.06943"))

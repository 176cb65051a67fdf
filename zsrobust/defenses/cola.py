"""COLA: cross-modality alignment (Zhu et al., NeurIPS 2025, arXiv 2510.24038).

`cola_projection`, its first part, projects the image embedding z onto the span of the texts of all
classes: Πz = U Uᵀz, where U are the first 256 left singular vectors of the texts t_k^m, m-th of
class k. `cola` adds views of the image and optimal transport: with weights a_n of the views z_n
and b_m of the texts, the class is that of the least transport cost between them, where moving n to
m costs 1 - cos(Πz_n, t_k^m). Around any defense of the weights: `cola:of=tecoa`.

With 256 texts or fewer, `cola_projection` changes no prediction: U spans the texts, so that
Πz · t = z · t, and all cosines of an image are divided by the same |Πz|. Its logits are larger,
and that is all. Attacks need no direction outside the span. The projection is linear, and its
gradient is exact.

No code was released, and the paper's text could not be read: equations and the settings C = 256,
N = 5 views by crops and flips, and M = 50 descriptions of a language model are those of a reader's
note. Here, the dataset's templates take the place of descriptions, and the image itself is one more
view. Ours are also: weights are softmax(-entropy) of the classes' probabilities, for texts with the
mean view; and Sinkhorn's algorithm with the regularization 0.01 and 50 iterations (Cuturi, NeurIPS
2013). With one template, its first iteration is exact. All of it is differentiable, so that an
adaptive attack goes straight through.

The note quotes 45.3% robust accuracy on nine datasets (ViT-B/32, 1/255) and 50.0% on ImageNet,
under PGD on the undefended CLIP. It says that the paper has no adaptive attack.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Wording
from zsrobust.defenses import Drawn, Tower, Wrapped, defenses
from zsrobust.defenses.views import Randomized, views
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.clip import Clip
from zsrobust.models.heads import of_texts
from zsrobust.models.wrappers import OnFeatures, Wrapper
from zsrobust.models.zeroshot import ZeroShotClassifier

RANK = 256  #: singular vectors of the texts
NULL = 1e-5  #: singular values below this share of the first one count as zero


@dataclass(frozen=True)
class Described(Tower):
    """A tower whose classifiers have a head for each template of the dataset."""

    def classifier(self, clip: Clip, wording: Wording, *given: Any, **more: Any) -> Any:
        """Return the classifier with the buffer `texts`, (M, K, D) of unit norm."""
        made = super().classifier(clip, wording, *given, **more)
        head = self.head or of_texts(clip)
        with torch.no_grad():
            texts = [head(wording._replace(templates=(each,)), 1.0) for each in wording.templates]
        made.register_buffer("texts", torch.stack(texts).to(made.head))
        return made


def described(tower: Tower) -> Described:
    """Return the same tower, whose classifiers have all texts."""
    return Described(**{each.name: getattr(tower, each.name) for each in dataclasses.fields(tower)})


def texts_of(classifier: ZeroShotClassifier) -> Tensor:
    """Return a classifier's texts, (M, K, D) of unit norm; without several, those of its head."""
    alone = F.normalize(classifier.head, dim=-1)[None]
    texts: Tensor = getattr(classifier, "texts", alone)
    return texts if len(texts) > 1 else alone


def span(texts: Tensor, rank: int) -> Tensor:
    """Return the first `rank` left singular vectors of texts (…, D), at most: (D, C)."""
    precise = texts.to(torch.promote_types(texts.dtype, torch.float32))
    left, values, _ = torch.linalg.svd(precise.flatten(0, -2).T, full_matrices=False)
    basis: Tensor = left[:, : min(rank, int((values > NULL * values[0]).sum()))]
    return basis.to(texts)


def projected(features: Tensor, basis: Tensor) -> Tensor:
    """Return the unit-norm projections of features (…, D) onto the span of a basis (D, C)."""
    return F.normalize(features @ basis @ basis.T, dim=-1)


@dataclass(frozen=True, kw_only=True)
class Projection(Wrapped):
    """COLA's projection alone; the default is the note's."""

    rank: int = RANK

    def __post_init__(self) -> None:
        _check(self.rank > 0, f"COLA cannot take rank={self.rank}. Expected 1 or more")

    def tower(self, workshop: Workshop) -> Tower:
        """Return the other defense's tower, to be wrapped, with all texts."""
        return described(super().tower(workshop))

    def wrapper(self, workshop: Workshop) -> Wrapper:
        """Return the projection; it needs no surrogate."""

        def wrap(classifier: ZeroShotClassifier) -> OnFeatures:
            basis = span(texts_of(classifier), self.rank)
            return OnFeatures(classifier, lambda features: projected(features, basis.to(features)))

        return Wrapper(wrap)


@dataclass(frozen=True, kw_only=True)
class COLA(Drawn):
    """Optimal transport between views and texts; see the page for the source of the defaults."""

    views: int = 5  #: beside the image itself
    rank: int = RANK
    regularization: float = 0.01  #: of the transport's entropy
    iterations: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        good = self.views >= 0 and min(self.rank, self.iterations) > 0 and self.regularization > 0
        given = f"views={self.views}, rank={self.rank}, iterations={self.iterations}"
        _check(
            good,
            f"COLA cannot take {given}, regularization={self.regularization}. Expected views of 0 "
            "or more, and the others positive",
        )

    @property
    def passes(self) -> int:
        """One for the image, and one a view."""
        return 1 + self.views

    def tower(self, workshop: Workshop) -> Tower:
        """Return the other defense's tower, to be wrapped, with all texts."""
        return described(super().tower(workshop))

    def wrapper(self, workshop: Workshop) -> Wrapper:
        """Return the defense; it needs no surrogate."""
        return Wrapper(lambda classifier: Aligned(classifier, self), judged=self.judged)


class Aligned(Randomized):
    """A classifier by transport costs: a logit is the scale times one minus the cost."""

    texts: Tensor
    basis: Tensor

    def __init__(self, classifier: ZeroShotClassifier, about: COLA) -> None:
        """Take the classifier and the fields of the defense."""
        super().__init__(about.seed, "cola")
        self.classifier, self.about = classifier, about
        self.register_buffer("texts", texts_of(classifier))
        self.register_buffer("basis", span(self.texts, about.rank))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (N, K), of images (N, 3, S, S) in [0, 1]."""
        about, scale = self.about, self.classifier.head.norm(dim=-1).mean()
        drawn = views(images, self.draws(images), about.views, "resized_crop")
        seen = torch.stack([self.classifier.features(each) for each in (images, *drawn)], dim=1)
        cosines = torch.einsum("nvd,mkd->nkvm", projected(seen, self.basis), self.texts)
        views_, texts = (weights(scale * cosines.mean(place)) for place in (3, 2))
        cost = transport(1 - cosines, views_, texts, about.regularization, about.iterations)
        logits: Tensor = scale * (1 - cost)
        return logits


def weights(logits: Tensor) -> Tensor:
    """Return softmax(-entropy) over the last dimension of logits (N, K, V): (N, V)."""
    log = logits.log_softmax(1)
    return (log.exp() * log).sum(1).softmax(-1)


def transport(
    cost: Tensor, rows: Tensor, columns: Tensor, regularization: float, iterations: int
) -> Tensor:
    """Return the cost of Sinkhorn's transport plan, (N, K), for costs (N, K, V, M).

    `rows` (N, V) and `columns` (N, M) are positive weights of sum one.
    """
    kernel = -cost / regularization
    left, right = rows.log()[:, None], columns.log()[:, None]
    rise = torch.zeros_like(cost[..., 0])
    for _ in range(iterations):
        fall = right - torch.logsumexp(kernel + rise[..., None], dim=2)
        rise = left - torch.logsumexp(kernel + fall[..., None, :], dim=3)
    plan = (kernel + rise[..., None] + fall[..., None, :]).exp()
    return (plan * cost).sum((2, 3))


def _check(good: bool, problem: str) -> None:
    if not good:
        raise ZSRobustError(f"{problem}. See: zsrobust list defenses")


_PAPER = "Zhu et al., NeurIPS 2025, arXiv 2510.24038"
defenses.register("cola")(COLA(title="COLA", paper=_PAPER))
defenses.register("cola_projection")(Projection(title="COLA's projection", paper=_PAPER))

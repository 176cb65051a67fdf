"""DBD: directional bias-guided defense (ICLR 2026, arXiv 2606.06186).

Views of the image are embedded, and the 16 with the lowest entropy are kept. An attack makes their
embeddings z_i leave z_0, that of the image, in one direction. With the mean d of z_i - z_0, and the
score mean_i cos(z_i - z_0, d), the embedding becomes normalize(z_0 + f d), where f = 2.5 if the
score is above 0.8, else 1. Around any defense of the weights: `dbd:of=clip`.

The equations are those of the released code (liuls2002/DBD at 36110cf, infer_dbd.py and
dataset/transform_lib.py); the paper's text was not read. There are 31 views: 16 crops of half the
area or more, flipped or not; bits removed three times; JPEG three times; noise six times; and a
median, a mean and a Gaussian filter of 5 by 5 pixels. Ours are the same without JPEG, 28 views, and
stay in float. In that code, white is rounded up to 256, which 8 bits make black; here, it stays
white. Texts are those of the dataset; theirs include sentences of a language model (CuPL).

The authors make PGD-100 images at 4/255 once, on the undefended CLIP, and store them as 8-bit PNG
files. Their abstract claims more robust than clean accuracy. The numbers could not be read.

Given the views, autograd is exact, up to the choice of views and the threshold, which are constant
almost everywhere. So there is no surrogate. The removal of bits counts as the identity (BPDA).
At rest, where the attack `quiet` climbs, the score is below the threshold, and f is 1.

A prediction takes 29 passes, and an attack takes several draws for each gradient. On a CPU, use
fewer views: `dbd:crops=3,noises=1,keep=4,of=clip`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zsrobust.attacks.draws import Draws
from zsrobust.core.errors import ZSRobustError
from zsrobust.defenses import Drawn, defenses
from zsrobust.defenses.views import Randomized, resized_crop
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.wrappers import Wrapper, bpda
from zsrobust.models.zeroshot import ZeroShotClassifier

LEVELS = 2**3  #: of a color, where bits are removed
NOISE = 0.1  #: standard deviation
SIDE, SIGMA = 5, 1.1  #: of the filters; OpenCV's σ for 5 pixels, where the code gives none
SMALLEST = 0.5  #: of crops, as a share of the image


@dataclass(frozen=True, kw_only=True)
class DBD(Drawn):
    """An embedding moved along the mean drift of views; the defaults are those of the code."""

    crops: int = 16
    noises: int = 6
    filters: bool = True  #: whether the six views that draw nothing are used, too
    keep: int = 16  #: views of the lowest entropy; all, if there are fewer
    threshold: float = 0.8  #: of the score
    alpha: float = 2.5  #: f above the threshold

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.crops, self.noises) < 0 or self.keep < 1 or self.passes < 2:
            raise ZSRobustError(
                f"DBD cannot take crops={self.crops}, noises={self.noises}, "
                f"filters={str(self.filters).lower()}, keep={self.keep}. Expected one view or "
                "more, and a positive keep. See: zsrobust list defenses"
            )

    @property
    def passes(self) -> int:
        """One for the image, and one a view."""
        return 1 + self.crops + self.noises + 6 * self.filters

    def wrapper(self, workshop: Workshop) -> Wrapper:
        """Return the defense; it needs no surrogate."""
        return Wrapper(
            lambda classifier: Drifting(classifier, self),
            idle=lambda classifier: Idle(classifier, self),
            judged=self.judged,
        )


class Drifting(Randomized):
    """A classifier of embeddings that are moved along the drift of their views."""

    def __init__(self, classifier: ZeroShotClassifier, about: DBD) -> None:
        """Take the classifier and the fields of the defense."""
        super().__init__(about.seed, "dbd")
        self.classifier, self.about = classifier, about

    def features(self, images: Tensor) -> Tensor:
        """Return the moved unit-norm features, (N, D), of images (N, 3, S, S) in [0, 1]."""
        first, common, score = self.drift(images)
        factor = torch.where(score > self.about.threshold, self.about.alpha, 1.0)
        return F.normalize(first + factor[:, None] * common, dim=-1)

    def drift(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return z_0 and d, both (N, D), and the score, (N,), of images (N, 3, S, S) in [0, 1]."""
        about, plain = self.about, self.classifier
        first = plain.features(images)
        seen = self._views(images, self.draws(images))
        found = torch.stack([plain.features(view) for view in seen])  # (V, N, D)
        log = (found @ plain.head.T).log_softmax(-1)
        entropy = -(log.exp() * log).sum(-1)
        kept = entropy.topk(min(about.keep, len(found)), dim=0, largest=False).indices
        drift = found.take_along_dim(kept[..., None], dim=0) - first
        common = drift.mean(0)
        return first, common, F.cosine_similarity(drift, common[None], dim=-1).mean(0)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (N, K), of images (N, 3, S, S) in [0, 1]."""
        return self.features(images) @ self.classifier.head.T

    def _views(self, images: Tensor, draws: Draws) -> Iterator[Tensor]:
        """Yield the views, each (N, 3, S, S) in [0, 1]."""
        for number in range(self.about.crops):
            yield resized_crop(images, draws, f"crop {number}", SMALLEST)
        for number in range(self.about.noises):
            drawn = draws.normal(images.shape[1:], f"noise {number}").to(images)
            yield (images + NOISE * drawn).clamp(0, 1)
        if self.about.filters:
            yield from (fewer_bits(images, cut) for cut in (torch.floor, torch.round, torch.ceil))
            yield from (median(images), mean(images), gaussian(images))


class Idle(Drifting):
    """The classifier of the views' mean embedding, and how far the score is above the threshold."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, and in a last column the alarm, (N, K + 1), of images in [0, 1]."""
        first, common, score = self.drift(images)
        logits = F.normalize(first + common, dim=-1) @ self.classifier.head.T
        return torch.cat([logits, score[:, None] - self.about.threshold], dim=1)


def fewer_bits(images: Tensor, cut: Callable[[Tensor], Tensor]) -> Tensor:
    """Return images of fewer levels, with the identity's gradient; `cut` rounds (N, 3, S, S)."""
    step = 256 / LEVELS / 255
    return bpda((cut(images / step) * step).clamp(0, 1), images)


def median(images: Tensor) -> Tensor:
    """Return each pixel's median over a square, (N, 3, S, S); the border is repeated outside."""
    padded = F.pad(images, (SIDE // 2,) * 4, mode="replicate")
    squares = padded.unfold(2, SIDE, 1).unfold(3, SIDE, 1).flatten(4)
    return squares.median(dim=-1).values


def mean(images: Tensor) -> Tensor:
    """Return each pixel's mean over a square, (N, 3, S, S); the image is mirrored outside."""
    return F.avg_pool2d(F.pad(images, (SIDE // 2,) * 4, mode="reflect"), SIDE, stride=1)


def gaussian(images: Tensor) -> Tensor:
    """Return images under a Gaussian filter, (N, 3, S, S); they are mirrored outside."""
    place = torch.arange(SIDE).to(images) - SIDE // 2
    line = torch.exp(-(place**2) / (2 * SIGMA**2))
    line = line / line.sum()
    kernel = torch.outer(line, line).expand(3, 1, SIDE, SIDE)
    return F.conv2d(F.pad(images, (SIDE // 2,) * 4, mode="reflect"), kernel, groups=3)


defenses.register("dbd")(DBD(title="DBD", paper="ICLR 2026, arXiv 2606.06186"))

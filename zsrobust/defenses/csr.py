"""CSR: contrastive spectral rectification (ICML 2026, arXiv 2601.19210).

An attack's noise has high frequencies. So the embedding f(x) of an attacked image is far from that
of its low-passed copy, f(x_low). If cos(f(x), f(x_low)) < 0.85, the image is moved by three steps
of signs, inside a ball of its own, to increase

    cos(f(x̂), f(x_low)) - cos(f(x̂), f(x)),

and the best iterate is kept, the image itself included. The settings are those of the released code
(Summu77/CSR, config.py and csr.py). Its low-pass is a Gaussian of radius 40 in the spectrum of 224
by 224 pixels. Here the radius is a share of the side, so that images of every size lose the same
share of their spectrum.

Facts about the code: the search starts at the image itself, so the second cosine has no gradient in
the first step. The attack that it calls adaptive is PGD with a penalty on high frequencies. It
attacks the undefended CLIP, and adversarial images are stored on disk. The authors claim 58.9% on
ImageNet at 1/255. We read the code, and nobody ran it for this page.

Adaptive attacks see the identity (BPDA), and the steps unrolled. The gate has no gradient.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.defenses import Wrapped, defenses
from zsrobust.defenses.countering import stepped, uphill
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.unrolling import optimized
from zsrobust.models.wrappers import Purified, Wrapper, unchanged
from zsrobust.models.zeroshot import ZeroShotClassifier


@dataclass(frozen=True, kw_only=True)
class CSR(Wrapped):
    """An image that its low-passed copy contradicts is moved towards that copy, in embeddings."""

    radius: float = 40 / 224  #: of the Gaussian low-pass, as a share of the side
    threshold: float = 0.85  #: an image whose cosine is below it is moved
    eps: float = 4 / 255  #: of the move, l∞
    steps: int = 3
    step_size: float = 2 / 255

    def __post_init__(self) -> None:
        if not (self.radius > 0 and 0 < self.eps < 1 and self.steps > 0 and self.step_size > 0):
            raise ZSRobustError(
                f"CSR has radius={self.radius}, eps={self.eps}, steps={self.steps} and "
                f"step_size={self.step_size}. Expected positive values, and eps below 1. See: "
                "zsrobust list defenses"
            )

    @property
    def passes(self) -> int:
        """Two for the gate, two a step, for its gradient and its score, and the last for logits."""
        return 3 + 2 * self.steps

    def wrapper(self, workshop: Workshop) -> Wrapper:
        """Return the rectification, the identity that stands in for it, and it unrolled."""
        return Wrapper(
            wrap=lambda classifier: Purified(classifier, Rectified(classifier, self)),
            surrogate=lambda classifier: Purified(
                classifier, Rectified(classifier, self), unchanged
            ),
            unrolled=lambda classifier, steps: Purified(
                classifier, Rectified(classifier, self, steps)
            ),
            steps=self.steps,
        )


class Rectified(nn.Module):
    """Images to images: those that the gate finds are moved towards their low-passed copies."""

    def __init__(self, classifier: ZeroShotClassifier, about: CSR, unroll: int = 0) -> None:
        """Take the classifier and the fields of the defense; gradients of the last steps."""
        super().__init__()
        self.classifier, self.about, self.unroll = classifier, about, unroll

    def forward(self, images: Tensor) -> Tensor:
        """Return images (N, 3, S, S) in [0, 1]; without gradient if not unrolled."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.unroll > 0):
            return self._rectified(images)

    def _rectified(self, images: Tensor) -> Tensor:
        steps = self.about.steps
        own = self._features(images)
        low = self._features(low_passed(images, self.about.radius))
        point, best, highest = images, images, _contrast(own, low, own)
        for number in range(steps):
            live = 1 if steps - number <= self.unroll else 0
            point = optimized(self._step, point, images, low, own, steps=1, unroll=live)
            with torch.no_grad():
                reached = _contrast(self._features(point), low, own)
            better = reached > highest
            best = torch.where(better[:, None, None, None], point, best)
            highest = torch.where(better, reached, highest)
        suspicious = (own * low).sum(1) < self.about.threshold
        return torch.where(suspicious[:, None, None, None], best, images)

    def _step(self, given: tuple[Tensor, ...], graph: bool) -> Tensor:
        points, images, low, own = given
        gradient = uphill(
            lambda each: _contrast(self._features(each), low, own), points, graph=graph
        )
        return stepped(points, images, gradient, self.about.step_size, self.about.eps)

    def _features(self, images: Tensor) -> Tensor:
        features = self.classifier.features(images)
        return features.to(torch.promote_types(features.dtype, torch.float32))


def low_passed(images: Tensor, radius: float) -> Tensor:
    """Return images (N, 3, S, S) in [0, 1] under a Gaussian low-pass of the discrete spectrum.

    The factor at the frequency (u, v), in cycles per pixel, is exp(-(u² + v²) / (2 radius²)).
    """
    high, wide = (
        torch.fft.fftfreq(side, device=images.device, dtype=images.dtype)
        for side in images.shape[-2:]
    )
    mask = torch.exp(-(high[:, None] ** 2 + wide[None] ** 2) / (2 * radius**2))
    filtered: Tensor = torch.fft.ifft2(torch.fft.fft2(images) * mask).real
    return filtered.clamp(0, 1)


def _contrast(features: Tensor, low: Tensor, own: Tensor) -> Tensor:
    """Return cos(f, f_low) - cos(f, f_own), (N,), of unit-norm features (N, D)."""
    return (features * low).sum(1) - (features * own).sum(1)


defenses.register("csr")(CSR(title="CSR", paper="ICML 2026, arXiv 2601.19210"))

"""Measurements on a small fixed sample, which show whether an attack failed.

They are cheap enough for every cell. `rules` decides which measurements raise a flag.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.attacks import Attack, Norm, frozen, slots
from zsrobust.attacks.autoattack import Watch, are_probabilities
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.losses import objective
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.search import Search
from zsrobust.attacks.square import square
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import arithmetic
from zsrobust.models.wrappers import Knowledge

SAMPLE = 16  # images, a class-balanced subset
HARD = 4  # at most a quarter of the sample gets the long attacks, which cost most
QUERIES = 100  # per image, of Square
NEAR = 1e-3  # a step in pixels of [0, 1]; the loss is nearly linear over it
NOT_FINITE = 1e9  # replaces a measurement that is not finite
#: -log of the smallest normal float32; beyond such a margin, cross-entropy has a zero gradient
BEYOND = 87.0
GRAY = 0.5  # every image can become plain gray within this distance


class Connected(nn.Module):
    """A classifier whose logits always have a gradient.

    The gradient is zero if the classifier cuts the graph. Such a classifier is measured; it does
    not crash the attack.
    """

    def __init__(self, classifier: nn.Module) -> None:
        """Wrap a classifier."""
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K) of images (N, 3, S, S)."""
        logits: Tensor = self.classifier(images)
        if logits.requires_grad:
            return logits
        return logits + 0 * images.flatten(1)[:, :1].to(logits.dtype)


@dataclass(frozen=True)
class Sample:
    """Some images, the deployed classifier, and the classifier that the probes attack."""

    deployed: Meter
    attacked: Meter
    images: Tensor  #: (N, 3, S, S)
    labels: Tensor
    draws: Draws
    eps: float
    norm: Norm

    @classmethod
    def of(
        cls,
        classifier: nn.Module,
        attack: Attack,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        *,
        target: nn.Module | None = None,
        batch_size: int | None = None,
    ) -> "Sample":
        """Return the sample for probes with the eps and the norm of `attack`; see `examine`."""
        deployed = Meter(classifier, batch_size)
        attacked = Meter(Connected(target or classifier), batch_size)
        return cls(deployed, attacked, images, labels, draws, attack.eps, attack.norm)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Freeze the classifiers, compute in float32, seed torch and ignore warnings."""
        device = self.images.device
        gpus = range(torch.cuda.device_count()) if device.type == "cuda" else []
        with (
            torch.random.fork_rng(gpus),
            torch.enable_grad(),
            arithmetic("float32", device),
            warnings.catch_warnings(),
            frozen(self.deployed),
            frozen(self.attacked),
        ):
            warnings.simplefilter("ignore")
            torch.manual_seed(self.draws.seed())
            yield

    def __getitem__(self, chosen: Tensor) -> "Sample":
        """Return the sample of the chosen images."""
        parts = self.images[chosen], self.labels[chosen], self.draws[chosen]
        return Sample(self.deployed, self.attacked, *parts, self.eps, self.norm)

    def __len__(self) -> int:
        return len(self.labels)

    def pgd(
        self, steps: int, eps: float | None = None, start: Tensor | None = None, **fields: Any
    ) -> Tensor:
        """Return PGD's adversarial images, (N, 3, S, S).

        The default step size is 2.5 · eps / steps (Madry et al., 2018).
        """
        bound = eps or self.eps
        fields = {
            "eps": bound,
            "steps": steps,
            "step_size": 2.5 * bound / steps,
            "norm": self.norm,
            **fields,
        }
        return PGD(**fields)(self.attacked, self.images, self.labels, self.draws, start)

    def square(self, queries: int) -> Tensor:
        """Return Square's adversarial images, (N, 3, S, S), against the deployed classifier."""
        search = self.search
        square(self.deployed, search, self.draws, eps=self.eps, norm=self.norm, queries=queries)
        return search.adversarial

    @property
    def search(self) -> Search:
        """A new search for adversarial images, in batches that fit."""
        search = Search(self.images, self.labels)
        search.most = slots(self.attacked, search.most)
        return search

    def margins(self, images: Tensor) -> Tensor:
        """Return max_j≠y z_j - z_y, (N,), of the attacked classifier."""
        return objective("margin", logits_of(self.attacked, images), self.labels)

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Return the gradients of cross-entropy and margin at the images, (N, 3, S, S) each."""
        # HalfPrecision divides gradients by the number of images, so that number has a bound.
        size, parts = min(self.attacked.batch_size or SAMPLE, SAMPLE), []
        for images, labels in zip(self.images.split(size), self.labels.split(size), strict=True):
            points = images.clone().requires_grad_()
            logits = self.attacked(points)
            values = [objective(loss, logits, labels).sum() for loss in ("ce", "margin")]
            gradients = [torch.autograd.grad(each, points, retain_graph=True) for each in values]
            parts.append([gradient for (gradient,) in gradients])
        of_entropy, of_margin = (torch.cat(each) for each in zip(*parts, strict=True))
        return of_entropy, of_margin

    def broken(self, images: Tensor) -> Tensor:
        """Return which images (N, 3, S, S) the deployed classifier gets wrong, (N,) bool."""
        return logits_of(self.deployed, images).argmax(1) != self.labels


def examine(
    classifier: nn.Module,
    attack: Attack,
    pixels: Tensor,
    labels: Tensor,
    draws: Draws,
    *,
    target: nn.Module | None = None,
    knowledge: Knowledge = "adaptive",
    batch_size: int | None = None,
) -> dict[str, float]:
    """Return measurements by name, on images (N, 3, S, S) in [0, 1] with labels (N,).

    `classifier` is deployed. The attack sees `target`, if that is not None. The probes are PGD and
    Square; they use only eps, norm and the number of steps of `attack`. A classifier takes
    `batch_size` images at once. With "oblivious" `knowledge`, only the outputs are measured: the
    attack does not see the deployed classifier, so its gradients prove nothing. Weights, modes and
    torch's random state are restored. Raises any exception of the classifier.

    These are shares of the images classified correctly:
    - `zero_gradients` and `saturated`: the loss has no useful gradient;
    - `standing`: the image survives a huge eps;
    - `no_growth`: the margin does not grow with eps;
    - `more_steps`: 100 steps of PGD break the image, 10 steps do not;
    - `black_box`: Square breaks the image, PGD does not.

    The last two are measured on the first few images that survive PGD-10. `broken` counts the
    images that PGD-10 broke; `eight_bits` is the share of them that stay broken in 8 bits.
    `unstable` and `coupled` are differences of logits in units of their range. `vanishing` is the
    growth of the margin, divided by the growth that its gradient predicts.
    """
    sample = Sample.of(
        classifier, attack, pixels, labels, draws, target=target, batch_size=batch_size
    )
    with sample.apart():
        logits = logits_of(sample.deployed, pixels)
        right = sample[(logits.argmax(1) == labels).nonzero()[:, 0]]
        checks: dict[str, float] = {
            "images": len(sample),
            "correct": len(right),
            **_outputs(sample, logits),
        }
        if steps := attack.steps_taken(logits.shape[1]):
            checks["attack_steps"] = steps
        if len(right) and knowledge == "adaptive":
            checks |= _gradients(right) | _searches(right)
    numbers = {name: float(value) for name, value in checks.items()}
    return {
        name: round(value, 6) if math.isfinite(value) else NOT_FINITE
        for name, value in numbers.items()
    }


@torch.no_grad()
def logits_of(classifier: Meter, images: Tensor, size: int | None = None) -> Tensor:
    """Return the logits (N, K), in batches of `size`, or of the classifier's own size if None."""
    size = size or classifier.batch_size or len(images)
    return torch.cat([classifier(part) for part in images.split(size)])


@torch.no_grad()
def _outputs(sample: Sample, logits: Tensor) -> dict[str, float]:
    """Return whether logits are repeatable, depend on other images, or are probabilities."""
    classifier, images = sample.deployed, sample.images
    span = (logits.amax(1) - logits.amin(1)).clamp_min(1e-12)

    def apart(others: Tensor) -> Tensor:
        return (others - logits).abs().amax(1) / span

    size = classifier.batch_size or len(images)
    backward = logits_of(classifier, images.flip(0)).flip(0)
    pieces = logits_of(classifier, images, max(1, min(size, len(images)) // 3))
    with Watch() as watch:
        classifier(images[:1])
    return {
        "unstable": float(apart(logits_of(classifier, images)).max()),
        # The median: if classes are nearly equal, rounding moves some logits beyond their range.
        "coupled": float(torch.maximum(apart(backward), apart(pieces)).median()),
        "inside": float(watch.seen),
        "probabilities": float(are_probabilities(logits)),
    }


def _gradients(sample: Sample) -> dict[str, float]:
    """Return how well the gradient predicts the change of the loss."""
    before = sample.margins(sample.images)
    of_entropy, gradient = sample.gradients()
    flat = ~of_entropy.flatten(1).any(1)
    change = (sample.images + NEAR * gradient.sign()).clamp(0, 1) - sample.images
    promised = (gradient.double() * change.double()).flatten(1).sum(1)
    kept = (sample.margins(sample.images + change) - before).double()
    found = {
        "zero_gradients": float(flat.float().mean()),
        "saturated": float((before < -BEYOND).float().mean()),
    }
    moved = promised > 0
    if moved.any():
        found["vanishing"] = float((kept[moved] / promised[moved]).median())
    return found


def _searches(sample: Sample) -> dict[str, float]:
    """Return how the images fare at eps, at half of eps, at a huge eps, and under long attacks."""
    before = sample.margins(sample.images)
    half = sample.margins(sample.pgd(5, sample.eps / 2, early_stop=False))
    adversarial = sample.pgd(10, early_stop=False)
    grown = (half > before) & (sample.margins(adversarial) > half)
    far = GRAY * (1 if sample.norm == "linf" else sample.images[0].numel() ** 0.5)
    # Without a random start: noise of that size alone would break the image.
    standing = ~sample.broken(sample.pgd(10, far, random_start=False))
    broken = sample.broken(adversarial)
    found = {
        "no_growth": float((~grown).float().mean()),
        "standing": float(standing.float().mean()),
        "broken": int(broken.sum()),
        **_hard(sample, adversarial),
    }
    if broken.any():
        rounded = sample.broken((adversarial * 255).round() / 255)
        found["eight_bits"] = float(rounded[broken].float().mean())
    return found


def _hard(sample: Sample, adversarial: Tensor) -> dict[str, float]:
    """Return the shares that 90 more steps break, and then Square, after PGD-10."""
    found = {"more_steps": 0.0, "black_box": 0.0}
    left = (~sample.broken(adversarial)).nonzero()[: math.ceil(len(sample) / HARD), 0]
    for name in found:
        if len(left):
            hard = sample[left]
            longer = name == "more_steps"
            images = _longer(hard, adversarial[left]) if longer else hard.square(QUERIES)
            broken = hard.broken(images)
            found[name] = int(broken.sum()) / len(sample)
            left = left[~broken]
    return found


def _longer(sample: Sample, points: Tensor) -> Tensor:
    """Return the images (N, 3, S, S) after up to 90 more steps, in three rounds of 30.

    A round skips images whose margin grows too slowly to break even at twice that pace.
    """
    points, before = points.clone(), sample.margins(points)
    left = torch.arange(len(sample), device=points.device)
    for more in (2, 1, 0):
        some = sample[left]
        points[left] = some.pgd(30, step_size=2.5 * sample.eps / 100, start=points[left])
        now = some.margins(points[left])
        stay = (now <= 0) & (now + 2 * more * (now - before) > 0)
        left, before = left[stay], now[stay]
        if not len(left):
            break
    return points

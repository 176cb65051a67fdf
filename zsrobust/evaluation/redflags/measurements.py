"""Measures, on a small fixed sample, what tells a robust classifier from one that merely withstands an attack.

Cheap enough for every cell; `rules` decides which measurements raise a flag.
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

SAMPLE = 16  # images; the class-balanced subset of so many
HARD = 4  # every so many-th image at most, of those that PGD-10 leaves, is attacked at length: that costs most here
QUERIES = 100  # of Square
NEAR = 1e-3  # a step in pixels of [0, 1], small enough for the loss to be nearly linear
NOT_FINITE = 1e9  # stands for a measurement that is no number
BEYOND = 87.0  # -log of the smallest normal float32: behind a margin of that size, the cross-entropy's gradient is gone
GRAY = 0.5  # within this distance of every image there is the same one: plain gray


class Connected(nn.Module):
    """A classifier whose logits always have a gradient: zero, where nothing of the image's arrives.

    A classifier that cuts the graph is measured so, and does not crash the attack.
    """

    def __init__(self, classifier: nn.Module) -> None:
        """Wrap a classifier."""
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K) of images (N, 3, S, S)."""
        logits: Tensor = self.classifier(images)
        return (
            logits
            if logits.requires_grad
            else logits + 0 * images.flatten(1)[:, :1].to(logits.dtype)
        )


@dataclass(frozen=True)
class Sample:
    """Some images, the deployed classifier, and what is attacked in its place."""

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
        """Return the sample that an attack of this eps and norm is tried on; see `examine`."""
        deployed, attacked = (
            Meter(classifier, batch_size),
            Meter(Connected(target or classifier), batch_size),
        )
        return cls(deployed, attacked, images, labels, draws, attack.eps, attack.norm)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Within it, classifiers are frozen, float32 is float32, random numbers are our own, and no warning is heard."""
        device = self.images.device
        with (
            torch.random.fork_rng(
                range(torch.cuda.device_count()) if device.type == "cuda" else []
            ),
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
        """Return the sample of some of the images, by index."""
        parts = self.images[chosen], self.labels[chosen], self.draws[chosen]
        return Sample(self.deployed, self.attacked, *parts, self.eps, self.norm)

    def __len__(self) -> int:
        return len(self.labels)

    def pgd(
        self, steps: int, eps: float | None = None, start: Tensor | None = None, **fields: Any
    ) -> Tensor:
        """Return what PGD makes of the images; its steps are 2.5 · eps / steps (Madry et al., 2018), or as `fields` say."""
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
        """Return what Square makes of the images, asking the deployed classifier."""
        search = self.search
        square(self.deployed, search, self.draws, eps=self.eps, norm=self.norm, queries=queries)
        return search.adversarial

    @property
    def search(self) -> Search:
        """A search among the images, in batches that fit."""
        search = Search(self.images, self.labels)
        search.most = slots(self.attacked, search.most)
        return search

    def margins(self, images: Tensor) -> Tensor:
        """Return max_j≠y z_j - z_y, (N,), of what is attacked."""
        return objective("margin", logits_of(self.attacked, images), self.labels)

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Return the gradients of cross-entropy and margin at the images, (N, 3, S, S) each."""
        size, parts = (
            min(self.attacked.batch_size or SAMPLE, SAMPLE),
            [],
        )  # by which half precision divides them
        for images, labels in zip(self.images.split(size), self.labels.split(size), strict=True):
            points = images.clone().requires_grad_()
            logits = self.attacked(points)
            values = [objective(loss, logits, labels).sum() for loss in ("ce", "margin")]
            parts.append(
                [torch.autograd.grad(value, points, retain_graph=True)[0] for value in values]
            )
        of_entropy, of_margin = (torch.cat(each) for each in zip(*parts, strict=True))
        return of_entropy, of_margin

    def broken(self, images: Tensor) -> Tensor:
        """Return which of the images (N, 3, S, S) the deployed classifier gets wrong."""
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
    """Return measurements on images (N, 3, S, S) in [0, 1] with labels (N,); `rules` decides which raise a flag.

    `classifier` is the deployed one; `target` is what the attack sees, if that is another. Of the attack only eps, norm and
    the number of its steps matter: the probes are PGD and Square. `batch_size` is how many images a classifier takes at
    once. With "oblivious" `knowledge` only the outputs are looked at: a search that does not see what it is judged by says
    nothing of gradients. Weights, modes and torch's random numbers stay as they were. Raises what the classifier raises.

    Shares are of the images classified correctly: `zero_gradients`, `saturated`, `standing` (right under a huge eps),
    `no_growth`, `more_steps` (broken by 100 steps of PGD and not by 10), `black_box` (broken by Square and not by those);
    the last two of the first few that PGD-10 leaves. `broken` counts the images that PGD-10 broke, `eight_bits` is the
    share of them that are still broken when rounded. `unstable` and `coupled` are differences of logits in units of their
    range, `vanishing` is how many times more the margin grows than its gradient says.
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
    """Return the logits (N, K), in batches of a size; of what the classifier takes at once, if none is given."""
    return torch.cat(
        [classifier(part) for part in images.split(size or classifier.batch_size or len(images))]
    )


@torch.no_grad()
def _outputs(sample: Sample, logits: Tensor) -> dict[str, float]:
    """Look at the logits: whether they stay, whether an image's are its own, and what they are."""
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
        # The middle image: where classes are nearly the same, rounding moves some by more than their range.
        "coupled": float(torch.maximum(apart(backward), apart(pieces)).median()),
        "inside": float(watch.seen),
        "probabilities": float(are_probabilities(logits)),
    }


def _gradients(sample: Sample) -> dict[str, float]:
    """Compare the gradient with how the loss changes."""
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
    return (
        {**found, "vanishing": float((kept[moved] / promised[moved]).median())}
        if moved.any()
        else found
    )


def _searches(sample: Sample) -> dict[str, float]:
    """Attack the images: at eps, at half of it, at a huge one; and what is left, at length and without gradients."""
    before, half = (
        sample.margins(sample.images),
        sample.margins(sample.pgd(5, sample.eps / 2, early_stop=False)),
    )
    adversarial = sample.pgd(10, early_stop=False)
    grown = (half > before) & (sample.margins(adversarial) > half)
    far = GRAY * (1 if sample.norm == "linf" else sample.images[0].numel() ** 0.5)
    # From the image itself: noise of that size would break it alone.
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
    """Go on with the images that PGD-10 leaves: 90 steps more, and then Square."""
    found = {"more_steps": 0.0, "black_box": 0.0}
    left = (~sample.broken(adversarial)).nonzero()[: math.ceil(len(sample) / HARD), 0]
    for name in found:
        if len(left):
            hard = sample[left]
            broken = hard.broken(
                _longer(hard, adversarial[left]) if name == "more_steps" else hard.square(QUERIES)
            )
            found[name] = int(broken.sum()) / len(sample)
            left = left[~broken]
    return found


def _longer(sample: Sample, points: Tensor) -> Tensor:
    """Return where 90 steps more lead, three times 30: images that would not fall at twice the pace are given up."""
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

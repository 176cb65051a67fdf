"""The sample of a red flag's measurements: a few images, and the classifiers that probes attack."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.attacks import Attack, Norm, frozen, slots
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.losses import objective
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.search import Search
from zsrobust.attacks.square import square
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import arithmetic

SAMPLE = 16  # images, a class-balanced subset
LARGE = 64  # pixels a side; beyond it passes are expensive, and half as many images are examined


def size_of(side: int) -> int:
    """Return how many images of this side, in pixels, a sample has."""
    return SAMPLE if side <= LARGE else SAMPLE // 2


#: Called with the name of a measurement, the measurements done, and their number.
Progress = Callable[[str, int, int], None]


def silent(name: str, done: int, total: int) -> None:
    """Report nothing."""


class Mixture(nn.Module):
    """The mean of two classifiers' logits."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        """Take the classifiers."""
        super().__init__()
        self.one, self.other = one, other

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K) of images (N, 3, S, S)."""
        mean: Tensor = (self.one(images) + self.other(images)) / 2
        return mean


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


def ball(attack: Attack, images: Tensor) -> tuple[float, Norm]:
    """Return the eps and the norm of the probes.

    They are the attack's own in l∞ and l2. In l1, where Square has no version, it is the largest l2
    ball inside the l1 ball, so that what a probe breaks could be broken. No ball fits inside the
    patches; their probes are in l∞ at 1/255, and `examine` does not compare the attack with them.
    """
    if attack.norm == "patch":
        return 1 / 255, "linf"
    if attack.norm == "l1":
        return float(attack.eps / images[0].numel() ** 0.5), "l2"
    return attack.eps, attack.norm


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
        """Return the sample for probes in the ball of `attack`; see `examine` and `ball`."""
        deployed = Meter(classifier, batch_size)
        attacked = Meter(Connected(target or classifier), batch_size)
        return cls(deployed, attacked, images, labels, draws, *ball(attack, images))

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

    def transferred(self, other: nn.Module) -> Tensor:
        """Return adversarial images, (N, 3, S, S), made against another classifier."""
        attacked = Meter(Connected(other), self.attacked.batch_size)
        with frozen(attacked):
            return replace(self, attacked=attacked).pgd(10, early_stop=False)

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


@torch.no_grad()
def logits_of(classifier: Meter, images: Tensor, size: int | None = None) -> Tensor:
    """Return the logits (N, K), in batches of `size`, or of the classifier's own size if None."""
    size = size or classifier.batch_size or len(images)
    return torch.cat([classifier(part) for part in images.split(size)])

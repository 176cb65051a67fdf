"""Attacks: callables that see a classifier, images and labels, and return adversarial images.

An attack is a frozen dataclass of its hyper-parameters. It knows nothing of CLIP, prompts or datasets, and it never
decides who survived: the referee (`zsrobust.evaluation`) does.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from zsrobust.attacks.draws import Draws
from zsrobust.attacks.geometry import Norm, perturbation_size
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import Registry
from zsrobust.core.specs import format_eps

__all__ = [
    "Attack",
    "Norm",
    "attacks",
    "check_bounds",
    "exact",
    "frozen",
    "perturbation_size",
    "slots",
]


class Attack(Protocol):
    """What the referee needs of an attack.

    Optional: ``plan(classes)``, a dict of what runs and what is skipped for that many classes, stored in the result;
    ``passes(classes)``, the numbers of forward and of backward passes that an image takes at most, for estimates;
    ``returns_clean = True`` if images that could not be broken come back as they were;
    ``packs = True`` if it takes more images than fit into memory at once, and gives the classifier `slots` of them;
    an argument ``start`` of its call, (N, 3, S, S) or None: points inside the bound, where the search goes on.
    """

    @property
    def eps(self) -> float:
        """The bound on the perturbation, in pixels of [0, 1]."""

    @property
    def norm(self) -> Norm:
        """The norm of the bound."""

    def __call__(
        self, classifier: nn.Module, images: Tensor, labels: Tensor, draws: Draws
    ) -> Tensor:
        """Return adversarial images for images (N, 3, S, S) in [0, 1] and labels (N,) int64.

        All randomness comes from `draws`, an image's own. Gradients are taken with respect to images only.
        """


attacks: Registry[Attack] = Registry("attack", "attacks")


def slots(classifier: nn.Module, images: int) -> int:
    """Return how many of so many images a classifier takes at once: its `batch_size`, or all where it has none."""
    return getattr(classifier, "batch_size", None) or max(1, images)


def check_bounds(eps: float, norm: Norm, **positive: float) -> None:
    """Raise ZSRobustError unless eps and the other named values are positive, and eps below 1 where the norm is l∞."""
    if not all(map(math.isfinite, (eps, *positive.values()))):
        raise ZSRobustError("An attack's numbers must be finite. See: zsrobust list attacks")
    if norm == "linf" and eps >= 1:
        raise ZSRobustError(
            f"eps {eps:g} is beyond any pixel in [0, 1]. Write it as 8/255, or a number in (0, 1)."
        )
    for name, value in {"eps": eps, **positive}.items():
        if not value > 0:
            shown = format_eps(value) if name in ("eps", "step_size") else value
            raise ZSRobustError(
                f"An attack's {name} must be positive, not {shown}. See: zsrobust list attacks"
            )


@contextmanager
def exact() -> Iterator[None]:
    """Within it, float32 is float32: on newer GPUs convolutions take TF32, of 10 bits, where nobody says otherwise."""
    convolution, product = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolution.allow_tf32, product.allow_tf32
    convolution.allow_tf32 = product.allow_tf32 = False
    try:
        yield
    finally:
        convolution.allow_tf32, product.allow_tf32 = before


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within it, the module is in eval mode and its weights take no gradient."""
    modes = [(part, part.training) for part in module.modules()]
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.eval()
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for part, mode in modes:
            part.training = mode

"""Attacks: callables that see a classifier, images and labels, and return adversarial images.

An attack knows nothing of CLIP, prompts or datasets. It never decides which images survived: the
referee (`zsrobust.evaluation.referee`) does.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from zsrobust.attacks.draws import Draws
from zsrobust.attacks.geometry import Norm, perturbation_size
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import Registry
from zsrobust.core.specs import format_eps
from zsrobust.core.values import fits

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


#: The smallest eps that moves a pixel. Between 1/2 and 1, float32 pixels are 2⁻²⁴ apart. An l2
#: perturbation may be spread over all pixels: 388 is the square root of 3 · 224 · 224.
#: One value can take all of an l1 perturbation. A patch has a pixel of up to 1024 a side.
SMALLEST: dict[Norm, float] = {"linf": 2**-24, "l2": 388 * 2**-24, "l1": 2**-24, "patch": 2**-10}
#: An eps of each norm, for the errors.
EXAMPLES: dict[Norm, str] = {"linf": "1/255", "l2": "1/255", "l1": "12", "patch": "1/8"}
LARGEST = 2**31  # of a number of steps or queries, for example


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A search for adversarial images within eps of the given ones: the base class of every attack.

    A subclass is a frozen dataclass of its hyper-parameters, and defines a call. The other methods
    have defaults. A field that is None stays out of a result's identity.
    """

    eps: float = 1 / 255  #: the bound on the perturbation, in pixels of [0, 1]
    norm: Norm = "linf"  #: the norm of the bound

    #: The norms that the attack knows.
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    #: True if images that could not be broken come back as they were.
    returns_clean: ClassVar[bool] = False
    #: True if it takes more images than fit into memory, and gives the classifier `slots` of them.
    packs: ClassVar[bool] = False
    #: True if a call goes on from `start`; other attacks ignore it.
    continues: ClassVar[bool] = False
    #: True if it has targets: `aims` chooses them, and a call takes them as `targets`, (N,) int64.
    targeted: ClassVar[bool] = False
    #: True if it never looks at the classifier: then no gradient is examined for red flags.
    blind: ClassVar[bool] = False
    #: The names of the fields that must be positive, beside eps.
    positive: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_bounds(self.eps, self.norm, **{name: getattr(self, name) for name in self.positive})
        if self.norm not in self.norms:
            raise ZSRobustError(
                f"{type(self).__name__} does not attack in the norm {self.norm}, but in "
                f"{' or '.join(self.norms)}. Choose another attack: zsrobust list attacks"
            )

    @abstractmethod
    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images for images (N, 3, S, S) in [0, 1] and labels (N,) int64.

        `start`, (N, 3, S, S) inside the bound, is where an attack that `continues` begins. All
        random numbers come from `draws`. Gradients are taken with respect to images only.
        """

    def aims(self, logits: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Return the classes (N,) int64 that a targeted attack drives images to, never the labels.

        `logits` (N, K) are those of the clean images from the classifier that the attack sees. The
        referee calls this method, passes the classes to the attack, and counts the images that are
        predicted as them.
        """
        raise NotImplementedError(f"{type(self).__name__} has no targets.")

    @property
    def reads(self) -> dict[str, str]:
        """What it reads of its scene beside the attacked defense; a part of a cell's identity.

        Keys are the names of the functions of `Scene`, values their arguments.
        """
        return {}

    def plan(self, classes: int) -> dict[str, Any]:
        """Return what runs and what is skipped for this many classes; a result stores it."""
        return {}

    def passes(self, classes: int) -> tuple[int, int] | None:
        """Return the most forward and backward passes that an image takes; None if not known."""
        return None

    def steps_taken(self, classes: int) -> float | None:
        """Return how many gradient steps an image takes at most; None if not known."""
        passes = self.passes(classes)
        return None if passes is None else float(passes[1])

    def full(self) -> Self:
        """Return the same attack without early stops: every image takes all steps."""
        return self


attacks: Registry[Attack] = Registry("attack", "attacks", accepts=Attack)


def slots(classifier: nn.Module, images: int) -> int:
    """Return how many images a classifier takes at once: its `batch_size`, or all of them."""
    return getattr(classifier, "batch_size", None) or max(1, images)


def check_bounds(eps: float, norm: Norm, **positive: float | None) -> None:
    """Raise ZSRobustError unless the norm is known and every value is positive and in range.

    A value of None is not checked.
    """
    if norm not in SMALLEST:
        raise ZSRobustError(f"The norm {norm!r} is not valid. Choose one of {', '.join(SMALLEST)}.")
    for name, value in {"eps": eps, **positive}.items():
        if value is not None:
            _check_positive(name, value)
    if norm == "patch" and eps >= 1:
        raise ZSRobustError(
            f"eps {eps:g} is not a patch's share of the image's side. Write a number in (0, 1), "
            "for example 1/8."
        )
    if norm == "linf" and eps >= 1:
        raise ZSRobustError(
            f"eps {eps:g} is beyond any pixel in [0, 1]. Write it as 8/255, or a number in (0, 1)."
        )
    if eps < SMALLEST[norm]:
        why = "a patch has a pixel" if norm == "patch" else "float32 pixels do not move"
        raise ZSRobustError(
            f"eps {eps:g} is too small in {norm}: {why}. "
            f"Choose a larger one, for example {EXAMPLES[norm]}."
        )


def _check_positive(name: str, value: float) -> None:
    if not fits(value, float):
        raise ZSRobustError(
            f"An attack's {name} must be a finite number. See: zsrobust list attacks"
        )
    if value <= 0:
        shown = format_eps(value) if name in ("eps", "step_size") else value
        raise ZSRobustError(
            f"An attack's {name} must be positive, not {shown}. See: zsrobust list attacks"
        )
    if value >= LARGEST:
        raise ZSRobustError(
            f"An attack's {name} must be below {LARGEST}. See: zsrobust list attacks"
        )


@contextmanager
def exact() -> Iterator[None]:
    """Within it, float32 is exact: newer GPUs compute convolutions in TF32 by default."""
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

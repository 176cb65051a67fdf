"""Scenes: what an attack may use beside the classifier that it sees.

An attack that knows a defense differentiates more than one module. One that transfers images needs
another classifier. The bench builds these when an attack asks for them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zsrobust.core.errors import ZSRobustError

DESCRIPTIONS = "descriptions"  #: several sentences for each class, in place of a template
NUMBER = 5  #: of them (the released code of SAFT)


class Training(NamedTuple):
    """Images of a training set, and the attacked defense as a classifier of its classes."""

    images: Tensor  #: (N, 3, S, S) in [0, 1]
    labels: Tensor  #: (N,) int64
    classifier: nn.Module
    #: Names all that the images and the classifier depend on, for what is computed once and used on
    #: all datasets; empty if nothing may be reused.
    key: tuple[str, ...]
    seed: int = 0  #: of the cell


def _missing(*given: Any) -> Any:
    raise ZSRobustError(
        "This attack needs more than a classifier. Attack a defense of a suite: zsrobust run"
    )


@dataclass(frozen=True)
class Scene:
    """What an attack may use beside the classifier that it sees."""

    #: Makes modules of the same defense that can be differentiated, by name. See `Wrapper.ways`.
    ways: Mapping[str, Callable[[], nn.Module]] = field(default_factory=dict)
    #: Returns the unrolled defense, by the number of steps that can be differentiated.
    unrolled: Callable[[int], nn.Module] | None = None
    #: Makes the defense where it does not act, with its alarm; see `Wrapper.idle`. None: no gate.
    idle: Callable[[], nn.Module] | None = None
    #: Returns the classifier of another defense, by its spec, on the same classes.
    other: Callable[[str], nn.Module] = _missing
    #: Returns the attacked classifier with a head of its own for each of several wordings, which
    #: are templates, or the descriptions of the classes.
    worded: Callable[[str], list[nn.Module]] = _missing
    #: Returns so many images of the suite's training set, and their classifier.
    training: Callable[[int], Training] = _missing


def scene_of(classifier: nn.Module) -> Scene:
    """Return the scene of an attacked classifier; without one, an empty scene."""
    return getattr(classifier, "scene", None) or Scene()


def beside(classifier: nn.Module, module: nn.Module) -> nn.Module:
    """Return a module of the scene, whose passes count with those of the attacked classifier."""
    make = getattr(classifier, "beside", None)
    return module if make is None else make(module)


def redrawn(classifier: nn.Module, draw: int) -> nn.Module:
    """Return another draw of a randomized classifier; any other classifier as it is."""
    make = getattr(classifier, "redrawn", None)
    return classifier if make is None else make(draw)


class Mixed(nn.Module):
    """The mean of several classifiers' logits."""

    def __init__(self, *classifiers: nn.Module) -> None:
        """Take the classifiers."""
        super().__init__()
        self.classifiers = nn.ModuleList(classifiers)

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean logits, (N, K), of images (N, 3, S, S) in [0, 1]."""
        return torch.stack([classifier(images) for classifier in self.classifiers]).mean(0)

    def redrawn(self, draw: int) -> "Mixed":
        """Return the mean of another draw of each; those that are not random stay."""
        return Mixed(*(redrawn(classifier, draw) for classifier in self.classifiers))

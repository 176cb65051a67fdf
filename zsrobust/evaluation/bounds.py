"""Bounds: what an attack may return and change, and the errors of an attack that does more."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.attacks import Attack, Norm, check_bounds, perturbation_size
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import format_eps
from zsrobust.results.plausible import TOLERANCE, most


class CheatError(ZSRobustError):
    """An attack broke a rule of the referee."""


class TamperError(CheatError):
    """An attack changed the classifier, so the classifier must be loaded again."""


@dataclass(frozen=True)
class Bound:
    """What an attack may return; the referee reads it before the attack runs."""

    eps: float
    norm: Norm
    returns_clean: bool
    tolerance: float = TOLERANCE  #: of float32 arithmetic, in pixels of [0, 1]

    @classmethod
    def of(cls, attack: Attack) -> "Bound":
        """Return an attack's bound; raises ZSRobustError for an eps or a norm that is not valid."""
        check_bounds(attack.eps, attack.norm)
        return cls(attack.eps, attack.norm, attack.returns_clean)


def check(name: str, bound: Bound, originals: Tensor, found: Any) -> tuple[Tensor, Tensor]:
    """Return a copy of the images, (N, 3, S, S), and the sizes of their perturbations, (N,).

    Nothing else reads or writes the copy. Raises CheatError for forbidden images.
    """
    expected = f"Expected images {tuple(originals.shape)} {originals.dtype}."
    if type(found) not in (Tensor, nn.Parameter):  # a subclass may answer differently every time
        raise CheatError(f"The attack {name} returned {type(found).__name__}. {expected}")
    if found.shape != originals.shape or found.dtype != originals.dtype:
        returned = f"{tuple(found.shape)} {found.dtype}"
        raise CheatError(f"The attack {name} returned {returned}. {expected}")
    found = found.detach().clone()
    if not torch.isfinite(found).all():
        raise CheatError(f"The attack {name} returned pixels that are not finite.")
    low, high = found.min().item(), found.max().item()
    if low < -bound.tolerance or high > 1 + bound.tolerance:
        raise CheatError(f"The attack {name} left [0, 1]: pixels from {low:.6g} to {high:.6g}.")
    sizes = perturbation_size(found - originals, bound.norm)
    if sizes.max() > most(bound.norm, bound.eps, originals[0].numel(), bound.tolerance):
        moved, eps = sizes.max().item(), format_eps(bound.eps)
        raise CheatError(f"The attack {name} moved by {moved:.6g}, beyond eps {eps}.")
    return found, sizes


def check_targets(name: str, chosen: Any, labels: Tensor, classes: int) -> Tensor:
    """Return a copy of a targeted attack's classes, (N,) int64; raises CheatError for others.

    A target is one of the classes, and never the label, (N,).
    """
    if type(chosen) is not Tensor or chosen.shape != labels.shape or chosen.dtype != torch.int64:
        raise CheatError(
            f"The attack {name} chose targets that are not int64 {tuple(labels.shape)}. "
            "Expected a class for each image."
        )
    copied: Tensor = chosen.detach().to(labels.device, copy=True)
    if not ((copied >= 0) & (copied < classes) & (copied != labels)).all():
        raise CheatError(
            f"The attack {name} chose a target that is the label, or no class. "
            f"Expected other classes than the labels, from 0 to {classes - 1}."
        )
    return copied


def settings_of(attack: Attack) -> dict[str, Any]:
    """Return an attack's hyper-parameters by name."""
    return {each.name: getattr(attack, each.name) for each in fields(attack)}

"""Mixtures of weights: no training, one image tower from CLIP's and those of other defenses.

* `interpolation:of=tecoa,weight=0.5` is (1 - weight) · CLIP + weight · fine-tuned (WiSE-FT;
  Wortsman et al., CVPR 2022, arXiv 2109.01903), Figure 5.
* `soup:of=tecoa+pmg_aft+fare` is the mean of several towers (the uniform soup; Wortsman et al.,
  ICML 2022, arXiv 2203.05482).
* `task_arithmetic:of=tecoa+fare,weight=0.5` is CLIP + weight · Σ (fine-tuned - CLIP) (Ilharco et
  al., ICLR 2023, arXiv 2212.04089). With n members and weight 1/n it is their soup.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.defenses import Around, Defense, Late, Tower, Wrapped, defenses
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.clip import Clip


@dataclass(frozen=True, kw_only=True)
class Mixture(Around):
    """A defense whose weights are a function of CLIP's and of those of other defenses."""

    def mix(self, original: Tensor, tuned: Sequence[Tensor]) -> Tensor:
        """Return one weight from CLIP's and the members', all of one shape and type."""
        raise NotImplementedError

    def identify(self, towers: Sequence[Tower]) -> dict[str, Any]:
        """Return what identifies the mixed tower; it has the digest of every checkpoint."""
        fields = {name: getattr(self, name) for name in self.own_fields()}
        members = zip(self.members, towers, strict=True)
        return {**fields, "towers": {spec: tower.identity for spec, tower in members}}

    def check_around(self, other: Defense, where: str) -> None:
        """Raise ZSRobustError if the other defense is made from another one."""
        if isinstance(other, Wrapped):
            raise ZSRobustError(
                f"{where}: only weights are mixed, and {other.title} is a wrapper. "
                "Wrap the mixture: of=interpolation"
            )
        if isinstance(other, Around):
            raise ZSRobustError(
                f"{where}: {other.title} is made from another defense, too. "
                "Mix defenses that are not: of=tecoa"
            )

    def tower(self, workshop: Workshop) -> Tower:
        """Return the mixed tower, whose weights are mixed when they are first asked for.

        Raises ZSRobustError for a head of a tower's own, and the encoder for another shape.
        """
        clip, towers = workshop.clip, [workshop.tower(spec) for spec in self.members]
        for spec, tower in zip(self.members, towers, strict=True):
            if tower.head is not None:
                raise ZSRobustError(
                    f"{self.title}: {spec} has a text tower of its own, and only image towers are "
                    "mixed. Choose tecoa or pmg_aft."
                )
        training = towers[0].training
        if len(towers) > 1:  # the histories of several trainings are not one history
            seconds = [tower.training.get("epoch_seconds", 0.0) for tower in towers]
            training = {"epoch_seconds": sum(seconds)}
        encoder = Late(lambda: self._mixed(clip, towers))
        return Tower(encoder, self.identify(towers), training)

    def _mixed(self, clip: Clip, towers: Sequence[Tower]) -> nn.Module:
        """Return the mixed image tower; raises ZSRobustError for weights without CLIP's shape."""
        original = clip.encoder.state_dict()
        tuned = [tower.encoder.state_dict() for tower in towers]
        for spec, weights in zip(self.members, tuned, strict=True):
            if weights.keys() != original.keys():
                raise ZSRobustError(
                    f"{self.title}: the tower of {spec} does not have CLIP's shape. "
                    "Choose tecoa or pmg_aft."
                )
        mixed = {
            name: self.mix(tensor, [weights[name] for weights in tuned])
            if tensor.is_floating_point()
            else tensor
            for name, tensor in original.items()
        }
        encoder = clip.copy()
        encoder.load_state_dict(mixed)
        return encoder.eval().requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class Interpolation(Mixture):
    """A defense on the line between CLIP and another defense with a tower of the same shape."""

    weight: float = 0.5  #: 0 is CLIP, 1 the other defense

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ZSRobustError(
                f"interpolation: weight={self.weight:g} is not in [0, 1]. "
                "Choose 0 for CLIP, 1 for the other defense."
            )

    def mix(self, original: Tensor, tuned: Sequence[Tensor]) -> Tensor:
        """Return the weight between both."""
        return torch.lerp(original, tuned[0], self.weight)

    def identify(self, towers: Sequence[Tower]) -> dict[str, Any]:
        """Return the identity of the other defense, and the weight."""
        return {"of": self.of, "weight": self.weight, **towers[0].identity}

    def check_around(self, other: Defense, where: str) -> None:
        """Raise ZSRobustError if the other defense is a wrapper or a mixture."""
        if isinstance(other, Interpolation):
            raise ZSRobustError(
                f"{where} of an interpolation is one with the product of both weights. "
                "Write that one: interpolation:of=tecoa,weight=0.25"
            )
        super().check_around(other, where)

    def title_around(self, *others: Defense) -> str:
        """Return its title, with the weight and the other defense."""
        return f"{self.title} ({self.weight:g}, {others[0].title})"


@dataclass(frozen=True, kw_only=True)
class Soup(Mixture):
    """The mean of the weights of several defenses. A soup of one is that one, bit for bit."""

    of: str = "tecoa+pmg_aft"  #: trained by one recipe, except for the objective
    several = True

    def mix(self, original: Tensor, tuned: Sequence[Tensor]) -> Tensor:
        """Return the mean in float64, rounded once."""
        first, *others = (each.cpu().double() for each in tuned)
        return (sum(others, first) / len(tuned)).to(original.dtype)


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(Mixture):
    """CLIP plus the weighted sum of what several defenses changed in it, their task vectors."""

    of: str = "tecoa+fare"
    weight: float = 0.5  #: λ of the paper; 0 is CLIP, and a negative one moves away
    several = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise ZSRobustError(
                f"task_arithmetic: weight={self.weight:g} is not a finite number. "
                "Choose 0 for CLIP, 1 for the sum of all changes."
            )

    def mix(self, original: Tensor, tuned: Sequence[Tensor]) -> Tensor:
        """Return the sum in float64, rounded once."""
        start = original.cpu().double()
        first, *others = (each.cpu().double() - start for each in tuned)
        return (start + self.weight * sum(others, first)).to(original.dtype)

    def title_around(self, *others: Defense) -> str:
        """Return its title, with the weight and the other defenses."""
        names = " + ".join(other.title for other in others)
        return f"{self.title} ({self.weight:g}, {names})"


defenses.register("interpolation")(
    Interpolation(title="interpolation", paper="Wortsman et al., CVPR 2022, arXiv 2109.01903")
)
defenses.register("soup")(Soup(title="soup", paper="Wortsman et al., ICML 2022, arXiv 2203.05482"))
defenses.register("task_arithmetic")(
    TaskArithmetic(title="task arithmetic", paper="Ilharco et al., ICLR 2023, arXiv 2212.04089")
)

"""Weight interpolation (WiSE-FT; Wortsman et al., CVPR 2022, arXiv 2109.01903), Figure 5.

The image tower (1 - weight) · CLIP + weight · fine-tuned: `interpolation:of=tecoa,weight=0.5`.
"""

from dataclasses import dataclass

import torch

from zsrobust.core.errors import ZSRobustError
from zsrobust.defenses import Around, Defense, Tower, Wrapped, defenses
from zsrobust.defenses.workshop import Workshop


@dataclass(frozen=True, kw_only=True)
class Interpolation(Around):
    """A defense on the line between CLIP and another defense with a tower of the same shape."""

    weight: float = 0.5  #: 0 is CLIP, 1 the other defense

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ZSRobustError(
                f"interpolation: weight={self.weight:g} is not in [0, 1]. "
                "Choose 0 for CLIP, 1 for the other defense."
            )

    def check_around(self, other: Defense, where: str) -> None:
        """Raise ZSRobustError if the other defense is a wrapper or an interpolation."""
        if isinstance(other, Wrapped):
            raise ZSRobustError(
                f"{where}: only weights are mixed, and {other.title} is a wrapper. "
                "Wrap the mixture: of=interpolation"
            )
        if isinstance(other, Interpolation):
            raise ZSRobustError(
                f"{where} of an interpolation is one with the product of both weights. "
                "Write that one: interpolation:of=tecoa,weight=0.25"
            )

    def title_around(self, other: Defense) -> str:
        """Return its title, with the weight and the other defense."""
        return f"interpolation ({self.weight:g}, {other.title})"

    def tower(self, workshop: Workshop) -> Tower:
        """Return the mixed tower; raises ZSRobustError for weights without CLIP's shape."""
        original, other = workshop.clip.encoder.state_dict(), workshop.tower(self.of)
        tuned = other.encoder.state_dict()
        if tuned.keys() != original.keys():
            raise ZSRobustError(
                f"interpolation:of={self.of}: its tower does not have CLIP's shape. "
                "Choose tecoa or pmg_aft."
            )
        mixed = {
            name: torch.lerp(tensor, tuned[name], self.weight)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in original.items()
        }
        encoder = workshop.clip.copy()
        encoder.load_state_dict(mixed)
        identity = {"of": self.of, "weight": self.weight, **other.identity}
        return Tower(encoder.eval().requires_grad_(False), identity, other.training)


defenses.register("interpolation")(
    Interpolation(title="interpolation", paper="Wortsman et al., CVPR 2022, arXiv 2109.01903")
)

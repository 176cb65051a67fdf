"""Weight interpolation (WiSE-FT; Wortsman et al., CVPR 2022, arXiv 2109.01903), the "interpolation" of Figure 5.

The image tower (1 - weight) · CLIP + weight · fine-tuned: `interpolation:of=tecoa,weight=0.5`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import parse_fields
from zsrobust.defenses import Defense, Tower, Wrapped, defenses
from zsrobust.defenses.workshop import Workshop
from zsrobust.settings.suites import Suite
from zsrobust.training import Recipe


@dataclass(frozen=True, kw_only=True)
class Interpolation(Defense):
    """A defense on the line between CLIP and another defense with a tower of the same shape."""

    of: str = "tecoa"
    weight: float = 0.5  #: 0 is CLIP, 1 the other defense

    def configure(self, fields: Mapping[str, str], where: str) -> "Interpolation":
        """Return the interpolation that a spec names; further fields, `tecoa`'s eps say, go to the other defense."""
        own = {key: value for key, value in fields.items() if key in ("of", "weight")}
        values = parse_fields(own, {"of": str, "weight": float}, where)
        if not 0 <= values.get("weight", self.weight) <= 1:
            raise ZSRobustError(f"{where}: weight={fields['weight']} is not in [0, 1].")
        others = {key: value for key, value in fields.items() if key not in own}
        of = values.get("of", self.of)
        if others:
            defenses[of].configure(others, f"{where} of {of!r}")
            of = f"{of}:{','.join(f'{key}={value}' for key, value in sorted(others.items()))}"
        if isinstance(defenses.create(of), Wrapped):
            raise ZSRobustError(
                f"interpolation:of={of}: only weights are mixed. Wrap the mixture: of=interpolation"
            )
        changed = dataclasses.replace(self, of=of, weight=values.get("weight", self.weight))
        return dataclasses.replace(
            changed, title=f"interpolation ({changed.weight:g}, {defenses.create(of).title})"
        )

    def recipes(self, suite: Suite) -> list[Recipe]:
        """Return the recipes of the other defense."""
        return defenses.create(self.of).recipes(suite)

    def tower(self, workshop: Workshop) -> Tower:
        """Return the mixed tower; raises ZSRobustError for a defense whose weights are not of CLIP's shape."""
        original, other = workshop.clip.encoder.state_dict(), workshop.tower(self.of)
        tuned = other.encoder.state_dict()
        if tuned.keys() != original.keys():
            raise ZSRobustError(
                f"interpolation:of={self.of}: its tower is not of CLIP's shape; choose tecoa or pmg_aft."
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

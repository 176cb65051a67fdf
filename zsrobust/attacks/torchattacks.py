"""Any attack of the library torchattacks: `torchattacks:PGD,eps=8/255,alpha=2/255`.

An extra: pip install "zsrobust[torchattacks]".
"""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zsrobust.attacks import Attack, Norm, attacks, frozen
from zsrobust.attacks.draws import Draws
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import parse_fields

#: Types of arguments that the library's defaults do not tell.
_NORM = Literal["linf", "l2"]
_TYPES: dict[str, Any] = {"norm": _NORM, "seed": int | None, "n_classes": int}


@dataclass(frozen=True, kw_only=True)
class TorchAttacks(Attack):
    """An attack of torchattacks, as torchattacks:PGD,alpha=2/255 (Kim, 2020, arXiv 2010.01950)."""

    method: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    returns_clean = True

    def configure(self, fields: dict[str, str], where: str) -> "TorchAttacks":
        """Return the attack of a spec: the class, then arguments of its constructor, or `norm`."""
        fields = dict(fields)
        method = fields.pop("", "") or self.method
        arguments = inspect.signature(_attack_class(method).__init__).parameters
        if "eps" not in arguments:
            raise ZSRobustError(
                f"torchattacks:{method} has no eps to hold it to; choose an attack with a bound."
            )
        defaults = {
            name: each.default
            for name, each in arguments.items()
            if name not in ("self", "model", "device")
        }
        types = {name: _TYPES.get(name, type(default)) for name, default in defaults.items()}
        values = parse_fields(fields, {**types, "norm": _NORM}, f"{where} with {method}")
        l2 = method.upper().endswith("L2") or values.get("norm") == "l2"
        norm: Norm = "l2" if l2 else "linf"
        eps = values.pop("eps", self.eps)
        del defaults["eps"]
        given = {name: value for name, value in {**defaults, **values}.items() if name in defaults}
        if "norm" in defaults:
            given["norm"] = {"linf": "Linf", "l2": "L2"}[norm]
        return dataclasses.replace(self, method=method, eps=eps, norm=norm, options=given)

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1] as the library's attack makes them."""
        seed = draws.seed()
        with frozen(classifier), torch.random.fork_rng():
            torch.manual_seed(seed)
            seeded = (
                {"seed": seed} if "seed" in self.options else {}
            )  # the library's default is the clock
            attack = _attack_class(self.method)(
                classifier, eps=self.eps, **{**self.options, **seeded}
            )
            adversarial: Tensor = attack(images, labels)
        return adversarial


def _attack_class(method: str) -> Any:
    try:
        import torchattacks
    except ImportError as error:
        raise ZSRobustError(
            f'torchattacks:{method} needs an extra: pip install "zsrobust[torchattacks]" ({error}).'
        ) from None
    found = getattr(torchattacks, method, None)
    if not (inspect.isclass(found) and issubclass(found, torchattacks.attack.Attack)):
        raise ZSRobustError(
            f"torchattacks has no attack {method!r}. Write torchattacks:PGD,eps=8/255,alpha=2/255."
        )
    return found


attacks.register("torchattacks")(TorchAttacks())

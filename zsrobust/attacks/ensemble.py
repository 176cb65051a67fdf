"""Several attacks as one: the worst of them for each image."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

import zsrobust.attacks.apgd
import zsrobust.attacks.pgd
import zsrobust.attacks.square  # noqa: F401 (the default's members must be registered)
from zsrobust.attacks import Attack, attacks, frozen
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.search import Search
from zsrobust.core.errors import ZSRobustError


@dataclass(frozen=True, kw_only=True)
class Ensemble(Attack):
    """The worst of several attacks for each image: ensemble:of=pgd10+apgd+apgd:loss=dlr.

    Each member attacks what the members before it left.

    A member is a name, or a spec with one field: a comma would begin a field of the ensemble. For
    more of them register the attack under a name of its own. All members have the ensemble's eps
    and norm, and its step_size where they have one.
    """

    of: str = "pgd10+apgd+square"
    step_size: float = 1 / 255
    early_stop: bool | None = None  #: of the members that have it; None leaves it to them
    norms = ("linf", "l2", "l1", "patch")  # its members decide
    returns_clean = True
    positive = ("step_size",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for spec, member in self.members.items():
            if (member.eps, member.norm) != (self.eps, self.norm):
                raise ZSRobustError(
                    f"{spec!r} has another eps or norm than its ensemble. Set them for the "
                    "ensemble: "
                    "ensemble:of=pgd+apgd,eps=8/255,norm=l2"
                )

    @property
    def members(self) -> dict[str, Attack]:
        """The attacks by spec, in their order; raises ZSRobustError for what is no attack."""
        specs = [spec.strip() for spec in self.of.split("+")]
        if not all(specs) or len(set(specs)) < len(specs):
            raise ZSRobustError(
                f"{self.of!r} is not a list of different attacks. See: zsrobust list attacks"
            )
        given: dict[str, Any] = {"eps": self.eps, "norm": self.norm, "step_size": self.step_size}
        given |= {} if self.early_stop is None else {"early_stop": self.early_stop}
        return {spec: attacks.create(spec, given) for spec in specs}

    def full(self) -> Self:
        """Return the same ensemble of members that take all their steps."""
        return replace(self, early_stop=False)

    def plan(self, classes: int) -> dict[str, Any]:
        """Return the members in their order: fields other than the ensemble's own, and plans."""
        members = self.members.items()
        return {
            "members": [{"spec": spec, **self._describe(each, classes)} for spec, each in members]
        }

    def _describe(self, member: Attack, classes: int) -> dict[str, Any]:
        shared = {name for name, value in vars(self).items() if value is not None}
        own = {
            name: value
            for name, value in asdict(member).items()
            if name not in shared and value is not None
        }
        if type(member).plan is Attack.plan:
            return own  # an empty plan is part of the identity only where the attack makes plans
        return {**own, "plan": member.plan(classes)}

    def passes(self, classes: int) -> tuple[int, int] | None:
        """Return the sum of the members' passes, with a prediction before and one after each.

        None if those of a member are not known.
        """
        known = [each.passes(classes) for each in self.members.values()]
        sums = [each for each in known if each is not None]
        if len(sums) < len(known):
            return None
        predictions = 1 + len(sums)
        return predictions + sum(each[0] for each in sums), sum(each[1] for each in sums)

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1], or clean ones where none was found."""
        with frozen(classifier):
            search, _ = Search.begin(classifier, images, labels)
            for member in self.members.values():
                left, before = search.left, search.broken.clone()
                if not len(left):
                    break
                found = member(classifier, search.images[left], labels[left], draws[left])
                search.take(left, found.detach(), torch.ones_like(before[left]))  # verified next
                search.verify(classifier, before)
        return search.adversarial


attacks.register("ensemble")(Ensemble())

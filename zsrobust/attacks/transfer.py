"""Transfer: images made against another defense, judged on the attacked one."""

from dataclasses import dataclass

from torch import Tensor, nn

from zsrobust.attacks import Attack, attacks, frozen
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.scenes import beside, scene_of


@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """An attack on another defense, the source: transfer:attack=pgd10,source=clip.

    The source classifies the same images with the same prompts. It is a spec of one field at most,
    because a comma would begin a field of the transfer. The attack gets the transfer's eps, norm
    and step_size, and takes all its steps.
    """

    source: str = "clip"
    attack: str = "pgd10"
    step_size: float = 1 / 255
    blind = True
    positive = ("step_size",)

    @property
    def member(self) -> Attack:
        """The attack on the source; raises ZSRobustError for a spec that is not valid."""
        given = {"eps": self.eps, "norm": self.norm, "step_size": self.step_size}
        return attacks.create(self.attack, given).full()

    @property
    def reads(self) -> dict[str, str]:
        """The source."""
        return {"other": self.source}

    def passes(self, classes: int) -> tuple[int, int] | None:
        """Return the numbers of forward and of backward passes through the source."""
        return self.member.passes(classes)

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1] of the source."""
        source = beside(classifier, scene_of(classifier).other(self.source))
        with frozen(source):
            return self.member(source, images, labels, draws)


attacks.register("transfer")(Transfer())

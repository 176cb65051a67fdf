"""APT: adversarial prompt tuning (Li et al., CVPR 2024, arXiv 2403.01849).

Both towers are frozen. The words around the class name become learned vectors, trained on images
that an attack makes against the same vectors. Around a defense of the weights: `apt:of=tecoa`.

The paper trains and tests at 1/255 and at 4/255. Its attacker may use another prompt than the
learned one: `attack_prompt`. On `mini`, bound, epochs and batches are those of the suite.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from zsrobust.core.errors import ZSRobustError
from zsrobust.defenses import Around, Defense, Tower, Wrapped, defenses
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.heads import Head, of_texts
from zsrobust.models.wrappers import Knowledge
from zsrobust.settings.suites import Suite
from zsrobust.training import Recipe, trained_context

#: What the attack reads with attack_prompt=other: the first that the dataset does not use itself.
OTHERS = ("a photo of a {}.", "a picture of the {}.")


@dataclass(frozen=True, kw_only=True)
class APT(Around):
    """A learned context before the class names of any dataset, for the tower of another defense.

    The attack sees the learned prompt. With another `attack_prompt` it does not know the defense:
    it sees the dataset's own prompts (fixed), or a template that is neither (other).
    """

    attack_prompt: Literal["same", "fixed", "other"] = "same"

    @property
    def knowledge(self) -> str:  # type: ignore[override]  # a field's value decides here
        """Whether the attack knows the prompt: "" if it does, else "oblivious"."""
        return "" if self.attack_prompt == "same" else "oblivious"

    def check_around(self, other: Defense, where: str) -> None:
        """Raise ZSRobustError if the other defense is a wrapper, or learns a context, too."""
        if isinstance(other, APT | Wrapped):
            raise ZSRobustError(
                f"{where}: {other.title} is not a defense of the weights. "
                "Learn the context for one: of=tecoa"
            )

    def title_around(self, *others: Defense) -> str:
        """Return its title, which names the other defense, and the prompt of the attack."""
        title = super().title_around(*others)
        oblivious = f"{title}, oblivious attack ({self.attack_prompt} prompt)"
        return oblivious if self.knowledge else title

    def recipe_for(self, suite: Suite) -> Recipe | None:
        """Return the recipe of the context; it names the tower and the recipes of the tower."""
        recipe = super().recipe_for(suite)
        assert recipe is not None
        digests = [each.digest for each in defenses.create(self.of).recipes(suite)]
        return dataclasses.replace(recipe, tower=" ".join([self.of, *digests]))

    def tower(self, workshop: Workshop) -> Tower:
        """Return the other defense's tower with the learned head, trained if it is missing.

        Raises ZSRobustError if that tower has a head of its own.
        """
        inner, recipe = workshop.tower(self.of), self.recipe_for(workshop.suite)
        assert recipe is not None
        if inner.head is not None:
            raise ZSRobustError(
                f"apt: {self.of} has a text tower of its own, and the context is learned for the "
                "backbone's. Choose another defense: apt:of=tecoa"
            )
        checkpoint = workshop.checkpoint(recipe, self.title, inner.encoder)
        prompt = {"attack_prompt": self.attack_prompt}
        towers = {"towers": {self.of: inner.identity}}
        attacked: dict[str, Head | None] = {
            "same": None,
            "fixed": of_texts(workshop.clip),
            "other": of_texts(workshop.clip, *OTHERS),
        }
        knowledge: Knowledge = "oblivious" if self.knowledge else "adaptive"
        return Tower(
            inner.encoder,
            {**checkpoint.identity, **prompt, **towers},
            checkpoint.training,
            knowledge=knowledge,
            head=trained_context(workshop.clip, recipe, checkpoint),
            attacked=attacked[self.attack_prompt],
        )


defenses.register("apt")(
    APT(
        title="APT",
        paper="Li et al., CVPR 2024, arXiv 2403.01849",
        # The paper, unified context: 16 vectors, SGD with learning rate 0.002, PGD-3 against the
        # prompt as it is ("onfly" in its code). The loss is TeCoA's. The paper trains on 16 images
        # of each class for 50 epochs in batches of 32; the suite's budget is used instead.
        recipe=Recipe(
            objective="tecoa",
            attack="pgd:steps=3",
            trainable="context",
            lr=0.002,
            options={"tokens": 16},
        ),
    )
)

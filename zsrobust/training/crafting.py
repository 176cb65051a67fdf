"""Crafting: adversarial training images, against the labels or against an objective's own loss."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from zsrobust.attacks import frozen
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.geometry import uniform_start
from zsrobust.attacks.notes import dropped
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.search import ascend
from zsrobust.core.errors import ZSRobustError
from zsrobust.models.zeroshot import ZeroShotClassifier
from zsrobust.training.recipes import Recipe
from zsrobust.training.steps import MinMax, Objective, Outputs, Step


class Crafter:
    """Makes the adversarial images of a recipe. No weight takes a gradient for them."""

    def __init__(self, recipe: Recipe, objective: Objective) -> None:
        """Take a recipe and its objective; raises ZSRobustError if the attack does not fit."""
        self.recipe = recipe
        self.attack: Any = recipe.crafting() if recipe.attack else None
        climbs = isinstance(objective, MinMax) and objective.maximize is not None
        if self.attack is not None and climbs and not _plain(self.attack):
            raise ZSRobustError(
                f"The attack {recipe.attack} cannot maximize the loss of the objective "
                f"{recipe.objective!r}. Expected a plain PGD. Use: attack=pgd10"
            )

    def against_labels(
        self, student: ZeroShotClassifier, draws: Draws, clean: Tensor, labels: Tensor
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) of the recipe's attack.

        Raises ZSRobustError without an attack.
        """
        with self._attacking(student) as attack:
            return torch.as_tensor(attack(student, clean, labels, draws)).detach()

    def against_loss(
        self, gain: Callable[[Step, Outputs], Tensor], step: Step, clean: Tensor, labels: Tensor
    ) -> Tensor:
        """Return images (N, 3, S, S) that maximize `gain` within the bound of the recipe's attack.

        Raises ZSRobustError without an attack.
        """
        # These outputs have no gradient for the weights, so the loss needs outputs of its own.
        seen = dataclasses.replace(step, images=clean, labels=labels, craft=_too_early)
        if clean is step.images:
            seen.teacher_clean = step.teacher_clean

        def loss(points: Tensor) -> Tensor:
            return gain(seen, Outputs(step.student, lambda: points, gradients=True))

        with self._attacking(step.student) as attack:
            start = clean
            if attack.random_start:
                start = uniform_start(clean, step.draws, attack.eps, attack.norm, "pgd", 0)
            return ascend(
                loss,
                clean,
                start,
                eps=attack.eps,
                norm=attack.norm,
                steps=attack.steps,
                step_size=attack.step_size,
            )

    @contextmanager
    def _attacking(self, student: ZeroShotClassifier) -> Iterator[Any]:
        """Yield the recipe's attack, with a frozen student; raises ZSRobustError without one."""
        if self.attack is None:
            raise ZSRobustError(
                f"The recipe of the objective {self.recipe.objective!r} has no attack. "
                "The objective asks for adversarial images. Add one to the recipe: attack=pgd2"
            )
        head = student.head
        with frozen(student), dropped(), warnings.catch_warnings():
            # The warnings of attacks concern evaluations.
            warnings.simplefilter("ignore", UserWarning)
            student.head = head.detach()  # a learned context has a gradient
            try:
                yield self.attack
            finally:
                student.head = head


def _plain(attack: Any) -> bool:
    """Return whether an attack is a PGD that another loss can take over."""
    return isinstance(attack, PGD) and (attack.loss, attack.restarts, attack.eot) == ("ce", 1, None)


def _too_early(images: Tensor, labels: Tensor) -> Tensor:
    raise ZSRobustError(
        "The loss that adversarial images maximize asks for these images. "
        "Expected the outputs that it receives. Use: outputs.embeddings"
    )

"""Steps and objectives: what a loss gets, and the losses by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from zsrobust.core.registry import Registry
from zsrobust.models.zeroshot import ZeroShotClassifier


@dataclass
class Step:
    """What an objective gets: a batch, the student, the teacher. What it does not ask for is not computed.

    The batch may be a part of the whole one, the share of which is `share`. An objective is a mean over the images that it
    is given: those of the parts, weighted by their shares, then add up to that of the whole batch. A sum over images must be
    divided by `share`. Its random numbers, if any, are no part of a checkpoint: only those of `craft` come again when a
    training is resumed.
    """

    images: Tensor  #: (N, 3, S, S) float32 in [0, 1]
    labels: Tensor  #: (N,) int64
    student: ZeroShotClassifier  #: being trained
    teacher: ZeroShotClassifier  #: the original CLIP, frozen
    craft: Callable[
        [Tensor, Tensor], Tensor
    ]  #: images and labels to adversarial images against the student
    options: Mapping[str, Any]
    share: float = 1.0  #: of these images in the whole batch, in (0, 1]

    @cached_property
    def adversarial(self) -> Tensor:
        """The batch's adversarial images, (N, 3, S, S), crafted when first asked for."""
        return self.craft(self.images, self.labels)

    @cached_property
    def clean_features(self) -> Tensor:
        """The student's unit-norm embeddings of the clean images, (N, D)."""
        return self.student.features(self.images)

    @cached_property
    def adversarial_features(self) -> Tensor:
        """The student's unit-norm embeddings of the adversarial images, (N, D)."""
        return self.student.features(self.adversarial)

    @cached_property
    def teacher_features(self) -> Tensor:
        """The teacher's unit-norm embeddings of the same adversarial images, (N, D), without gradient."""
        with torch.no_grad():
            return self.teacher.features(self.adversarial)

    @cached_property
    def clean_logits(self) -> Tensor:
        """The student's logits of the clean images, (N, K)."""
        return self.clean_features @ self.student.head.T

    @cached_property
    def adversarial_logits(self) -> Tensor:
        """The student's logits of the adversarial images, (N, K)."""
        return self.adversarial_features @ self.student.head.T

    @cached_property
    def teacher_logits(self) -> Tensor:
        """The teacher's logits of the adversarial images, (N, K), without gradient."""
        return self.teacher_features @ self.teacher.head.T

    @torch.no_grad()
    def correct(self) -> Tensor:
        """Return the number of images that the student classified correctly, (), under attack if it was attacked."""
        logits = (
            self.adversarial_logits if "adversarial_logits" in self.__dict__ else self.clean_logits
        )
        return (logits.argmax(1) == self.labels).sum()


Objective = Callable[[Step], Tensor]
objectives: Registry[Objective] = Registry("objective", "defenses")

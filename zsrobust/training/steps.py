"""Steps and objectives: what a loss receives, and the losses by name."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsrobust.attacks.draws import Draws
from zsrobust.core.registry import Registry
from zsrobust.datasets import Dataset
from zsrobust.models.tokens import embed, project
from zsrobust.models.zeroshot import ZeroShotClassifier

NO_DRAWS = Draws(torch.empty(0, dtype=torch.int64))  #: of a step outside a training
NO_HEADS = torch.empty(0)  #: of an objective without texts of its own


class Outputs:
    """What a classifier computes from some images. One pass through its tower serves all of it."""

    def __init__(
        self, classifier: ZeroShotClassifier, images: Callable[[], Tensor], gradients: bool
    ) -> None:
        """Take the classifier, a function that returns images, and whether to keep gradients."""
        self.classifier, self._images, self.gradients = classifier, images, gradients

    @property
    def images(self) -> Tensor:
        """The images, (N, 3, S, S) in [0, 1]."""
        return self._images()

    @property
    def computed(self) -> bool:
        """Whether the tower has processed the images."""
        return "_passed" in self.__dict__

    @cached_property
    def _passed(self) -> tuple[Tensor, Tensor | None]:
        images = self.images
        with nullcontext() if self.gradients else torch.no_grad():
            return embed(self.classifier.encoder, self.classifier.prepared(images))

    @property
    def embeddings(self) -> Tensor:
        """The embeddings of the images, (N, D), as the tower computes them: not normalized."""
        return self._passed[0]

    @cached_property
    def features(self) -> Tensor:
        """The unit-norm embeddings of the images, (N, D)."""
        return F.normalize(self.embeddings, dim=-1)

    @cached_property
    def logits(self) -> Tensor:
        """The logits of the images, (N, K)."""
        return self.features @ self.classifier.head.T

    @cached_property
    def tokens(self) -> Tensor:
        """The patch tokens of the images, (N, L, D); see `ZeroShotClassifier.tokens`."""
        with nullcontext() if self.gradients else torch.no_grad():
            return project(self.classifier.encoder, self._passed[1])


@dataclass
class Step:
    """What an objective receives: a batch, the student, the teacher.

    Each output is computed when the objective asks for it.

    `student_clean`, `student_adversarial`, `teacher_clean` and `teacher_adversarial` are what the
    student and the teacher compute from the clean and from the adversarial images: `embeddings`,
    `features`, `logits` and `tokens`. The teacher's take no gradient.

    The batch may be a part of the whole one; `share` is its share. An objective is a mean over the
    images that it receives. The parts' means, weighted by their shares, add up to the batch's.
    A sum over images must be divided by `share`.

    Random numbers come from `draws`, with a key of your own: `step.draws.uniform((3,), "crop")`.
    A resumed training draws the same numbers.
    """

    images: Tensor  #: (N, 3, S, S) float32 in [0, 1]
    labels: Tensor  #: (N,) int64
    student: ZeroShotClassifier  #: being trained
    teacher: ZeroShotClassifier  #: the original CLIP, frozen
    #: Images and labels to adversarial images against the student.
    craft: Callable[[Tensor, Tensor], Tensor]
    options: Mapping[str, Any]
    share: float = 1.0  #: of these images in the whole batch, in (0, 1]
    draws: Draws = NO_DRAWS  #: of these images in this epoch
    heads: Tensor = NO_HEADS  #: (H, K, D): of the objective's own texts; see `MinMax.texts`
    dual: nn.Module | None = None  #: the objective's dual network; see `MinMax.dual`
    terms: dict[str, Tensor] = field(default_factory=dict)  #: what `term` recorded, by name

    def term(self, name: str, value: Tensor) -> Tensor:
        """Return a term of the loss, (), and record it for the training's log under its name."""
        self.terms[name] = value.detach()
        return value

    @cached_property
    def adversarial(self) -> Tensor:
        """The batch's adversarial images, (N, 3, S, S), crafted when first asked for."""
        return self.craft(self.images, self.labels)

    @cached_property
    def student_clean(self) -> Outputs:
        """What the student computes from the clean images."""
        return Outputs(self.student, lambda: self.images, gradients=True)

    @cached_property
    def student_adversarial(self) -> Outputs:
        """What the student computes from the adversarial images."""
        return Outputs(self.student, lambda: self.adversarial, gradients=True)

    @cached_property
    def teacher_clean(self) -> Outputs:
        """What the teacher computes from the clean images, without gradient."""
        return Outputs(self.teacher, lambda: self.images, gradients=False)

    @cached_property
    def teacher_adversarial(self) -> Outputs:
        """What the teacher computes from the same adversarial images, without gradient."""
        return Outputs(self.teacher, lambda: self.adversarial, gradients=False)

    def soft_labels(self, temperature: float = 1.0) -> Tensor:
        """Return the teacher's softmax(logits / temperature) for the clean images, (N, K)."""
        return (self.teacher_clean.logits / temperature).softmax(1)

    @property
    def clean_features(self) -> Tensor:
        """The student's unit-norm embeddings of the clean images, (N, D)."""
        return self.student_clean.features

    @property
    def adversarial_features(self) -> Tensor:
        """The student's unit-norm embeddings of the adversarial images, (N, D)."""
        return self.student_adversarial.features

    @property
    def teacher_features(self) -> Tensor:
        """The teacher's unit-norm embeddings of the adversarial images, (N, D)."""
        return self.teacher_adversarial.features

    @property
    def clean_logits(self) -> Tensor:
        """The student's logits of the clean images, (N, K)."""
        return self.student_clean.logits

    @property
    def adversarial_logits(self) -> Tensor:
        """The student's logits of the adversarial images, (N, K)."""
        return self.student_adversarial.logits

    @property
    def teacher_logits(self) -> Tensor:
        """The teacher's logits of the adversarial images, (N, K), without gradient."""
        return self.teacher_adversarial.logits

    @torch.no_grad()
    def correct(self) -> Tensor | None:
        """Return the number of images that the student classified correctly, ().

        It counts adversarial images if the objective asked for their outputs, else clean images. It
        is None if the objective made no pass through the student.
        """
        for outputs in (self.student_adversarial, self.student_clean):
            if outputs.computed:
                return (outputs.logits.argmax(1) == self.labels).sum()
        return None


Objective = Callable[[Step], Tensor]
objectives: Registry[Objective] = Registry("objective", "defenses", accepts=Callable)


#: Texts of classes beside the classifier's own: a list of heads. Each has the prompts of K classes.
Texts = Sequence[Sequence[Sequence[str]]]


@dataclass(frozen=True)
class MinMax:
    """An objective with more than a loss: an attack, texts or a dual network of its own.

    Training minimizes `minimize(step)`, (). The images of `step.adversarial` maximize
    `maximize(step, outputs)`, (N,), where `outputs` is what the student computes from them.
    Bound, norm, steps and start are those of the recipe's attack, which is a PGD. Without
    `maximize`, the recipe's attack maximizes its own loss, against the labels.

    For a targeted attack, `maximize` returns minus the loss of the target. While it runs, the
    student is in eval mode, and its weights take no gradient.

    `texts(dataset)` returns further texts of the training dataset's classes. The frozen text tower
    encodes them once. `step.heads` has their heads, (H, K, D), scaled as the classifier's.

    `dual(D)` returns a network for embeddings of D numbers, with weights from torch's random
    numbers. `step.dual` is that network. Adam ascends the loss that the student descends, at the
    rate `dual_lr` and after every `primal_steps` steps (options of the recipe). The network is part
    of the training's state, and not of the tower.
    """

    minimize: Objective
    maximize: Callable[[Step, Outputs], Tensor] | None = None
    texts: Callable[[Dataset], Texts] | None = None
    dual: Callable[[int], nn.Module] | None = None

    def __call__(self, step: Step) -> Tensor:
        """Return the loss of a step, ()."""
        return self.minimize(step)

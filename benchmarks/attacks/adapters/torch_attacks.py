"""The attacks of torchattacks (Kim, arXiv 2010.01950)."""

from collections.abc import Callable
from typing import Any

import torch
import torchattacks
from torch import Tensor

from adapters import Run, Task
from zsrobust.evaluation.meter import Meter

PACKAGE = "torchattacks"


def _run(make: Callable[[Meter, Task, int], Any]) -> Run:
    def run(classifier: Meter, images: Tensor, labels: Tensor, task: Task) -> Tensor:
        with torch.no_grad():
            classes = classifier.classifier(images[:1]).shape[1]
        return make(classifier, task, min(classes, task.targets + 1))(images, labels)

    return run


def _iterative(attack: Callable[..., Any]) -> Run:
    return _run(lambda c, t, _: attack(c, eps=t.eps, alpha=t.step_size, steps=t.steps))


def _adaptive(attack: Callable[..., Any], **options: Any) -> Run:
    return _run(lambda c, t, _: attack(c, eps=t.eps, steps=t.steps, seed=t.seed, **options))


def _targeted(attack: Callable[..., Any], **options: Any) -> Run:
    def make(classifier: Meter, task: Task, classes: int) -> Any:
        return attack(
            classifier, eps=task.eps, steps=task.steps, seed=task.seed, n_classes=classes, **options
        )

    return _run(make)


def _square(classifier: Meter, task: Task, _: int) -> Any:
    return torchattacks.Square(
        classifier, eps=task.eps, n_queries=task.queries, seed=task.seed, resc_schedule=False
    )


def _autoattack(classifier: Meter, task: Task, classes: int) -> Any:
    return torchattacks.AutoAttack(classifier, eps=task.eps, seed=task.seed, n_classes=classes)


ATTACKS: dict[str, Run] = {
    "pgd": _iterative(torchattacks.PGD),
    "mim": _iterative(torchattacks.MIFGSM),
    "apgd-ce": _adaptive(torchattacks.APGD, loss="ce"),
    "apgd-dlr": _adaptive(torchattacks.APGD, loss="dlr"),
    "apgd-t": _targeted(torchattacks.APGDT),
    "fab-t": _targeted(torchattacks.FAB, multi_targeted=True),
    "square": _run(_square),
    "autoattack": _run(_autoattack),
}

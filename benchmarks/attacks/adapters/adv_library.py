"""The attacks of adv-lib (Rony & Ben Ayed, github.com/jeromerony/adversarial-library)."""

import math
from functools import partial

import torch
from adv_lib.attacks import apgd, apgd_targeted, fab, pgd_linf
from torch import Tensor

from adapters import Run, Task
from zsrobust.evaluation.meter import Meter

PACKAGE = "adv-lib"


def _pgd(loss: str, classifier: Meter, images: Tensor, labels: Tensor, task: Task) -> Tensor:
    return pgd_linf(
        classifier,
        images,
        labels,
        task.eps,
        steps=task.steps,
        loss_function=loss,
        absolute_step_size=task.step_size,
    )


def _apgd(loss: str, classifier: Meter, images: Tensor, labels: Tensor, task: Task) -> Tensor:
    return apgd(
        classifier, images, labels, task.eps, math.inf, n_iter=task.steps, loss_function=loss
    )


def _targets(classifier: Meter, images: Tensor, task: Task) -> int:
    with torch.no_grad():
        return min(task.targets, classifier.classifier(images[:1]).shape[1] - 1)


def _apgd_t(classifier: Meter, images: Tensor, labels: Tensor, task: Task) -> Tensor:
    return apgd_targeted(
        classifier,
        images,
        labels,
        task.eps,
        math.inf,
        n_iter=task.steps,
        num_targets=_targets(classifier, images, task),
    )


def _fab_t(classifier: Meter, images: Tensor, labels: Tensor, task: Task) -> Tensor:
    return fab(
        classifier,
        images,
        labels,
        math.inf,
        n_iter=task.steps,
        restarts=_targets(classifier, images, task),
        targeted_restarts=True,
    )


ATTACKS: dict[str, Run] = {
    "pgd": partial(_pgd, "ce"),
    "cw": partial(_pgd, "dl"),
    "apgd-ce": partial(_apgd, "ce"),
    "apgd-dlr": partial(_apgd, "dlr"),
    "apgd-t": _apgd_t,
    "fab-t": _fab_t,
}

"""The attacks of the Adversarial Robustness Toolbox (Nicolae et al., arXiv 1807.01069)."""

from collections.abc import Callable
from typing import Any

import torch
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from adapters import Run, Task
from zsrobust.evaluation.meter import Meter

PACKAGE = "adversarial-robustness-toolbox"


def _run(make: Callable[[PyTorchClassifier, Task, dict[str, Any]], Any]) -> Run:
    def run(classifier: Meter, images: Tensor, labels: Tensor, task: Task) -> Tensor:
        with torch.no_grad():
            classes = classifier.classifier(images[:1]).shape[1]
        estimator = PyTorchClassifier(
            classifier,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(images.shape[1:]),
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if images.is_cuda else "cpu",
        )
        common = {"eps": task.eps, "batch_size": len(images), "verbose": False}
        found = make(estimator, task, common).generate(images.cpu().numpy(), labels.cpu().numpy())
        return torch.from_numpy(found).to(images)

    return run


def _pgd(estimator: PyTorchClassifier, task: Task, common: dict[str, Any]) -> Any:
    return evasion.ProjectedGradientDescent(
        estimator, eps_step=task.step_size, max_iter=task.steps, num_random_init=1, **common
    )


def _mim(estimator: PyTorchClassifier, task: Task, common: dict[str, Any]) -> Any:
    return evasion.MomentumIterativeMethod(
        estimator, eps_step=task.step_size, max_iter=task.steps, **common
    )


def _apgd(loss: str) -> Run:
    return _run(
        lambda estimator, task, common: evasion.AutoProjectedGradientDescent(
            estimator,
            eps_step=2 * task.eps,
            max_iter=task.steps,
            nb_random_init=1,
            loss_type=loss,
            **common,
        )
    )


def _square(estimator: PyTorchClassifier, task: Task, common: dict[str, Any]) -> Any:
    return evasion.SquareAttack(estimator, max_iter=task.queries, **common)


ATTACKS: dict[str, Run] = {
    "pgd": _run(_pgd),
    "mim": _run(_mim),
    "apgd-ce": _apgd("cross_entropy"),
    "apgd-dlr": _apgd("difference_logits_ratio"),
    "square": _run(_square),
}

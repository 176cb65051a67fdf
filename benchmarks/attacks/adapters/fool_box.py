"""The attacks of foolbox (Rauber et al., arXiv 1707.04131)."""

from collections.abc import Callable
from typing import Any

import foolbox
from torch import Tensor

from adapters import Run, Task
from zsrobust.evaluation.meter import Meter

PACKAGE = "foolbox"


def _run(attack: Callable[..., Any]) -> Run:
    def run(classifier: Meter, images: Tensor, labels: Tensor, task: Task) -> Tensor:
        model = foolbox.PyTorchModel(classifier, bounds=(0, 1), device=images.device)
        steps = attack(abs_stepsize=task.step_size, steps=task.steps)
        return steps.run(model, images, labels, epsilon=task.eps)

    return run


ATTACKS: dict[str, Run] = {
    "pgd": _run(foolbox.attacks.LinfPGD),
    "mim": _run(foolbox.attacks.LinfMomentumIterativeFastGradientMethod),
}

"""The attacks of pyautoattack, the package of AutoAttack's authors' code."""

import sys
from functools import partial

import pyautoattack
import torch
from torch import Tensor

from adapters import Run, Task
from zsrobust.evaluation.meter import Meter

PACKAGE = "pyautoattack"


def _run(part: str, classifier: Meter, images: Tensor, labels: Tensor, task: Task) -> Tensor:
    parts = ["apgd-ce", "apgd-t", "fab-t", "square"] if part == "standard" else [part]
    tracer = sys.gettrace()
    library = pyautoattack.AutoAttack(
        classifier,
        norm="Linf",
        eps=task.eps,
        seed=task.seed,
        version="custom",
        attacks=parts,
        device=images.device,
    )
    library.apgd.n_restarts = library.fab.n_restarts = 1
    library.apgd.n_iter = library.apgd_targeted.n_iter = library.fab.n_iter = task.steps
    with torch.no_grad():
        targets = min(task.targets, classifier.classifier(images[:1]).shape[1] - 1)
    library.apgd_targeted.n_target_classes = library.fab.n_target_classes = targets
    library.square.n_queries = 5000 if part == "standard" else task.queries
    try:
        found, _ = library.run_standard_evaluation(images, labels, batch_size=len(images))
    finally:
        sys.settrace(tracer)  # its check for gradients inside the classifier sets another
    return found


ATTACKS: dict[str, Run] = {
    **{kind: partial(_run, kind) for kind in ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square")},
    "autoattack": partial(_run, "standard"),
}

"""One attack of one library on one target, judged by the referee's rules."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from adapters import Run, Task, seed_all
from cases import Target
from numpy.typing import NDArray
from torch import Tensor, nn

from zsrobust.attacks import exact, frozen, perturbation_size
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import predict
from zsrobust.results.plausible import TOLERANCE


@dataclass(frozen=True)
class Verdict:
    """What an attack left."""

    broken: NDArray[np.bool_]  #: (N,)
    refused: int  #: images beyond eps, outside [0, 1] or not finite: they count as not broken
    forward: int  #: images that passed the classifier
    backward: int
    seconds: float


def run(attack: Run, target: Target, task: Task) -> Verdict:
    """Return the verdict on the images that an attack returns.

    The attack gets clones. What it returns is copied, checked and classified again in float32.
    """
    meter = Meter(target.classifier)
    with torch.random.fork_rng(), frozen(meter), exact():
        seed_all(task.seed)
        started = time.perf_counter()
        with torch.enable_grad():
            found = attack(meter, target.images.clone(), target.labels.clone(), task)
        seconds = time.perf_counter() - started
        counts = meter.forward_passes, meter.backward_passes
        fine = allowed(target.images, found.detach().clone(), task.eps)
        wrong = predict_wrong(target.classifier, found.detach().clone(), target.labels)
    return Verdict(wrong & fine, int((~fine).sum()), *counts, round(seconds, 3))


def allowed(originals: Tensor, found: Tensor, eps: float) -> NDArray[np.bool_]:
    """Return which images, (N,), are finite, in [0, 1], and within eps of the originals."""
    pixels = found.flatten(1)
    inside = (pixels >= -TOLERANCE).all(1) & (pixels <= 1 + TOLERANCE).all(1)  # NaN is neither
    near = perturbation_size(found - originals, "linf") <= eps + TOLERANCE
    return (inside & near).cpu().numpy()


def predict_wrong(classifier: nn.Module, found: Tensor, labels: Tensor) -> NDArray[np.bool_]:
    """Return which images, (N,), are misclassified; an image that is not finite is not."""
    finite = found.nan_to_num(0, 0, 0)
    return predict(classifier, finite.float()) != labels.cpu().numpy()

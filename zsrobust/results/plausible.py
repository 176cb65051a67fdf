"""Plausible values: stored measurements that no honest run produces are found here.

Digests find files that changed by accident. These rules find values that contradict each other,
also in a result whose digest was computed again. A result that passes them can still be forged.
"""

import numpy as np

from zsrobust.results.cell import Outcomes, Result

TOLERANCE = 1e-6  #: of float32 arithmetic, in pixels of [0, 1]; the referee accepts as much
#: The values of an image, at most: 3 channels of 1024 x 1024 pixels. Results store no image size.
VALUES = 3 * 1024 * 1024
#: Between 1/2 and 1, float32 pixels are 2⁻²⁴ apart. A change in l1 is off by as much per value: by
#: half of it where the pixel was rounded, and by half where the difference was.
ROUNDING = 2**-24
#: The norms of attacks; see `zsrobust.attacks.geometry`.
NORMS = ("linf", "l2", "l1", "patch")


def most(norm: str, eps: float, values: int = VALUES, tolerance: float = TOLERANCE) -> float:
    """Return the largest accepted size of a perturbation of images with `values` values.

    Every value may be off by the tolerance, which adds up in l2: sqrt(values) * tolerance. In l1
    that would be a large part of a small eps, so that only the rounding of float32 adds up. The
    size of a patch is a share of the image's side.
    """
    if norm == "l1":
        return eps + tolerance + values * ROUNDING
    if norm == "patch":
        return eps + tolerance
    return eps + tolerance * (1.0 if norm == "linf" else float(values**0.5))


def impossible_value(result: Result) -> str | None:
    """Return which measurement of a result no run produces, or None."""
    bounds = {
        "seconds": (result.seconds, 0),
        "forward": (result.forward, 0),
        "backward": (result.backward, 0),
        "disagreements": (result.disagreements, 0),
        "batch_size": (result.batch_size, 1),
        "epoch_seconds": (result.training.get("epoch_seconds"), 0),
        **{f"predicted.{name}": (value, 0) for name, value in (result.predicted or {}).items()},
    }
    for name, (value, least) in bounds.items():
        if value is not None and value < least:
            return f"{name} is {value:g}, and the least possible value is {least}"
    if (result.disagreements or 0) > result.images:
        return f"disagreements is {result.disagreements}, and it has {result.images} images"
    return None


def impossible_outcome(result: Result, outcomes: Outcomes) -> str | None:
    """Return what is impossible in the outcomes of a result's attack, or None."""
    attack, classes = result.identity.attack, result.identity.dataset.details.get("classes")
    arrays = (outcomes.clean, outcomes.adversarial, outcomes.labels, outcomes.targets)
    largest = int(max(array.max() for array in arrays if array is not None))
    if isinstance(classes, int) and largest >= classes:
        return f"it has class {largest}, and the dataset's classes are 0 to {classes - 1}"
    if outcomes.targets is not None:
        attacked = (outcomes.clean == outcomes.labels) | result.identity.attacks_everything
        if not np.array_equal(outcomes.targets >= 0, attacked):
            return "the images with a target are not those that were attacked"
        if (outcomes.targets == outcomes.labels).any():
            return "some targets are the labels"
    norm = attack.details.get("norm")
    if norm not in NORMS:
        return f"the attack's norm is {norm!r}, and a norm is one of {', '.join(NORMS)}"
    size, bound = float(outcomes.perturbation.max()), most(norm, attack.eps)
    if size > np.float32(bound):
        return f"a perturbation of {size:.6g} is beyond eps {attack.eps:.6g}"
    return None

"""Measurements on a small fixed sample, which show whether an attack failed.

They are cheap enough for every cell. `rules` decides which measurements raise a flag.
"""

import math
from collections.abc import MutableMapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zsrobust.attacks import Attack
from zsrobust.attacks.autoattack import Watch, are_probabilities
from zsrobust.attacks.draws import Draws
from zsrobust.evaluation.redflags.sample import Progress, Sample, logits_of, silent
from zsrobust.evaluation.redflags.searches import searches, weak
from zsrobust.evaluation.redflags.slopes import slopes
from zsrobust.models.wrappers import Knowledge

NOT_FINITE = 1e9  # replaces a measurement that is not finite


class Probed(NamedTuple):
    """What the probes measured on a sample. It does not depend on the attack of a cell."""

    checks: dict[str, float]
    classes: int
    right: Tensor  #: where the images are that are classified correctly
    broken: Tensor | None  #: which of these PGD-10 breaks; None if no probe attacked them


#: What was measured for one classifier on one sample, by ball, batch size, knowledge and canary.
Kept = MutableMapping[tuple[object, ...], Probed]


def examine(
    classifier: nn.Module,
    attack: Attack,
    pixels: Tensor,
    labels: Tensor,
    draws: Draws,
    *,
    target: nn.Module | None = None,
    knowledge: Knowledge = "adaptive",
    batch_size: int | None = None,
    survived: Tensor | None = None,
    undefended: nn.Module | None = None,
    progress: Progress = silent,
    kept: Kept | None = None,
) -> dict[str, float]:
    """Return measurements by name, on images (N, 3, S, S) in [0, 1] with labels (N,).

    `classifier` is deployed. The attack sees `target`, if that is not None. The probes are PGD and
    Square; they use only eps, norm and the number of steps of `attack`. A classifier takes
    `batch_size` images at once. With "oblivious" `knowledge`, only the outputs are measured: the
    attack does not see the deployed classifier, so its gradients prove nothing. Weights, modes and
    torch's random state are restored. `kept` is read and filled: the caller passes it again for
    other attacks on the same classifier and sample. Raises any exception of the classifier.

    These are shares of the images classified correctly:
    - `zero_gradients` and `saturated`: the loss has no useful gradient;
    - `standing`: the image survives a huge eps;
    - `no_growth`: the margin does not grow with eps;
    - `more_steps`: 100 steps of PGD break the image, 10 steps do not;
    - `black_box`: Square breaks the image, PGD does not.

    - `transfer`: images made against the `undefended` classifier break the image, and nothing else;
    - `cliffs`: the logits jump on the way to an image at a huge eps;
    - `misled`: the gradient, or its largest entries, point nowhere uphill;
    - `fickle`: PGD-10 with the same random numbers has another result for one image at a time.

    `more_steps`, `black_box`, `transfer` and `cliffs` are measured on the first few images that
    survive PGD-10, `fickle` on the first few images. `agreement` is how often the gradient predicts
    the sign of the change in a random direction. `survived`, (N,) bool, is
    which images the cell's own attack left. Then `weak` is the share that it left of all images
    that it or a probe breaks, and `weak_images` is their number. The probe is PGD-10, or Square for
    an attack that takes no gradient. A patch has no `weak`: no probe searches among patches.
    `broken` counts the
    images that PGD-10 broke; `eight_bits` is the share of them that stay broken in 8 bits.
    `unstable` and `coupled` are differences of logits in units of their range. `vanishing` is the
    growth of the margin, divided by the growth that its gradient predicts.
    """
    sample = Sample.of(
        classifier, attack, pixels, labels, draws, target=target, batch_size=batch_size
    )
    kept = {} if kept is None else kept
    key = (sample.eps, sample.norm, batch_size, knowledge, undefended is None)
    if key not in kept:
        kept[key] = _probed(sample, knowledge, undefended, progress)
    checks, classes, right, broken = kept[key]
    checks = dict(checks)
    steps = attack.steps_taken(classes)
    if steps:
        checks["attack_steps"] = steps
    if survived is not None and broken is not None and attack.norm != "patch":
        with sample.apart():
            checks |= weak(sample[right], survived[right], broken if steps else None)
    progress("searches", 3, 3)
    numbers = {name: float(value) for name, value in checks.items()}
    return {
        name: round(value, 6) if math.isfinite(value) else NOT_FINITE
        for name, value in numbers.items()
    }


def _probed(
    sample: Sample, knowledge: Knowledge, undefended: nn.Module | None, progress: Progress
) -> Probed:
    """Return what the probes measure on the sample."""
    progress("outputs", 0, 3)
    with sample.apart():
        logits = logits_of(sample.deployed, sample.images)
        right = (logits.argmax(1) == sample.labels).nonzero()[:, 0]
        checks = {"images": len(sample), "correct": len(right), **_outputs(sample, logits)}
        broken = None
        if len(right) and knowledge == "adaptive":
            progress("gradients", 1, 3)
            checks |= slopes(sample[right])
            progress("searches", 2, 3)
            found, broken = searches(sample[right], undefended)
            checks |= found
    return Probed(checks, logits.shape[1], right, broken)


@torch.no_grad()
def _outputs(sample: Sample, logits: Tensor) -> dict[str, float]:
    """Return whether logits are repeatable, depend on other images, or are probabilities."""
    classifier, images = sample.deployed, sample.images
    span = (logits.amax(1) - logits.amin(1)).clamp_min(1e-12)

    def apart(others: Tensor) -> Tensor:
        return (others - logits).abs().amax(1) / span

    size = classifier.batch_size or len(images)
    backward = logits_of(classifier, images.flip(0)).flip(0)
    pieces = logits_of(classifier, images, max(1, min(size, len(images)) // 3))
    with Watch() as watch:
        classifier(images[:1])
    return {
        "unstable": float(apart(logits_of(classifier, images)).max()),
        # The median: if classes are nearly equal, rounding moves some logits beyond their range.
        "coupled": float(torch.maximum(apart(backward), apart(pieces)).median()),
        "inside": float(watch.seen),
        "probabilities": float(are_probabilities(logits)),
    }

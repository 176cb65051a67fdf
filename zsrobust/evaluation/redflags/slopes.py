"""Measurements along lines: whether the loss follows its gradient, and changes without jumps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zsrobust.attacks.geometry import per_image
from zsrobust.evaluation.redflags.sample import Sample, logits_of

NEAR = 1e-3  # a step in pixels of [0, 1]; the loss is nearly linear over it
#: -log of the smallest normal float32; beyond such a margin, cross-entropy has a zero gradient
BEYOND = 87.0
#: A gradient points uphill if the margin grows by this share of what the gradient predicts, after a
#: step of at least one size. An honest gradient is exact for the smallest step. A stand-in (BPDA)
#: for rounding is useful over larger steps, and wrong for small ones.
UPHILL = 0.1
TOP = 0.01  # the share of a gradient's entries that count as its largest
RANDOM = 2  # random directions for each image
CLIFF = 0.1  # a jump of logits, in units of the range of the clean image's logits
HALVINGS = 11  # of a line; 2⁻¹¹ of the way to plain gray is a quarter of NEAR


def slopes(sample: Sample) -> dict[str, float]:
    """Return how well the gradient predicts the change of the loss."""
    before = sample.margins(sample.images)
    of_entropy, gradient = sample.gradients()
    flat = ~of_entropy.flatten(1).any(1)
    found = {
        "zero_gradients": float(flat.float().mean()),
        "saturated": float((before < -BEYOND).float().mean()),
    }
    kept, promised = _change(sample, before, gradient, gradient.sign(), NEAR)
    moved = promised > 0
    if moved.any():
        found["vanishing"] = float((kept[moved] / promised[moved]).median())
    found["misled"] = float(_misled(sample, before, gradient, kept, promised).float().mean())
    if moved.any():
        found["agreement"] = _agreement(sample[moved], gradient[moved])
    return found


def _change(
    sample: Sample, before: Tensor, gradient: Tensor, direction: Tensor, size: float
) -> tuple[Tensor, Tensor]:
    """Return the margin's growth over a step, and the growth that the gradient predicts: (N,)."""
    change = (sample.images + size * direction).clamp(0, 1) - sample.images
    promised = (gradient.double() * change.double()).flatten(1).sum(1)
    return (sample.margins(sample.images + change) - before).double(), promised


def _misled(
    sample: Sample, before: Tensor, gradient: Tensor, kept: Tensor, promised: Tensor
) -> Tensor:
    """Return at which images the gradient, or its largest entries, point nowhere uphill, (N,)."""
    size = gradient.abs().flatten(1)
    bound = size.topk(max(1, int(TOP * size.shape[1])), 1).values[:, -1]
    everywhere = gradient.sign()
    largest = everywhere * (gradient.abs() >= per_image(bound))
    far = sample.eps if sample.norm == "linf" else 10 * NEAR
    misled = (promised > 0) & (kept < UPHILL * promised)
    misled = _still(sample, before, gradient, everywhere, misled, (NEAR / 10, far))
    every = torch.ones_like(misled)
    return misled | _still(sample, before, gradient, largest, every, (NEAR, NEAR / 10, far))


def _still(
    sample: Sample,
    before: Tensor,
    gradient: Tensor,
    direction: Tensor,
    misled: Tensor,
    steps: Sequence[float],
) -> Tensor:
    """Return which of the images `misled` (N,) stay so for steps of every size in a direction."""
    misled = misled.clone()
    for step in steps:
        left = misled.nonzero()[:, 0]
        if len(left):
            kept, promised = _change(
                sample[left], before[left], gradient[left], direction[left], step
            )
            misled[left] = (promised > 0) & (kept < UPHILL * promised)
    return misled


def _agreement(sample: Sample, gradient: Tensor) -> float:
    """Return how often the gradient predicts the sign of the change in a random direction.

    It is a share of all images and directions. The change is a central difference.
    """
    shape, right = sample.images.shape[1:], []
    for number in range(RANDOM):
        signs = sample.draws.uniform(shape, "slope", number).to(gradient).sub(0.5).sign()
        ahead, behind = ((sample.images + way * NEAR * signs).clamp(0, 1) for way in (1, -1))
        change = (sample.margins(ahead) - sample.margins(behind)).double()
        predicted = (gradient.double() * (ahead - behind).double()).flatten(1).sum(1)
        right.append(change.sign() == predicted.sign())
    return float(torch.stack(right).float().mean())


def cliffs(sample: Sample, far: Tensor) -> int:
    """Return on how many ways from the images to `far` (N, 3, S, S) the logits jump.

    A way is halved again and again, towards the half over which the logits differ more. Over what
    is left, the logits of a continuous classifier hardly differ. Of a cliff, all is left.
    """
    low, high = sample.images, far
    one, other = (logits_of(sample.deployed, each) for each in (low, high))
    span = (one.amax(1) - one.amin(1)).clamp_min(1e-12)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        between = logits_of(sample.deployed, middle)
        first = (between - one).abs().amax(1) >= (other - between).abs().amax(1)
        low, high = (
            torch.where(per_image(first), low, middle),
            torch.where(per_image(first), middle, high),
        )
        one, other = (
            torch.where(first[:, None], one, between),
            torch.where(first[:, None], between, other),
        )
    return int(((other - one).abs().amax(1) > CLIFF * span).sum())

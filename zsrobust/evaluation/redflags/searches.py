"""Measurements by search: how the sample fares under attacks of several kinds and lengths."""

import math

import torch
from torch import Tensor, nn

from zsrobust.evaluation.redflags.sample import Sample
from zsrobust.evaluation.redflags.slopes import cliffs

HARD, LEAST = 4, 3  # a quarter of the sample gets the long attacks, at least three images
QUERIES = 50  # per image, of Square
PROBE = 100  # per image, of Square where it is the measure of a cell's own attack
GRAY = 0.5  # every image can become plain gray within this distance


def searches(sample: Sample, undefended: nn.Module | None) -> tuple[dict[str, float], Tensor]:
    """Return how the images fare at eps, at half of eps, at a huge eps, and under long attacks.

    Also return which of them PGD-10 breaks, (N,) bool.
    """
    before = sample.margins(sample.images)
    adversarial = sample.pgd(10, early_stop=False)
    half = sample.margins((sample.images + adversarial) / 2)
    grown = (half > before) & (sample.margins(adversarial) > half)
    broken = sample.broken(adversarial)
    left = (~broken).nonzero()[:, 0]
    found = {
        "no_growth": float((~grown).float().mean()),
        "broken": int(broken.sum()),
        **_far(sample, left),
        **_hard(sample, adversarial, left[: few(len(sample))], undefended),
    }
    if broken.any():
        rounded = sample.broken((adversarial * 255).round() / 255)
        found["eight_bits"] = float(rounded[broken].float().mean())
    return found | {"fickle": _fickle(sample, broken)}, broken


def few(images: int) -> int:
    """Return how many of the images get the long attacks, which cost most."""
    return max(LEAST, math.ceil(images / HARD))


def _far(sample: Sample, left: Tensor) -> dict[str, float]:
    """Return the shares that survive a huge eps, and whose logits jump on the way there.

    An image that is broken at eps is broken at a larger one, so only those `left` are attacked.
    """
    if not len(left):
        return {"standing": 0.0, "cliffs": 0.0}
    rest = sample[left]
    far = GRAY * (1 if sample.norm == "linf" else sample.images[0].numel() ** 0.5)
    # Without a random start: noise of that size alone would break the image.
    images = rest.pgd(10, far, random_start=False)
    some = slice(few(len(sample)))
    return {
        "standing": int((~rest.broken(images)).sum()) / len(sample),
        "cliffs": cliffs(sample[left[some]], images[some]) / len(sample),
    }


def _fickle(sample: Sample, broken: Tensor) -> float:
    """Return the share whose fate changes if they are attacked alone and later, by equal draws."""
    count = min(few(len(sample)), len(sample))
    each = torch.arange(count, device=broken.device).split(1)
    alone = torch.cat([sample[one].broken(sample[one].pgd(10, early_stop=False)) for one in each])
    return int((alone != broken[:count]).sum()) / len(sample)


def weak(sample: Sample, survived: Tensor, broken: Tensor | None) -> dict[str, float]:
    """Return how much the cell's attack left of what it or the probe breaks: share and number.

    `survived`, (N,) bool, is which images the cell's own attack left. `broken` is what PGD-10
    broke. None asks Square instead, and only about images that are left.
    """
    missed = survived.nonzero()[:, 0]
    if broken is None:
        some = sample[missed[: 2 * few(len(sample))]]
        found = some.broken(some.square(PROBE)) if len(some) else missed.bool()
    else:
        found = broken[missed]
    count = int(found.sum())
    breakable = count + int((~survived).sum())
    return {"weak": count / max(breakable, 1), "weak_images": count}


def _hard(
    sample: Sample, adversarial: Tensor, left: Tensor, undefended: nn.Module | None
) -> dict[str, float]:
    """Return the shares that 90 more steps break, then Square, and then transferred images."""
    found = {"more_steps": 0.0, "black_box": 0.0}
    for name in found:
        if len(left):
            hard = sample[left]
            longer = name == "more_steps"
            images = _longer(hard, adversarial[left]) if longer else hard.square(QUERIES)
            broken = hard.broken(images)
            found[name] = int(broken.sum()) / len(sample)
            left = left[~broken]
    if undefended is not None:
        rest = sample[left]
        count = int(rest.broken(rest.transferred(undefended)).sum()) if len(left) else 0
        found["transfer"] = count / len(sample)
    return found


def _longer(sample: Sample, points: Tensor) -> Tensor:
    """Return the images (N, 3, S, S) after up to 90 more steps, in three rounds of 30.

    A round skips images whose margin grows too slowly to break even at twice that pace.
    """
    points, before = points.clone(), sample.margins(points)
    left = torch.arange(len(sample), device=points.device)
    for more in (2, 1, 0):
        some = sample[left]
        points[left] = some.pgd(30, step_size=2.5 * sample.eps / 100, start=points[left])
        now = some.margins(points[left])
        stay = (now <= 0) & (now + 2 * more * (now - before) > 0)
        left, before = left[stay], now[stay]
        if not len(left):
            break
    return points

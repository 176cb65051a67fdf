"""Measurements by search: how the sample fares under attacks of several kinds and lengths."""

import math

import torch
from torch import Tensor

from zsrobust.evaluation.redflags.sample import Sample

HARD, LEAST = 4, 3  # a quarter of the sample gets the long attacks, at least three images
QUERIES = 100  # per image, of Square
GRAY = 0.5  # every image can become plain gray within this distance


def searches(sample: Sample, survived: Tensor | None, black_box: bool) -> dict[str, float]:
    """Return how the images fare at eps, at half of eps, at a huge eps, and under long attacks.

    `survived`, (N,) bool, is which images the cell's own attack left; None if that is not known.
    """
    before = sample.margins(sample.images)
    adversarial = sample.pgd(10, early_stop=False)
    half = sample.margins((sample.images + adversarial) / 2)
    grown = (half > before) & (sample.margins(adversarial) > half)
    broken = sample.broken(adversarial)
    left = (~broken).nonzero()[:, 0]
    found = {
        "no_growth": float((~grown).float().mean()),
        "standing": _standing(sample[left]) / len(sample),
        "broken": int(broken.sum()),
        **_hard(sample, adversarial, left[: _few(len(sample))]),
    }
    if broken.any():
        rounded = sample.broken((adversarial * 255).round() / 255)
        found["eight_bits"] = float(rounded[broken].float().mean())
    if survived is not None:
        found |= _weak(sample, survived, None if black_box else broken)
    return found


def _few(images: int) -> int:
    """Return how many of the images get the long attacks, which cost most."""
    return max(LEAST, math.ceil(images / HARD))


def _standing(sample: Sample) -> int:
    """Return how many images survive a huge eps. A broken image cannot, so it is not attacked."""
    if not len(sample):
        return 0
    far = GRAY * (1 if sample.norm == "linf" else sample.images[0].numel() ** 0.5)
    # Without a random start: noise of that size alone would break the image.
    return int((~sample.broken(sample.pgd(10, far, random_start=False))).sum())


def _weak(sample: Sample, survived: Tensor, broken: Tensor | None) -> dict[str, float]:
    """Return how much the cell's attack left of what it or the probe breaks: share and number.

    `broken` is what PGD-10 broke. None asks Square instead, and only about images that are left.
    """
    missed = survived.nonzero()[:, 0]
    if broken is None:
        some = sample[missed[: 2 * _few(len(sample))]]
        found = some.broken(some.square(QUERIES)) if len(some) else missed.bool()
    else:
        found = broken[missed]
    count = int(found.sum())
    breakable = count + int((~survived).sum())
    return {"weak": count / max(breakable, 1), "weak_images": count}


def _hard(sample: Sample, adversarial: Tensor, left: Tensor) -> dict[str, float]:
    """Return the shares that 90 more steps break, and then Square, after PGD-10."""
    found = {"more_steps": 0.0, "black_box": 0.0}
    for name in found:
        if len(left):
            hard = sample[left]
            longer = name == "more_steps"
            images = _longer(hard, adversarial[left]) if longer else hard.square(QUERIES)
            broken = hard.broken(images)
            found[name] = int(broken.sum()) / len(sample)
            left = left[~broken]
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

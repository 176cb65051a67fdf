"""Balls around images in l∞, l2 and l1: sizes, projections, steps, random points.

The norm "patch" only has a size. Its perturbations form no ball.
"""

from typing import Literal

from torch import Tensor, clamp

from zsrobust.attacks import l1
from zsrobust.attacks.draws import Draws

Norm = Literal["linf", "l2", "l1", "patch"]


def per_image(values: Tensor) -> Tensor:
    """Return values (N,) as (N, 1, 1, 1), so that they multiply images."""
    return values[:, None, None, None]


def perturbation_size(delta: Tensor, norm: Norm) -> Tensor:
    """Return the size (N,) of perturbations (N, 3, S, S) in the norm.

    In "patch" it is the side of the smallest square window that contains every changed pixel, as a
    share of the image's side. Any other value counts as changed, however near it is. In l1 the sum
    is computed in float64.
    """
    if norm == "patch":
        return window_side(delta) / delta.shape[-1]
    flat = delta.flatten(1)
    if norm == "l1":
        return flat.abs().double().sum(1).to(delta.dtype)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


def window_side(delta: Tensor) -> Tensor:
    """Return the side (N,), in pixels, of the smallest square that contains every change."""
    changed = (delta != 0).any(1)
    sides = []
    for axis in (1, 2):  # lines without a change, counted from both ends
        lines = changed.any(axis).to(delta.dtype)
        before, after = lines.cumsum(1), lines.flip(1).cumsum(1).flip(1)
        sides.append(((before > 0) & (after > 0)).sum(1))
    return sides[0].maximum(sides[1]).to(delta.dtype)


def to_unit(delta: Tensor, norm: Norm) -> Tensor:
    """Return perturbations (N, 3, S, S) scaled to size 1 in the norm."""
    return delta / per_image(perturbation_size(delta, norm).clamp_min(1e-12))


def uphill(gradient: Tensor, step_size: float | Tensor, norm: Norm) -> Tensor:
    """Return the step of this size, (N, 3, S, S), that raises a linear function most.

    In l∞ or l2; l1 has sparse steps, see `zsrobust.attacks.l1`.
    """
    return step_size * (gradient.sign() if norm == "linf" else to_unit(gradient, norm))


# Two projections, the same in l2. In l∞ they return the same points, but not the same bits: each
# attack keeps the one that its stored results were made with.


def project(images: Tensor, points: Tensor, eps: float, norm: Norm) -> Tensor:
    """Return points moved into the ball around the images and into [0, 1], (N, 3, S, S).

    It clips the perturbation and adds it to the image. PGD, MIM and `ascend` use it. In l1 it is
    the exact projection to both at once.
    """
    if norm == "l1":
        return l1.project(images, points, eps)
    delta = points - images
    if norm == "linf":
        delta = delta.clamp(-eps, eps)
    else:
        size = perturbation_size(delta, norm).clamp_min(1e-12)
        delta = delta * per_image((eps / size).clamp_max(1))
    return (images + delta).clamp(0, 1)


def project_pixels(images: Tensor, points: Tensor, eps: float, norm: Norm) -> Tensor:
    """Return points moved into the ball around the images and into [0, 1], (N, 3, S, S).

    In l∞ it clips the pixels themselves, and a pixel inside the ball keeps its bits. APGD uses it.
    """
    if norm in ("l2", "l1"):
        return project(images, points, eps, norm)
    return clamp(points, images - eps, images + eps).clamp(0, 1)


def uniform_start(
    images: Tensor, draws: Draws, eps: float, norm: Norm, name: str, *key: object
) -> Tensor:
    """Return points drawn uniformly from the ball around the images, clipped to [0, 1].

    `name` and `key` are those of the draws.
    """
    if norm == "l1":
        return l1.uniform(images, draws, eps, name, *key)
    shape = images.shape[1:]
    if norm == "linf":
        noise = draws.uniform(shape, name, *key).to(images) * 2 - 1
        return (images + eps * noise).clamp(0, 1)
    direction = draws.normal(shape, name, *key).to(images)
    radius = draws.uniform((), f"{name} radius", *key).to(images)
    radius = eps * radius ** (1 / images[0].numel())
    return (images + to_unit(direction, norm) * per_image(radius)).clamp(0, 1)


def edge_start(images: Tensor, draws: Draws, eps: float, norm: Norm, *key: object) -> Tensor:
    """Return random points at the distance eps from the images, clipped to [0, 1].

    In l1 the points are noise projected to the ball and to [0, 1].
    """
    if norm == "l1":
        return l1.edge(images, draws, eps, *key)
    shape = images.shape[1:]
    noise = draws.uniform(shape, *key) * 2 - 1 if norm == "linf" else draws.normal(shape, *key)
    return (images + eps * to_unit(noise.to(images), norm)).clamp(0, 1)

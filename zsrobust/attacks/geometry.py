"""Balls around images in l∞ and l2: sizes, projections, steps, random points."""

from typing import Literal

from torch import Tensor, clamp

from zsrobust.attacks.draws import Draws

Norm = Literal["linf", "l2"]


def per_image(values: Tensor) -> Tensor:
    """Return values (N,) as (N, 1, 1, 1), so that they multiply images."""
    return values[:, None, None, None]


def perturbation_size(delta: Tensor, norm: Norm) -> Tensor:
    """Return the size (N,) of perturbations (N, 3, S, S) in the norm."""
    flat = delta.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


def to_unit(delta: Tensor, norm: Norm) -> Tensor:
    """Return perturbations (N, 3, S, S) scaled to size 1 in the norm."""
    return delta / per_image(perturbation_size(delta, norm).clamp_min(1e-12))


def uphill(gradient: Tensor, step_size: float | Tensor, norm: Norm) -> Tensor:
    """Return the step of this size, (N, 3, S, S), that raises a linear function most."""
    return step_size * (gradient.sign() if norm == "linf" else to_unit(gradient, norm))


# Two projections, the same in l2. In l∞ they return the same points, but not the same bits: each
# attack keeps the one that its stored results were made with.


def project(images: Tensor, points: Tensor, eps: float, norm: Norm) -> Tensor:
    """Return points moved into the ball around the images and into [0, 1], (N, 3, S, S).

    It clips the perturbation and adds it to the image. PGD, MIM and `ascend` use it.
    """
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
    if norm == "l2":
        return project(images, points, eps, norm)
    return clamp(points, images - eps, images + eps).clamp(0, 1)


def uniform_start(
    images: Tensor, draws: Draws, eps: float, norm: Norm, name: str, *key: object
) -> Tensor:
    """Return points drawn uniformly from the ball around the images, clipped to [0, 1].

    `name` and `key` are those of the draws.
    """
    shape = images.shape[1:]
    if norm == "linf":
        noise = draws.uniform(shape, name, *key).to(images) * 2 - 1
        return (images + eps * noise).clamp(0, 1)
    direction = draws.normal(shape, name, *key).to(images)
    radius = draws.uniform((), f"{name} radius", *key).to(images)
    radius = eps * radius ** (1 / images[0].numel())
    return (images + to_unit(direction, norm) * per_image(radius)).clamp(0, 1)


def edge_start(images: Tensor, draws: Draws, eps: float, norm: Norm, *key: object) -> Tensor:
    """Return random points at the distance eps from the images, clipped to [0, 1]."""
    shape = images.shape[1:]
    noise = draws.uniform(shape, *key) * 2 - 1 if norm == "linf" else draws.normal(shape, *key)
    return (images + eps * to_unit(noise.to(images), norm)).clamp(0, 1)

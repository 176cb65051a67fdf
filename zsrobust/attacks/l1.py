"""The l1 ball around an image, cut to [0, 1]: projection, sparse steps, random points.

The projection is that of Croce & Hein (ICML 2021, arXiv 2103.01208, proposition 2.1). It computes
in float64, because it sums over all values of an image.
"""

import torch
from torch import Tensor

from zsrobust.attacks.draws import Draws


def project(images: Tensor, points: Tensor, eps: float) -> Tensor:
    """Return the nearest points to `points` in the l1 ball of eps and in [0, 1], (N, 3, S, S).

    A change z of a pixel x becomes sign(z) · min(max(|z| - λ, 0), room). The room is that between x
    and 0 or 1, in the direction of z. λ is the least number at which the sum is at most eps.
    """
    centers, delta = images.double(), points.double() - images.double()
    room = torch.where(delta > 0, 1 - centers, centers)
    size = delta.abs()
    threshold = _threshold(size.flatten(1), room.flatten(1), eps)[:, None, None, None]
    # The clamp is the minimum with the room, and it returns 0 and 1 without rounding.
    return (centers + delta.sign() * (size - threshold).clamp_min(0)).clamp(0, 1).to(images.dtype)


def _threshold(size: Tensor, room: Tensor, eps: float) -> Tensor:
    """Return the least λ ≥ 0 with Σ min(max(size - λ, 0), room) ≤ eps, (N,), for values (N, D).

    The sum is piecewise linear in λ. Its slope changes where a value leaves its room, at size -
    room, and where it becomes zero, at size. The sum at every such λ comes from one sort.
    """
    knots = torch.cat([size, (size - room).clamp_min(0)], dim=1)
    signs = torch.ones_like(knots)
    signs[:, size.shape[1] :] = -1
    knots, order = knots.sort(dim=1, descending=True)
    signs = signs.gather(1, order)
    slopes, weighted = signs.cumsum(1), (signs * knots).cumsum(1)
    beyond = weighted - knots * slopes >= eps  # the sum at λ = knot, which rises along a row
    first = beyond.int().argmax(1, keepdim=True)
    before = (first - 1).clamp_min(0)
    exact = (weighted.gather(1, before) - eps) / slopes.gather(1, before).clamp_min(1)
    exact = torch.minimum(torch.maximum(exact, knots.gather(1, first)), knots.gather(1, before))
    inside = weighted[:, -1] <= eps  # the sum at λ = 0
    return exact[:, 0].masked_fill(inside, 0)


def sparse_step(
    gradient: Tensor, size: float | Tensor, count: Tensor | int, movable: Tensor | None = None
) -> Tensor:
    """Return steps of this l1 size along the signs of the largest gradients, (N, 3, S, S).

    `size` is a number, or (N, 1, 1, 1). An image moves `count` values, (N,) or a number, and those
    tied with the last of them. Only `movable` values count, (N, 3, S, S) bool; other values with a
    gradient as large step beside them. Values whose gradient is zero do not move.
    """
    flat = gradient.flatten(1).abs()
    among = flat if movable is None else flat.where(movable.flatten(1), 0)
    if not isinstance(count, Tensor):
        count = torch.full((), count, device=flat.device)  # filled there: no copy to wait for
    counts = count.expand(len(flat))
    least = among.sort(dim=1, descending=True).values.gather(1, counts[:, None] - 1)
    number = ((among >= least) & (among > 0)).sum(1, keepdim=True).clamp_min(1)
    signs = gradient.flatten(1).sign() * (flat >= least)
    step: Tensor = size * (signs / number).view_as(gradient)
    return step


def can_move(points: Tensor, gradient: Tensor) -> Tensor:
    """Return which values (N, 3, S, S) a step uphill leaves in [0, 1], at least in part."""
    return torch.where(gradient > 0, points < 1, points > 0)


def uniform(images: Tensor, draws: Draws, eps: float, name: str, *key: object) -> Tensor:
    """Return points (N, 3, S, S) drawn uniformly from the l1 ball of eps, clipped to [0, 1].

    Laplace numbers divided by their l1 norm are uniform on the sphere.
    """
    shape = images.shape[1:]
    signs = draws.uniform(shape, f"{name} sign", *key).to(images) - 0.5
    delta = -torch.log1p(-draws.uniform(shape, name, *key).to(images)) * signs.sign()
    radius = draws.uniform((), f"{name} radius", *key).to(images) ** (1 / images[0].numel())
    size = delta.flatten(1).abs().sum(1).clamp_min(1e-12)
    return project(images, images + delta * (eps * radius / size)[:, None, None, None], eps)


def edge(images: Tensor, draws: Draws, eps: float, *key: object) -> Tensor:
    """Return normal noise projected to the l1 ball of eps and to [0, 1], as l1-APGD starts."""
    return project(images, images + draws.normal(images.shape[1:], *key).to(images), eps)

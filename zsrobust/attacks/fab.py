"""The targeted Fast Adaptive Boundary attack (Croce & Hein, ICML 2020, arXiv 1907.02044).

It walks to the boundary between the label and a target, linearized where it stands, and stays near
the image.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.attacks import Norm, attacks, perturbation_size
from zsrobust.attacks.apgd import TARGETS
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.geometry import per_image
from zsrobust.attacks.search import Rows, Search, SearchAttack, rivals

ALPHA = 0.1  # at most this share of the step from the image itself
OVERSHOOT = 1.05  # η
ROUNDS = 20  # at most, of Newton's method; two or three are the rule
BACK = 0.9  # β: an adversarial point too far away is moved to this share of its distance


@dataclass(frozen=True, kw_only=True)
class FAB(SearchAttack):
    """Targeted FAB (Croce & Hein, ICML 2020, arXiv 1907.02044): the nearest class boundary.

    It looks for small perturbations, and breaks an image where one is within eps. It draws no
    random numbers.
    """

    steps: int = 100
    targets: int = TARGETS  #: at most; there are no more than other classes
    positive = ("steps", "targets")

    def plan(self, classes: int) -> dict[str, Any]:
        """Return how many targets there are with this many classes."""
        return {"targets": min(self.targets, classes - 1)}

    def passes(self, classes: int) -> tuple[int, int]:
        """Return the numbers of forward and of backward passes that an image takes at most."""
        steps = (self.steps + 1) * self.plan(classes)["targets"]
        return steps + 2, steps

    def steps_taken(self, classes: int) -> float:
        """Return how many gradient steps an image takes toward one target."""
        return float(self.steps)

    def seek(self, classifier: nn.Module, search: Search, logits: Tensor, draws: Draws) -> None:
        """Walk to the boundaries of the likeliest classes."""
        targets = rivals(logits, search.labels, self.plan(logits.shape[1])["targets"])
        fab_targeted(classifier, search, targets, eps=self.eps, norm=self.norm, steps=self.steps)


@dataclass
class Walk(Rows):
    """Where the rows of FAB stand."""

    owner: Tensor  #: (R,) the image's index in the search
    image: Tensor
    label: Tensor
    target: Tensor
    point: Tensor


def fab_targeted(
    classifier: nn.Module,
    search: Search,
    targets: Tensor,
    *,
    eps: float,
    norm: Norm,
    steps: int = 100,
) -> None:
    """Walk from images to the boundaries of their targets (N, T), until a point breaks them."""
    for owners, ranks in search.pairs(targets):
        images = search.images[owners]
        rows = Walk(owners, images, search.labels[owners], targets[owners, ranks], images)
        for _ in range(steps + 1):
            gap, gradient, wrong = _linearize(classifier, rows)
            near = perturbation_size(rows.point - rows.image, norm) <= eps
            kept = search.take(rows.owner, rows.point, wrong & near)
            if kept is not None:
                rows, gap, gradient, wrong = rows[kept], gap[kept], gradient[kept], wrong[kept]
            if not len(rows.owner):
                break
            rows.point = _step(rows, gap, gradient, wrong, norm)


def _linearize(classifier: nn.Module, rows: Walk) -> tuple[Tensor, Tensor, Tensor]:
    """Return z_t - z_y (R,) at the points, its gradient, and which points are misclassified."""
    points = rows.point.detach().requires_grad_()
    logits = classifier(points)
    gap = (logits.gather(1, rows.target[:, None]) - logits.gather(1, rows.label[:, None]))[:, 0]
    (gradient,) = torch.autograd.grad(gap.sum(), points)
    return gap.detach(), gradient, logits.detach().argmax(1) != rows.label


def _step(rows: Walk, gap: Tensor, gradient: Tensor, wrong: Tensor, norm: Norm) -> Tensor:
    """Return points beyond the linearized boundary, between those nearest to point and image."""
    back = torch.where(per_image(wrong), torch.lerp(rows.image, rows.point, BACK), rows.point)
    origins = torch.cat([back, rows.image])
    gaps = gap.repeat(2) + (
        gradient.repeat(2, 1, 1, 1) * (origins - rows.point.repeat(2, 1, 1, 1))
    ).flatten(1).sum(1)
    moves = to_boundary(origins, gaps, gradient.repeat(2, 1, 1, 1), norm)
    on, out = (origins + OVERSHOOT * moves).chunk(2)  # from the point, from the image
    far, farther = perturbation_size(moves, norm).clamp_min(1e-8).chunk(2)
    return torch.lerp(on, out, per_image((far / (far + farther)).clamp_max(ALPHA))).clamp_(0, 1)


def to_boundary(points: Tensor, gaps: Tensor, gradients: Tensor, norm: Norm) -> Tensor:
    """Return the smallest moves that close the `gaps` (R,) and keep points in [0, 1].

    Every pixel moves at its speed, 1 in l∞ and |g| in l2, for a time λ, or until it meets the edge.
    What that closes is concave in λ and linear between the meetings: Newton's method from 0 does
    not overshoot, and few meetings are left after the first rounds. Where all pixels together do
    not suffice, all go to their edges.
    """
    largest = gradients.abs().flatten(1).amax(1).clamp_min(torch.finfo(gradients.dtype).tiny)
    direction = -gradients.sign() * per_image(gaps.sign())
    pull = (gradients.abs() / per_image(largest)).flatten(1)
    room = torch.where(direction > 0, 1 - points, points).flatten(1)
    speed = torch.ones_like(pull) if norm == "linf" else pull
    gain, wanted = pull * speed, gaps.abs() / largest
    moved, missing = torch.zeros_like(pull), wanted
    time = torch.zeros_like(wanted)
    for _ in range(ROUNDS):
        free = gain * (moved < room)
        time = time + missing.clamp_min(0) / free.sum(1).clamp_min(1e-12)
        moved = torch.minimum(time[:, None] * speed, room)
        missing = wanted - (pull * moved).sum(1)
        if not (missing > 16 * torch.finfo(missing.dtype).eps * wanted).any():
            break
    return direction * moved.view_as(points)


attacks.register("fab")(FAB())

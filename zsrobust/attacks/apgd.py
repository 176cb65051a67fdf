"""Auto-PGD (Croce & Hein, ICML 2020, arXiv 2003.01690), and l1-APGD of the same authors.

l1-APGD (ICML 2021, arXiv 2103.01208) takes sparse steps without momentum. It adapts how many
values a step moves. Its constants are those of the released code (autopgd_base.py).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zsrobust.attacks import Norm, attacks
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.geometry import edge_start, per_image, project_pixels, uphill
from zsrobust.attacks.l1 import project, sparse_step
from zsrobust.attacks.losses import CLASSES, LOSSES, Loss, targeted_dlr
from zsrobust.attacks.notes import note, note_if
from zsrobust.attacks.scenes import redrawn
from zsrobust.attacks.search import Rows, Search, SearchAttack, rivals

MOMENTUM = 0.25  # 1 - α of the paper's section 3.1
RISING = 0.75  # ρ: with fewer steps uphill than this share, the steps are halved
TARGETS = 9  # of AutoAttack's standard version

# In l1:
FIRST_SHARE = 0.2  # of the values that the first steps move
DENSER = 1.5  # steps move as many values as the best perturbation has, divided by this
FEWER = 0.95  # below this share of the values at the last checkpoint, it became sparser
SHORTER, SHORTEST = 1.5, 10.0  # steps shrink by the first, from eps to eps divided by the second
PERIOD = 0.04  # between checkpoints, as a share of all steps


@dataclass(frozen=True, kw_only=True)
class APGD(SearchAttack):
    """Auto-PGD (Croce & Hein, ICML 2020, arXiv 2003.01690): PGD that adapts its step size.

    On cross-entropy, on the difference of logits ratio (DLR, eq. 6 of the paper), or on its
    targeted form (eq. 7), toward each of up to nine classes. DLR compares 3 classes, its targeted
    form 4: with fewer the margin is climbed, the numerator of DLR, and the plan says so.

    In l1 it is l1-APGD (Croce & Hein, ICML 2021, arXiv 2103.01208) at one eps, as `use_largereps`
    is off in the code. The paper's schedule that begins at 3 · eps is not implemented.
    """

    loss: Literal["ce", "dlr", "targeted"] = "ce"
    steps: int = 100
    restarts: int = 1
    #: Gradients, losses and logits are means over so many forward passes: expectation over
    #: transformation, for defenses that are random, as `eot` of `zsrobust.attacks.pgd.PGD`.
    eot: int | None = None
    norms = ("linf", "l2", "l1")
    positive = ("steps", "restarts", "eot")

    @property
    def times(self) -> int:
        """How many forward passes each prediction is the mean of."""
        return self.eot or 1

    def plan(self, classes: int) -> dict[str, Any]:
        """Return the number of targets, or the loss that replaces one with too few classes."""
        if classes < CLASSES.get(self.loss, 2):
            return {"loss": "margin", "skipped": [self.loss]}
        return {"targets": min(TARGETS, classes - 1)} if self.loss == "targeted" else {}

    def passes(self, classes: int) -> tuple[int, int]:
        """Return the numbers of forward and of backward passes that an image takes at most."""
        steps = self.restarts * (self.steps + 1) * self.plan(classes).get("targets", 1)
        return (steps + 2) * self.times, steps * self.times

    def steps_taken(self, classes: int) -> float:
        """Return how many gradient steps an image takes from one start."""
        return float(self.steps)

    def seek(self, classifier: nn.Module, search: Search, logits: Tensor, draws: Draws) -> None:
        """Climb the loss that the plan names."""
        plan = self.plan(logits.shape[1])
        if "skipped" in plan:
            note(f"margin_for_{self.loss}")
        if "targets" in plan:
            targets = rivals(logits, search.labels, plan["targets"])
            apgd_targeted(classifier, search, targets, draws, **self._bounds)
        else:
            apgd(classifier, search, draws, plan.get("loss", self.loss), **self._bounds)

    @property
    def _bounds(self) -> dict[str, Any]:
        return {"eps": self.eps, "norm": self.norm, "steps": self.steps, "restarts": self.restarts}


@dataclass
class Climb(Rows):
    """Where the rows of APGD stand."""

    owner: Tensor  #: (R,) the image's index in the search
    image: Tensor
    label: Tensor
    target: Tensor
    point: Tensor
    before: Tensor  #: the point one step ago
    gradient: Tensor
    loss: Tensor
    #: (R,) the highest loss so far, at `best_point`, where the gradient is `best_gradient`.
    best: Tensor
    best_point: Tensor
    best_gradient: Tensor
    size: Tensor  #: (R, 1, 1, 1) of the steps
    rises: Tensor  #: (R,) steps since the last checkpoint that raised the loss
    best_then: Tensor  #: `best` at the last checkpoint
    halved: Tensor  #: whether the steps were halved there
    #: (R,) in l1: the values that a step moves, and those that `best_point` changed at the last
    #: checkpoint.
    count: Tensor
    changed: Tensor


def apgd(
    classifier: nn.Module,
    search: Search,
    draws: Draws,
    loss: str = "ce",
    *,
    eps: float,
    norm: Norm,
    steps: int = 100,
    restarts: int = 1,
) -> None:
    """Climb a loss of LOSSES, each restart from a random start at the edge of the ball."""
    for restart in range(restarts):
        left = search.left
        if not len(left):
            break
        starts = edge_start(
            search.images[left], draws[left], eps, norm, f"apgd-{loss}", *_again(restart)
        )
        climb(
            classifier,
            search,
            left,
            search.labels[left],
            starts,
            LOSSES[loss],
            eps=eps,
            norm=norm,
            steps=steps,
        )


def apgd_targeted(
    classifier: nn.Module,
    search: Search,
    targets: Tensor,
    draws: Draws,
    *,
    eps: float,
    norm: Norm,
    steps: int = 100,
    restarts: int = 1,
) -> None:
    """Climb the targeted DLR loss toward each of the targets (N, T), from random starts."""
    for restart in range(restarts):
        for owners, ranks in search.pairs(targets):
            starts = [
                edge_start(
                    search.images[of], draws[of], eps, norm, "apgd-t", rank, *_again(restart)
                )
                for rank in ranks.unique().tolist()
                for of in [owners[ranks == rank]]
            ]
            chosen = targets[owners, ranks]
            climb(
                classifier,
                search,
                owners,
                chosen,
                torch.cat(starts),
                targeted_dlr,
                eps=eps,
                norm=norm,
                steps=steps,
            )


def _again(restart: int) -> tuple[int, ...]:
    """Return what tells the draws of a restart from those of the first."""
    return (restart,) if restart else ()


def climb(
    classifier: nn.Module,
    search: Search,
    owners: Tensor,
    targets: Tensor,
    starts: Tensor,
    loss: Loss,
    *,
    eps: float,
    norm: Norm,
    steps: int,
) -> Climb | None:
    """Take the steps, halved where the loss does not rise; return the rows of unbroken images.

    In l1 the steps become sparser with the best perturbation, and shorter if it does not.
    """
    images, labels = search.images[owners], search.labels[owners]
    value, gradient, wrong = _look(classifier, starts, labels, targets, loss, search.times)
    note_if(~(gradient.flatten(1).any(1) | wrong).all(), "attack_zero_gradients")
    size = torch.full_like(value, eps if norm == "l1" else 2 * eps)[:, None, None, None]
    none, values = torch.zeros_like(labels), images[0].numel() if len(images) else 0
    rows = Climb(
        owners,
        images,
        labels,
        targets,
        starts,
        starts,
        gradient,
        value,
        value,
        starts,
        gradient,
        size,
        none,
        value,
        torch.ones_like(wrong),
        none + max(1, int(FIRST_SHARE * values)),
        none + values,
    )
    kept = search.take(owners, starts, wrong)
    interval = max(int((PERIOD if norm == "l1" else 0.22) * steps), 1)
    checkpoint = interval
    for step in range(1, steps + 1):
        if kept is not None:
            rows = rows[kept]
        if not len(rows.owner):
            return None
        if norm == "l1":
            points = project(
                rows.image, rows.point + sparse_step(rows.gradient, rows.size, rows.count), eps
            )
        else:
            points = _step(rows, eps, norm, MOMENTUM if step > 1 else 0.0)
        value, gradient, wrong = _look(
            classifier, points, rows.label, rows.target, loss, search.times
        )
        kept = search.take(rows.owner, points, wrong)
        rows.rises = rows.rises + (value > rows.loss)
        rows.before, rows.point, rows.gradient, rows.loss = rows.point, points, gradient, value
        better = value > rows.best
        rows.best = torch.where(better, value, rows.best)
        rows.best_point = torch.where(per_image(better), points, rows.best_point)
        rows.best_gradient = torch.where(per_image(better), gradient, rows.best_gradient)
        if step == checkpoint and norm == "l1":
            _sparsen(rows, eps)
            checkpoint += interval
        elif step == checkpoint:
            _halve(rows, interval)
            interval = max(interval - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
            checkpoint += interval
    return rows if kept is None else rows[kept]


def _look(
    classifier: nn.Module,
    points: Tensor,
    labels: Tensor,
    targets: Tensor,
    loss: Loss,
    times: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss (R,) at points, its gradient, and which points the classifier gets wrong.

    All three are of means over `times` forward passes.
    """
    points = points.detach().requires_grad_()
    value = gradient = logits = torch.zeros((), device=points.device)
    for draw in range(times):
        drawn = redrawn(classifier, draw)(points)
        each = loss(drawn, labels, targets)
        gradient = gradient + torch.autograd.grad(each.sum(), points)[0]
        value, logits = value + each.detach(), logits + drawn.detach()
    return value / times, gradient / times, logits.argmax(1) != labels


def _step(rows: Climb, eps: float, norm: Norm, momentum: float) -> Tensor:
    """Return the points one step uphill, and a little on in the direction of the step before."""
    moved = rows.point + uphill(rows.gradient, rows.size, norm)
    ahead = project_pixels(rows.image, moved, eps, norm)
    if not momentum:
        return ahead
    onward = (
        rows.point + (1 - momentum) * (ahead - rows.point) + momentum * (rows.point - rows.before)
    )
    return project_pixels(rows.image, onward, eps, norm)


def _halve(rows: Climb, interval: int) -> None:
    """Halve the steps and return to the best point where the loss rose too seldom."""
    stuck = (rows.rises <= RISING * interval) | (~rows.halved & (rows.best_then >= rows.best))
    rows.size = torch.where(per_image(stuck), rows.size / 2, rows.size)
    rows.point = torch.where(per_image(stuck), rows.best_point, rows.point)
    rows.gradient = torch.where(per_image(stuck), rows.best_gradient, rows.gradient)
    rows.best_then, rows.halved, rows.rises = rows.best, stuck, torch.zeros_like(rows.rises)


def _sparsen(rows: Climb, eps: float) -> None:
    """Set the sparsity of the steps by that of the best point; begin again there if it fell.

    The released code rounds the number of values up, so that two values never become one. Here it
    is rounded down, to at least one.
    """
    changed = (rows.best_point != rows.image).flatten(1).sum(1)
    rows.count = (changed / DENSER).long().clamp_min(1)
    sparser = changed < FEWER * rows.changed
    shorter = (rows.size / SHORTER).clamp_min(eps / SHORTEST)
    rows.size = shorter.masked_fill(per_image(sparser), eps)
    rows.point = torch.where(per_image(sparser), rows.best_point, rows.point)
    rows.gradient = torch.where(per_image(sparser), rows.best_gradient, rows.gradient)
    rows.changed = changed


attacks.register("apgd")(APGD())

"""Auto-PGD (Croce & Hein, ICML 2020, arXiv 2003.01690), and the search that the parts of AutoAttack share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from zsrobust.attacks import Norm, attacks, check_bounds, frozen, perturbation_size, slots
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.notes import note
from zsrobust.attacks.pgd import objective

ROWS = 64  # a batch that fits wherever an attack runs at all
MOMENTUM = 0.25  # 1 - α of the paper's section 3.1
RISING = 0.75  # ρ: with fewer steps uphill than this share, the steps are halved
TARGETS = 9  # of AutoAttack's standard version
CLASSES = {"dlr": 3, "targeted": 4}  #: that the losses compare


@dataclass(frozen=True, kw_only=True)
class APGD:
    """Auto-PGD (Croce & Hein, ICML 2020, arXiv 2003.01690): PGD that sets the size of its steps by itself.

    On cross-entropy, on the difference of logits ratio (DLR, eq. 6 of the paper), or on its targeted form (eq. 7), toward
    each of up to nine classes. DLR compares 3 classes, its targeted form 4: with fewer the margin is climbed, the
    numerator of DLR, and the plan says so.
    """

    eps: float = 1 / 255
    norm: Norm = "linf"
    loss: Literal["ce", "dlr", "targeted"] = "ce"
    steps: int = 100
    restarts: int = 1
    returns_clean = True  # the clean image where nothing was found

    def __post_init__(self) -> None:
        check_bounds(self.eps, self.norm, steps=self.steps, restarts=self.restarts)

    def plan(self, classes: int) -> dict[str, Any]:
        """Return how many targets there are, or what takes the place of a loss for which the classes are too few."""
        if classes < CLASSES.get(self.loss, 2):
            return {"loss": "margin", "skipped": [self.loss]}
        return {"targets": min(TARGETS, classes - 1)} if self.loss == "targeted" else {}

    def passes(self, classes: int) -> tuple[int, int]:
        """Return the numbers of forward and of backward passes that an image takes at most."""
        steps = self.restarts * (self.steps + 1) * self.plan(classes).get("targets", 1)
        return steps + 2, steps

    def __call__(
        self, classifier: nn.Module, images: Tensor, labels: Tensor, draws: Draws
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1]; the clean image where none was found."""
        with frozen(classifier):
            search, logits = Search.begin(classifier, images, labels)
            plan, before = self.plan(logits.shape[1]), search.broken.clone()
            if "skipped" in plan:
                note(f"margin_for_{self.loss}")
            if "targets" in plan:
                targets = rivals(logits, labels, plan["targets"])
                apgd_targeted(classifier, search, targets, draws, **self._bounds)
            else:
                apgd(classifier, search, draws, plan.get("loss", self.loss), **self._bounds)
            search.verify(classifier, before)
        return search.adversarial

    @property
    def _bounds(self) -> dict[str, Any]:
        return {"eps": self.eps, "norm": self.norm, "steps": self.steps, "restarts": self.restarts}


class Search:
    """Images that an attack searches for, and the adversarial ones found: one for each at most, which then is left alone."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        """Start with nothing found for images (N, 3, S, S) in [0, 1] and labels (N,)."""
        self.images, self.labels = images.contiguous(), labels
        self.adversarial = self.images.clone()
        self.broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.most = max(len(images), ROWS)  #: rows that go through the classifier together

    @classmethod
    @torch.no_grad()
    def begin(cls, classifier: nn.Module, images: Tensor, labels: Tensor) -> tuple[Self, Tensor]:
        """Return a search with batches that fit the classifier, and the logits (N, K); what is wrong is found already."""
        search = cls(images, labels)
        search.most = slots(classifier, search.most)
        logits: Tensor = classifier(images)
        search.broken = logits.argmax(1) != labels
        return search, logits

    @property
    def left(self) -> Tensor:
        """The indices of the images that are not broken."""
        return (~self.broken).nonzero()[:, 0]

    def pairs(self, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows (image, rank of the target), as two tensors (R,), for targets (N, T); images that break yield no more.

        As many targets at a time as keep the number of rows below `most`.
        """
        rank = 0
        while rank < targets.shape[1] and len(left := self.left):
            end = min(rank + max(1, self.most // len(left)), targets.shape[1])
            ranks = torch.arange(rank, end, device=left.device)
            yield left.repeat(len(ranks)), ranks.repeat_interleave(len(left))
            rank = end

    def take(self, owners: Tensor, points: Tensor, wrong: Tensor) -> Tensor | None:
        """Keep the `points` (R, 3, S, S) that are `wrong`, (R,), one for each of their `owners`, indices of images.

        Return which rows are left, those of images not broken; None if that is all of them.
        """
        if not wrong.any():
            return None
        rows = wrong.nonzero()[:, 0]
        first = torch.full_like(self.labels, len(owners)).scatter_reduce(
            0, owners[rows], rows, "amin"
        )[owners[rows]]
        self.adversarial[owners[first]] = points[first]
        self.broken[owners[first]] = True
        return (~self.broken[owners]).nonzero()[:, 0]

    @torch.no_grad()
    def verify(self, classifier: nn.Module, before: Tensor) -> None:
        """Predict again what was found since `broken` was as `before`; give up what is not adversarial in this batch."""
        new = (self.broken & ~before).nonzero()[:, 0]
        if len(new):
            lost = new[classifier(self.adversarial[new]).argmax(1) == self.labels[new]]
            self.adversarial[lost], self.broken[lost] = self.images[lost], False


@dataclass
class Rows:
    """Tensors of R rows each."""

    def __getitem__(self, chosen: Tensor) -> Self:
        """Return the rows at some indices."""
        return type(self)(**{name: tensor[chosen] for name, tensor in vars(self).items()})


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
    best: Tensor  #: (R,) the highest loss so far, at `best_point`, where the gradient is `best_gradient`
    best_point: Tensor
    best_gradient: Tensor
    size: Tensor  #: (R, 1, 1, 1) of the steps
    rises: Tensor  #: (R,) steps since the last checkpoint that raised the loss
    best_then: Tensor  #: `best` at the last checkpoint
    halved: Tensor  #: whether the steps were halved there


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def rivals(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the classes (N, count), other than the labels, that have the highest logits (N, K)."""
    return logits.scatter(1, labels[:, None], -torch.inf).topk(count).indices


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy (R,) of logits (R, K), whatever the targets."""
    return objective("ce", logits, labels)


def margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the margin max_j≠y z_j - z_y (R,) of logits (R, K), whatever the targets."""
    return objective("margin", logits, labels)


def dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the difference of logits ratio (R,) of logits (R, K), K ≥ 3: (max_j≠y z_j - z_y) / (z_π1 - z_π3)."""
    top = logits.topk(3, dim=1).values
    return objective("margin", logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the targeted difference of logits ratio (R,), of 4 classes: (z_t - z_y) / (z_π1 - (z_π3 + z_π4) / 2)."""
    top = logits.topk(4, dim=1).values
    gap = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])
    return gap[:, 0] / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "dlr": dlr, "margin": margin}


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
    """Climb the loss, one of LOSSES, from random starts at the edge of the ball around each image, one a restart."""
    for restart in range(restarts):
        left = search.left
        if not len(left):
            break
        starts = _starts(
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
    """Climb the targeted DLR loss toward each of the targets (N, T), from a random start for each, and each restart."""
    for restart in range(restarts):
        for owners, ranks in search.pairs(targets):
            starts = [
                _starts(search.images[of], draws[of], eps, norm, "apgd-t", rank, *_again(restart))
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
    """Take the steps, whose size is halved where the loss does not rise; return the rows of images not broken."""
    images, labels = search.images[owners], search.labels[owners]
    value, gradient, wrong = _look(classifier, starts, labels, targets, loss)
    if not (gradient.flatten(1).any(1) | wrong).all():
        note("attack_zero_gradients")
    size = torch.full_like(value, 2 * eps)[:, None, None, None]
    none = torch.zeros_like(labels)
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
    )
    kept = search.take(owners, starts, wrong)
    interval = max(int(0.22 * steps), 1)
    checkpoint = interval
    for step in range(1, steps + 1):
        if kept is not None:
            rows = rows[kept]
        if not len(rows.owner):
            return None
        points = _step(rows, eps, norm, MOMENTUM if step > 1 else 0.0)
        value, gradient, wrong = _look(classifier, points, rows.label, rows.target, loss)
        kept = search.take(rows.owner, points, wrong)
        rows.rises = rows.rises + (value > rows.loss)
        rows.before, rows.point, rows.gradient, rows.loss = rows.point, points, gradient, value
        better = value > rows.best
        rows.best = torch.where(better, value, rows.best)
        rows.best_point = torch.where(per_image(better), points, rows.best_point)
        rows.best_gradient = torch.where(per_image(better), gradient, rows.best_gradient)
        if step == checkpoint:
            _halve(rows, interval)
            interval = max(interval - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
            checkpoint += interval
    return rows if kept is None else rows[kept]


def _look(
    classifier: nn.Module, points: Tensor, labels: Tensor, targets: Tensor, loss: Loss
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss (R,) at points, its gradient, and which points the classifier gets wrong."""
    points = points.detach().requires_grad_()
    logits = classifier(points)
    value = loss(logits, labels, targets)
    (gradient,) = torch.autograd.grad(value.sum(), points)
    return value.detach(), gradient, logits.detach().argmax(1) != labels


def _step(rows: Climb, eps: float, norm: Norm, momentum: float) -> Tensor:
    """Return the points one step uphill, and a little on in the direction of the step before."""
    direction = rows.gradient.sign() if norm == "linf" else _scaled(rows.gradient, norm)
    uphill = _project(rows.point + rows.size * direction, rows.image, eps, norm)
    if not momentum:
        return uphill
    onward = (
        rows.point + (1 - momentum) * (uphill - rows.point) + momentum * (rows.point - rows.before)
    )
    return _project(onward, rows.image, eps, norm)


def _halve(rows: Climb, interval: int) -> None:
    """Halve the steps, and go back to the best point, where the loss rose too seldom or its best has not changed."""
    stuck = (rows.rises <= RISING * interval) | (~rows.halved & (rows.best_then >= rows.best))
    rows.size = torch.where(per_image(stuck), rows.size / 2, rows.size)
    rows.point = torch.where(per_image(stuck), rows.best_point, rows.point)
    rows.gradient = torch.where(per_image(stuck), rows.best_gradient, rows.gradient)
    rows.best_then, rows.halved, rows.rises = rows.best, stuck, torch.zeros_like(rows.rises)


def _starts(images: Tensor, draws: Draws, eps: float, norm: Norm, *key: object) -> Tensor:
    """Return random points at the distance eps from the images, clipped to [0, 1]."""
    draw = draws.uniform if norm == "linf" else draws.normal
    noise = draw(images.shape[1:], *key).to(images)
    return (images + eps * _scaled(noise * 2 - 1 if norm == "linf" else noise, norm)).clamp(0, 1)


def _project(points: Tensor, images: Tensor, eps: float, norm: Norm) -> Tensor:
    """Return the points moved into the ball around the images and into [0, 1]."""
    if norm == "linf":
        return torch.clamp(points, images - eps, images + eps).clamp_(0, 1)
    delta = points - images
    return (
        images
        + delta * per_image((eps / perturbation_size(delta, norm).clamp_min(1e-12)).clamp_max(1))
    ).clamp_(0, 1)


def _scaled(delta: Tensor, norm: Norm) -> Tensor:
    return delta / per_image(perturbation_size(delta, norm).clamp_min(1e-12))


def per_image(values: Tensor) -> Tensor:
    """Return values (R,) as (R, 1, 1, 1), beside images."""
    return values[:, None, None, None]


attacks.register("apgd")(APGD())

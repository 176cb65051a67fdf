"""The Square attack (Andriushchenko et al., ECCV 2020, arXiv 1912.00049): random search.

A query changes a square window of the best point so far, and is kept if it raises the margin. The
windows are an image's own and known beforehand. So where few images are left, several queries of
each are asked at once, as if those before them failed, which most do; those behind one that
succeeds are asked again. What is found is what one by one would find.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zsrobust.attacks import Norm, attacks
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.geometry import per_image
from zsrobust.attacks.losses import margin as margin_of
from zsrobust.attacks.search import Rows, Search, SearchAttack, index_of

SHARE = 0.8  # p: the first windows' share of an image, halved after each of these queries
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True, kw_only=True)
class Square(SearchAttack):
    """Square Attack (Andriushchenko et al., ECCV 2020, arXiv 1912.00049): no gradients.

    Where it breaks what attacks with gradients do not, the gradients are masked.
    """

    queries: int = 5000
    positive = ("queries",)

    def passes(self, classes: int) -> tuple[int, int]:
        """Return the forward passes of an image that survives, and no backward passes."""
        return self.queries + 3, 0

    def seek(self, classifier: nn.Module, search: Search, logits: Tensor, draws: Draws) -> None:
        """Search with so many queries for each image that is left."""
        if len(search.left):
            square(classifier, search, draws, eps=self.eps, norm=self.norm, queries=self.queries)


@dataclass
class Seek(Rows):
    """Where the images stand that Square attacks."""

    owner: Tensor  #: (R,) the image's index in the search
    place: Tensor  #: (R,) and among those that Square began with
    image: Tensor
    label: Tensor
    best: Tensor
    margin: Tensor  #: (R,) max_j≠y z_j - z_y of `best`
    wrong: Tensor  #: whether the classifier gets `best` wrong
    asked: Tensor  #: (R,) queries decided


@torch.no_grad()
def square(
    classifier: nn.Module,
    search: Search,
    draws: Draws,
    *,
    eps: float,
    norm: Norm,
    queries: int = 5000,
) -> None:
    """Search for each image with so many queries.

    Who is still searched is known on the host. It waits for the device once a round of queries, and
    twice more in a round that breaks an image.
    """
    left = search.left
    images, labels, draws = search.images[left], search.labels[left], draws[left]
    sides = [window(query, images.shape[2:], norm) for query in range(queries)]
    proposals = Corners(eps) if norm == "linf" else Bumps(eps, sides, images)
    best, sizes = proposals.start(images, draws), torch.tensor(sides, device=left.device)
    numbers = draws.uniform((queries, proposals.numbers + images.shape[1]), "square").to(images)
    margin, wrong = _ask(classifier, best, labels)
    search.take(left, best, wrong)
    places = torch.arange(len(left), device=left.device)
    rows = Seek(left, places, images, labels, best, margin, wrong, torch.zeros_like(left))
    asked, kept = np.zeros(len(left), dtype=np.int64), np.flatnonzero(~wrong.cpu().numpy())
    ahead = 1  # queries of an image at once
    while len(kept):
        if len(kept) < len(asked):
            rows, asked = rows[index_of(kept, left)], asked[kept]
        ahead = min(ahead, max(1, search.most // len(kept)))
        query = rows.asked[:, None] + torch.arange(ahead, device=left.device)
        beyond, query = query >= queries, query.clamp_max(queries - 1)
        points = proposals(rows.image, rows.best, sizes[query], numbers[rows.place[:, None], query])
        margin, wrong = _ask(classifier, points.flatten(0, 1), rows.label.repeat_interleave(ahead))
        decided, broken = _decide(
            rows,
            points,
            margin.view_as(query).masked_fill(beyond, -torch.inf),
            wrong.view_as(query) & ~beyond,
        )
        if broken.any():
            search.take(rows.owner, rows.best, rows.wrong)
        asked += decided
        kept = np.flatnonzero((broken == 0) & (asked < queries))
        useful = decided.sum() / beyond.numel()
        ahead = 2 * ahead if useful > 0.8 else max(1, ahead // 2) if useful < 0.5 else ahead


def _decide(rows: Seek, points: Tensor, margin: Tensor, wrong: Tensor) -> NDArray[np.int64]:
    """Accept each row's first better point of (R, A, 3, H, W).

    Return the decided queries of each row, and 1 where the point is misclassified: (2, R).
    """
    better = (margin > rows.margin[:, None]) | wrong
    some, first = better.any(1), better.int().argmax(1)
    each = torch.arange(len(first), device=first.device)
    rows.best = torch.where(per_image(some), points[each, first], rows.best)
    rows.margin = torch.where(some, margin[each, first], rows.margin)
    rows.wrong = wrong[each, first]
    decided = torch.where(some, first + 1, better.shape[1])
    rows.asked = rows.asked + decided
    return np.asarray(torch.stack([decided, rows.wrong.long()]).cpu().numpy())


def window(query: int, shape: Sequence[int], norm: Norm) -> int:
    """Return the side of the window of a query, the first being 0, on images of a shape (H, W)."""
    side = round(math.sqrt(SHARE / 2 ** bisect_left(HALVED_AFTER, query) * shape[0] * shape[1]))
    if norm == "l2":
        side = max(side, 3) + (max(side, 3) % 2 == 0)
    return min(max(side, 1), *shape)


@dataclass
class Corners:
    """Proposals in l∞: in a window, every channel goes to eps above the image, or below."""

    eps: float
    numbers = 2  #: that a proposal takes, beside one for each channel

    def start(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the images (R, C, H, W) with every column of a channel changed by eps or -eps."""
        signs = _signs(
            draws.uniform((images.shape[1], 1, images.shape[3]), "square start").to(images)
        )
        return (images + self.eps * signs).clamp_(0, 1)

    def __call__(self, images: Tensor, best: Tensor, sizes: Tensor, numbers: Tensor) -> Tensor:
        """Return A proposals for each row, (R, A, C, H, W), with windows of the sizes (R, A)."""
        top, side = _corner(sizes, numbers, images)
        corners = (images[:, None] + self.eps * _signs(numbers[..., 2:, None, None])).clamp_(0, 1)
        return torch.where(_inside(top, side, sizes, images), corners, best[:, None])


class Bumps:
    """Proposals in l2: a bump in one window, in exchange for the perturbation of another."""

    numbers = 5

    def __init__(self, eps: float, sides: Sequence[int], images: Tensor) -> None:
        """Draw the bumps of all sides once, upright and lying."""
        self.eps = eps
        shape = images.shape[2:]
        self.tile = max(min(shape) // 5, 1)
        kinds = sorted({*sides, self.tile})
        self.kind = torch.zeros(
            max(kinds) + 1, dtype=torch.long, device=images.device
        )  #: by side, its index in `bumps`
        self.bumps = images.new_zeros(2, len(kinds), *shape)
        for kind, side in enumerate(kinds):
            self.kind[side] = kind
            self.bumps[0, kind, :side, :side] = bump(side)
            self.bumps[1, kind, :side, :side] = bump(side).T

    def start(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the images (R, C, H, W) with small bumps of random signs side by side."""
        count, tile = [length // self.tile for length in images.shape[2:]], self.tile
        signs = _signs(draws.uniform((images.shape[1], *count), "square start").to(images))
        lying = draws.uniform((1, *count), "square start lying").to(images) < 0.5
        upright, flat = (
            self.bumps[way, self.kind[tile], :tile, :tile].repeat(*count) for way in (0, 1)
        )
        spread = [
            each.repeat_interleave(tile, 2).repeat_interleave(tile, 3) for each in (signs, lying)
        ]
        delta = torch.zeros_like(images)
        top, side = (
            (length - tile * many) // 2
            for length, many in zip(images.shape[2:], count, strict=True)
        )
        place = delta[:, :, top : top + tile * count[0], side : side + tile * count[1]]
        place += spread[0] * torch.where(spread[1], flat, upright)
        return self._on(images, delta)

    def __call__(self, images: Tensor, best: Tensor, sizes: Tensor, numbers: Tensor) -> Tensor:
        """Return proposals (R, A, C, H, W) with windows of the sizes (R, A): the paper's Alg. 3."""
        delta = (best - images)[:, None]
        top, side = _corner(sizes, numbers, images)
        new = _inside(top, side, sizes, images)
        old = _inside(*_corner(sizes, numbers[..., 2:], images), sizes, images)
        rows, columns = (torch.arange(length, device=images.device) for length in images.shape[2:])
        row, column = (rows - top[..., None]).clamp_min(0), (columns - side[..., None]).clamp_min(0)
        lying, kind = (
            each[..., None, None] for each in ((numbers[..., 4] < 0.5).long(), self.kind[sizes])
        )
        bumps = self.bumps[lying, kind, row[..., :, None], column[..., None, :]][:, :, None]
        bumps = bumps * _signs(numbers[..., 5:, None, None])
        bumps = new * (bumps + delta / _norm(delta * new))
        unused = (self.eps**2 - delta.square().sum((2, 3, 4), keepdim=True)).clamp_min(
            0
        ) / images.shape[1]
        available = (unused + (delta * (new | old)).square().sum((3, 4), keepdim=True)).sqrt()
        changed = torch.where(new, bumps / _norm(bumps) * available, delta * ~old)
        return self._on(images[:, None], changed)

    def _on(self, images: Tensor, delta: Tensor) -> Tensor:
        """Return the images changed by eps in the direction of delta, clipped to [0, 1]."""
        size = delta.square().sum((-3, -2, -1), keepdim=True).sqrt().clamp_min(1e-12)
        return (images + self.eps * delta / size).clamp_(0, 1)


def bump(side: int) -> Tensor:
    """Return the paper's η, (side, side): two hills of opposite sign, with norm 1."""
    halves = [_hill(height, side) for height in (side // 2, side - side // 2) if height]
    both = torch.cat([halves[0], -halves[1]]) if len(halves) > 1 else -halves[0]
    return _unit(both)


def _hill(height: int, width: int) -> Tensor:
    """Return Σ 1/(k+1)², over k from the distance to the center on, as an array of norm 1."""
    rows, columns = ((torch.arange(length) - length // 2).abs() for length in (height, width))
    rings = max(height, width) // 2 + 1
    tails = (1 / torch.arange(1, rings + 1).square()).flip(0).cumsum(0).flip(0)
    return _unit(tails[torch.maximum(rows[:, None], columns)])


def _unit(array: Tensor) -> Tensor:
    size: Tensor = array.norm()
    return array / size


def _ask(classifier: nn.Module, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the margins (R,) at points, and which the classifier gets wrong."""
    logits = classifier(points)
    return margin_of(logits, labels), logits.argmax(1) != labels


def _corner(sizes: Tensor, numbers: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the upper left corners of windows of sizes (R, A), from two numbers in [0, 1)."""
    height, width = images.shape[2:]
    top, side = numbers[..., 0] * (height + 1 - sizes), numbers[..., 1] * (width + 1 - sizes)
    return top.long(), side.long()


def _inside(top: Tensor, side: Tensor, sizes: Tensor, images: Tensor) -> Tensor:
    """Return which pixels lie in the windows, (R, A, 1, H, W)."""
    within = []
    for start, length in ((top, images.shape[2]), (side, images.shape[3])):
        place = torch.arange(length, device=images.device) - start[..., None]
        within.append((place >= 0) & (place < sizes[..., None]))
    return (within[0][..., :, None] & within[1][..., None, :])[:, :, None]


def _signs(numbers: Tensor) -> Tensor:
    return torch.where(numbers < 0.5, -1.0, 1.0).to(numbers)


def _norm(delta: Tensor) -> Tensor:
    """Return the l2 norms (…, 1, 1) of channels (…, H, W)."""
    return delta.square().sum((-2, -1), keepdim=True).sqrt().clamp_min(1e-12)


attacks.register("square")(Square())

"""A square patch whose place is searched: any values in [0, 1] inside it, nothing outside.

The threat is that of Brown et al. (2017, arXiv 1712.09665), with one patch for each image, as in
LaVAN (Karmon et al., ICML 2018, arXiv 1801.02608). The search is ours.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsrobust.attacks import Norm, attacks
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.geometry import per_image
from zsrobust.attacks.losses import cross_entropy
from zsrobust.attacks.notes import note_if
from zsrobust.attacks.search import Search, SearchAttack
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import format_eps

#: How far all steps together can move a pixel: from 0 to 1 and back.
TRAVEL = 2.0


@dataclass(frozen=True, kw_only=True)
class Patch(SearchAttack):
    """A square patch with its place searched; eps is its side, as a share of the image's side.

    The side is rounded down to pixels. The image is divided into a grid of cells. In each cell the
    place comes first that the gradient at the image promises most, if every pixel inside goes to 0
    or 1. The network scores this start of every cell by its cross-entropy. The best starts are
    refined by sign-gradient ascent. An image leaves when a point breaks it. It draws no random
    numbers.
    """

    eps: float = 1 / 8
    norm: Norm = "patch"
    grid: int = 7  #: cells along each side
    tries: int = 3  #: places that are refined, the best ones of the grid
    steps: int = 20  #: of sign-gradient ascent at each of these places
    norms = ("patch",)
    positive = ("grid", "tries", "steps")

    def passes(self, classes: int) -> tuple[int, int]:
        """Return the numbers of forward and of backward passes that an image takes at most."""
        cells = self.grid**2
        refined = min(self.tries, cells) * self.steps
        return 3 + cells + refined + min(self.tries, cells), 1 + refined

    def steps_taken(self, classes: int) -> float:
        """Return how many gradient steps an image takes at one place."""
        return float(self.steps)

    def side(self, pixels: int) -> int:
        """Return the patch's side in pixels, for images with `pixels` a side.

        Raises ZSRobustError if that is less than one pixel.
        """
        side = int(self.eps * pixels + 1e-6)
        if side < 1:
            raise ZSRobustError(
                f"A patch with eps {format_eps(self.eps)} is smaller than a pixel of images with "
                f"{pixels} pixels a side. Set a larger share of the side: --eps 1/8"
            )
        return side

    def seek(self, classifier: nn.Module, search: Search, logits: Tensor, draws: Draws) -> None:
        """Score a place in each cell of the grid, and refine the best ones."""
        side, left = self.side(search.images.shape[-1]), search.left
        if not len(left):
            return
        images, labels = search.images[left], search.labels[left]
        _, gradient, _ = _look(classifier, images, labels)
        note_if(~gradient.flatten(1).any(1).all(), "attack_zero_gradients")
        corners = (gradient > 0).to(images)
        places = promising(images, gradient, side, self.grid)
        scores = images.new_full(places.shape, -torch.inf)
        for cell in range(places.shape[1]):
            rows = _unbroken(search, left)
            if not len(rows):
                return
            points = pasted(images[rows], corners[rows], places[rows, cell], side)
            scores[rows, cell] = _try(classifier, search, left[rows], points)
        order = scores.argsort(dim=1, descending=True, stable=True)
        for rank in range(min(self.tries, places.shape[1])):
            rows = _unbroken(search, left)
            if not len(rows):
                return
            best = places[rows, order[rows, rank]]
            points = pasted(images[rows], corners[rows], best, side)
            self._refine(classifier, search, left[rows], points, inside(best, side, images))

    def _refine(
        self, classifier: nn.Module, search: Search, owners: Tensor, points: Tensor, window: Tensor
    ) -> None:
        """Climb inside the windows (R, 1, S, S) from `points`, until an image is broken."""
        for _ in range(self.steps):
            _, gradient, wrong = _look(classifier, points, search.labels[owners])
            moved = (points + TRAVEL / self.steps * gradient.sign()).clamp(0, 1)
            kept = search.take(owners, points, wrong)
            points = torch.where(window, moved, points)
            if kept is not None:
                owners, points, window = owners[kept], points[kept], window[kept]
            if not len(owners):
                return
        _try(classifier, search, owners, points)


def promising(images: Tensor, gradient: Tensor, side: int, grid: int) -> Tensor:
    """Return a place for each of grid² cells, or of all places if they are fewer: (N, cells).

    A place is the index of a window's upper left corner among all (S - side + 1)². It is the one in
    its cell where a linear function with this gradient grows most, if all pixels of the window go
    to 0 or 1.
    """
    room = torch.where(gradient > 0, 1 - images, images)
    gains = (gradient.abs() * room).sum(1, keepdim=True)
    # A float32 gradient can be so small that its sums vanish; only the order of places matters.
    gains = gains / per_image(gains.flatten(1).amax(1).clamp_min(torch.finfo(gains.dtype).tiny))
    sums = F.avg_pool2d(gains, side, stride=1)
    cells = [min(grid, length) for length in sums.shape[2:]]
    _, places = F.adaptive_max_pool2d(sums, cells, return_indices=True)
    return places.flatten(1)


def inside(places: Tensor, side: int, images: Tensor) -> Tensor:
    """Return which pixels lie in the windows at places (R,), (R, 1, S, S) bool."""
    height, width = images.shape[2:]
    top, start = places // (width - side + 1), places % (width - side + 1)
    rows, columns = (torch.arange(length, device=images.device) for length in (height, width))
    down = (rows >= top[:, None]) & (rows < top[:, None] + side)
    across = (columns >= start[:, None]) & (columns < start[:, None] + side)
    return (down[:, :, None] & across[:, None, :])[:, None]


def pasted(images: Tensor, corners: Tensor, places: Tensor, side: int) -> Tensor:
    """Return the images with the values of `corners` in the windows at places (R,)."""
    return torch.where(inside(places, side, images), corners, images)


def _look(classifier: nn.Module, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cross-entropy (R,), its gradient, and which points the classifier gets wrong."""
    points = points.detach().requires_grad_()
    logits = classifier(points)
    loss = cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(loss.sum(), points)
    return loss.detach(), gradient, logits.detach().argmax(1) != labels


@torch.no_grad()
def _try(classifier: nn.Module, search: Search, owners: Tensor, points: Tensor) -> Tensor:
    """Return the cross-entropy (R,) at points; the search keeps those that break their image."""
    logits = classifier(points)
    labels = search.labels[owners]
    search.take(owners, points, logits.argmax(1) != labels)
    return cross_entropy(logits, labels)


def _unbroken(search: Search, left: Tensor) -> Tensor:
    """Return which of the images `left` are not broken yet, as indices among them."""
    return (~search.broken[left]).nonzero()[:, 0]


attacks.register("patch")(Patch())

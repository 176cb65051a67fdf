"""What attacks maximize: functions of logits and labels, one value for each image.

All have one signature: `logits` (R, K), `labels` (R,), and `targets` (R,), which only a targeted
loss reads.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Untargeted(Protocol):
    """A loss that needs no targets."""

    def __call__(self, logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the loss (R,) of logits (R, K) and labels (R,)."""


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the cross-entropy -log p_y, (R,), written as softplus(logsumexp_j≠y z_j - z_y).

    The usual form takes 1 - p_y, which float32 rounds to 0 where CLIP is certain. Its gradient
    would vanish, and a weak attack would look like a robust model.
    """
    true = logits.gather(1, labels[:, None])[:, 0]
    return F.softplus(_others(logits, labels).logsumexp(1) - true)


def margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the margin max_j≠y z_j - z_y, (R,), positive where the prediction is wrong.

    This is f6 of Carlini & Wagner (S&P 2017, arXiv 1608.04644) with its sign changed.
    """
    true = logits.gather(1, labels[:, None])[:, 0]
    return _others(logits, labels).amax(1) - true


def dlr(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the difference of logits ratio (max_j≠y z_j - z_y) / (z_π1 - z_π3), (R,), for K ≥ 3.

    Equation 6 of Croce & Hein (ICML 2020, arXiv 2003.01690); π sorts the logits in falling order.
    """
    top = logits.topk(3, dim=1).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the targeted DLR loss (z_t - z_y) / (z_π1 - (z_π3 + z_π4) / 2), (R,), for K ≥ 4.

    Equation 7 of Croce & Hein (ICML 2020, arXiv 2003.01690).
    """
    top = logits.topk(4, dim=1).values
    gap = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])
    return gap[:, 0] / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


#: Losses without targets, by the name that specs use.
LOSSES: dict[str, Untargeted] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}
#: The number of classes that a loss compares, where it is more than two.
CLASSES = {"dlr": 3, "targeted": 4}


def objective(loss: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of this name, (N,), from logits (N, K) and labels (N,)."""
    return LOSSES[loss](logits, labels)


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits with -inf in the label's place."""
    return logits.scatter(1, labels[:, None], -torch.inf)

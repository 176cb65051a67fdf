"""Randomized defenses: one more draw of the same defense, and how a verdict is made from draws.

The random numbers of a defense come from the image's pixels, a seed and the number of the draw. So
a verdict repeats itself, and never depends on the batch. An attack sees the first draws and as many
more as it asks for. The verdict uses draws that no attack has seen.
"""

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsrobust.core.errors import ZSRobustError

UNSEEN = 1_000_000  #: the first draw that makes verdicts; attacks see the draws below
HOW = re.compile(r"one_shot|(majority|worst)_of_([1-9][0-9]{0,2})")


def is_random(classifier: nn.Module) -> bool:
    """Return whether a classifier has random numbers of its own, which `redrawn` replaces."""
    return getattr(classifier, "redrawn", None) is not None


class Judged(nn.Module):
    """A randomized classifier as it is judged, with draws that no attack has seen.

    - `one_shot`: one draw;
    - `majority_of_n`: the class that most of n draws predict; the mean probability breaks ties;
    - `worst_of_n`: an image is right only if each of n draws is right. Its logits are those of the
      first draw; `worst_of` is n, and the referee asks for every draw.
    """

    def __init__(self, classifier: nn.Module, how: str) -> None:
        """Take the randomized classifier, and how it is judged; see `parse_judged`."""
        super().__init__()
        self.classifier = classifier
        kind, count = parse_judged(how)
        self.votes = count if kind == "majority" else 1
        self.worst_of = count if kind == "worst" else 1

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K); of a majority, the logarithm of the votes' shares."""
        if self.votes == 1:
            return self.redrawn(0)(images)  # type: ignore[no-any-return]  # untyped call
        drawn = [self.redrawn(vote)(images) for vote in range(self.votes)]
        votes = sum(F.one_hot(each.argmax(1), each.shape[1]) for each in drawn)
        likely = torch.stack([each.softmax(1) for each in drawn]).mean(0)
        return torch.log((votes + 0.5 * likely) / (self.votes + 0.5))

    def redrawn(self, draw: int) -> nn.Module:
        """Return another of the draws that no attack has seen."""
        make: Any = self.classifier.redrawn
        other: nn.Module = make(UNSEEN + draw)
        return other

    def __getattr__(self, name: str) -> Any:
        """Return `features` and the like of the first draw, if it has them."""
        if name in ("features", "embeddings", "tokens"):
            return getattr(self.redrawn(0), name)
        return super().__getattr__(name)


def parse_judged(how: str) -> tuple[str, int]:
    """Return the kind of verdict and its number of draws; raises ZSRobustError for another text."""
    found = HOW.fullmatch(how)
    if found is None:
        raise ZSRobustError(
            f"judged={how!r} is not a way to judge a randomized defense. "
            "Write one_shot, majority_of_5 or worst_of_5, or another number."
        )
    return found[1] or "one_shot", int(found[2] or 1)

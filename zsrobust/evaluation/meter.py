"""Meters: the passes and the sample images that the referee records while an attack runs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zsrobust.attacks.scenes import Scene
from zsrobust.results.cell import Samples


@dataclass
class Passes:
    """The numbers of images that passed through some classifiers, forward and backward."""

    forward: int = 0
    backward: int = 0


class Meter(nn.Module):
    """A classifier that counts the images of its forward and backward passes.

    `batch_size` is the number of images that it takes at once; None means any number. `scene` is
    what an attack may use beside the classifier.
    """

    def __init__(
        self, classifier: nn.Module, batch_size: int | None = None, scene: Scene | None = None
    ) -> None:
        """Wrap a classifier."""
        super().__init__()
        self.classifier, self.batch_size, self.scene = classifier, batch_size, scene
        self.passes = Passes()

    @property
    def forward_passes(self) -> int:
        """The number of images that passed forward."""
        return self.passes.forward

    @property
    def backward_passes(self) -> int:
        """The number of images whose gradient was taken."""
        return self.passes.backward

    def beside(self, classifier: nn.Module) -> "Meter":
        """Return another classifier, whose passes count with these."""
        other = Meter(classifier, self.batch_size, self.scene)
        other.passes = self.passes
        return other

    @property
    def redrawn(self) -> Callable[[int], "Meter"]:
        """Another draw of a randomized classifier; missing if it has none."""
        make: Any = self.classifier.redrawn
        return lambda draw: self.beside(make(draw))

    def forward(self, images: Tensor) -> Tensor:
        """Return the classifier's logits (N, K), in float32 or float64.

        A loss of logits in a lower precision would be rounded twice.
        """
        return self._metered(self.classifier, images)

    @property
    def features(self) -> Callable[[Tensor], Tensor]:
        """The classifier's image embeddings, counted; missing if it has no features."""
        return partial(self._metered, self.classifier.features)

    @property
    def embeddings(self) -> Callable[[Tensor], Tensor]:
        """The classifier's embeddings before normalization, counted; missing if it has none."""
        return partial(self._metered, self.classifier.embeddings)

    @property
    def tokens(self) -> Callable[[Tensor], Tensor]:
        """The classifier's patch tokens, counted; missing if it has none."""
        return partial(self._metered, self.classifier.tokens)

    def _metered(self, function: Any, images: Tensor) -> Tensor:
        self.passes.forward += len(images)
        found: Tensor = function(images)
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        if found.requires_grad:
            found.register_hook(self._count)
        return found

    def _count(self, gradient: Tensor) -> None:
        self.passes.backward += len(gradient)


class Sampler:
    """Keeps the first image that an attack broke and the first image that survived."""

    def __init__(self) -> None:
        """Start without samples."""
        self._kept: dict[bool, tuple[int, Tensor, Tensor]] = {}

    def look(
        self, positions: NDArray[np.int64], originals: Tensor, found: Tensor, broken: Any
    ) -> None:
        """Keep samples of these images, if they are still missing.

        `positions` and `broken` are (N,), `originals` and `found` are (N, 3, S, S).
        """
        for kind in {False, True} - self._kept.keys():
            for place in np.flatnonzero(broken == kind)[:1]:
                image = originals[place].cpu()
                self._kept[kind] = (
                    int(positions[place]),
                    image,
                    found[place].detach().cpu() - image,
                )

    @property
    def samples(self) -> Samples | None:
        """The samples, the broken image first; None if no image was attacked."""
        kept = [self._kept[kind] for kind in (True, False) if kind in self._kept]
        if not kept:
            return None
        places, images, changes = zip(*kept, strict=True)
        change = torch.stack(changes)
        scale = max(float(change.abs().max()), 1e-12)
        return Samples(
            positions=np.array(places, dtype=np.int64),
            pixels=(torch.stack(images) * 255).round().byte().numpy(),
            change=(change / scale * 127).round().to(torch.int8).numpy(),
            scale=scale,
        )


def device_of(classifier: nn.Module) -> torch.device:
    """Return the device of a module's weights; the CPU if it has none."""
    return next(iter([*classifier.parameters(), *classifier.buffers()]), torch.empty(0)).device

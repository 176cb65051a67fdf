"""Meters: what the referee counts and keeps while an attack runs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zsrobust.results.cell import Samples


class Meter(nn.Module):
    """A classifier that counts the images that pass through it, forward and backward.

    `batch_size` is how many images it takes at once; None for any number. `disagreements` counts the images that are broken
    in a lower precision and not in float32; it is None where nothing was searched in a lower one.
    """

    def __init__(self, classifier: nn.Module, batch_size: int | None = None) -> None:
        """Wrap a classifier."""
        super().__init__()
        self.classifier, self.batch_size = classifier, batch_size
        self.forward_passes = self.backward_passes = 0
        self.disagreements: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Return the classifier's logits, in float32 at least: losses of rounded logits would be rounded again."""
        return self._metered(self.classifier, images)

    @property
    def features(self) -> Callable[[Tensor], Tensor]:
        """The classifier's image embeddings, counted as its logits are; missing where it has none."""
        return partial(self._metered, self.classifier.features)

    @property
    def embeddings(self) -> Callable[[Tensor], Tensor]:
        """The classifier's embeddings that are not normalized, counted; missing where it has none."""
        return partial(self._metered, self.classifier.embeddings)

    @property
    def tokens(self) -> Callable[[Tensor], Tensor]:
        """The classifier's patch tokens, counted; missing where it has none."""
        return partial(self._metered, self.classifier.tokens)

    def _metered(self, function: Any, images: Tensor) -> Tensor:
        self.forward_passes += len(images)
        found: Tensor = function(images)
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        if found.requires_grad:
            found.register_hook(self._count)
        return found

    def _count(self, gradient: Tensor) -> None:
        self.backward_passes += len(gradient)


class Sampler:
    """Keeps, of the images that an attack is judged on, the first that it broke and the first that survived."""

    def __init__(self) -> None:
        """Start with none."""
        self._kept: dict[bool, tuple[int, Tensor, Tensor]] = {}

    def look(
        self, positions: NDArray[np.int64], originals: Tensor, found: Tensor, broken: Any
    ) -> None:
        """See some images: positions and whether each was broken, (N,); images and adversarial images, (N, 3, S, S)."""
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
        """What was kept, broken ones first; None if no image was attacked."""
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

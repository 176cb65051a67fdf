"""The cost model: how many passes a cell takes at most, and how long, at the speed that the tower is seen to have."""

import time
from dataclasses import dataclass

import torch
from torch import nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.evaluation.meter import device_of

PIXELS = 2**20  # in a batch that a CPU is measured with
ROUNDS, SECONDS = 10, 1.0  # of a measurement: whatever is reached first


@dataclass(frozen=True)
class Cost:
    """What a cell takes at most, if no image is broken before the attack's last step."""

    images: int
    forward: int  #: images that pass through the classifier
    backward: int  #: images whose gradient is taken
    known: (
        bool  #: whether the attack says how many passes it takes; if not, its own are not counted
    )
    tower: tuple[
        int, int
    ]  #: both through the image tower, which a test-time defense may take several times a pass


@dataclass(frozen=True)
class Speed:
    """Images a second through an image tower."""

    forward: float
    both: float  #: forward and backward, with respect to the images

    def seconds(self, forward: int, backward: int) -> float:
        """Return the seconds that so many passes take."""
        return forward / self.forward + backward * max(0.0, 1 / self.both - 1 / self.forward)


def measure(tower: nn.Module, side: int) -> Speed:
    """Return the speed of a tower on its device, for images (N, 3, S, S), from two seconds at most.

    Raises ZSRobustError where the device cannot run it.
    """
    device = device_of(tower)
    batch = 256 if device.type != "cpu" else min(64, max(8, PIXELS // (3 * side**2)))
    images = torch.rand(batch, 3, side, side, device=device)

    def rate(backward: bool) -> float:
        def once() -> None:
            points = images.clone().requires_grad_(backward)
            with torch.set_grad_enabled(backward):
                features = tower(points)
            if backward:
                torch.autograd.grad(features.sum(), points)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        once()
        started, rounds = time.perf_counter(), 0
        while rounds < ROUNDS and time.perf_counter() - started < SECONDS:
            once()
            rounds += 1
        return rounds * batch / (time.perf_counter() - started)

    try:
        return Speed(rate(False), rate(True))
    except RuntimeError as error:
        raise ZSRobustError(
            f"The backbone does not run on {device}: {str(error).splitlines()[0]}"
        ) from error

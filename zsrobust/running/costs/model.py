"""The cost model: upper bounds of the passes of cells and trainings, and of their seconds."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import datasets
from zsrobust.evaluation.meter import device_of
from zsrobust.evaluation.redflags import passes as probes
from zsrobust.evaluation.redflags.sample import size_of
from zsrobust.running.plan import Cell
from zsrobust.training import Recipe

if TYPE_CHECKING:
    from zsrobust.running.bench import Bench

PIXELS = 2**20  #: pixels of the batch that measures a CPU
ROUNDS, SECONDS = 10, 1.0  #: a measurement ends at the first of these limits


@dataclass(frozen=True)
class Cost:
    """Upper bounds of a cell's cost, reached if no image breaks before the last step."""

    images: int
    forward: int  #: images that pass through the classifier
    backward: int  #: images whose gradient is taken
    known: bool  #: False: the attack does not report its passes; they are not counted
    #: Forward and backward through the image tower. A test-time defense takes several per pass.
    tower: tuple[int, int]


@dataclass(frozen=True)
class Speed:
    """Images a second through an image tower."""

    forward: float
    both: float  #: forward and backward, with respect to the images

    def seconds(self, forward: int, backward: int) -> float:
        """Return the seconds that these passes take."""
        return forward / self.forward + backward * max(0.0, 1 / self.both - 1 / self.forward)


def cost_of(bench: "Bench", cell: Cell) -> Cost:
    """Return the cost of a cell: clean predictions, attack and verdicts, without red flags."""
    size = cell.size
    if bench.protocol.select == "every_20th_batch":
        starts = range(0, cell.dataset.size, 20 * 256)
        size = min(size, sum(min(256, cell.dataset.size - start) for start in starts))
    passes = cell.attack.passes(len(cell.dataset.classes))
    forward, backward = passes or (0, 0)
    times = 1 if bench.search == "float32" else 2  # survivors are attacked again in float32
    deployed = cell.defense.passes if cell.defense else 1
    seen = deployed if cell.defense and cell.defense.knowledge == "adaptive" else 1
    return Cost(
        images=size,
        forward=size * (2 + times * forward),
        backward=size * times * backward,
        known=passes is not None,
        tower=(size * (2 * deployed + times * forward * seen), size * times * backward * seen),
    )


def cost_of_flags(bench: "Bench", cell: Cell) -> tuple[int, int]:
    """Return upper bounds of the images that red flags send through the tower, and of gradients.

    What cells of several attacks share, see `Bench.probed`, counts in each.
    """
    knowledge = cell.defense.knowledge if cell.defense else ""
    most = probes.most(
        min(size_of(bench.cut.side), cell.size),
        gradients=bool(cell.attack.steps_taken(len(cell.dataset.classes))),
        probed=not cell.attack.blind and knowledge != "oblivious",
    )
    times = cell.defense.passes if cell.defense else 1
    return (
        times * (most.deployed + most.attacked[0]) + most.undefended[0],
        times * most.attacked[1] + most.undefended[1],
    )


def passes_of_training(recipe: Recipe) -> tuple[int, int]:
    """Return the images that pass forward and backward in a training."""
    size = datasets[recipe.train_on].train_size or 0
    images = min(size, recipe.limit or size) * recipe.epochs
    passes = recipe.crafting().passes(2) if recipe.attack else None
    steps = passes[1] if passes else 0
    # Clean and adversarial images through the student, the adversarial ones through the teacher.
    return images * (steps + 3), images * (steps + 2)


def predicted(bench: "Bench", cell: Cell, shares: int) -> dict[str, float] | None:
    """Return upper bounds of a cell's passes, and of its seconds if `shares` processes share it.

    Returns None if the attack does not report its passes.
    """
    cost = cost_of(bench, cell)
    if not cost.known:
        return None
    seconds = bench.speed.seconds(*cost.tower) / shares
    return {"seconds": round(seconds, 3), "forward": cost.forward, "backward": cost.backward}


def measure(tower: nn.Module, side: int) -> Speed:
    """Return the speed of a tower on its device, for images (N, 3, S, S), in about two seconds.

    Raises ZSRobustError if the device cannot run the tower.
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

"""The cost of a suite's tables in passes, memory, bytes, and hours on any number of GPUs."""

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zsrobust.datasets import datasets
from zsrobust.defenses import defenses
from zsrobust.reporting import contents
from zsrobust.running.bench import Bench
from zsrobust.running.costs.model import Speed, cost_of, cost_of_flags, passes_of_training
from zsrobust.running.plan import Cell, Key, plan
from zsrobust.settings.suites import Suite
from zsrobust.training import Recipe

OUTCOME = 28  #: bytes of an image's outcome: three integers of 8 bytes and a float32

Passes = tuple[int, int]  #: images through the image tower, forward and backward


class Work(NamedTuple):
    """What a cell takes."""

    passes: Passes  #: red flags included
    needed: frozenset[str] = frozenset()  #: digests of the trainings that come before
    images: int = 0  #: that are judged


@dataclass
class Forecast:
    """The trainings and cells of a table, as if nothing was stored.

    Passes are upper bounds, as `cost_of`, `cost_of_flags` and `passes_of_training` count them.
    """

    trainings: dict[str, Passes] = field(default_factory=dict)  #: by the recipe's digest
    cells: dict[tuple[str, Key], Work] = field(default_factory=dict)  #: by suite and key
    unknown: list[str] = field(default_factory=list)  #: attacks whose passes are not counted
    prepared: dict[str, int] = field(default_factory=dict)  #: pictures by split

    @property
    def passes(self) -> Passes:
        """The sums over all trainings and cells."""
        every = [*self.trainings.values(), *(cell.passes for cell in self.cells.values())]
        return sum(forward for forward, _ in every), sum(backward for _, backward in every)

    def hours(self, speed: Speed, gpus: int = 1) -> float:
        """Return the hours on a number of GPUs, each of which takes whole trainings and cells.

        A GPU that is free takes the longest training that is left, and then the longest cell.
        Cells wait for their trainings. Text heads and storage are not counted.
        """
        free = [0.0] * gpus
        ended: dict[str, float] = {}
        for digest, passes in sorted(self.trainings.items(), key=lambda each: -sum(each[1])):
            ended[digest] = heapq.heappop(free) + speed.seconds(*passes)
            heapq.heappush(free, ended[digest])
        ready = {
            name: max((ended[digest] for digest in cell.needed), default=0.0)
            for name, cell in self.cells.items()
        }
        for name in sorted(ready, key=lambda name: (ready[name], -sum(self.cells[name].passes))):
            start = max(heapq.heappop(free), ready[name])
            heapq.heappush(free, start + speed.seconds(*self.cells[name].passes))
        return max(free) / 3600

    def longest(self, speed: Speed) -> float:
        """Return the hours of the longest cell after its training: more GPUs do not help."""
        alone = {digest: speed.seconds(*each) for digest, each in self.trainings.items()}
        chains = [
            speed.seconds(*cell.passes) + max(map(alone.__getitem__, cell.needed), default=0.0)
            for cell in self.cells.values()
        ]
        return max([*chains, *alone.values()]) / 3600

    def bytes(self, side: int, weights: int) -> int:
        """Return the bytes on disk: prepared pictures, checkpoints of `weights` bytes, outcomes."""
        pictures = sum(self.prepared.values()) * 3 * side**2
        judged = sum(cell.images for cell in self.cells.values())
        return pictures + len(self.trainings) * weights + OUTCOME * judged


def of_cells(bench: Bench, cells: Sequence[Cell]) -> Forecast:
    """Return the forecast of these cells and of the trainings of their defenses."""
    found = Forecast()
    made = {
        spec: defense.recipes(bench.suite) if defense else []
        for spec, defense in {cell.key.defense: cell.defense for cell in cells}.items()
    }
    for recipe in itertools.chain.from_iterable(made.values()):
        _add_training(found, recipe)
    for cell in cells:
        cost = cost_of(bench, cell)
        if not cost.known and cell.key.attack not in found.unknown:
            found.unknown.append(cell.key.attack)
        found.prepared[cell.key.dataset] = cell.dataset.size
        needed = frozenset(recipe.digest for recipe in made[cell.key.defense])
        (forward, backward), flags = cost.tower, cost_of_flags(bench, cell)
        passes = forward + flags[0], backward + flags[1]
        found.cells[bench.suite.name, cell.key] = Work(passes, needed, cost.images)
    return found


def of_table(bench: Bench, number: str) -> Forecast:
    """Return the forecast of a table; raises ZSRobustError if the suite does not have it."""
    needs = contents.needs(number, bench.suite)
    return of_cells(bench, plan(bench.suite, bench.protocol, needs=needs))


def of_trainings(suite: Suite, specs: Iterable[str]) -> Forecast:
    """Return the forecast of the trainings of defenses on a suite, without cells."""
    found = Forecast()
    for spec in specs:
        for recipe in defenses.create(spec).recipes(suite):
            _add_training(found, recipe)
    return found


def _add_training(found: Forecast, recipe: Recipe) -> None:
    found.trainings[recipe.digest] = passes_of_training(recipe)
    found.prepared[f"{recipe.train_on}:train"] = datasets[recipe.train_on].train_size or 0


def merged(parts: Iterable[Forecast]) -> Forecast:
    """Return several forecasts as one, with every training and every cell once."""
    whole = Forecast()
    for part in parts:
        whole.trainings |= part.trainings
        whole.prepared |= part.prepared
        whole.cells |= part.cells
        whole.unknown += [name for name in part.unknown if name not in whole.unknown]
    return whole


def flop_of(tower: nn.Module, side: int) -> int:
    """Return the floating-point operations of an image's forward pass; a gradient takes as many."""
    image = torch.zeros(1, 3, side, side, requires_grad=True)
    with FlopCounterMode(display=False) as counted:
        tower(image)
    return int(counted.get_total_flops())

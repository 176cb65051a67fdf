"""The set-up that a calibration examines: the part of this machine that makes numbers."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zsrobust.attacks import frozen
from zsrobust.core.errors import ZSRobustError, last_line
from zsrobust.datasets import datasets
from zsrobust.datasets.pixels import tensor
from zsrobust.defenses import Tower
from zsrobust.reporting import reported
from zsrobust.reporting.claims import published
from zsrobust.reporting.rows import UNDEFENDED, USUAL
from zsrobust.results import Result
from zsrobust.results.store import Store
from zsrobust.running.bench import Bench
from zsrobust.running.calibration.stored import (
    IMAGES,
    SKETCH,
    Counts,
    Known,
    OnDataset,
    Trained,
    digest,
    packed,
)
from zsrobust.running.plan import Cell, plan
from zsrobust.running.reporter import Reporter
from zsrobust.running.run import run

SUBSET = 500  #: images of the first look at clean accuracy


class Setup:
    """The part of this machine that a calibration examines: a bench, and where cells are stored."""

    def __init__(
        self,
        bench: Bench,
        store: Store,
        names: Sequence[str],
        known: Known | None,
        *,
        defense: str | None = None,
        reporter: Reporter | None = None,
        force: bool = False,
    ) -> None:
        """Take the bench, the folder of cells, the datasets, and what is known of them.

        `defense` is the published or trained checkpoint. With `force`, stored cells are computed
        again. Raises ZSRobustError for an unknown dataset.
        """
        for name in names:
            _ = datasets[name]
        self.bench, self.store, self.names, self.known = bench, store, names, known
        self.defense, self.reporter, self.force = defense, reporter or Reporter(), force
        self._found: dict[Cell, Result] = {}

    @property
    def options(self) -> str:
        """The suite, as an option of the next command."""
        return f"--suite {self.bench.suite.asked or self.bench.suite.name}"

    def on(self, name: str) -> OnDataset | None:
        """Return what is known on a dataset."""
        return self.known.datasets.get(name) if self.known else None

    def cell(self, name: str, limit: int | None = None, defense: str = UNDEFENDED) -> Cell:
        """Return the cell of a defense on a dataset under PGD-10."""
        suite, protocol = self.bench.suite, self.bench.protocol
        (cell,) = plan(suite, protocol, [defense], [USUAL], [name], limit=limit)
        return cell

    def result(self, cell: Cell) -> Result:
        """Return a cell's result, stored or computed now; raises ZSRobustError if it failed."""
        if cell not in self._found:
            _ = self.tower  # without weights, images are not downloaded
            found, errors = run(self.bench, [cell], self.store, self.reporter, self.force)
            for error in errors:
                raise error
            if found[0].status == "failed":
                raise ZSRobustError(f"{cell.key}: {last_line(found[0].error)}")
            self._found[cell] = found[0]
        return self._found[cell]

    def pixels(self, cell: Cell) -> Tensor:
        """Return the pixels of a cell's images, (N, 3, S, S), on the device of the workshop."""
        cell.dataset.prepare("test", self.bench.cut, self.reporter.preparing)
        images = self.bench.images(cell)
        where, cut = np.arange(len(images)), self.bench.cut_of(cell)
        return tensor(images, where, cut, self.bench.workshop.device)

    def head(self, name: str) -> Tensor:
        """Return the rows of a dataset's text head, (K, D), of unit norm."""
        prompts = datasets[name].prompts(self.bench.protocol.prompts)
        return self.bench.workshop.clip.head(prompts, 1.0)

    def embeddings(self, name: str) -> Tensor:
        """Return the embeddings of the first IMAGES images of a dataset's subset, (N, D)."""
        cell, tower = self.cell(name, IMAGES), self.tower
        classifier = self.bench.deploy(cell, tower).classifier
        with torch.no_grad(), frozen(classifier):
            found: Tensor = classifier.features(self.pixels(cell))  # type: ignore[operator]  # a classifier of CLIP has features
        return F.normalize(found.float(), dim=-1)

    @cached_property
    def tower(self) -> Tower:
        """The tower of the undefended model; raises ZSRobustError without its weights."""
        return self.bench.workshop.tower(UNDEFENDED)

    def predictions(self, cell: Cell) -> Tensor:
        """Return the classes that the undefended model predicts for a cell's images, (N,)."""
        classifier = self.bench.deploy(cell, self.tower).classifier
        with torch.no_grad(), frozen(classifier):
            return torch.cat([classifier(part).argmax(1) for part in self.pixels(cell).split(100)])

    def counts(self, name: str, defense: str = UNDEFENDED) -> Counts:
        """Return the counts of a defense on the full test split of a dataset."""
        return counts_of(self.result(self.cell(name, None, defense)))


def counts_of(result: Result) -> Counts:
    """Return the counts of a cell's result."""
    return Counts(images=result.images, clean=result.clean_correct, robust=result.robust_correct)


def write(setup: Setup) -> Known:
    """Return the values of this set-up, to be stored: it must be right."""
    on = {}
    for name in setup.names:
        cell = setup.cell(name, SUBSET)
        cell.dataset.prepare("test", setup.bench.cut, setup.reporter.preparing)
        on[name] = OnDataset(
            texts=packed(setup.head(name)[:, :SKETCH]),
            labels=digest(setup.bench.images(setup.cell(name)).labels),
            embeddings=packed(setup.embeddings(name)),
            clip=setup.counts(name),
        )
    trained = {}
    if setup.defense is not None:
        counts = {name: setup.counts(name, setup.defense) for name in setup.names}
        first = setup.result(setup.cell(setup.names[0], None, setup.defense))
        trained[setup.defense] = Trained(deployed=first.identity.deployed, counts=counts)
    return Known(weights=setup.bench.workshop.clip.digest, datasets=on, trained=trained)


def checkpoint_of(bench: Bench, known: Known | None) -> str | None:
    """Return the defense of the last stage: stored or published; None without one."""
    if known is not None and known.trained:
        return next(iter(known.trained))
    wanted = [row["weights"] for row in reported.robust_anchors()]
    for name, entry in published().items():
        if entry["backbone"] == bench.suite.backbone and entry["where"] in wanted:
            return name
    return None

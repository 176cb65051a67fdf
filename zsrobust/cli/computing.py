"""The part of `zsrobust run` that needs torch: plan, estimate, confirm, compute, print."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from zsrobust.cli import display, progress
from zsrobust.cli.request import Places, Request
from zsrobust.cli.waiting import waiting
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import check_writable
from zsrobust.models.threads import one_thread
from zsrobust.reporting.rows import Need
from zsrobust.results import Result
from zsrobust.running import helpers, slurm
from zsrobust.running.bars import Tally
from zsrobust.running.bench import Bench
from zsrobust.running.costs import bill
from zsrobust.running.plan import Cell, plan
from zsrobust.running.run import run as run_cells
from zsrobust.running.task import Task
from zsrobust.settings import protocols
from zsrobust.settings.suites import Suite
from zsrobust.training import ranks

if TYPE_CHECKING:
    from zsrobust.cli.run import Order

Outcome = tuple[list[Result], list[ZSRobustError]]


def compute(
    suite: Suite, needs: Sequence[Need], request: Request, order: "Order", places: Places
) -> Outcome:
    """Return the results of the requested cells, and the errors of defenses that failed.

    Both are empty after a dry run, or if the user declines.
    """
    with ranks.together(places.device) as own:
        protocol = protocols.load(request.protocol)
        cells = plan(
            suite,
            protocol,
            order.defenses,
            order.attacks,
            order.datasets,
            needs=needs,
            eps=order.bounds,
            limit=request.limit,
            seed=order.seeds,
            train_seeds=order.train_seeds,
            step_size=order.step_size,
        )
        workshop = replace(places, device=own).workshop(suite)
        bench = Bench(suite, protocol, workshop, order.search, order.compiled)
        with waiting("loading open_clip"):
            side = workshop.shape.side
        # A helper would compute again what --force has just recomputed.
        alone = order.executor or order.force or ranks.size() > 1
        with one_thread(workshop.device, side) as cores:
            room = 1 if alone else cores
            processes = ranks.decided(lambda: _processes(bench, cells, order, places, room))
        if not processes:
            return [], []
        ranks.decided(lambda: check_writable(places.folder))
        means = Means(places, request.protocol, order.executor, order.settings, order.force)
        shares = one_thread(workshop.device, side) if processes > 1 else nullcontext()
        with shares, progress.live() as shown:
            found, errors = means.run(bench, cells, shown, processes)
        if found and ranks.leads():
            display.print_results(found, shown, places.store)
    return found, errors


@dataclass(frozen=True)
class Means:
    """What computes cells: this process, which the others of torchrun join, or jobs."""

    places: Places
    protocol: str  #: the name or the file that the user gave
    executor: str | None  #: of the jobs; None: this process
    settings: Sequence[str]  #: of the jobs
    force: bool = False

    def run(self, bench: Bench, cells: Sequence[Cell], shown: Tally, processes: int = 1) -> Outcome:
        """Return the results of the cells, and the errors of defenses that failed.

        Without an executor, so many processes of this machine share the cells.
        """
        task = self._task(bench)
        if self.executor is not None:
            return slurm.run(self.executor, self.settings, task, bench, cells, shown)
        shown.helped = processes > 1
        task = replace(task, device=bench.workshop.device, keys=[cell.key for cell in cells])
        with helpers.helped(task, processes - 1):
            return run_cells(bench, cells, self.places.store, shown, self.force)

    def _task(self, bench: Bench) -> Task:
        return Task(
            plugins=click.get_current_context().find_root().params["plugins"],
            suite=bench.suite.asked,
            protocol=self.protocol,
            search=bench.search,
            compiled=bench.compiled,
            store=self.places.store,
            checkpoints=self.places.checkpoints,
            device=self.places.device,
            force=self.force,
            live=progress.live,
            log=bench.workshop.log,
        )


def _processes(
    bench: Bench, cells: Sequence[Cell], order: "Order", places: Places, room: int
) -> int:
    """Return how many processes to use, at most `room`; 0 if the run is not to start.

    Prints the bill of a large run, and asks for confirmation.
    """
    with waiting("measuring this device"):
        made = bill.make(bench, cells, places.store, order.force)
        if made.failure and not order.dry_run:
            raise made.failure
        if order.dry_run or made.downloads or made.cells:
            made.speed = bench.speed
            made.processes = helpers.worthwhile(room, made.cells, made.hours)
    if order.dry_run or made.large or made.downloads:
        for line in made.lines(bench.workshop.device):
            click.echo(line, err=not order.dry_run)
    if order.dry_run or order.yes or not made.large:
        return 0 if order.dry_run else made.processes
    return made.processes if confirmed() else 0


def confirmed() -> bool:
    """Return the user's answer; raises ZSRobustError if nobody can be asked."""
    if not sys.stdin.isatty():
        raise ZSRobustError(
            "This run takes gigabytes or hours, and needs confirmation. Add --yes or --limit."
        )
    return click.confirm("Continue?", err=True)

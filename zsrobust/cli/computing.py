"""The part of `zsrobust run` that needs torch: plan, estimate, confirm, compute, print."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from zsrobust.cli import display, progress
from zsrobust.cli.request import Places, Request
from zsrobust.cli.waiting import waiting
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import check_writable
from zsrobust.reporting.rows import Need
from zsrobust.results import Result
from zsrobust.running import slurm
from zsrobust.running.bars import Tally
from zsrobust.running.bench import Bench
from zsrobust.running.costs import bill
from zsrobust.running.plan import Cell, plan
from zsrobust.running.run import run as run_cells
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
        if not ranks.decided(lambda: _agreed(bench, cells, order, places)):
            return [], []
        ranks.decided(lambda: check_writable(places.folder))
        means = Means(places, request.protocol, order.executor, order.settings, order.force)
        with progress.live() as shown:
            found, errors = means.run(bench, cells, shown)
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

    def run(self, bench: Bench, cells: Sequence[Cell], shown: Tally) -> Outcome:
        """Return the results of the cells, and the errors of defenses that failed."""
        if self.executor is None:
            return run_cells(bench, cells, self.places.store, shown, self.force)
        return slurm.run(self.executor, self.settings, self._task(bench), bench, cells, shown)

    def _task(self, bench: Bench) -> slurm.Task:
        return slurm.Task(
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


def _agreed(bench: Bench, cells: Sequence[Cell], order: "Order", places: Places) -> bool:
    """Return whether to start; prints the bill of a large run, and asks for confirmation."""
    with waiting("loading open_clip and measuring this device"):
        made = bill.make(bench, cells, places.store, order.force)
        if made.failure and not order.dry_run:
            raise made.failure
        if order.dry_run or made.downloads or made.cells:
            made.speed = bench.speed
    if order.dry_run or made.large or made.downloads:
        for line in made.lines(bench.workshop.device):
            click.echo(line, err=not order.dry_run)
    if order.dry_run or order.yes or not made.large:
        return not order.dry_run
    return confirmed()


def confirmed() -> bool:
    """Return the user's answer; raises ZSRobustError if nobody can be asked."""
    if not sys.stdin.isatty():
        raise ZSRobustError(
            "This run takes gigabytes or hours, and needs confirmation. Add --yes or --limit."
        )
    return click.confirm("Continue?", err=True)

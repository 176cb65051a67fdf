"""The part of `zsrobust reproduce` that needs torch: order, estimate, confirm, compute, report."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import click

from zsrobust.cli import progress
from zsrobust.cli.computing import Means, confirmed
from zsrobust.cli.request import Places
from zsrobust.cli.show import print_text
from zsrobust.cli.waiting import waiting
from zsrobust.core.files import check_writable
from zsrobust.reporting import counterparts, reproduction
from zsrobust.reporting.counterparts import Counterparts, Place
from zsrobust.running import budget as planning
from zsrobust.running.bars import Tally
from zsrobust.running.bench import Bench
from zsrobust.running.budget import Agenda, Spent
from zsrobust.running.costs import bill
from zsrobust.running.costs.model import Speed
from zsrobust.settings import protocols
from zsrobust.settings.suites import Suite
from zsrobust.training import ranks

if TYPE_CHECKING:
    from zsrobust.cli.reproduce import Aim


def compute(
    tables: Mapping[str, Suite], beside: Counterparts, aim: "Aim", places: Places, again: str
) -> Spent:
    """Return what the budget was spent on: nothing after a dry run, or if the user declines.

    `again` is the command that continues.
    """
    values = counterparts.values(tables, beside)
    with ranks.together(places.device) as own:
        benches = _benches(tables, aim, replace(places, device=own))
        main = next(iter(benches.values()))
        with waiting("loading open_clip and measuring this device"):
            speed = ranks.decided(lambda: main.speed)
        work = Reproduction(aim, places, tables, beside, values, benches, speed)
        agenda = work.agenda()
        if not work.agreed(agenda):
            return Spent()
        ranks.decided(lambda: check_writable(places.folder))
        with progress.live() as shown:
            spent = work.spend(agenda, shown)
        if ranks.leads():
            work.write(spent, again)
    return spent


def _benches(tables: Mapping[str, Suite], aim: "Aim", places: Places) -> dict[str, Bench]:
    """Return the benches of tables by number; tables of a suite share one."""
    protocol = protocols.load(aim.protocol)
    made = {
        name: Bench(suite, protocol, places.workshop(suite), aim.search, aim.compiled)
        for name, suite in {suite.name: suite for suite in tables.values()}.items()
    }
    return {number: made[suite.name] for number, suite in tables.items()}


@dataclass(frozen=True)
class Reproduction:
    """The tables to reproduce, what computes them, and the numbers to compare with."""

    aim: "Aim"
    places: Places
    tables: Mapping[str, Suite]  #: by number
    beside: Counterparts
    values: Mapping[Place, Fraction]  #: what cells teach
    benches: Mapping[str, Bench]  #: by number; tables of a suite share one
    speed: Speed  #: of this device

    @property
    def main(self) -> Bench:
        """The bench of the first table."""
        return next(iter(self.benches.values()))

    def agenda(self) -> Agenda:
        """Return the missing cells in their order."""
        store, limit = self.places.store, self.aim.limit
        return planning.draw_up(self.benches, store, self.values, self.speed, limit)

    def agreed(self, agenda: Agenda) -> bool:
        """Return whether to start; prints the order, and asks for confirmation of a large run."""
        large = ranks.decided(lambda: self._announce(agenda))
        if self.aim.dry_run:
            return False
        return not large or self.aim.yes or ranks.decided(confirmed)

    def _announce(self, agenda: Agenda) -> bool:
        """Print the order and the downloads; return whether this run asks for confirmation."""
        budget, shown = self.aim.budget, not self.aim.dry_run
        for line in planning.lines(agenda, budget):
            click.echo(line, err=shown)
        gigabytes = 0.0
        for bench, cells in agenda.by_bench(agenda.within(budget)):
            made = bill.make(bench, cells, self.places.store, force=False)
            gigabytes += made.gigabytes
            for line in made.lines(bench.workshop.device):
                click.echo(line, err=shown)
        return max(budget / 3600, gigabytes) >= bill.LARGE

    def spend(self, agenda: Agenda, shown: Tally) -> Spent:
        """Compute the cells that the budget buys; jobs compute those that fit by prediction."""
        aim = self.aim
        if aim.executor is None:
            return planning.spend(agenda, aim.budget, self.places.store, shown)
        means, spent = Means(self.places, aim.protocol, aim.executor, aim.settings), Spent()
        for bench, cells in agenda.by_bench(agenda.within(aim.budget)):
            found, errors = means.run(bench, cells, shown)
            spent.count(found)
            spent.errors |= {str(error): error for error in errors}
        return spent

    def write(self, spent: Spent, again: str) -> None:
        """Write the page, and print what was used and what is left; `again` is the next command."""
        left, suite, protocol = self.agenda(), self.main.suite, self.main.protocol.name
        pages = reproduction.build(
            self.tables,
            self.places.store.load(),
            self.beside,
            {number: left.left(number) for number in self.tables},
            protocol=protocol,
            limit=self.aim.limit,
        )
        about = [
            f"Suite {suite.name} ({suite.title}), protocol {protocol}, device "
            f"{self.main.workshop.device}. {planning.summary(left)}.",
            f"Next: `{again}`" if left.jobs else "Nothing is missing.",
            *(f"Error: {error}" for error in spent.errors.values()),
        ]
        title = f"Reproduction of the suite {suite.name}"
        print_text(reproduction.markdown(pages, title, about), self.aim.out)
        used = "" if self.aim.executor else f"used {planning.duration(spent.seconds)}; "
        click.echo(used + planning.summary(left))

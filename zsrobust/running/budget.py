"""The order of a reproduction: the cells that teach most per hour first, and what a budget buys."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from zsrobust.core.errors import ZSRobustError, counted
from zsrobust.core.files import exists
from zsrobust.core.specs import format_eps
from zsrobust.reporting import contents
from zsrobust.reporting.counterparts import Place
from zsrobust.reporting.reproduction import Left
from zsrobust.reporting.rows import UNDEFENDED, USUAL
from zsrobust.results import Result
from zsrobust.results.store import Store
from zsrobust.running.bench import Bench
from zsrobust.running.costs import forecast
from zsrobust.running.costs.model import Speed
from zsrobust.running.plan import Cell, plan
from zsrobust.running.reporter import Reporter
from zsrobust.running.run import run
from zsrobust.training import ranks

Clock = Callable[[], float]  #: seconds


class Job(NamedTuple):
    """A missing cell: what it teaches, and what it takes."""

    name: str  #: the suite and the cell
    value: Fraction  #: reported numbers that it is compared with; see `order`
    seconds: float  #: predicted, without trainings; above 0
    trainings: frozenset[str] = frozenset()  #: those that are missing, by digest
    first: bool = False  #: whether it comes before all others


def order(jobs: Iterable[Job], trainings: Mapping[str, float]) -> list[Job]:
    """Return the jobs in the order in which they teach most per hour.

    The rule: the undefended CLIP under PGD-10 at the suite's eps comes first (`Job.first`). Then
    the next cell is always the one with the highest value per predicted second.

    * Value: the number of reported numbers that the cell is compared with. A number that needs the
      whole row, such as an average, counts in equal shares for the cells of the row.
    * Seconds: those of the cell, and its share of each training that is still missing. All cells
      left that need the training have equal shares. The first of them pays for it.
    * Equal cells: the cheaper one first, then by name.

    The order does not depend on the budget. A smaller budget gives a prefix of it. `trainings` has
    the seconds of each training by its digest.
    """
    left, found = sorted(jobs), list[Job]()
    paid: frozenset[str] = frozenset()
    while left:
        sharing = Counter(digest for job in left for digest in job.trainings)
        prices = {
            job: job.seconds + sum(trainings[each] / sharing[each] for each in job.trainings - paid)
            for job in left
        }
        best = min(
            left, key=lambda job: (not job.first, -job.value / prices[job], prices[job], job.name)
        )
        left.remove(best)
        found.append(best)
        paid |= best.trainings
    return found


@dataclass(frozen=True)
class Agenda:
    """The missing cells of some tables, in the order of `order`."""

    jobs: Sequence[Job]
    trainings: Mapping[str, float]  #: predicted seconds by digest
    cells: Mapping[str, tuple[Bench, Cell]]  #: all cells by name, the stored ones too
    tables: Mapping[str, Collection[str]]  #: the names of a table's cells, by its number

    def seconds(self, jobs: Iterable[Job], paid: Collection[str] = ()) -> float:
        """Return the predicted seconds of jobs; each training counts once, `paid` ones never."""
        chosen = list(jobs)
        needed = sorted({digest for job in chosen for digest in job.trainings}.difference(paid))
        return sum(job.seconds for job in chosen) + sum(self.trainings[each] for each in needed)

    def within(self, budget: float) -> list[Job]:
        """Return the longest prefix of the jobs whose predicted seconds are within the budget."""
        spent, paid = 0.0, set[str]()
        for number, job in enumerate(self.jobs):
            spent += self.seconds([job], paid)
            paid |= job.trainings
            if spent > budget:
                return list(self.jobs[:number])
        return list(self.jobs)

    def left(self, number: str) -> Left:
        """Return what is missing of a table."""
        own = [job for job in self.jobs if job.name in self.tables[number]]
        return Left(len(own), len(self.tables[number]), duration(self.seconds(own)))

    def by_bench(self, jobs: Iterable[Job]) -> list[tuple[Bench, list[Cell]]]:
        """Return the cells of jobs by their bench, both in the order of the jobs."""
        found: dict[str, tuple[Bench, list[Cell]]] = {}
        for job in jobs:
            bench, cell = self.cells[job.name]
            found.setdefault(bench.suite.name, (bench, []))[1].append(cell)
        return list(found.values())


def draw_up(
    benches: Mapping[str, Bench],
    store: Store,
    values: Mapping[Place, Fraction],
    speed: Speed,
    limit: int | None = None,
) -> Agenda:
    """Return the agenda of the tables, whose benches are given by their numbers.

    A cell with a stored result is not missing, unless it failed. Only the CLIP of the first table's
    suite comes first. Predicted seconds are upper bounds at this speed, red flags included, and the
    processes of torchrun share them.
    """
    tables: dict[str, dict[str, tuple[Bench, Cell]]] = {}
    for number, bench in benches.items():
        needs = contents.needs(number, bench.suite)
        tables[number] = {
            f"{bench.suite.name}: {cell.key}": (bench, cell)
            for cell in plan(bench.suite, bench.protocol, needs=needs, limit=limit)
        }
    cells = {name: cell for table in tables.values() for name, cell in table.items()}
    stored = store.load()
    done = set(stored[stored["status"] == "ok"]["path"])
    main = next(iter(benches.values()))
    jobs: list[Job] = []
    trainings: dict[str, float] = {}
    for bench in {bench.suite.name: bench for bench in benches.values()}.values():
        missing = {
            name: cell
            for name, (own, cell) in cells.items()
            if own is bench and str(store.find(bench.path(cell))) not in done
        }
        needed, found = _jobs(bench, missing, values, speed, bench is main)
        trainings |= needed
        jobs += found
    return Agenda(order(jobs, trainings), trainings, cells, tables)


def _jobs(
    bench: Bench,
    missing: Mapping[str, Cell],
    values: Mapping[Place, Fraction],
    speed: Speed,
    main: bool,
) -> tuple[dict[str, float], list[Job]]:
    """Return the seconds of the trainings of missing cells, and the jobs of these cells."""
    suite, found = bench.suite, forecast.of_cells(bench, list(missing.values()))
    recipes = [
        recipe
        for defense in {cell.key.defense: cell.defense for cell in missing.values()}.values()
        for recipe in (defense.recipes(suite) if defense else [])
    ]
    made = {each.digest for each in recipes if exists(bench.workshop.checkpoint_path(each))}
    usual = (UNDEFENDED, USUAL, format_eps(suite.attack["eps"]))
    jobs = []
    for name, cell in missing.items():
        work, key = found.cells[suite.name, cell.key], cell.key
        place = Place(suite.name, key.defense, key.attack, format_eps(key.eps), key.dataset)
        value = values.get(place, Fraction(0))
        seconds = speed.seconds(*work.passes) / ranks.size()
        first = main and (place.defense, place.attack, place.eps) == usual
        jobs.append(Job(name, value, seconds, work.needed - made, first))
    trainings = {
        digest: speed.seconds(*passes) / ranks.size()
        for digest, passes in found.trainings.items()
        if digest not in made
    }
    return trainings, jobs


@dataclass
class Spent:
    """What a budget was spent on."""

    seconds: float = 0.0
    failed: int = 0  #: cells that failed
    #: by the defense or the dataset that could not be prepared
    errors: dict[str, ZSRobustError] = field(default_factory=dict)

    def count(self, found: Sequence[Result]) -> None:
        """Count the failures among results."""
        self.failed += sum(result.status == "failed" for result in found)


def spend(
    agenda: Agenda,
    budget: float,
    store: Store,
    reporter: Reporter,
    clock: Clock = time.monotonic,
) -> Spent:
    """Compute the cells of the agenda one at a time, and return what it took.

    A cell starts if the seconds used so far and its own prediction, trainings included, fit into
    the budget. A cell that has started is finished and stored. After an error, cells of the same
    defense or dataset are skipped, and the other cells go on. So the first cell of a defense shows
    whether it works. The processes of torchrun share every cell; there, an error ends the run.
    """
    started, spent, paid = clock(), Spent(), set[str]()
    jobs = ranks.decided(lambda: agenda.jobs)

    def fits(job: Job) -> bool:
        return ranks.decided(lambda: clock() - started + agenda.seconds([job], paid) <= budget)

    for number, job in enumerate(jobs, 1):
        bench, cell = agenda.cells[job.name]
        if {cell.key.defense, cell.key.dataset} & spent.errors.keys():
            continue
        if not fits(job):
            break
        note = f"cell {number} of {len(jobs)}: {job.name}; used {duration(clock() - started)}"
        if ranks.leads():
            reporter.note(f"{note} of {duration(budget)}")
        try:
            found, errors = run(bench, [cell], store, reporter)
        except ZSRobustError as error:  # its dataset could not be prepared
            if ranks.size() > 1:
                raise
            spent.errors[cell.key.dataset] = error
            continue
        if errors:  # of its defense
            spent.errors[cell.key.defense] = errors[0]
        spent.count(found)
        paid |= job.trainings
    spent.seconds = clock() - started
    return spent


def lines(agenda: Agenda, budget: float) -> list[str]:
    """Return the order as text: a line for each cell that fits the budget, and the sums."""
    chosen = agenda.within(budget)
    found = [f"{'value':>6}{'seconds':>12}{'so far':>10}  cell"]
    spent, paid = 0.0, set[str]()
    for job in chosen:
        seconds = agenda.seconds([job], paid)
        spent += seconds
        trains = ", after its training" if job.trainings - paid else ""
        paid |= job.trainings
        found.append(
            f"{float(job.value):6.2f}{seconds:12,.1f}{duration(spent):>10}  {job.name}{trains}"
        )
    return [
        *found,
        f"{counted(len(chosen), 'cell')} in at most {duration(spent)} of {duration(budget)}",
        summary(agenda),
    ]


def summary(agenda: Agenda) -> str:
    """Return one line: how many cells are stored, how many are missing, and how long they take."""
    missing, every = len(agenda.jobs), len(agenda.cells)
    return (
        f"{every - missing} of {counted(every, 'cell')} are stored; {missing} are missing, at most "
        f"{duration(agenda.seconds(agenda.jobs))} with {counted(len(agenda.trainings), 'training')}"
    )


def duration(seconds: float) -> str:
    """Return seconds as text: "45 s", "12 min" or "3.2 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"

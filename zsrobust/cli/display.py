"""Print the progress of a run, and its results."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from zsrobust.cli.flagged import Flagged
from zsrobust.core.errors import counted, last_line
from zsrobust.evaluation.redflags.doctor import Diagnosis
from zsrobust.reporting.columns import Column, Entry, costs, filled, terminal
from zsrobust.reporting.rows import Row, rows
from zsrobust.results.cell import Result
from zsrobust.results.flags import look_up
from zsrobust.results.store import Store, frame_of
from zsrobust.running.plan import Cell
from zsrobust.running.reporter import Reporter
from zsrobust.settings.suites import Suite


class Live(Reporter):
    """A bar for training, a bar for the images under attack, and notes above them."""

    def __init__(self, progress: Progress) -> None:
        """Take the bars' display."""
        self._progress, self.started = progress, False
        self._bars: dict[str, TaskID] = {}
        self._images: TaskID | None = None
        self.computed = 0  #: images judged in this run
        self.fresh: list[Result] = []  #: cells computed in this run

    def training(self, title: str, done: int, total: int, note: str) -> None:
        """Show a training's steps."""
        if title not in self._bars:
            self._bars[title] = self._begin(f"training {title}", total)
        self._progress.update(self._bars[title], completed=done, note=note)

    def preparing(self, what: str, done: int, total: int) -> None:
        """Show a download, a preparation or an examination; without a total, print a line."""
        if not total:
            self.note(what)
            return
        if what not in self._bars:
            self._bars[what] = self._begin(what, total)
        self._progress.update(self._bars[what], completed=done, total=total)

    def cells(self, images: int) -> None:
        """Begin the bar of the images to attack."""
        if images:
            self._images = self._begin("attacking", images)

    def _begin(self, title: str, total: int) -> TaskID:
        if not self.started:
            self._progress.start()
            self.started = True
        return self._progress.add_task(title, total=total, note="")

    def judged(self, cell: Cell, images: int) -> None:
        """Advance the bar of the images."""
        self.computed += images
        if self._images is not None:
            note = f"{cell.key.defense}, {cell.key.attack}, {cell.key.dataset}"
            self._progress.update(self._images, advance=images, note=note)

    def stored(self, result: Result) -> None:
        """Remember the result of a computed cell."""
        self.fresh.append(result)

    def elsewhere(self, cell: Cell, images: int) -> None:
        """Advance the bar by what another run judged."""
        if self._images is not None:
            self._progress.update(self._images, advance=images)

    def note(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False)


@contextmanager
def live() -> Iterator[Live]:
    """Show progress on standard error while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    progress = Progress(*columns, console=Console(stderr=True))
    shown = Live(progress)
    try:
        yield shown
    finally:
        if shown.started:
            progress.stop()


def print_results(found: Sequence[Result], shown: Live, store: Store) -> None:
    """Print the results of a run: each dataset of a single row, or the average of each row."""
    console = Console()
    places = {result.path: _place(result, store) for result in found}
    rows = _rows(frame_of((places[result.path], result) for result in found))
    flagged = Flagged(found)
    console.print(_each_dataset(rows[0], flagged) if len(rows) == 1 else _averages(rows, flagged))
    spent = costs((str(cell["defense"]), row) for row in rows for cell in row.cells.values())
    for line in [*flagged.lines, *spent]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for result in found:
        if result.status == "failed":
            line = f"failed: {last_line(result.error)} ({places[result.path]})"
            console.print(line, markup=False, soft_wrap=True)
    console.print(_summary(places.values(), shown, store), markup=False, soft_wrap=True)
    if line := _took(shown.fresh):
        console.print(line, soft_wrap=True, highlight=False)


def _place(result: Result, store: Store) -> Path:
    place = Path(f"{result.path}.json")
    return store.find(place) or store.folder / place


def _summary(places: Collection[Path], shown: Live, store: Store) -> str:
    """Return one line: how many cells each folder has, and how many images were attacked."""
    counts = {
        folder: sum(place.is_relative_to(folder) for place in places) for folder in store.folders
    }
    cells = ", ".join(f"{counted(n, 'cell')} in {folder}" for folder, n in counts.items() if n)
    hint = "" if shown.computed else " --force recomputes them."
    return f"{cells}; {counted(shown.computed, 'image')} attacked.{hint}"


def _rows(frame: pd.DataFrame) -> list[Row]:
    """Return the rows of a run, one for each defense, attack, eps and seed, over its datasets."""
    found: list[Row] = []
    for _, cells in frame.groupby(["defense", "attack", "eps", "seed"], sort=False):
        name = str(cells["suite"].iloc[0])
        datasets = tuple(cells["dataset"])
        suite = Suite(name=name, title=name, backbone="", train_on="", datasets=datasets, attack={})
        found += rows(cells, suite).values()
    return found


def _each_dataset(row: Row, flagged: Flagged) -> Table:
    """Return a table of one defense under one attack: each dataset, and the average."""
    cell = next(iter(row.cells.values()))
    under = f"{cell['defense']} under {cell['attack']} {cell['eps']}"
    shown = terminal("defense", row.targeted)
    table = _table(f"{under}: accuracy (%) with 95% intervals", ["Dataset"], shown, flagged)
    lines = [row.only(name) for name in row.cells]
    for line, entries in zip(lines, filled(shown, lines), strict=True):
        (cell,) = line.cells.values()
        marks = _marks(line, flagged)
        table.add_row(Text(cell["dataset_title"]), *map(_with_interval, entries), *marks)
    table.add_section()
    (entries,) = filled(shown, [row])
    marks = _marks(row, flagged)
    table.add_row(f"average of {len(lines)}", *map(_with_interval, entries), *marks)
    return table


def _averages(found: Sequence[Row], flagged: Flagged) -> Table:
    """Return a table of several defenses or attacks: the average of each over its datasets."""
    shown = terminal("defenses", any(row.targeted for row in found))
    table = _table("Average accuracy (%) over the datasets", ["Defense", "Attack"], shown, flagged)
    for row, entries in zip(found, filled(shown, found), strict=True):
        cell = next(iter(row.cells.values()))
        seed = f" seed {cell['seed']}" if cell["seed"] else ""
        under = f"{cell['attack']} {cell['eps']}{seed}"
        texts = [*(entry.text for entry in entries), *_marks(row, flagged)]
        table.add_row(Text(str(cell["defense"])), Text(under), *texts)
    return table


def _marks(row: Row, flagged: Flagged) -> list[str]:
    """Return the entry of the flags of a row; [] if the table has no such column."""
    flags = [flag for cell in row.cells.values() for flag in cell["flags"]]
    return [flagged.mark(flags)] if flagged else []


def _table(
    title: str, headings: Sequence[str], columns: Sequence[Column], flagged: Flagged
) -> Table:
    table = Table(title=Text(title))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    if flagged:
        table.add_column("!", overflow="fold")
    return table


def _with_interval(entry: Entry) -> str:
    if entry.interval is None:
        return entry.text
    low, high = (100 * end for end in entry.interval)
    return f"{entry.text} [{low:3.0f}, {high:3.0f}]"


def _took(results: Sequence[Result]) -> str:
    """Return the time and passes of cells beside their estimates; "" without estimates."""
    known = [each for each in results if each.predicted and each.status == "ok"]
    bounds = [each.predicted for each in known if each.predicted]
    planned = sum(bound["seconds"] for bound in bounds)
    if not planned:
        return ""
    passes = sum(bound["forward"] + bound["backward"] for bound in bounds)
    share = sum(result.forward + result.backward for result in known) / passes
    taken = sum(result.seconds for result in known)
    return (
        f"Attacks took {taken:,.0f} s; the plan estimated at most {planned:,.0f} s. "
        f"They needed {share:.0%} of its passes."
    )


def print_diagnoses(found: Sequence[Diagnosis], console: Console) -> None:
    """Print a table of diagnoses, and the meaning and the remedy of each flag."""
    table = Table(title="Accuracy (%) on a sample, and whether to trust it")
    for heading in ("defense", "dataset"):
        table.add_column(heading, overflow="fold")
    for heading in ("images", "clean", "PGD-10", "stronger"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for each in found:
        shares = [each.share(name) for name in ("clean", "pgd", "strongest")]
        table.add_row(
            Text(each.title), each.dataset, f"{each.checks['images']:.0f}", *shares, each.verdict
        )
    console.print(table)
    for flag in map(look_up, dict.fromkeys(name for each in found for name in each.flags)):
        text = f"\n{flag.title}: {flag.means}\n  What to do: {flag.remedy}"
        console.print(text, markup=False, highlight=False)

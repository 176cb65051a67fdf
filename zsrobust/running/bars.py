"""Show the progress of a run as bars, in a terminal or in a notebook."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from zsrobust.core.specs import format_eps
from zsrobust.results.cell import Result
from zsrobust.running.plan import Cell
from zsrobust.running.reporter import Reporter

Clock = Callable[[], float]


@dataclass
class Pace:
    """How fast something is done, since its first report."""

    clock: Clock
    total: int
    first: int = 0  #: what was done before: a training that continues
    done: int = 0

    def __post_init__(self) -> None:
        """Begin to measure."""
        self.started = self.clock()

    @property
    def eta(self) -> str:
        """The time that is left, as "ETA 5:20"; "ETA -:--" before anything is done."""
        if self.done <= self.first:
            return "ETA -:--"
        each = (self.clock() - self.started) / (self.done - self.first)
        minutes, seconds = divmod(round(each * (self.total - self.done)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"ETA {hours}:{minutes:02}:{seconds:02}" if hours else f"ETA {minutes}:{seconds:02}"


class Tally(Reporter):
    """A reporter that counts what a run computes."""

    def __init__(self) -> None:
        """Begin with nothing computed."""
        self.computed = 0  #: images judged in this run
        self.fresh: list[Result] = []  #: cells computed in this run
        self.helped = False  #: whether other processes belong to this run

    def judged(self, cell: Cell, images: int) -> None:
        """Count the images."""
        self.computed += images

    def stored(self, result: Result) -> None:
        """Remember the result of a computed cell."""
        self.fresh.append(result)

    def elsewhere(self, cell: Cell, result: Result) -> None:
        """Count the images of a helper, and remember the result."""
        if self.helped:
            self.computed += result.images
            self.fresh.append(result)


class Bars(Progress):
    """Progress bars that fit the terminal, with a line below that says what else runs."""

    below = ""  #: what runs after the last image of a cell

    def __init__(self, console: Console) -> None:
        """Take the console. The note behind a bar is cut; its count and its ETA never are."""
        super().__init__(
            TextColumn("{task.description}", markup=False, table_column=_column(max_width=27)),
            BarColumn(bar_width=12, table_column=Column(width=12)),
            MofNCompleteColumn(table_column=_column()),
            TextColumn("{task.fields[pace].eta}", markup=False, table_column=_column(min_width=8)),
            TextColumn("{task.fields[note]}", markup=False, table_column=_column(ratio=1)),
            console=console,
            expand=True,
        )

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the bars, and the line below them."""
        yield from super().get_renderables()
        if self.below:
            yield Text(self.below, no_wrap=True, overflow="ellipsis")


def _column(**settings: int) -> Column:
    return Column(no_wrap=True, overflow="ellipsis", **settings)  # type: ignore[arg-type]  # any of its settings


class Live(Tally):
    """A bar for training, a bar for the images under attack, and notes above them."""

    def __init__(self, bars: Bars, clock: Clock = time.monotonic) -> None:
        """Take the bars' display."""
        super().__init__()
        self._progress, self._clock, self.started = bars, clock, False
        self._bars: dict[str, TaskID] = {}
        self._images: TaskID | None = None

    def training(self, title: str, done: int, total: int, note: str) -> None:
        """Show a training's steps."""
        name = f"training {title}"
        if name not in self._bars:
            self._bars[name] = self._begin("training", total, done)
        self._advance(self._bars[name], done, f"{title}: {note}")

    def preparing(self, what: str, done: int, total: int) -> None:
        """Show a download, a preparation or an examination; without a total, print a line."""
        if not total:
            self.note(what)
            return
        if what not in self._bars:
            self._bars[what] = self._begin(what, total, done)
        self._advance(self._bars[what], done)

    def cells(self, images: int) -> None:
        """Begin the bar of the images to attack, in place of a full one, or lengthen the bar."""
        if not images:
            return
        for task in self._progress.tasks:
            if task.id == self._images and task.finished:
                self._progress.remove_task(task.id)
            elif task.id == self._images:
                task.fields["pace"].total += images
                self._progress.update(task.id, total=task.fields["pace"].total)
                return
        self._images = self._begin("attacking", images)

    def _begin(self, title: str, total: int, first: int = 0) -> TaskID:
        if not self.started:
            self._progress.start()
            self.started = True
        pace = Pace(self._clock, total, first)
        return self._progress.add_task(title, total=total, note="", pace=pace)

    def _advance(self, bar: TaskID, done: int, note: str | None = None) -> None:
        (task,) = (task for task in self._progress.tasks if task.id == bar)
        task.fields["pace"].done = done
        note = task.fields["note"] if note is None else note
        self._progress.update(bar, completed=done, note=note)

    def _add(self, images: int, note: str | None = None) -> None:
        if self._images is not None:
            (task,) = (task for task in self._progress.tasks if task.id == self._images)
            self._advance(self._images, int(task.completed) + images, note)

    def judged(self, cell: Cell, images: int) -> None:
        """Advance the bar of the images."""
        super().judged(cell, images)
        self._add(images, named(cell))

    def finishing(self, cell: Cell, step: str) -> None:
        """Show what runs after the last image of a cell, below the bars."""
        self._progress.below = f"{step} ({named(cell)})"

    def stored(self, result: Result) -> None:
        """Remember the result of a computed cell."""
        super().stored(result)
        self._progress.below = ""

    def elsewhere(self, cell: Cell, result: Result) -> None:
        """Advance the bar by what another process judged."""
        super().elsewhere(cell, result)
        self._add(result.images)

    def note(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False)

    def end(self) -> None:
        """Leave the bars as they are, and the line below them away."""
        if self.started:
            self._progress.below = ""
            self._progress.stop()


def named(cell: Cell) -> str:
    """Return the name of a cell, as progress shows it."""
    key = cell.key
    return f"{key.defense}, {key.attack} {format_eps(key.eps)}, {key.dataset}"


@contextmanager
def bars(progress: bool | None) -> Iterator[Tally]:
    """Show progress on standard error while the block runs: always, never, or where it is seen.

    None shows it in a terminal, and in a notebook that has ipywidgets.
    """
    console = Console(stderr=True)
    if progress is None:
        notebook = console.is_jupyter and find_spec("ipywidgets") is not None
        progress = console.is_terminal or notebook
    if not progress:
        yield Tally()
        return
    shown = Live(Bars(console))
    try:
        yield shown
    finally:
        shown.end()

"""Show the progress of a run: bars on a terminal, lines in a log."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from zsrobust.core.errors import counted
from zsrobust.core.specs import format_eps
from zsrobust.reporting.columns import percent
from zsrobust.results.cell import Result
from zsrobust.running.plan import Cell
from zsrobust.running.reporter import Reporter

Clock = Callable[[], float]
EVERY = 30.0  #: seconds without a line in a log


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

    def judged(self, cell: Cell, images: int) -> None:
        """Count the images."""
        self.computed += images

    def stored(self, result: Result) -> None:
        """Remember the result of a computed cell."""
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
        """Begin the bar of the images to attack."""
        if images:
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
        self._add(images, _named(cell))

    def finishing(self, cell: Cell, step: str) -> None:
        """Show what runs after the last image of a cell, below the bars."""
        self._progress.below = f"{step} ({_named(cell)})"

    def stored(self, result: Result) -> None:
        """Remember the result of a computed cell."""
        super().stored(result)
        self._progress.below = ""

    def elsewhere(self, cell: Cell, images: int) -> None:
        """Advance the bar by what another run judged."""
        self._add(images)

    def note(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False)


class Lines(Tally):
    """A plain line for each finished cell, and one every 30 seconds: for logs."""

    def __init__(self, write: Callable[[str], None], clock: Clock = time.monotonic) -> None:
        """Take what writes a line, and a clock in seconds."""
        super().__init__()
        self._write, self._clock, self._lock = write, clock, threading.Lock()
        self._written = clock()
        self._state: Callable[[], str] = lambda: "preparing the run"
        self._paces: dict[str, Pace] = {}
        self._images: Pace | None = None

    def tick(self) -> None:
        """Write what is done and what is left, if no line was written for 30 seconds."""
        if self._clock() - self._written >= EVERY:
            self.note(self._state())

    def note(self, line: str) -> None:
        """Write a line."""
        with self._lock:
            self._written = self._clock()
            self._write(line)

    def training(self, title: str, done: int, total: int, note: str) -> None:
        """Take a training's steps."""
        self._step(f"training {title}", done, total, "step", f"; {note}")

    def preparing(self, what: str, done: int, total: int) -> None:
        """Take a download, a preparation or an examination; without a total, write a line."""
        if total:
            self._step(what, done, total)
        else:
            self.note(what)

    def _step(self, what: str, done: int, total: int, unit: str = "", note: str = "") -> None:
        pace = self._paces.setdefault(what, Pace(self._clock, total, done))
        pace.done = done
        left = f"{unit} {done:,} of {total:,}".strip()
        self._state = lambda: f"{what}: {left}, {pace.eta}{note}"
        self.tick()

    def cells(self, images: int) -> None:
        """Write how many images there are to attack."""
        if images:
            self._images = Pace(self._clock, images)
            self.note(f"attacking {counted(images, 'image')}")

    def judged(self, cell: Cell, images: int) -> None:
        """Take how many more images are judged."""
        super().judged(cell, images)
        self._add(images)
        self._state = lambda: f"attacking ({_named(cell)}): {self._progress}"
        self.tick()

    def finishing(self, cell: Cell, step: str) -> None:
        """Take what runs after the last image of a cell."""
        self._state = lambda: f"{step} ({_named(cell)}): {self._progress}"
        self.tick()

    def stored(self, result: Result) -> None:
        """Write a line for a cell that was computed."""
        super().stored(result)
        clean, robust = (
            percent(Fraction(count, max(result.images, 1)))
            for count in (result.clean_correct, result.robust_correct)
        )
        found = f"clean {clean}, robust {robust}" if result.status == "ok" else "failed"
        identity = result.identity
        under = f"{identity.attack.spec} {format_eps(identity.attack.eps)}"
        name = f"{identity.defense.spec}, {under}, {identity.dataset.name}"
        self.note(f"{name}: {found}; {self._progress}")

    def elsewhere(self, cell: Cell, images: int) -> None:
        """Write a line for a cell that another run stored."""
        self._add(images)
        self.note(f"{_named(cell)}: stored by another run; {self._progress}")

    def _add(self, images: int) -> None:
        if self._images is not None:
            self._images.done += images

    @property
    def _progress(self) -> str:
        if self._images is None:
            return f"{counted(self.computed, 'image')} done"
        done, total = self._images.done, self._images.total
        return f"{done:,} of {total:,} images done, {total - done:,} left, {self._images.eta}"


def _named(cell: Cell) -> str:
    key = cell.key
    return f"{key.defense}, {key.attack} {format_eps(key.eps)}, {key.dataset}"


@contextmanager
def live() -> Iterator[Tally]:
    """Show progress on standard error while the block runs: bars on a terminal, else lines."""
    if not sys.stderr.isatty():
        with _lines() as lines:
            yield lines
        return
    bars = Bars(Console(stderr=True))
    shown = Live(bars)
    try:
        yield shown
    finally:
        if shown.started:
            bars.below = ""
            bars.stop()


@contextmanager
def _lines() -> Iterator[Lines]:
    """Yield a reporter of lines; of several processes, one writes them every 30 seconds."""
    shown = Lines(lambda line: click.echo(line, err=True))
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            shown.tick()

    watcher = threading.Thread(target=watch, daemon=True)
    if os.environ.get("RANK", "0") == "0":
        watcher.start()
    try:
        yield shown
    finally:
        ended.set()
        if watcher.is_alive():
            watcher.join()

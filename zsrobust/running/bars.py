"""Bars that show the progress of a run in a terminal or in a notebook."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from zsrobust.running.plan import Cell
from zsrobust.running.reporter import Reporter


class Bars(Reporter):
    """A bar for the images under attack, one for each training or preparation, and notes."""

    def __init__(self, progress: Progress) -> None:
        """Take the display, which starts with the first bar."""
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def training(self, title: str, done: int, total: int, note: str) -> None:
        """Show a training's steps."""
        self._show(f"training {title}", total, completed=done)

    def preparing(self, what: str, done: int, total: int) -> None:
        """Show a download, a preparation or an examination; without a total, print a line."""
        if total:
            self._show(what, total, completed=done)
        else:
            self.note(what)

    def cells(self, images: int) -> None:
        """Begin the bar of the images to attack."""
        if images:
            self._show("attacking", images)

    def judged(self, cell: Cell, images: int) -> None:
        """Advance the bar of the images."""
        self._progress.advance(self._bars["attacking"], images)

    def elsewhere(self, cell: Cell, images: int) -> None:
        """Advance the bar by what another run judged."""
        self.judged(cell, images)

    def note(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False)

    def _show(self, title: str, total: int, completed: int = 0) -> None:
        self._progress.start()
        if title not in self._bars:
            self._bars[title] = self._progress.add_task(title, total=None)
        self._progress.update(self._bars[title], completed=completed, total=total)


@contextmanager
def bars(progress: bool | None) -> Iterator[Reporter]:
    """Show progress on standard error while the block runs: always, never, or where it is seen.

    None shows it in a terminal, and in a notebook that has ipywidgets.
    """
    console = Console(stderr=True)
    if progress is None:
        notebook = console.is_jupyter and find_spec("ipywidgets") is not None
        progress = console.is_terminal or notebook
    if not progress:
        yield Reporter()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    display = Progress(*columns, console=console)
    try:
        yield Bars(display)
    finally:
        display.stop()

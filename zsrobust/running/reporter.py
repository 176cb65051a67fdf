"""Reporters: the interface through which a run reports its progress."""

from zsrobust.results.cell import Result
from zsrobust.running.plan import Cell


class Reporter:
    """The events that a run reports. This class ignores them; subclasses show them."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """Report a download (in bytes), a preparation (in images) or an examination (in steps)."""

    def training(self, title: str, done: int, total: int, note: str) -> None:
        """Report the steps of a training."""

    def cells(self, images: int) -> None:
        """Report, before the first cell, the number of images in all cells to compute."""

    def judged(self, cell: Cell, images: int) -> None:
        """Report that this many more images of a cell were judged."""

    def finishing(self, cell: Cell, step: str) -> None:
        """Report what runs after the last image of a cell: red flags, its cost, its storing."""

    def stored(self, result: Result) -> None:
        """Report the result of a cell that was computed and stored."""

    def elsewhere(self, cell: Cell, result: Result) -> None:
        """Report that another process stored the result of a cell of this run."""

    def note(self, line: str) -> None:
        """Report a line for the user to read."""

"""Reporters: what hears of a run's progress."""

from zsrobust.results.cell import Result
from zsrobust.running.plan import Cell


class Reporter:
    """What a run tells while it works; this one keeps silent."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """Report a download in bytes, a preparation in images, or an examination in steps."""

    def training(self, title: str, done: int, total: int, note: str) -> None:
        """Hear of a training's steps."""

    def cells(self, images: int) -> None:
        """Hear, before the first cell, how many images there are in all cells to compute."""

    def judged(self, cell: Cell, images: int) -> None:
        """Hear that so many more images of a cell are done."""

    def stored(self, result: Result) -> None:
        """Hear of a cell that was computed, and stored."""

    def elsewhere(self, cell: Cell, images: int) -> None:
        """Hear that another run has done a cell that was to be computed."""

    def note(self, line: str) -> None:
        """Hear a line that a person should see."""

"""Show the progress of a run: bars on a terminal, lines in a log."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import click

from zsrobust.core.errors import counted
from zsrobust.core.specs import format_eps
from zsrobust.reporting.columns import percent
from zsrobust.results.cell import Result
from zsrobust.running.bars import Clock, Pace, Tally, bars, named
from zsrobust.running.plan import Cell

EVERY = 30.0  #: seconds without a line in a log


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
        """Write how many images there are to attack, or how many more."""
        if not images:
            return
        now = self._images
        if now is not None and now.done < now.total:
            now.total += images
            self.note(f"attacking {counted(images, 'image')} more")
        else:
            self._images = Pace(self._clock, images)
            self.note(f"attacking {counted(images, 'image')}")

    def judged(self, cell: Cell, images: int) -> None:
        """Take how many more images are judged."""
        super().judged(cell, images)
        self._add(images)
        self._state = lambda: f"attacking ({named(cell)}): {self._progress}"
        self.tick()

    def finishing(self, cell: Cell, step: str) -> None:
        """Take what runs after the last image of a cell."""
        self._state = lambda: f"{step} ({named(cell)}): {self._progress}"
        self.tick()

    def stored(self, result: Result) -> None:
        """Write a line for a cell that was computed."""
        super().stored(result)
        self._finished(result)

    def elsewhere(self, cell: Cell, result: Result) -> None:
        """Write the same line for a cell that another process computed."""
        super().elsewhere(cell, result)
        self._add(result.images)
        self._finished(result)

    def _finished(self, result: Result) -> None:
        clean, robust = (
            percent(Fraction(count, max(result.images, 1)))
            for count in (result.clean_correct, result.robust_correct)
        )
        found = f"clean {clean}, robust {robust}" if result.status == "ok" else "failed"
        identity = result.identity
        under = f"{identity.attack.spec} {format_eps(identity.attack.eps)}"
        name = f"{identity.defense.spec}, {under}, {identity.dataset.name}"
        self.note(f"{name}: {found}; {self._progress}")

    def _add(self, images: int) -> None:
        if self._images is not None:
            self._images.done += images

    @property
    def _progress(self) -> str:
        if self._images is None:
            return f"{counted(self.computed, 'image')} done"
        done, total = self._images.done, self._images.total
        return f"{done:,} of {total:,} images done, {total - done:,} left, {self._images.eta}"


@contextmanager
def live() -> Iterator[Tally]:
    """Show progress on standard error while the block runs: bars on a terminal, else lines."""
    if not sys.stderr.isatty():
        with _lines() as lines:
            yield lines
        return
    with bars(True) as shown:
        yield shown


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

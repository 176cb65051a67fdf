"""The run: stored cells are reused, missing ones are computed and stored."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from zsrobust import results
from zsrobust.core import claims
from zsrobust.core.claims import BusyError
from zsrobust.core.errors import ZSRobustError, last_line
from zsrobust.core.files import state_of
from zsrobust.defenses import Tower
from zsrobust.results import Result
from zsrobust.results.identity import Identity
from zsrobust.results.store import Store
from zsrobust.running.bench import Bench, identify_defense
from zsrobust.running.compute import compute
from zsrobust.running.plan import Cell
from zsrobust.running.reporter import Reporter
from zsrobust.training import ranks

#: Inode, time and size of a file. A stamp changes when the file is rewritten.
Stamp = tuple[int, ...]


def prepare(bench: Bench, cells: Sequence[Cell], reporter: Reporter) -> None:
    """Prepare the datasets of the cells, and report classes with the same prompts.

    Raises ZSRobustError for a dataset that cannot be prepared.
    """
    wording = bench.protocol.prompts
    for name, dataset in {cell.key.dataset: cell.dataset for cell in cells}.items():
        dataset.prepare("test", bench.cut, reporter.preparing)
        classes = dataset.wordings.get(wording, (dataset.classes,))[0]
        for group in dataset.look_alikes(wording):
            alike = ", ".join(f"{label} {classes[label]!r}" for label in group)
            reporter.note(
                f"{name}: these classes have equal prompts, so they share their score: {alike}"
            )


def run(
    bench: Bench, cells: Sequence[Cell], store: Store, reporter: Reporter, force: bool = False
) -> tuple[list[Result], list[ZSRobustError]]:
    """Return the results of the cells, in order, and the errors of defenses that failed to load.

    A stored result with the same identity is reused. Other cells are computed and stored. Several
    runs may share the folders: no run repeats another run's work, and a run takes over the cells
    of a crashed run. The processes of torchrun share every training and every cell. A failed cell
    does not stop the others.
    """
    reporter = reporter if ranks.leads() else Reporter()
    bench.workshop.progress, bench.workshop.preparing = reporter.training, reporter.preparing
    bench.workshop.patient = False
    with ranks.first():
        prepare(bench, cells, reporter)
    state = Progress()
    waited_for = ""
    while left := state.left(cells):
        # Towers first, so that the progress bar knows how many images there are.
        towers = make_towers(bench, [cell for cell in left if cell not in state.work])
        fresh = [cell for cell in left if cell.key.defense in towers.made]
        work = look_up(bench, fresh, store, towers.made, reporter, force)
        load_encoders(towers, [cell for cell in fresh if work[cell].stored is None])
        fresh = [cell for cell in fresh if cell.key.defense in towers.made]
        state.take(towers, {cell: work[cell] for cell in fresh})
        busy, settled = list(towers.busy), len(state.found)
        missing = [cell for cell in fresh if state.work[cell].stored is None]
        reporter.cells(sum(len(bench.images(cell)) for cell in missing))
        for cell in [cell for cell in left if cell in state.work]:
            try:
                state.found[cell] = _settle(bench, cell, state, store, reporter)
            except BusyError as other:
                busy.append(other)
        if not towers.made and not towers.errors and len(state.found) == settled:
            waited_for = _wait(busy, waited_for, reporter)
    return [state.found[cell] for cell in cells if cell in state.found], list(state.errors.values())


@dataclass(frozen=True)
class Work:
    """The stored state of a cell when this run looked it up."""

    identity: Identity
    stored: Result | None  #: None: it cannot be reused
    stamp: Stamp | None  #: of the file in the run's own folder
    reason: str = ""  #: why a stored result cannot be reused


@dataclass
class Towers:
    """Towers by spec, the errors of failed ones, and those that another run trains."""

    made: dict[str, Tower] = field(default_factory=dict)
    errors: dict[str, ZSRobustError] = field(default_factory=dict)
    busy: list[BusyError] = field(default_factory=list)


@dataclass
class Progress:
    """The towers, errors and results of a run so far."""

    towers: dict[str, Tower] = field(default_factory=dict)
    errors: dict[str, ZSRobustError] = field(default_factory=dict)
    work: dict[Cell, Work] = field(default_factory=dict)
    found: dict[Cell, Result] = field(default_factory=dict)

    def left(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the cells without a result, each once, whose defense did not fail."""
        return [
            cell
            for cell in dict.fromkeys(cells)
            if cell not in self.found and cell.key.defense not in self.errors
        ]

    def take(self, towers: Towers, work: Mapping[Cell, Work]) -> None:
        """Add new towers, their errors, and the stored state of their cells."""
        self.towers |= towers.made
        self.errors |= towers.errors
        self.work |= work


def make_towers(bench: Bench, cells: Iterable[Cell]) -> Towers:
    """Return the towers of the cells' defenses."""
    towers = Towers()
    for spec, defense in {cell.key.defense: cell.defense for cell in cells}.items():
        if defense is not None:
            with _errors(spec, towers):
                towers.made[spec] = defense.tower(bench.workshop)
    return towers


def load_encoders(towers: Towers, cells: Iterable[Cell]) -> None:
    """Make the image towers of the cells to compute. A defense that fails moves to the errors."""
    for spec in dict.fromkeys(cell.key.defense for cell in cells):
        with _errors(spec, towers):
            _ = towers.made[spec].encoder


@contextmanager
def _errors(spec: str, towers: Towers) -> Iterator[None]:
    """Within it, what goes wrong with a defense becomes its error, and it has no tower."""
    try:
        yield
        return
    except BusyError as other:
        towers.busy.append(other)
    except ZSRobustError as error:
        towers.errors[spec] = error
    except Exception as error:  # a plugin may raise any exception
        line = f"{spec} could not be made: {type(error).__name__}: {error}"
        towers.errors[spec] = ZSRobustError(line)
    towers.made.pop(spec, None)
    if spec in towers.errors and ranks.size() > 1:  # the other processes may be training it
        raise towers.errors[spec]


def look_up(
    bench: Bench,
    cells: Sequence[Cell],
    store: Store,
    towers: Mapping[str, Tower],
    reporter: Reporter,
    force: bool,
) -> dict[Cell, Work]:
    """Return the cells' identities, and their stored results where these can be reused."""
    looked = ranks.decided(
        lambda: [_look(bench, cell, store, towers[cell.key.defense], force) for cell in cells]
    )
    found = dict(zip(cells, looked, strict=True))
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell, work in found.items():
        if work.reason:
            reasons.setdefault((cell.key.defense, work.reason), []).append(cell.key.dataset)
    for (defense, reason), names in reasons.items():
        where = f"on {', '.join(names)}" if len(names) < 4 else f"in {len(names)} cells"
        reporter.note(f"{defense} {where} is recomputed: {reason}")
    return found


def _look(bench: Bench, cell: Cell, store: Store, tower: Tower, force: bool) -> Work:
    identity = bench.identify(cell, identify_defense(cell, tower), tower)
    place = bench.path(cell)
    stamp, path = stamp_of(store.folder / place), store.find(place)
    if force or path is None:
        return Work(identity, None, stamp)
    stored = results.read(path)
    if differing := stored.identity.differences(identity):
        return Work(identity, None, stamp, "; ".join(map(str, differing)))
    if stored.status == "failed":
        return Work(identity, None, stamp, "it failed before")
    if not results.outcomes_match(stored, path):
        return Work(identity, None, stamp, "its outcomes are missing or belong to another run")
    return Work(identity, stored, stamp)


def stamp_of(path: Path) -> Stamp | None:
    """Return the stamp of a file; None if it is missing. Raises the errors of `state_of`."""
    about = state_of(path, follow=False)
    return None if about is None else (about.st_ino, about.st_mtime_ns, about.st_size)


def _settle(bench: Bench, cell: Cell, state: Progress, store: Store, reporter: Reporter) -> Result:
    """Return a cell's result: stored, another run's, or computed and stored now.

    Raises BusyError while another run computes the cell.
    """
    work, path = state.work[cell], store.folder / bench.path(cell)
    if work.stored is not None:
        claims.clear(path)
        return work.stored
    with ranks.led(claims.claimed(path)):
        theirs = ranks.decided(lambda: _stored_since(work, path))
        if theirs is not None:
            reporter.elsewhere(cell, theirs)
            return _reported(theirs, cell, reporter)
        tower = _tower(bench, cell, state)
        result, tampered = compute(bench, cell, work.identity, tower, store.folder, reporter)
    if tampered:  # the next cells must not inherit the changed weights
        bench.forget()
        state.towers.clear()
    reporter.stored(result)
    return _reported(result, cell, reporter)


def _reported(result: Result, cell: Cell, reporter: Reporter) -> Result:
    """Return the result; a failure is reported."""
    if result.status == "failed":
        reporter.note(f"failed: {cell.key}: {last_line(result.error)}")
    return result


def _tower(bench: Bench, cell: Cell, state: Progress) -> Tower:
    """Return the tower of a cell's defense; it is made again if an attack changed the weights.

    Raises ZSRobustError if that fails.
    """
    spec = cell.key.defense
    if spec not in state.towers:
        made = make_towers(bench, [cell])
        for error in [*made.errors.values(), *made.busy]:
            raise error
        state.towers |= made.made
    return state.towers[spec]


def _stored_since(work: Work, path: Path) -> Result | None:
    """Return the result, or failure, that another run stored since the lookup; else None."""
    if stamp_of(path) in (None, work.stamp):
        return None
    stored = results.read(path)
    if stored.identity.differences(work.identity):
        return None
    whole = stored.status == "failed" or results.outcomes_match(stored, path)
    return stored if whole else None


def _wait(busy: Sequence[BusyError], reported: str, reporter: Reporter) -> str:
    """Wait for other runs, report the wait once, and return the reported line."""
    line = f"waiting: {busy[0]}" if busy else reported
    if line != reported:
        reporter.note(line + (f"; and {len(busy) - 1} more" if len(busy) > 1 else ""))
    time.sleep(claims.PAUSE)
    return line

"""The run: stored cells are reused, missing ones are computed and stored."""

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zsrobust import results
from zsrobust.attacks.draws import Draws
from zsrobust.core import claims
from zsrobust.core.claims import BusyError
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import one_line
from zsrobust.datasets import Images, datasets
from zsrobust.datasets.pixels import tensor
from zsrobust.defenses import Tower
from zsrobust.evaluation.meter import Sampler, device_of
from zsrobust.evaluation.redflags.measurements import SAMPLE, examine
from zsrobust.evaluation.redflags.rules import raised
from zsrobust.evaluation.referee import run_cell
from zsrobust.models.wrappers import Knowledge
from zsrobust.results.cell import Result
from zsrobust.results.flags import NOT_COMPUTED
from zsrobust.running.bench import Bench, _select, about
from zsrobust.running.plan import Cell
from zsrobust.running.reporter import Reporter
from zsrobust.training import ranks
from zsrobust.training.ranks import Share


def prepare(bench: Bench, cells: Sequence[Cell], reporter: Reporter) -> None:
    """Prepare the datasets of the cells that are not prepared yet; tell of classes that no classifier can tell apart.

    Raises ZSRobustError for one that cannot be had.
    """
    for name in dict.fromkeys(cell.dataset for cell in cells):
        dataset = datasets[name]
        dataset.prepare("test", bench.cut, reporter.preparing)
        classes = dataset.wordings.get(bench.protocol.prompts, (dataset.classes,))[0]
        for group in dataset.look_alikes(bench.protocol.prompts):
            alike = ", ".join(f"{label} {classes[label]!r}" for label in group)
            reporter.note(
                f"{name}: classes with the same prompts, which no classifier can tell apart: {alike}"
            )


def run(
    bench: Bench,
    cells: Sequence[Cell],
    folder: Path,
    reporter: Reporter,
    force: bool = False,
) -> tuple[list[Result], list[ZSRobustError]]:
    """Return the results of the cells, in order: stored ones where the identity is the same, else computed and stored.

    Other runs may share the folders: what they are at is left to them, until nothing else is left, and is this run's if they
    die. The processes of torchrun share every training and every cell. A failed cell does not stop the others, nor does a
    defense that cannot be made: its error is in the second list.
    """
    reporter = reporter if ranks.leads() else Reporter()
    bench.workshop.progress, bench.workshop.preparing = reporter.training, reporter.preparing
    bench.workshop.patient = False
    with ranks.first():
        prepare(bench, cells, reporter)
    towers: dict[str, Tower] = {}
    work: dict[Cell, Work] = {}
    found: dict[Cell, Result] = {}
    errors: dict[str, ZSRobustError] = {}
    told = ""
    while left := [
        cell for cell in dict.fromkeys(cells) if cell not in found and cell.defense not in errors
    ]:
        # Towers first, so that the bar knows how many images there are.
        made, failed, busy = make_towers(
            bench, dict.fromkeys(cell.defense for cell in left if cell not in work)
        )
        fresh = look_up(
            bench, [cell for cell in left if cell.defense in made], folder, made, reporter, force
        )
        reporter.cells(
            sum(len(bench.images(cell)) for cell, each in fresh.items() if each.stored is None)
        )
        towers, errors, work = towers | made, errors | failed, work | fresh
        known = len(found)
        for cell in filter(work.__contains__, left):
            try:
                found[cell] = _settle(bench, work[cell], folder, towers[cell.defense], reporter)
            except BusyError as other:
                busy.append(other)
        if not made and not failed and len(found) == known:
            told = _wait(busy, told, reporter)
    return [found[cell] for cell in cells if cell in found], list(errors.values())


@dataclass(frozen=True)
class Work:
    """A cell, and what was stored of it when we looked."""

    cell: Cell
    identity: dict[str, Any]
    stored: Result | None  #: if it may be used again
    stamp: tuple[int, ...] | None  #: of its file
    again: str = ""  #: why something that is stored is not used


def make_towers(
    bench: Bench, specs: Iterable[str]
) -> tuple[dict[str, Tower], dict[str, ZSRobustError], list[BusyError]]:
    """Return the towers of defenses, the errors of those that cannot be made, and who is at those that others train."""
    made: dict[str, Tower] = {}
    errors: dict[str, ZSRobustError] = {}
    busy: list[BusyError] = []
    for spec in specs:
        try:
            made[spec] = bench.workshop.tower(spec)
        except BusyError as other:
            busy.append(other)
        except ZSRobustError as error:
            errors[spec] = error
        except Exception as error:  # a plugin's objective may raise anything
            errors[spec] = ZSRobustError(
                f"{spec} could not be made: {type(error).__name__}: {error}"
            )
        if spec in errors and ranks.size() > 1:  # the others may be in the middle of its training
            raise errors[spec]
    return made, errors, busy


def look_up(
    bench: Bench,
    cells: Sequence[Cell],
    folder: Path,
    towers: Mapping[str, Tower],
    reporter: Reporter,
    force: bool,
) -> dict[Cell, Work]:
    """Return the cells' identities, and their stored results where these may be used again."""
    found = ranks.decided(
        lambda: {cell: _look(bench, cell, folder, towers[cell.defense], force) for cell in cells}
    )
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell, work in found.items():
        if work.again:
            reasons.setdefault((cell.defense, work.again), []).append(cell.dataset)
    for (defense, again), names in reasons.items():
        where = f"on {', '.join(names)}" if len(names) < 4 else f"in {len(names)} cells"
        reporter.note(f"{defense} {where} is computed again: {again}")
    return found


def _look(bench: Bench, cell: Cell, folder: Path, tower: Tower, force: bool) -> Work:
    identity = bench.identify(cell, about(cell, tower))
    path = folder / bench.path(cell)
    stamp = stamp_of(path)
    if force or stamp is None:
        return Work(cell, identity, None, stamp)
    stored = results.read(path)
    if differing := list(results.differences(stored.identity, identity)):
        again = f"another {', '.join(differing)}"
    elif stored.status == "failed":
        again = "it failed before"
    elif not results.outcomes_match(stored, path):
        again = "its outcomes are gone, or another run's"
    else:
        return Work(cell, identity, stored, stamp)
    return Work(cell, identity, None, stamp, again)


def stamp_of(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is written anew; None if there is none."""
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size


def _settle(bench: Bench, work: Work, folder: Path, tower: Tower, reporter: Reporter) -> Result:
    """Return a cell's result: stored, another run's, or computed and stored now; raises BusyError while another is at it."""
    path = folder / bench.path(work.cell)
    if work.stored is not None:
        claims.clear(path)
        return work.stored
    with ranks.led(claims.claimed(path)):
        theirs = ranks.decided(lambda: _stored_since(work, path))
        if theirs is None:
            return _compute(bench, work, folder, tower, reporter)
        reporter.elsewhere(work.cell, theirs.images)
        return theirs


def _stored_since(work: Work, path: Path) -> Result | None:
    """Return what another run stored of a cell since we looked, a failure, too: it is not tried twice."""
    if stamp_of(path) in (None, work.stamp):
        return None
    stored = results.read(path)
    same = not any(results.differences(stored.identity, work.identity))
    return (
        stored
        if same and (stored.status == "failed" or results.outcomes_match(stored, path))
        else None
    )


def _wait(busy: Sequence[BusyError], told: str, reporter: Reporter) -> str:
    """Wait a little for other runs; return what was told about it, which is told once."""
    line = f"waiting: {busy[0]}" if busy else told
    if line != told:
        reporter.note(line + (f"; and {len(busy) - 1} more" if len(busy) > 1 else ""))
    time.sleep(claims.PAUSE)
    return line


def _compute(bench: Bench, work: Work, folder: Path, tower: Tower, reporter: Reporter) -> Result:
    """Compute a cell, each process every so many-th image of it, and store it."""
    cell, images = work.cell, bench.images(work.cell)
    shares, share = min(ranks.size(), len(images)), None
    if ranks.rank() < shares:
        own = images if shares == 1 else images.at(np.arange(ranks.rank(), len(images), shares))
        share = _run_share(bench, work, own, tower, reporter, shares)
    parts = ranks.gathered(share)[:shares]

    def store() -> Result:
        result, outcomes, samples = ranks.joined([part for part in parts if part is not None])
        result.training, result.predicted = tower.training, bench.predicted(cell, shares)
        if outcomes is not None:
            outcomes = dataclasses.replace(
                outcomes, classes=np.array(datasets[cell.dataset].classes)
            )
        results.write(result, outcomes, folder, samples)
        return result

    result = ranks.decided(store)
    reporter.stored(result)
    if result.status == "failed":
        reporter.note(
            f"failed: {cell.defense} under {cell.attack} on {cell.dataset}: {_last_line(result.error)}"
        )
    return result


def _run_share(
    bench: Bench, work: Work, images: Images, tower: Tower, reporter: Reporter, shares: int
) -> Share:
    cell, told = work.cell, 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        reporter.judged(cell, done * shares - told)  # the others are about as far
        told = done * shares

    sampler = Sampler() if datasets[cell.dataset].may_be_shown else None
    classifier, target = bench.classifier(cell, tower), bench.target(cell, tower)
    result, outcomes = run_cell(
        work.identity,
        classifier,
        bench.attack(cell),
        cell.attack,
        images,
        seed=cell.seed,
        batch_size=bench.batch_size,
        cut=bench.cut_of(cell.dataset),
        attacked=bench.protocol.attacked,
        progress=progress,
        sampler=sampler,
        search=bench.search,
        target=target,
    )
    if ranks.leads():
        _look_for_flags(bench, cell, classifier, target, tower.knowledge, result)
    reporter.judged(cell, len(bench.images(cell)) - told)
    return result, outcomes, sampler.samples if sampler and outcomes is not None else None


def _look_for_flags(
    bench: Bench,
    cell: Cell,
    classifier: nn.Module,
    target: nn.Module | None,
    knowledge: Knowledge,
    result: Result,
) -> None:
    """Put into a result what a small sample of the dataset's images shows of it; no trouble there makes a cell fail."""
    if result.status == "failed":
        return
    images = _select(
        cell.dataset, bench.cut, bench.protocol.select, min(SAMPLE, cell.limit or SAMPLE)
    )
    device = device_of(classifier)
    pixels = tensor(images, np.arange(len(images)), bench.cut_of(cell.dataset), device)
    labels, draws = (
        torch.from_numpy(images.labels).to(device),
        Draws.of(cell.seed, cell.dataset, images.positions, device),
    )
    try:
        result.checks = examine(
            classifier,
            bench.attack(cell),
            pixels,
            labels,
            draws,
            target=target,
            knowledge=knowledge,
            batch_size=result.batch_size,
        )
        result.flags = sorted({*result.flags, *raised(result.checks)})
    except Exception as error:
        reason = one_line(f"Red flags were not computed: {type(error).__name__}: {error}")
        result.flags = sorted({*result.flags, NOT_COMPUTED})
        result.messages = [*(result.messages or ()), reason]


def _last_line(error: str | None) -> str:
    return (error or "").strip().splitlines()[-1]

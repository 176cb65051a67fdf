"""The bill: the bytes, images, passes and hours of a run, printed before it starts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zsrobust.core.errors import ZSRobustError, counted
from zsrobust.core.files import exists
from zsrobust.core.hub import Unreachable
from zsrobust.datasets import Split, datasets
from zsrobust.models.clip import weights_are_here
from zsrobust.results.store import Store
from zsrobust.running.bench import Bench
from zsrobust.running.costs.model import Speed, cost_of, cost_of_flags, passes_of_training
from zsrobust.running.plan import Cell

LARGE = 1.0  #: hours or gigabytes; a run that takes more asks for confirmation


@dataclass
class Bill:
    """The downloads, trainings and cells that a run still needs, and their cost."""

    downloads: list[tuple[str, int]] = field(default_factory=list)  #: name and bytes
    absent: list[str] = field(default_factory=list)  #: to download, and nobody knows how much
    failure: ZSRobustError | None = None  #: why; the run would end with it
    trainings: list[str] = field(default_factory=list)
    cells: int = 0
    stored: int = 0  #: cells with a stored result; it is reused if nothing changed
    doubtful: int = 0  #: of `cells`, those with a stored result of an earlier training
    images: int = 0
    forward: int = 0
    backward: int = 0
    flags: tuple[int, int] = (0, 0)  #: forward and backward passes of the red flags
    unknown: list[str] = field(default_factory=list)  #: attacks that do not report their passes
    speed: Speed | None = None  #: None: not measured
    processes: int = 1  #: that share the work

    @property
    def gigabytes(self) -> float:
        """Size of the downloads, in 10⁹ bytes."""
        return sum(size for _, size in self.downloads) / 1e9

    @property
    def hours(self) -> float:
        """Upper bound of the hours on this device; 0 if its speed was not measured."""
        if self.speed is None:
            return 0.0
        forward, backward = self.flags
        seconds = self.speed.seconds(self.forward + forward, self.backward + backward)
        return seconds / 3600 / self.processes

    @property
    def large(self) -> bool:
        """Whether the run asks for confirmation."""
        return self.gigabytes >= LARGE or self.hours >= LARGE

    def lines(self, device: str) -> Iterator[str]:
        """Yield the bill, line by line."""
        what = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in self.downloads)
        least = "at least " if self.absent else ""
        yield f"download  {least}{self.gigabytes:.2f} GB" + (f" ({what})" if what else "")
        if self.absent:
            yield f"          size unknown, as nothing can be asked: {', '.join(self.absent)}"
        yield f"train     {'; '.join(self.trainings) or 'nothing'}"
        stored = f"; {self.stored} are stored" if self.stored else ""
        if self.doubtful:
            stored += f"; {self.doubtful} of them only if the training has other bits than before"
        yield f"compute   {counted(self.cells, 'cell')}, {self.images:,} images{stored}"
        passes = f"{self.forward:,} forward, {self.backward:,} backward"
        yield f"passes    at most {passes}, training included"
        if self.unknown:
            yield f"          without {', '.join(self.unknown)}: passes not reported"
        flags = f"{self.flags[0]:,} forward, {self.flags[1]:,} backward"
        yield f"flags     at most {flags}, for red flags"
        if self.speed:
            forward, both = f"{self.speed.forward:,.0f}", f"{self.speed.both:,.0f}"
            speed = f"{forward} images a second forward, {both} forward and backward"
            minutes = f"{60 * self.hours:,.1f} minutes"
            most = f"{self.hours:,.1f} hours" if self.hours >= 0.5 else minutes
            where = f"{device}, in {self.processes} processes" if self.processes > 1 else device
            yield f"time      at most {most} on {where} ({speed}, measured just now)"


def make(bench: Bench, cells: Sequence[Cell], store: Store, force: bool) -> Bill:
    """Return the bill of a run of these cells.

    A stored cell of a defense that must be trained counts: the new checkpoint may have other bits.
    If a dataset is missing and cannot be downloaded, the bill has its name, and the reason as its
    `failure`: Unreachable if the network is down, ZSRobustError if the dataset has no source.
    """
    bill = Bill()
    missing = {
        spec: {
            path: recipe
            for recipe in (defense.recipes(bench.suite) if defense else [])
            if not exists(path := bench.workshop.checkpoint_path(recipe))
        }
        for spec, defense in {cell.key.defense: cell.defense for cell in cells}.items()
    }
    stored = set() if force else {cell for cell in cells if store.find(bench.path(cell))}
    wanted = [cell for cell in cells if cell not in stored or missing[cell.key.defense]]
    bill.cells, bill.stored = len(wanted), len(cells) - len(wanted)
    bill.doubtful = sum(cell in stored for cell in wanted)
    needed: dict[tuple[str, Split], None] = {(cell.key.dataset, "test"): None for cell in wanted}
    begun: set[Path] = set()
    for spec, recipes in missing.items():
        for path, recipe in recipes.items():
            if path in begun:
                continue
            begun.add(path)
            needed[recipe.train_on, "train"] = None
            bill.trainings.append(f"{spec} on {recipe.train_on}, {recipe.epochs} epochs")
            forward, backward = passes_of_training(recipe)
            bill.forward += forward
            bill.backward += backward
    _add_downloads(bill, bench, needed)
    for cell in wanted:
        cost = cost_of(bench, cell)
        if not cost.known and cell.key.attack not in bill.unknown:
            bill.unknown.append(cell.key.attack)
        bill.images += cost.images
        bill.forward += cost.tower[0]
        bill.backward += cost.tower[1]
        forward, backward = cost_of_flags(bench, cell)
        bill.flags = bill.flags[0] + forward, bill.flags[1] + backward
    return bill


def _add_downloads(bill: Bill, bench: Bench, needed: dict[tuple[str, Split], None]) -> None:
    for name, split in needed:
        state = datasets[name].state(split, bench.cut)
        if state.opens or state.where == "local":
            continue
        title = name if split == "test" else f"{name} ({split})"
        if state.where == "hub" and isinstance(bill.failure, Unreachable):
            bill.absent.append(title)  # the network is not asked again
            continue
        try:
            if size := datasets[name].to_download(split):
                bill.downloads.append((title, size))
        except ZSRobustError as error:
            bill.absent.append(title)
            bill.failure = error
    if isinstance(bill.failure, Unreachable):
        names = ", ".join(bill.absent)
        bill.failure = Unreachable(f"{names}: not on this machine. {bill.failure}")
    if not weights_are_here(bench.suite.backbone):
        size = sum(tensor.nbytes for tensor in bench.workshop.shape.model.state_dict().values())
        bill.downloads.append((bench.suite.backbone, size))

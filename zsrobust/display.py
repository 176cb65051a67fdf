"""What a run shows while it works, and when it is done."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from zsrobust.results import Result, wilson
from zsrobust.runner import Cell, Reporter
from zsrobust.tables import DASH, percent


class Live(Reporter):
    """A bar for training, a bar for the images under attack, and notes above them."""

    def __init__(self, progress: Progress) -> None:
        """Take the bars' display."""
        self._progress = progress
        self._bars: dict[str, TaskID] = {}
        self._images: TaskID | None = None
        self.computed = 0  #: images judged in this run

    def training(self, title: str, done: int, total: int, note: str) -> None:
        """Show a training's steps."""
        if title not in self._bars:
            self._bars[title] = self._progress.add_task(f"training {title}", total=total, note="")
        self._progress.update(self._bars[title], completed=done, note=note)

    def cells(self, images: int) -> None:
        """Begin the bar of the images to attack."""
        if images:
            self._images = self._progress.add_task("attacking images", total=images, note="")

    def judged(self, cell: Cell, images: int) -> None:
        """Advance the bar of the images."""
        self.computed += images
        if self._images is not None:
            self._progress.update(self._images, advance=images, note=f"{cell.defense} under {cell.attack} on {cell.dataset}")

    def note(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False)


@contextmanager
def live() -> Iterator[Live]:
    """Show progress on standard error while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Live(progress)


def print_results(found: Sequence[Result], computed: int, folder: Path) -> None:
    """Print the cells of a run: a row a dataset, two columns a defense and attack, and the mean of complete columns."""
    console = Console()
    groups: dict[tuple[str, str, str], dict[str, Result]] = {}
    for result in found:
        defense, attack = result.identity["defense"], result.identity["attack"]
        key = (defense["title"], attack["spec"], attack["eps"])
        groups.setdefault(key, {})[result.identity["dataset"]["title"]] = result
    datasets = list(dict.fromkeys(result.identity["dataset"]["title"] for result in found))
    table = Table(caption="clean and robust accuracy (%), with 95% Wilson intervals of the robust one")
    table.add_column("dataset")
    for title, attack, eps in groups:
        table.add_column(f"{title}\nclean", justify="right")
        table.add_column(f"{attack}\n{eps}", justify="right")
    for name in datasets:
        cells = [text for group in groups.values() for text in _numbers(group.get(name))]
        table.add_row(name, *cells)
    table.add_section()
    table.add_row("average", *(text for group in groups.values() for text in _means(list(group.values()))))
    console.print(table)
    failed = [result for result in found if result.status == "failed"]
    for result in failed:
        place = folder / f"{result.path}.json"
        console.print(f"failed: {(result.error or '').strip().splitlines()[-1]} ({place})", markup=False, soft_wrap=True)
    stored = f"{len(found)} cells in {folder}; {computed} images attacked in this run"
    console.print(stored + ("." if computed else ": all were stored. --force computes them again."), soft_wrap=True)


def _numbers(result: Result | None) -> tuple[str, str]:
    if result is None or result.status == "failed":
        return DASH, DASH
    low, high = wilson(result.robust_correct, result.images)
    robust = percent(Fraction(result.robust_correct, result.images))
    return percent(Fraction(result.clean_correct, result.images)), f"{robust} [{100 * low:.0f}, {100 * high:.0f}]"


def _means(results: Sequence[Result]) -> tuple[str, str]:
    if any(result.status == "failed" for result in results):
        return DASH, DASH
    clean = sum((Fraction(result.clean_correct, result.images) for result in results), Fraction(0)) / len(results)
    robust = sum((Fraction(result.robust_correct, result.images) for result in results), Fraction(0)) / len(results)
    return percent(clean), percent(robust)

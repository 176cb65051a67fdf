"""What a run shows while it works, and when it is done."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from zsrobust.core.errors import counted
from zsrobust.evaluation.redflags.doctor import Diagnosis
from zsrobust.reporting.statistics import wilson
from zsrobust.reporting.tables import DASH, percent
from zsrobust.results.cell import Outcomes, Result
from zsrobust.running.plan import Cell
from zsrobust.running.reporter import Reporter


class Live(Reporter):
    """A bar for training, a bar for the images under attack, and notes above them."""

    def __init__(self, progress: Progress) -> None:
        """Take the bars' display."""
        self._progress, self.started = progress, False
        self._bars: dict[str, TaskID] = {}
        self._images: TaskID | None = None
        self.computed = 0  #: images judged in this run
        self.fresh: list[Result] = []  #: cells computed in this run

    def training(self, title: str, done: int, total: int, note: str) -> None:
        """Show a training's steps."""
        if title not in self._bars:
            self._bars[title] = self._begin(f"training {title}", total)
        self._progress.update(self._bars[title], completed=done, note=note)

    def preparing(self, what: str, done: int, total: int) -> None:
        """Show a download, in bytes, or a dataset being prepared, in images; or a line."""
        if not total:
            self.note(what)
            return
        if what not in self._bars:
            self._bars[what] = self._begin(what, total)
        self._progress.update(self._bars[what], completed=done, total=total)

    def cells(self, images: int) -> None:
        """Begin the bar of the images to attack."""
        if images:
            self._images = self._begin("attacking", images)

    def _begin(self, title: str, total: int) -> TaskID:
        if not self.started:
            self._progress.start()
            self.started = True
        return self._progress.add_task(title, total=total, note="")

    def judged(self, cell: Cell, images: int) -> None:
        """Advance the bar of the images."""
        self.computed += images
        if self._images is not None:
            self._progress.update(
                self._images, advance=images, note=f"{cell.defense}, {cell.attack}, {cell.dataset}"
            )

    def stored(self, result: Result) -> None:
        """Keep what was computed."""
        self.fresh.append(result)

    def elsewhere(self, cell: Cell, images: int) -> None:
        """Advance the bar by what another run judged."""
        if self._images is not None:
            self._progress.update(self._images, advance=images)

    def note(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False)


@contextmanager
def live() -> Iterator[Live]:
    """Show progress on standard error while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    progress = Progress(*columns, console=Console(stderr=True))
    shown = Live(progress)
    try:
        yield shown
    finally:
        if shown.started:
            progress.stop()


def print_results(found: Sequence[Result], shown: Live, folder: Path) -> None:
    """Print the cells of a run: every dataset of one defense under one attack, or the averages of several."""
    console = Console()
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in found:
        defense, attack = result.identity["defense"], result.identity["attack"]
        groups.setdefault((defense["spec"], attack["spec"], attack["eps"]), []).append(result)
    table = Table(title=_title(groups))
    single = len(groups) == 1
    table.add_column("dataset" if single else "defense", overflow="fold")
    for heading in (
        ("images", "clean", "robust", "mean per class")
        if single
        else ("attack", "images", "clean", "robust")
    ):
        table.add_column(heading, justify="right", no_wrap=heading != "attack", overflow="fold")
    for (spec, attack, eps), results in groups.items():
        if single:
            for result in results:
                title = result.identity["dataset"]["title"]
                table.add_row(title, *_numbers(result), _per_class(result, folder))
            table.add_section()
        name = [f"average of {len(results)}"] if single else [spec, f"{attack} {eps}"]
        table.add_row(*name, str(sum(result.images for result in results)), *_means(results))
    console.print(table)
    for result in found:
        if result.status == "failed":
            place = folder / f"{result.path}.json"
            console.print(
                f"failed: {(result.error or '').strip().splitlines()[-1]} ({place})",
                markup=False,
                soft_wrap=True,
            )
    stored = f"{counted(len(found), 'cell')} in {folder}; {counted(shown.computed, 'image')} attacked in this run"
    console.print(
        stored + ("." if shown.computed else ": all were stored. --force computes them again."),
        soft_wrap=True,
    )
    if line := _took(shown.fresh):
        console.print(line, soft_wrap=True, highlight=False)


def _took(results: Sequence[Result]) -> str:
    """Return what cells took beside what was predicted at most; nothing if nothing was."""
    known = [result for result in results if result.predicted and result.status == "ok"]
    planned = sum(result.predicted["seconds"] for result in known if result.predicted)
    if not planned:
        return ""
    passes = sum(
        result.predicted["forward"] + result.predicted["backward"]
        for result in known
        if result.predicted
    )
    share = sum(result.forward + result.backward for result in known) / passes
    taken = sum(result.seconds for result in known)
    return f"Attacks took {taken:,.0f} s; the plan said at most {planned:,.0f} s. {share:.0%} of its passes were needed."


def _title(groups: Collection[tuple[str, str, str]]) -> str:
    if len(groups) != 1:
        return "Average accuracy (%) over the datasets"
    ((spec, attack, eps),) = groups
    return f"{spec} under {attack} {eps}: accuracy (%) with 95% intervals"


def _numbers(result: Result) -> tuple[str, str, str]:
    if result.status == "failed":
        return str(result.images), DASH, DASH
    return (
        str(result.images),
        _share(result.clean_correct, result.images),
        _share(result.robust_correct, result.images),
    )


def _share(correct: int, images: int) -> str:
    """Return the percentage with its 95% interval."""
    low, high = wilson(correct, images)
    return f"{percent(Fraction(correct, images))} [{100 * low:3.0f}, {100 * high:3.0f}]"


def _per_class(result: Result, folder: Path) -> str:
    """Return clean and robust accuracy, in percent, as means over the classes."""
    if result.status == "failed":
        return DASH
    clean, robust = Outcomes.read(folder / f"{result.path}.npz").mean_per_class(result.everything)
    return f"{100 * clean:.2f}  {100 * robust:.2f}"


def _means(results: Sequence[Result]) -> tuple[str, str]:
    if any(result.status == "failed" for result in results):
        return DASH, DASH
    clean = sum(
        (Fraction(result.clean_correct, result.images) for result in results), Fraction(0)
    ) / len(results)
    robust = sum(
        (Fraction(result.robust_correct, result.images) for result in results), Fraction(0)
    ) / len(results)
    return percent(clean), percent(robust)


def print_diagnoses(found: Sequence[Diagnosis], console: Console) -> None:
    """Print a table of diagnoses, and below it what each flag means and what to do."""
    table = Table(title="Accuracy (%) on a sample, and whether to trust it")
    for heading in ("defense", "dataset"):
        table.add_column(heading, overflow="fold")
    for heading in ("images", "clean", "PGD-10", "stronger"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for each in found:
        shares = [each.share(name) for name in ("clean", "pgd", "strongest")]
        table.add_row(
            Text(each.title), each.dataset, f"{each.checks['images']:.0f}", *shares, each.verdict
        )
    console.print(table)
    for flag in {flag.name: flag for each in found for flag in each.flags}.values():
        console.print(
            f"\n{flag.title}: {flag.means}\n  What to do: {flag.remedy}",
            markup=False,
            highlight=False,
        )

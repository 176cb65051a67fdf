"""Print the results of a run, and diagnoses."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zsrobust.cli.flagged import Flagged
from zsrobust.cli.pages import print_page
from zsrobust.core.errors import counted, last_line
from zsrobust.evaluation.redflags.doctor import Diagnosis
from zsrobust.reporting.columns import Entry, costs, filled, terminal
from zsrobust.reporting.formats import Page
from zsrobust.reporting.rows import Row, rows_of
from zsrobust.results.cell import Result
from zsrobust.results.flags import look_up
from zsrobust.results.store import Store, record_of
from zsrobust.running.bars import Tally
from zsrobust.settings.suites import Suite


def print_results(found: Sequence[Result], shown: Tally, store: Store) -> None:
    """Print the results of a run: each dataset of a single row, or the average of each row."""
    console = Console()
    places = {result.path: _place(result, store) for result in found}
    rows = _rows([record_of(places[result.path], result) for result in found])
    flagged = Flagged(found)
    page = _each_dataset(rows[0], flagged) if len(rows) == 1 else _averages(rows, flagged)
    print_page(page, console)
    spent = costs((str(cell["defense"]), row) for row in rows for cell in row.cells.values())
    for line in [*flagged.lines, *spent]:
        whole = line.startswith("Next:") or not console.is_terminal  # a command that is copied
        console.print(line, markup=False, highlight=False, soft_wrap=whole)
    for result in found:
        if result.status == "failed":
            line = f"failed: {last_line(result.error)} ({places[result.path]})"
            console.print(line, markup=False, soft_wrap=True)
    console.print(_summary(places.values(), shown, store), markup=False, soft_wrap=True)
    if line := _took(shown.fresh):
        console.print(line, soft_wrap=True, highlight=False)


def _place(result: Result, store: Store) -> Path:
    place = Path(f"{result.path}.json")
    return store.find(place) or store.folder / place


def _summary(places: Collection[Path], shown: Tally, store: Store) -> str:
    """Return one line: how many cells each folder has, and how many images were attacked."""
    counts = {
        folder: sum(place.is_relative_to(folder) for place in places) for folder in store.folders
    }
    cells = ", ".join(f"{counted(n, 'cell')} in {folder}" for folder, n in counts.items() if n)
    hint = "" if shown.computed else " --force recomputes them."
    return f"{cells}; {counted(shown.computed, 'image')} attacked.{hint}"


def _rows(records: Sequence[Mapping[Any, Any]]) -> list[Row]:
    """Return the rows of a run, one for each defense, attack, eps and seed, over its datasets."""
    groups: dict[tuple[Any, ...], list[Mapping[Any, Any]]] = {}
    for cell in records:
        key = tuple(cell[name] for name in ("defense", "attack", "eps", "seed"))
        groups.setdefault(key, []).append(cell)
    found: list[Row] = []
    for cells in groups.values():
        name = str(cells[0]["suite"])
        datasets = tuple(str(cell["dataset"]) for cell in cells)
        suite = Suite(name=name, title=name, backbone="", train_on="", datasets=datasets, attack={})
        found += rows_of(cells, suite).values()
    return found


def _each_dataset(row: Row, flagged: Flagged) -> Page:
    """Return a table of one defense under one attack: each dataset, and the average."""
    cell = next(iter(row.cells.values()))
    shown = terminal("defense", row.targeted)
    lines = [row.only(name) for name in row.cells]
    titles = [str(cell["dataset_title"]) for cell in row.cells.values()]
    titles.append(f"average of {len(lines)}")
    entries = [*filled(shown, lines), *filled(shown, [row])]
    return Page(
        f"{cell['defense']} under {cell['attack']} {cell['eps']}: accuracy (%) with 95% intervals",
        ["Dataset", *(column.title for column in shown), *_marked(flagged)],
        [
            (title, [*each, *_marks(line, flagged)])
            for title, each, line in zip(titles, entries, [*lines, row], strict=True)
        ],
        [],
        intervals=True,
    )


def _averages(found: Sequence[Row], flagged: Flagged) -> Page:
    """Return a table of several defenses or attacks: the average of each over its datasets."""
    shown = terminal("defenses", any(row.targeted for row in found))
    lines = []
    for row, entries in zip(found, filled(shown, found), strict=True):
        cell = next(iter(row.cells.values()))
        seed = f" seed {cell['seed']}" if cell["seed"] else ""
        under = Entry(f"{cell['attack']} {cell['eps']}{seed}")
        lines.append((str(cell["defense"]), [under, *entries, *_marks(row, flagged)]))
    return Page(
        "Average accuracy (%) over the datasets",
        ["Defense", "Attack", *(column.title for column in shown), *_marked(flagged)],
        lines,
        [],
        leads=1,
    )


def _marked(flagged: Flagged) -> list[str]:
    return ["!"] if flagged else []


def _marks(row: Row, flagged: Flagged) -> list[Entry]:
    """Return the entry of the flags of a row; [] if the table has no such column."""
    flags = [flag for cell in row.cells.values() for flag in cell["flags"]]
    return [Entry(flagged.mark(flags))] if flagged else []


def _took(results: Sequence[Result]) -> str:
    """Return the time and passes of cells beside their estimates; "" without estimates."""
    known = [each for each in results if each.predicted and each.status == "ok"]
    bounds = [each.predicted for each in known if each.predicted]
    planned = sum(bound["seconds"] for bound in bounds)
    if not planned:
        return ""
    passes = sum(bound["forward"] + bound["backward"] for bound in bounds)
    share = sum(result.forward + result.backward for result in known) / passes
    taken = sum(result.seconds for result in known)
    return (
        f"Attacks took {taken:,.0f} s; the plan estimated at most {planned:,.0f} s. "
        f"They needed {share:.0%} of its passes."
    )


def print_diagnoses(found: Sequence[Diagnosis], console: Console) -> None:
    """Print a table of diagnoses, and the meaning and the remedy of each flag."""
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
    for flag in map(look_up, dict.fromkeys(name for each in found for name in each.flags)):
        text = f"\n{flag.title}: {flag.means}\n  What to do: {flag.remedy}"
        console.print(text, markup=False, highlight=False)

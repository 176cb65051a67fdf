"""`zsrobust reproduce`: compute what teaches most within a budget, and write a page about it."""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from zsrobust.cli.command import Command
from zsrobust.cli.completion import SUITE
from zsrobust.cli.folders import Results
from zsrobust.cli.options import (
    check_executor,
    checkpoints_option,
    compile_option,
    data_option,
    device_option,
    executor_option,
    folder_option,
    limit_option,
    out_option,
    precision_option,
    protocol_option,
    several,
    slurm_option,
)
from zsrobust.cli.request import Places, passes
from zsrobust.cli.waiting import waiting
from zsrobust.core.claims import terminable
from zsrobust.core.errors import ZSRobustError

if TYPE_CHECKING:
    from zsrobust.reporting.counterparts import Counterparts
    from zsrobust.settings.suites import Suite

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 24 * 3600.0}  #: in seconds


class Seconds(float):
    """Seconds that are printed as the user wrote them: "8h"."""

    text: str

    def __new__(cls, text: str) -> "Seconds":
        """Take a number and its unit."""
        made = super().__new__(cls, float(text[:-1]) * UNITS[text[-1]])
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text


class Duration(click.ParamType[Seconds]):
    """A duration, written as 90s, 5m, 8h or 2d."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Seconds:
        """Return the seconds; fails for a number without a unit."""
        found = re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?[smhd]", str(value))
        if not found:
            self.fail(
                f"{str(value)[:40]!r} is not a duration. Write 90s, 5m, 8h or 2d.", param, ctx
            )
        return Seconds(found[0])


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What to reproduce, within which budget, and where its page goes."""

    name: str  #: of the suite
    budget: Seconds
    numbers: Sequence[str]  #: of tables; empty: all that the suite reproduces
    protocol: str
    search: Any  #: precision of the attacks' search
    compiled: bool  #: whether attacks search in compiled classifiers
    limit: int | None
    against: Path  #: results that count as reported for a suite without a paper
    out: Path
    dry_run: bool
    yes: bool
    executor: str | None
    settings: Sequence[str]


_aim = passes(
    Aim,
    "aim",
    click.argument("name", metavar="[SUITE]", type=SUITE, default="paper"),
    click.option(
        "--budget", type=Duration(), required=True, help="Time to spend: 90s, 5m, 8h, 2d."
    ),
    several("--table", "numbers", "Only this table. Default: 1 to 5, s1 to s5.", metavar="N"),
    protocol_option,
    precision_option,
    compile_option,
    limit_option,
    click.option(
        "--against",
        type=Results(),
        default="results",
        show_default=True,
        help="Stored results that count as reported for a suite without a paper.",
    ),
    out_option("a page of Markdown", default="reproduction.md"),
    click.option("--dry-run", is_flag=True, help="Print the order and its predicted seconds."),
    click.option("--yes", "-y", is_flag=True, help="Start large runs without confirmation."),
    executor_option,
    slurm_option,
)


@click.command(
    cls=Command,
    examples=[
        "zsrobust reproduce mini --budget 5m",
        "zsrobust reproduce paper --budget 8h --dry-run",
    ],
)
@_aim
@data_option
@passes(Places, "places", folder_option, checkpoints_option, device_option)
@terminable()  # also while torch is loaded
def reproduce(aim: Aim, places: Places) -> None:
    """Compute the cells of a suite's tables that teach most per hour, and compare them.

    The order: the undefended CLIP under PGD-10 first. Then always the cell with the most reported
    numbers per predicted second. An average counts in equal shares for the cells of its row. A
    missing training counts in equal shares for the cells that need it. Equal cells go by cost,
    then by name.

    A cell starts if the time used so far and its predicted time fit into the budget. A cell that
    has started is finished. Stored cells are not repeated, so the same command continues.

    The page has ours, the reported numbers, differences with intervals, doubts, and what is
    missing. With torchrun, all processes share every cell. With --executor, jobs compute the cells
    that fit by prediction.
    """
    from zsrobust.running.entries import load_suite
    from zsrobust.settings import protocols

    check_executor(aim.executor, aim.settings)
    if aim.out.suffix not in ("", ".md", ".txt"):
        raise ZSRobustError(
            f"{aim.out} is not a name for the page, which is Markdown. "
            f"Use: --out {aim.out.with_suffix('.md')}"
        )
    # What is wrong with a name is known before torch is loaded.
    suite = load_suite(aim.name)
    protocol = protocols.load(aim.protocol).name
    tables = _tables(suite, aim.numbers)
    beside = _counterparts(suite, tables.values(), aim.against, protocol)
    with waiting("loading torch"):
        from zsrobust.cli.reproducing import compute
    spent = compute(tables, beside, aim, places, _command(click.get_current_context()))
    for error in spent.errors.values():
        click.echo(f"Error: {error}", err=True)
    if spent.errors:
        raise click.exceptions.Exit(2)
    if spent.failed:
        raise click.exceptions.Exit(1)


def _tables(suite: "Suite", numbers: Sequence[str]) -> "dict[str, Suite]":
    """Return the suite of each table; raises ZSRobustError for a table that is not the paper's."""
    from zsrobust.reporting import contents, counterparts
    from zsrobust.running.entries import load_suite

    found, loaded = {}, {suite.name: suite}
    for number in numbers or counterparts.tables_of(suite):
        if number not in counterparts.TABLES:
            raise ZSRobustError(
                f"Table {number} is not one of the paper's. Expected: "
                f"{', '.join(counterparts.TABLES)}. Next: zsrobust run --table {number}"
            )
        name = contents.suite_name(number, suite)
        if name not in loaded:
            loaded[name] = load_suite(name)
        found[number] = loaded[name]
    return found


def _counterparts(
    suite: "Suite", suites: "Iterable[Suite]", against: Path, protocol: str
) -> "Counterparts":
    """Return the numbers to compare with: the paper's if it reports the suite, else stored ones."""
    from zsrobust.reporting.counterparts import Paper, Stored
    from zsrobust.results.store import load_results

    return Paper() if suite.printed else Stored(load_results(against), suites, protocol)


def _command(context: click.Context) -> str:
    """Return the command that continues, quoted for a shell: the options that the user gave."""
    words = ["zsrobust"]
    words += [word for file in context.find_root().params["plugins"] for word in ("--plugin", file)]
    words += ["reproduce", context.params["name"]]
    for option in context.command.params:
        value: Any = context.params.get(str(option.name))
        given = context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
        if given and isinstance(option, click.Option):
            for each in value if option.multiple else [value]:
                words += [option.opts[0]] if option.is_flag else [option.opts[0], str(each)]
    return shlex.join(map(str, words))

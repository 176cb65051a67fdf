"""`zsrobust run`: compute the cells that are missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from zsrobust.cli.command import Command
from zsrobust.cli.options import (
    baseline_option,
    bounds_option,
    check_executor,
    checkpoints_option,
    compile_option,
    data_option,
    device_option,
    executor_option,
    folder_option,
    precision_option,
    request_options,
    seeds_option,
    several,
    slurm_option,
    step_size_option,
    tensorboard_option,
    train_seeds_option,
)
from zsrobust.cli.request import Places, Request, passes
from zsrobust.cli.waiting import waiting
from zsrobust.core.claims import terminable
from zsrobust.core.errors import ZSRobustError

if TYPE_CHECKING:
    from zsrobust.core.sweeps import StepSize
    from zsrobust.reporting.rows import Need
    from zsrobust.settings.suites import Suite


@dataclass(frozen=True, kw_only=True)
class Order:
    """The cells to compute, and the settings of the run."""

    defenses: Sequence[str]
    attacks: Sequence[str]
    datasets: Sequence[str]
    bounds: Sequence[float]
    seeds: Sequence[int]  #: of the attacks
    train_seeds: Sequence[int]  #: empty: the recipes' own
    step_size: "StepSize | None"  #: None: the suite's
    numbers: Sequence[str]  #: of tables
    figures: Sequence[str]
    force: bool
    dry_run: bool
    yes: bool
    search: Any
    compiled: bool
    executor: str | None
    settings: Sequence[str]

    def needs(self, suite: "Suite") -> "tuple[Suite, list[Need]]":
        """Return the suite of the tables and figures that are asked for, and the rows they need."""
        from zsrobust.cli.cells import needs
        from zsrobust.running.entries import load_suite

        if not self.numbers and not self.figures:
            return suite, []
        if self.defenses or self.attacks or self.bounds or self.step_size:
            raise ZSRobustError(
                "--table and --figure set the defenses, the attacks and eps. "
                "Leave out --defense, --attack, --eps and --step-size."
            )
        return needs(self.numbers, self.figures, suite, load_suite)


_order = passes(
    Order,
    "order",
    several("--defense", "defenses", "Name or spec, for example tecoa:lr=1e-4. Repeatable."),
    several("--attack", "attacks", "Name or spec, for example pgd:steps=20. Repeatable."),
    several("--dataset", "datasets", "Name. Repeatable. Default: all of the suite."),
    bounds_option,
    seeds_option,
    train_seeds_option,
    step_size_option,
    several(
        "--table", "numbers", "Rows of this table: 1 to 5, a1, s1 to s5, t1, z1, z2.", metavar="N"
    ),
    several("--figure", "figures", "Rows of this figure: 1, 2, 4, 5.", metavar="N"),
    click.option("--force", is_flag=True, help="Recompute stored cells."),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Print what would be downloaded, trained and computed, and estimate the time.",
    ),
    click.option("--yes", "-y", is_flag=True, help="Start large runs without confirmation."),
    precision_option,
    compile_option,
    executor_option,
    slurm_option,
)
_places = passes(
    Places,
    "places",
    folder_option,
    baseline_option,
    checkpoints_option,
    device_option,
    tensorboard_option,
)


@click.command(
    cls=Command,
    examples=[
        "zsrobust run --suite mini --defense tecoa --attack pgd10 --eps 1/255..8/255 --seed 0..2",
        "zsrobust run --suite mini --table 1 --limit 100 --dry-run",
    ],
)
@request_options
@_order
@data_option
@_places
@terminable()  # also while torch is loaded
def run(request: Request, order: Order, places: Places) -> None:
    """Compute missing cells: train, attack, store, and print a table.

    Without --defense, --attack, --table and --figure, it computes every cell of Tables 1 to 3.
    With several values of an option, it computes all their combinations.
    Several runs may share the folders. With torchrun --nproc-per-node 8 -m zsrobust run, 8 GPUs
    share every cell. On a CPU, a long run on small images starts a process for each core, up to 4.
    """
    from zsrobust.core import index
    from zsrobust.running.entries import load_suite
    from zsrobust.settings import protocols

    check_executor(order.executor, order.settings)
    # What is wrong with a name, and what cannot be downloaded, is known before torch is loaded.
    suite = load_suite(request.suite)
    protocols.load(request.protocol)
    index.check(order.defenses, order.attacks, order.datasets)
    suite, needs = order.needs(suite)
    if not order.dry_run:
        from zsrobust.cli.stock import check_available

        check_available(order.datasets or suite.datasets)
    with waiting("loading torch"):
        from zsrobust.cli.computing import compute
    found, errors = compute(suite, needs, request, order, places)
    for error in errors:
        click.echo(f"Error: {error}", err=True)
    if errors:
        raise click.exceptions.Exit(2)
    if any(result.status == "failed" for result in found):
        raise click.exceptions.Exit(1)

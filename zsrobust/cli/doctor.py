"""`zsrobust doctor`: report whether the numbers of a defense can be trusted."""

from collections.abc import Sequence

import click

from zsrobust.cli.command import Command
from zsrobust.cli.options import (
    checkpoints_option,
    data_option,
    device_option,
    eps_option,
    limit_of,
    protocol_option,
    seed_option,
    several,
    suite_option,
)
from zsrobust.cli.request import Places, Request, passes
from zsrobust.cli.waiting import waiting

_request = passes(
    Request, "request", suite_option, protocol_option, eps_option, limit_of(32), seed_option
)


@click.command(
    cls=Command,
    examples=[
        "zsrobust doctor --suite mini --defense tecoa",
        "zsrobust doctor --suite mini --defense tte:of=tecoa --dataset mini_shapes",
    ],
)
@_request
@several("--defense", "defenses", "Name or spec. Repeatable.")
@several("--dataset", "datasets", "Name. Repeatable. Default: the suite's training dataset.")
@data_option
@passes(Places, "places", checkpoints_option, device_option)
def doctor(
    request: Request, defenses: Sequence[str], datasets: Sequence[str], places: Places
) -> None:
    """Report whether the numbers of a defense can be trusted, why not, and what to do.

    It attacks a sample with PGD-10 and with a stronger ensemble, and looks for red flags. The
    undefended model is attacked too, and its accuracy must collapse. Nothing is stored.
    Exit code 0: all pass. 1: a defense fails.
    """
    from zsrobust.core import index
    from zsrobust.running.entries import load_suite
    from zsrobust.settings import protocols

    suite = load_suite(request.suite)
    names = datasets or [suite.train_on]
    protocol = protocols.load(request.protocol)
    index.check(defenses, [request.attack], names)
    from zsrobust.cli.stock import check_available

    check_available(names)
    with waiting("loading torch"):
        from rich.console import Console

        from zsrobust.cli import display, progress
        from zsrobust.running.bench import Bench
        from zsrobust.running.plan import plan
        from zsrobust.running.single import CANARY, examine_cells

    specs = list(dict.fromkeys([CANARY, *defenses]))
    cells = plan(
        suite,
        protocol,
        specs,
        [request.attack],
        names,
        eps=request.eps,
        limit=request.limit,
        seed=request.seed,
    )
    bench = Bench(suite, protocol, places.workshop(suite))
    with progress.live() as shown:
        found = list(examine_cells(bench, cells, shown))
    display.print_diagnoses(found, Console())
    if not all(each.passes for each in found):
        raise click.exceptions.Exit(1)

"""`zsrobust list` and `zsrobust data`: print the registered names, and prepare datasets."""

from collections.abc import Sequence
from pathlib import Path

import click

from zsrobust.cli.command import Command
from zsrobust.cli.completion import DATASET
from zsrobust.cli.options import checkpoints_option, data_option, protocol_option, suite_option

#: The kinds that `zsrobust.cli.listing` shows.
KINDS = ["suites", "protocols", "defenses", "attacks", "datasets", "reported"]


@click.command(
    "list", cls=Command, examples=["zsrobust list", "zsrobust list defenses --suite mini"]
)
@click.argument("kind", required=False, type=click.Choice(KINDS))
@click.option(
    "--suite", default="mini", show_default=True, help="Suite whose checkpoints are listed."
)
@checkpoints_option
def list_(kind: str | None, suite: str, checkpoints: Path) -> None:
    """Print suites, protocols, defenses, attacks and datasets: names, papers, files present.

    `zsrobust list reported` prints numbers that later papers report for the same methods.
    """
    from zsrobust.cli import listing

    click.echo(listing.describe([kind] if kind else listing.KINDS, suite, checkpoints))


@click.command(
    cls=Command,
    examples=["zsrobust data", "zsrobust data cifar10 dtd tiny_imagenet:train"],
)
@click.argument("names", type=DATASET, nargs=-1)
@suite_option
@protocol_option
@data_option
def data(names: Sequence[str], suite: str | None, protocol: str) -> None:
    """Prepare the datasets NAMES, or those of --suite: download, verify, decode once.

    Without NAMES and --suite, it prints the state of each dataset. NAME:train is the training split
    of a dataset.
    """
    if not names and suite is None:
        from zsrobust.cli import stock

        click.echo(stock.describe())
        return
    from zsrobust.core import index
    from zsrobust.running.entries import load_suite
    from zsrobust.settings import protocols

    loaded, chosen = load_suite(suite), protocols.load(protocol)
    index.check(datasets=[name.partition(":")[0] for name in names])
    from zsrobust.cli import progress
    from zsrobust.defenses.workshop import Workshop
    from zsrobust.running.bench import Bench

    bench = Bench(loaded, chosen, Workshop(loaded, Path("checkpoints")))
    wanted = names or [*loaded.datasets, f"{loaded.train_on}:train"]
    with progress.live() as shown:
        for line in bench.prepare_named(wanted, shown):
            click.echo(line)

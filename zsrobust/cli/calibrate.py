"""`zsrobust calibrate`: report whether a set-up measures what it should."""

from collections.abc import Sequence
from pathlib import Path

import click

from zsrobust.cli.command import Command
from zsrobust.cli.options import (
    checkpoints_option,
    data_option,
    device_option,
    folder_option,
    protocol_option,
    several,
    suite_option,
)
from zsrobust.cli.request import Places, passes
from zsrobust.cli.waiting import waiting


@click.command(
    cls=Command,
    examples=["zsrobust calibrate --suite mini", "zsrobust calibrate --suite paper --dry-run"],
)
@suite_option
@protocol_option
@several("--dataset", "names", "Name. Repeatable. Default: the suite's first dataset.")
@click.option(
    "--defense",
    metavar="SPEC",
    help="Robust checkpoint of the last stage. Default: a stored or a published one.",
)
@data_option
@passes(Places, "places", folder_option, checkpoints_option, device_option)
@click.option("--keep-going", is_flag=True, help="Run all stages, also after a failure.")
@click.option("--force", is_flag=True, help="Compute stored cells again.")
@click.option("--dry-run", is_flag=True, help="List the stages and what they need.")
@click.option(
    "--store",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write this set-up's values to a JSON file, as those that are right. Nothing is judged.",
)
def calibrate(
    suite: str | None,
    protocol: str,
    names: Sequence[str],
    defense: str | None,
    places: Places,
    keep_going: bool,
    force: bool,
    dry_run: bool,
    target: Path | None,
) -> None:
    """Report whether this set-up is right, in stages, the cheapest first.

    Each stage prints its verdict, and the next command if it did not pass. The first failure is the
    last stage. Cells are stored in --results, so a second call continues.
    Exit code 0: no stage failed, and clean accuracy was compared. 1: otherwise.
    """
    from zsrobust.core import index
    from zsrobust.running.entries import load_suite
    from zsrobust.settings import protocols

    loaded, how = load_suite(suite), protocols.load(protocol)
    chosen = list(names) or [loaded.datasets[0]]
    index.check([defense] if defense else [], (), chosen)
    with waiting("loading torch"):
        from zsrobust.cli import progress
        from zsrobust.core.files import write_atomically
        from zsrobust.results.store import Store
        from zsrobust.running.bench import Bench
        from zsrobust.running.calibration import setup, stages, stored

    if dry_run:
        for stage in stages.STAGES:
            click.echo(f"{stage.title}: needs {stage.needs}")
        return
    known = stored.load(loaded.calibration)
    bench = Bench(loaded, how, places.workshop(loaded))
    spec = defense or (None if target else setup.checkpoint_of(bench, known))
    with progress.live() as shown:
        examined = setup.Setup(
            bench,
            Store(places.folder),
            chosen,
            known,
            defense=spec,
            reporter=shown,
            force=force,
        )
        if target is not None:
            write_atomically(target, setup.write(examined).to_json().encode())
            click.echo(f"{target} written. Name it in a suite's file: calibration = '{target}'")
            return
        found = []
        for stage, verdict in stages.examine(examined, keep_going):
            found.append((stage, verdict))
            click.echo(f"{verdict.word:8}  {stage.title}: {verdict.why}")
            if verdict.next and verdict.word != "passed":
                click.echo(f"          Next: {verdict.next}")
    if not stages.confirmed(found):
        raise click.exceptions.Exit(1)

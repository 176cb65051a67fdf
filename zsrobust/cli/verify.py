"""`zsrobust verify`: compare stored files with their digests, and with a recomputation."""

from pathlib import Path

import click

from zsrobust.cli.command import Command
from zsrobust.cli.folders import Results
from zsrobust.cli.options import Whole, checkpoints_option, device_option


@click.command(
    cls=Command,
    examples=[
        "zsrobust verify results --checkpoints checkpoints --data",
        "zsrobust verify submission --submission --recompute 2 --seed 17",
    ],
)
@click.argument("folder", type=Results(), default="results", envvar="ZSROBUST_RESULTS")
@checkpoints_option
@click.option("--data", is_flag=True, help="Verify the prepared datasets of the cache, too.")
@click.option("--submission", is_flag=True, help="FOLDER must be written by zsrobust submit.")
@click.option(
    "--recompute",
    type=Whole(min=1),
    metavar="N",
    help="Recompute N random cells of the embedded suites from nothing, and compare them.",
)
@click.option("--seed", type=Whole(min=0), help="Seed that draws the N cells. Default: random.")
@device_option
def verify(
    folder: Path,
    checkpoints: Path,
    data: bool,
    submission: bool,
    recompute: int | None,
    seed: int | None,
    device: str | None,
) -> None:
    """Verify the digests of the results in FOLDER, and of the checkpoints they were made from.

    It also finds values that contradict each other, for example flags that do not follow from the
    stored measurements. In a folder that zsrobust submit wrote, it finds what differs from
    SUBMISSION.json, and what keeps results from being published. Digests protect against
    accidents; --recompute finds invented numbers.

    It prints one line for each finding: the file, what is wrong, and the command that repairs it.
    Exit code 1: there are findings, or a recomputed cell does not agree.
    """
    from zsrobust.core.errors import ZSRobustError
    from zsrobust.evaluation.redflags.consistency import contradictions
    from zsrobust.results import verification
    from zsrobust.results.submission import FILE

    if submission and not (folder / FILE).exists():
        raise ZSRobustError(
            f"{folder} is not a submission: {FILE} is missing. Next: zsrobust submit RESULTS"
        )
    found = verification.verify(folder, checkpoints, contradictions)
    if data:
        from zsrobust.datasets.cache import verify_prepared

        verify_prepared(found)
    for line in found.lines:
        click.echo(line)
    agree = not recompute or bool(found.findings) or _recompute(folder, recompute, seed, device)
    if found.findings or not agree:
        raise click.exceptions.Exit(1)


def _recompute(folder: Path, number: int, seed: int | None, device: str | None) -> bool:
    """Recompute some cells, print how they compare, and return whether all agree."""
    import secrets
    from tempfile import TemporaryDirectory

    from zsrobust.cli import progress
    from zsrobust.cli.device import choose
    from zsrobust.results.repair import Cells
    from zsrobust.running.recompute import draw
    from zsrobust.running.recompute import recompute as compute

    seed = secrets.randbelow(2**31) if seed is None else seed
    stored = Cells(folder).results.values()
    chosen = draw(stored, number, seed)
    click.echo(f"{len(chosen)} of {len(stored)} cells are recomputed, drawn with --seed {seed}:")
    for result in chosen:
        click.echo(f"  {result.path}")
    if not chosen:
        click.echo("note: no cell is of an embedded suite with built-in defenses and attacks")
        return True
    with TemporaryDirectory() as scratch, progress.live() as shown:
        found, errors = compute(chosen, folder, Path(scratch), choose(device), shown)
    for line in [*found.lines, *found.notes, found.summary, *errors]:
        click.echo(line)
    return found.ok and not errors

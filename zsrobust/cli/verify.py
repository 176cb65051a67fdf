"""`zsrobust verify`: compare stored files with their digests."""

from pathlib import Path

import click

from zsrobust.cli.command import Command
from zsrobust.cli.options import checkpoints_option


@click.command(
    cls=Command,
    examples=["zsrobust verify", "zsrobust verify results --checkpoints checkpoints --data"],
)
@click.argument(
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default="results",
    envvar="ZSROBUST_RESULTS",
)
@checkpoints_option
@click.option("--data", is_flag=True, help="Verify the prepared datasets of the cache, too.")
def verify(folder: Path, checkpoints: Path, data: bool) -> None:
    """Verify the digests of the results in FOLDER, and of the checkpoints they were made from.

    It also finds values that contradict each other, for example flags that do not follow from the
    stored measurements. Digests protect against accidents; see zsrobust check for a recomputation.

    It prints one line for each finding: the file, what is wrong, and the command that repairs it.
    Exit code 1: there are findings.
    """
    from zsrobust.evaluation.redflags.consistency import contradictions
    from zsrobust.results import verification

    found = verification.verify(folder, checkpoints, contradictions)
    if data:
        from zsrobust.datasets.cache import verify_prepared

        verify_prepared(found)
    for line in found.lines:
        click.echo(line)
    if found.findings:
        raise click.exceptions.Exit(1)

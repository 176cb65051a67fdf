"""`zsrobust submit`: check results, and write what a pull request to a results repository needs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zsrobust.cli.command import Command

if TYPE_CHECKING:
    from zsrobust.results import Result


@click.command(
    cls=Command,
    examples=[
        'zsrobust submit runs --by "Ada Lovelace" --out submission',
        'zsrobust submit runs --by "Lab X" --contact lab@x.org --note "A100" --out submission',
    ],
)
@click.argument("results", type=click.Path(path_type=Path, file_okay=False))
@click.option("--by", required=True, help="Who ran the cells: a person or a lab.")
@click.option("--contact", help="Address for questions.")
@click.option("--note", help="A line for the reader, for example on the machine.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write. It must be empty or missing.",
)
def submit(results: Path, by: str, contact: str | None, note: str | None, out: Path) -> None:
    """Check the RESULTS of one suite, and write them as a folder for a pull request.

    It checks what zsrobust verify checks. It also refuses failed cells, cells of several suites,
    and cells without a complete identity, versions, machine or measurements of red flags. It
    prints a line for each. Red flags do not refuse a cell: the folder states them in words.

    Exit code 1: the results are refused, and nothing is written.
    """
    from datetime import UTC, datetime

    from zsrobust.core.errors import ZSRobustError, counted
    from zsrobust.core.files import write_atomically
    from zsrobust.core.values import check_fields
    from zsrobust.results import submission
    from zsrobust.results.cell import versions
    from zsrobust.results.flags import look_up

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ZSRobustError(f"--out {out} is not empty. Choose a folder that is missing or empty.")
    if results.resolve() in out.resolve().parents:
        raise ZSRobustError(f"--out {out} is inside of {results}. Choose a folder outside of it.")
    found = publishable(results)
    stated = submission.Submission(
        **vars(submission.Contents.of(found)),
        by=by,
        contact=contact,
        note=note,
        date=datetime.now(UTC).date().isoformat(),
        program=versions().get("zsrobust", "unknown"),
    )
    check_fields(stated, "The submission")
    for name, content in {
        **submission.files_of(found),
        submission.TEXT: submission.describe(found, stated, stated).encode(),
        submission.FILE: stated.to_bytes(),  # last: it lists the others
    }.items():
        write_atomically(out / name, content)
    click.echo(f"{out} written: {counted(len(found), 'cell')}, submitted by {by}")
    for flag, number in stated.flags.items():
        click.echo(f"{counted(number, 'cell')} with {flag}: {look_up(flag).sentence}")
    click.echo(
        f"Next: copy {out} to submissions/NAME of the results repository, and open a pull request "
        f"with the text of {out / submission.TEXT}"
    )


def publishable(folder: Path) -> "dict[Path, Result]":
    """Return the results under a folder by path; prints why they are refused, and exits with 1."""
    from zsrobust.evaluation.redflags.consistency import contradictions
    from zsrobust.results.repair import Cells
    from zsrobust.results.verification import verify

    findings = verify(folder, None, contradictions, publish=True).findings
    for finding in findings:
        click.echo(f"Refused: {finding}", err=True)
    if findings:
        raise click.exceptions.Exit(1)
    return Cells(folder).results

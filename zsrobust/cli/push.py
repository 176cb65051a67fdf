"""`zsrobust push`: upload results to a dataset repository of the hub."""

from pathlib import Path

import click

from zsrobust.cli.command import Command
from zsrobust.cli.submit import publishable


@click.command(
    cls=Command,
    examples=["zsrobust push runs OWNER/NAME", "zsrobust push submission OWNER/NAME --delete"],
)
@click.argument("results", type=click.Path(path_type=Path, file_okay=False))
@click.argument("repository", metavar="OWNER/NAME")
@click.option(
    "--delete", is_flag=True, help="Remove cells of the repository that RESULTS lacks from it."
)
def push(results: Path, repository: str, delete: bool) -> None:
    """Upload RESULTS to the dataset repository OWNER/NAME of the Hugging Face hub.

    It makes the checks of zsrobust submit first. A missing repository is created. One commit has
    the cells and a card that describes them; files that did not change are not sent again. Set
    HF_TOKEN to a token that may write. Others read the results with --results hf://OWNER/NAME.

    Exit code 1: the results are refused, and nothing is uploaded.
    """
    from zsrobust.core.errors import counted
    from zsrobust.core.hub import upload
    from zsrobust.results import submission

    found = publishable(results)
    stated, contents = submission.read(results), submission.Contents.of(found)
    files = submission.files_of(found)
    files[submission.TEXT] = submission.card(found, contents, stated, repository).encode()
    if stated is not None:
        files[submission.FILE] = stated.to_bytes()
    cells = counted(len(found), "cell")
    address = upload(repository, files, f"zsrobust push: {cells}", delete)
    click.echo(f"{cells} at {address}")
    click.echo(f"Next: zsrobust table --suite {contents.suites[0]} --results hf://{repository}")

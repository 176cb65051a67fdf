"""`zsrobust export`: write a defense for other programs."""

from pathlib import Path

import click

from zsrobust.cli.command import Command
from zsrobust.cli.completion import DEFENSE
from zsrobust.cli.options import (
    baseline_option,
    checkpoints_option,
    data_option,
    device_option,
    folder_option,
    suite_option,
)
from zsrobust.cli.request import Places, passes


@click.command(
    cls=Command,
    examples=[
        "zsrobust export tecoa --suite mini --out exported/tecoa",
        "zsrobust export pmg_aft --out pmg_aft --push owner/pmg_aft",
    ],
)
@click.argument("defense", type=DEFENSE)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write.",
)
@click.option(
    "--push", "repo", metavar="OWNER/NAME", help="Also upload the folder to this hub repository."
)
@suite_option
@data_option
@passes(Places, "places", folder_option, baseline_option, checkpoints_option, device_option)
def export(defense: str, out: Path, repo: str | None, suite: str | None, places: Places) -> None:
    """Write DEFENSE as a folder that plain open_clip loads.

    The folder has weights, configuration, and a card with the stored results. A missing
    checkpoint is trained first.
    """
    from zsrobust.core import index
    from zsrobust.running.entries import load_suite

    loaded = load_suite(suite)
    index.check([defense])
    from zsrobust.cli import progress
    from zsrobust.defenses.export import export as write
    from zsrobust.defenses.export import push

    workshop = places.workshop(loaded)
    with progress.live() as shown:
        workshop.progress, workshop.preparing = shown.training, shown.preparing
        click.echo(f"{write(defense, workshop, out, places.store)} written")
    if repo:
        click.echo(f"{push(out, repo)} uploaded")

"""`zsrobust curve`: draw accuracy against the strength of an attack."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from zsrobust.cli.command import Command
from zsrobust.cli.options import out_option, several, store_options, stored_options
from zsrobust.cli.request import Places, Request
from zsrobust.core.errors import ZSRobustError


@click.command(
    cls=Command,
    examples=[
        "zsrobust curve --suite mini --defense clip --defense tecoa",
        "zsrobust curve --against steps --attack pgd10 --limit 100 --out steps.csv",
    ],
)
@click.option(
    "--against",
    type=click.Choice(["eps", "steps", "queries"]),
    default="eps",
    show_default=True,
    help="Strength of the attack, on the x axis.",
)
@stored_options
@several(
    "--defense",
    "defenses",
    "Name or spec. Repeatable. Default: all with two complete points.",
)
@click.option("--attack", help="Name or spec. Default: pgd10, or square for queries.")
@several("--dataset", "datasets", "Name. Repeatable. Default: the average of the suite.")
@out_option(".svg, .pdf, .png or .csv", default="curve.svg")
@store_options
def curve(
    against: Any,
    request: Request,
    defenses: Sequence[str],
    datasets: Sequence[str],
    out: Path,
    places: Places,
) -> None:
    """Draw accuracy against eps, steps or queries from the stored results.

    Every stored strength of the attack is a point. 0 is accuracy without attack. A defense and
    the images are the same at all points. Bands are 95% intervals. Missing cells are named, with
    the command that computes them.
    """
    from zsrobust.cli.cells import stored
    from zsrobust.core.files import write_atomically
    from zsrobust.core.specs import normalize
    from zsrobust.reporting import curves, figures

    if against == "eps" and request.eps is not None:
        raise ZSRobustError(
            "A curve against eps has all stored bounds. Leave out --eps, or use --against steps."
        )
    asked = replace(request, attack=normalize(request.attack or curves.USUAL[against]))
    results, selection = stored(places.store, asked)
    made = curves.build(results, selection, against, list(map(normalize, defenses)), datasets)
    if out.suffix == ".csv":
        content = made.found.frame.to_csv(index=False).encode()
    else:
        content = figures.render(made.draw(), out.suffix)
    write_atomically(out, content)
    click.echo(f"{out} written")
    if made.missing:
        click.echo(made.missing, err=True)

"""`zsrobust table` and `zsrobust figure`: print and draw the stored results."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from zsrobust.cli.command import Command
from zsrobust.cli.completion import FIGURE, TABLE
from zsrobust.cli.options import (
    eps_option,
    limit_option,
    out_option,
    protocol_option,
    seeds_option,
    several,
    store_options,
    stored_options,
    stored_suite_option,
    train_seeds_option,
)
from zsrobust.cli.request import Places, Request, passes
from zsrobust.core.errors import ZSRobustError


@click.command(
    cls=Command,
    examples=[
        "zsrobust table 1 --suite mini --columns average,mini_cells",
        "zsrobust table --out table2.tex --intervals",
    ],
)
@click.argument("number", type=TABLE, required=False)
@passes(Request, "request", stored_suite_option, protocol_option, eps_option, limit_option)
@seeds_option
@train_seeds_option
@several("--defense", "defenses", "Add a row: name or spec. Repeatable.")
@click.option("--intervals", is_flag=True, help="Add 95% intervals.")
@click.option(
    "--columns",
    metavar="A,B",
    help="Print these columns alone: names of datasets, or titles such as average.",
)
@click.option(
    "--format",
    "asked",
    type=click.Choice(["terminal", "md", "tex", "csv", "html"]),
    help="Default: the suffix of --out. Without --out: terminal in a terminal, md elsewhere.",
)
@click.option(
    "--compare",
    type=click.Choice(["paper", "claims"]),
    help="Add the paper's numbers and the differences; or print the claims of later papers.",
)
@out_option(".md, .tex, .csv or .html")
@store_options
def table(
    number: str | None,
    request: Request,
    seeds: Sequence[int],
    train_seeds: Sequence[int],
    defenses: Sequence[str],
    intervals: bool,
    columns: str | None,
    asked: str | None,
    compare: str | None,
    out: Path | None,
    places: Places,
) -> None:
    """Print one of the paper's tables from the stored results.

    NUMBER: 1 robust, 2 clean, 3 AutoAttack, 4 the terms of the loss, 5 layer and distance, s1 and
    s2 the second target dataset, s3 the weights of the loss, s4 other bounds, s5 Tables 4 and 5 by
    dataset. Not in the paper: t1 test-time defenses, z1 trained defenses, z2 the same at several
    bounds. Without NUMBER, it is read from the name of --out. A terminal gets blocks of columns
    that fit it, the averages first. Files and pipes get Markdown. With several seeds, it prints
    means and standard deviations.
    """
    from zsrobust.cli.cells import number_in, stored
    from zsrobust.core.specs import normalize
    from zsrobust.reporting import claims, formats, tables

    number = number or number_in(out, "table")
    tables.find(number)
    results, selection = stored(places.store, request, number)
    more = [normalize(spec) for spec in defenses]
    if compare == "claims" and (seeds or train_seeds):
        raise ZSRobustError("--compare claims is about seed 0. Leave out --seed and --train-seed.")
    if compare == "claims":
        page = claims.build(number, results, selection, intervals=intervals, more=more)
    else:
        paper = compare == "paper"
        page = tables.build(
            number,
            results,
            selection,
            intervals=intervals,
            compare=paper,
            more=more,
            seeds=seeds,
            train_seeds=train_seeds,
        )
    if columns is not None:
        page = page.narrowed([name.strip() for name in columns.split(",")])
    if asked == "terminal" or (asked is None and out is None and sys.stdout.isatty()):
        if out is not None:
            raise ZSRobustError("--format terminal prints the table. Leave out --out.")
        from rich.console import Console

        from zsrobust.cli.pages import print_page

        print_page(page, Console())
        return
    suffix = out.suffix if out else ".md"
    print_text(formats.render(page, f".{asked}" if asked else suffix), out)


@click.command(
    cls=Command,
    examples=["zsrobust figure 5 --suite mini", "zsrobust figure --out figure1.pdf --limit 100"],
)
@click.argument("number", type=FIGURE, required=False)
@stored_options
@out_option(".svg, .pdf or .png. Default: figureN.svg")
@store_options
def figure(number: str | None, request: Request, out: Path | None, places: Places) -> None:
    """Draw one of the paper's figures from the stored results.

    NUMBER: 1 accuracy by dataset, 2 distance during training, 4 other bounds, 5 robust against
    clean. Without NUMBER, it is read from the name of --out.
    """
    from zsrobust.cli.cells import number_in, stored
    from zsrobust.reporting import figures

    number = number or number_in(out, "figure")
    figures.find(number)
    drawn = figures.draw(number, *stored(places.store, request))
    out = out or Path(f"figure{number}.svg")
    _write(out, figures.render(drawn, out.suffix))


def print_text(text: str, out: Path | None) -> None:
    """Print a text, or write it to a file."""
    if out is None:
        click.echo(text, nl=False)
    else:
        _write(out, text.encode())


def _write(out: Path, content: bytes) -> None:
    from zsrobust.core.files import write_atomically

    write_atomically(out, content)
    click.echo(f"{out} written")

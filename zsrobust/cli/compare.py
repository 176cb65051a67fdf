"""`zsrobust compare`: two defenses on the same images."""

from pathlib import Path
from typing import Any

import click

from zsrobust.cli.command import Command
from zsrobust.cli.completion import ATTACK, DEFENSE
from zsrobust.cli.options import (
    eps_option,
    limit_option,
    out_option,
    protocol_option,
    seed_option,
    store_options,
    stored_suite_option,
)
from zsrobust.cli.request import Places, Request, passes
from zsrobust.cli.show import print_text

_attack_option = click.option(
    "--attack", type=ATTACK, default="pgd10", show_default=True, help="Name or spec."
)


@click.command(
    cls=Command,
    examples=[
        "zsrobust compare tecoa pmg_aft --suite mini",
        "zsrobust compare clip tecoa --metric clean --out compared.csv",
    ],
)
@click.argument("first", type=DEFENSE)
@click.argument("second", type=DEFENSE)
@passes(
    Request,
    "request",
    stored_suite_option,
    protocol_option,
    _attack_option,
    eps_option,
    limit_option,
    seed_option,
)
@click.option(
    "--metric",
    type=click.Choice(["robust", "clean"]),
    default="robust",
    show_default=True,
    help="Accuracy to compare.",
)
@out_option(".md or .csv")
@store_options
def compare(
    first: str, second: str, request: Request, metric: Any, out: Path | None, places: Places
) -> None:
    """Compare two defenses image by image: difference on each dataset, and its significance."""
    from zsrobust.cli.cells import stored
    from zsrobust.core.specs import normalize
    from zsrobust.reporting import comparison, comparison_formats

    results, selection = stored(places.store, request)
    compared = comparison.compare(
        results, normalize(first), normalize(second), selection, metric=metric
    )
    print_text(comparison_formats.render(compared, out.suffix if out else ".md"), out)

"""The command line: parse, call, print. Whatever is heavy is imported inside the commands."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from zsrobust.registry import ZSRobustError, load_plugin_file, parse_eps


class Commands(click.Group):
    """The group of commands; an error of ours is one line, and exit code 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line."""
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except (ZSRobustError, click.ClickException) as error:
            message = str(error)
            if isinstance(error, click.ClickException):
                context = getattr(error, "ctx", None)
                message = f"{error.format_message()} See: {context.command_path if context else 'zsrobust'} --help"
            click.echo(f"Error: {message}", err=True)
            code = 2
        except click.exceptions.Abort:
            click.echo("Interrupted. What is stored stays; the same command goes on from there.", err=True)
            code = 130
        sys.exit(code if isinstance(code, int) else 0)


def _eps(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    return None if value is None else parse_eps(value)


suite_option = click.option("--suite", help="What is measured; the paper's suite if not given.")
eps_option = click.option("--eps", callback=_eps, help="Bound of the perturbation, 8/255 say; the suite's if not given.")
folder_option = click.option(
    "--results", "folder", type=click.Path(path_type=Path, file_okay=False), default="results", show_default=True,
    envvar="ZSROBUST_RESULTS", help="Folder of the results.",
)  # fmt: skip
checkpoints_option = click.option(
    "--checkpoints", type=click.Path(path_type=Path, file_okay=False), default="checkpoints", show_default=True,
    envvar="ZSROBUST_CHECKPOINTS", help="Folder of the checkpoints.",
)  # fmt: skip
device_option = click.option("--device", default=None, help="Torch device; cuda if there is one, else cpu.")
limit_option = click.option("--limit", type=click.IntRange(min=1), help="A fixed class-balanced subset of so many images.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="zsrobust")
@click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="A Python file that registers things."
)
def main(plugins: Sequence[Path]) -> None:
    """Measure the zero-shot adversarial robustness of CLIP: defenses x attacks x datasets.

    Start with: zsrobust run --suite mini --defense pmg_aft --attack pgd10
    """
    for path in plugins:
        load_plugin_file(path)


@main.command("list")
@click.argument("kind", required=False, type=click.Choice(["suites", "defenses", "attacks", "datasets"]))
@click.option("--suite", help="Show what is present of this suite; mini if not given.")
@checkpoints_option
def list_(kind: str | None, suite: str | None, checkpoints: Path) -> None:
    """Show suites, defenses, attacks and datasets: names, papers, what is present."""
    from zsrobust import listing

    click.echo(listing.describe([kind] if kind else listing.KINDS, suite or "mini", checkpoints))


@main.command()
@click.argument("defense")
@suite_option
@checkpoints_option
@device_option
def train(defense: str, suite: str | None, checkpoints: Path, device: str | None) -> None:
    """Train the checkpoint of DEFENSE, if it is missing."""
    from zsrobust import display, suites
    from zsrobust.defenses import Workshop, defenses

    workshop = Workshop(suites.load(suite or suites.DEFAULT), checkpoints, _device(device))
    recipe = defenses.create(defense).recipe_for(workshop.suite)
    if recipe is None:
        raise ZSRobustError(f"{defense} is not trained. See: zsrobust list defenses")
    path = workshop.checkpoint_path(recipe)
    there = path.exists()
    with display.live() as shown:
        workshop.progress = shown.training
        tower = workshop.tower(defense)
    click.echo(f"{path} {'was there' if there else 'written'}")
    for number, epoch in enumerate(tower.training["history"], 1):
        click.echo(
            f"epoch {number}: loss {epoch['loss']:.3f}, accuracy {epoch['accuracy']:.1%}, "
            f"distance {epoch['distance']:.4f}, {epoch['seconds']:.1f} s"
        )


@main.command()
@suite_option
@click.option("--defense", "defenses", multiple=True, help="Name or spec, tecoa:lr=1e-4 say; repeat for several.")
@click.option("--attack", "attacks", multiple=True, help="Name or spec, pgd:steps=20 say; repeat for several.")
@click.option("--dataset", "datasets", multiple=True, help="Repeat for several; all of the suite's if not given.")
@eps_option
@limit_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the attacks' randomness.")
@click.option("--force", is_flag=True, help="Compute again what is stored.")
@folder_option
@checkpoints_option
@device_option
def run(
    suite: str | None,
    defenses: Sequence[str],
    attacks: Sequence[str],
    datasets: Sequence[str],
    eps: float | None,
    limit: int | None,
    seed: int,
    force: bool,
    folder: Path,
    checkpoints: Path,
    device: str | None,
) -> None:
    """Compute the cells that are missing: train, attack, store, and print a table.

    Without --defense and --attack: every cell that Tables 1, 2 and 3 need.
    """
    from zsrobust import suites

    loaded = suites.load(suite or suites.DEFAULT)
    from zsrobust import display, runner
    from zsrobust.defenses import Workshop
    from zsrobust.results import check_writable

    cells = runner.plan(loaded, defenses, attacks, datasets, eps=eps, limit=limit, seed=seed)
    check_writable(folder)
    workshop = Workshop(loaded, checkpoints, _device(device))
    with display.live() as shown:
        found, errors = runner.run(loaded, cells, folder, workshop, shown, force)
    if found:
        display.print_results(found, shown.computed, folder)
    for error in errors:
        click.echo(f"Error: {error}", err=True)
    if errors:
        raise click.exceptions.Exit(2)
    if any(result.status == "failed" for result in found):
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("number", required=False)
@suite_option
@eps_option
@limit_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write: .md, .tex or .csv.")
@folder_option
def table(
    number: str | None, suite: str | None, eps: float | None, limit: int | None, out: Path | None, folder: Path
) -> None:
    """Write one of the paper's tables from the stored results: 1 robust, 2 clean, 3 AutoAttack.

    Without NUMBER it is read off the name of --out; without --suite it is the only one that the results hold.
    """
    from zsrobust import suites, tables
    from zsrobust.registry import format_eps
    from zsrobust.results import load_results, write_atomically

    if number is None:
        named = re.search(r"table[-_ ]?(\w)", out.stem) if out else None
        if not named:
            raise ZSRobustError("Which table? Try: zsrobust table 1, or --out results/table1.md")
        number = named[1]
    results = load_results(folder)
    held = sorted(set(results["suite"]))
    loaded = suites.load(suite or (held[0] if len(held) == 1 else suites.DEFAULT))
    if loaded.name not in held:
        raise ZSRobustError(f"No results of the suite {loaded.name!r} in {folder}. Next: zsrobust run --suite {loaded.name}")
    shown_eps = format_eps(eps if eps is not None else loaded.attack["eps"])
    page = tables.build(number, results, loaded, eps=shown_eps, limit=limit)
    text = tables.render(page, out.suffix if out else ".md")
    if out is None:
        click.echo(text, nl=False)
    else:
        write_atomically(out, text.encode())
        click.echo(f"{out} written")


def _device(device: str | None) -> str:
    import torch

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ZSRobustError(f"No device {chosen!r}: {str(error).splitlines()[0]}") from None
    return chosen

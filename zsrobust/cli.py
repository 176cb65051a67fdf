"""The command line: parse, call, print. Whatever is heavy is imported inside the commands."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zsrobust.registry import ZSRobustError, load_plugin_file, parse_eps

if TYPE_CHECKING:
    from zsrobust.runner import Bench, Cell
    from zsrobust.suites import Suite


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


def _data_root(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    if value is not None:
        os.environ["ZSROBUST_DATA"] = str(value)  # where datasets, and processes that we start, look for it


suite_option = click.option("--suite", help="What is measured: a name or a TOML file; the paper's suite if not given.")
protocol_option = click.option(
    "--protocol", default="sound", show_default=True, help="How it is measured: a name, or a TOML file."
)
data_option = click.option(
    "--data-root", type=click.Path(path_type=Path, file_okay=False, exists=True), expose_value=False, callback=_data_root,
    help="Folder of the datasets you have, as torchvision lays them out; or set ZSROBUST_DATA.",
)  # fmt: skip
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
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path),
    help="A Python file that registers things, or a TOML file of datasets and weights.",
)  # fmt: skip
def main(plugins: Sequence[Path]) -> None:
    """Measure the zero-shot adversarial robustness of CLIP: defenses x attacks x datasets.

    Start with: zsrobust run --suite mini --defense pmg_aft --attack pgd10
    """
    for path in plugins:
        if path.suffix == ".toml":
            from zsrobust.entries import load_entries

            load_entries(path)
        else:
            load_plugin_file(path)


@main.command("list")
@click.argument("kind", required=False, type=click.Choice(["suites", "protocols", "defenses", "attacks", "datasets"]))
@click.option("--suite", help="Show what is present of this suite; mini if not given.")
@checkpoints_option
def list_(kind: str | None, suite: str | None, checkpoints: Path) -> None:
    """Show suites, protocols, defenses, attacks and datasets: names, papers, what is present."""
    from zsrobust import listing

    click.echo(listing.describe([kind] if kind else listing.KINDS, suite or "mini", checkpoints))


@main.command()
@click.argument("names", nargs=-1)
@suite_option
@protocol_option
@data_option
def data(names: Sequence[str], suite: str | None, protocol: str) -> None:
    """Prepare the datasets NAMES, or those of --suite: download, verify, decode once. Without either, show what is there.

    A training split is prepared by its name and ":train": zsrobust data tiny_imagenet:train
    """
    if not names and suite is None:
        from zsrobust import stock

        click.echo(stock.describe())
        return
    from zsrobust import display, protocols
    from zsrobust.defenses import Workshop
    from zsrobust.runner import Bench

    loaded = _suite(suite)
    bench = Bench(loaded, protocols.load(protocol), Workshop(loaded, Path("checkpoints")))
    with display.live() as shown:
        for line in bench.prepare_named(names or [*loaded.datasets, f"{loaded.train_on}:train"], shown):
            click.echo(line)


@main.command()
@click.argument("defense")
@suite_option
@data_option
@checkpoints_option
@device_option
def train(defense: str, suite: str | None, checkpoints: Path, device: str | None) -> None:
    """Train the checkpoint of DEFENSE, if it is missing."""
    from zsrobust import display
    from zsrobust.defenses import Workshop, defenses

    workshop = Workshop(_suite(suite), checkpoints, _device(device))
    recipe = defenses.create(defense).recipe_for(workshop.suite)
    if recipe is None:
        raise ZSRobustError(f"{defense} is not trained. See: zsrobust list defenses")
    path = workshop.checkpoint_path(recipe)
    there = path.exists()
    with display.live() as shown:
        workshop.progress, workshop.preparing = shown.training, shown.preparing
        tower = workshop.tower(defense)
    click.echo(f"{path} {'was there' if there else 'written'}")
    for number, epoch in enumerate(tower.training["history"], 1):
        click.echo(
            f"epoch {number}: loss {epoch['loss']:.3f}, accuracy {epoch['accuracy']:.1%}, "
            f"distance {epoch['distance']:.4f}, {epoch['seconds']:.1f} s"
        )


@main.command()
@suite_option
@protocol_option
@click.option("--defense", "defenses", multiple=True, help="Name or spec, tecoa:lr=1e-4 say; repeat for several.")
@click.option("--attack", "attacks", multiple=True, help="Name or spec, pgd:steps=20 say; repeat for several.")
@click.option("--dataset", "datasets", multiple=True, help="Repeat for several; all of the suite's if not given.")
@eps_option
@limit_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the attacks' randomness.")
@click.option("--force", is_flag=True, help="Compute again what is stored.")
@click.option("--dry-run", is_flag=True, help="Only tell what it would download, train and compute, and how long.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before what takes gigabytes or hours.")
@data_option
@folder_option
@checkpoints_option
@device_option
def run(
    suite: str | None,
    protocol: str,
    defenses: Sequence[str],
    attacks: Sequence[str],
    datasets: Sequence[str],
    eps: float | None,
    limit: int | None,
    seed: int,
    force: bool,
    dry_run: bool,
    yes: bool,
    folder: Path,
    checkpoints: Path,
    device: str | None,
) -> None:
    """Compute the cells that are missing: train, attack, store, and print a table.

    Without --defense and --attack: every cell that Tables 1, 2 and 3 need.
    """
    loaded = _suite(suite)
    _check_data(datasets or loaded.datasets)
    from zsrobust import display, protocols, runner
    from zsrobust.defenses import Workshop
    from zsrobust.results import check_writable

    cells = runner.plan(loaded, defenses, attacks, datasets, eps=eps, limit=limit, seed=seed)
    bench = runner.Bench(loaded, protocols.load(protocol), Workshop(loaded, checkpoints, _device(device)))
    if not _agreed(bench, cells, folder, force, dry_run, yes):
        return
    check_writable(folder)
    with display.live() as shown:
        found, errors = runner.run(bench, cells, folder, shown, force)
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
@protocol_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write: .md, .tex or .csv.")
@folder_option
def table(
    number: str | None,
    suite: str | None,
    eps: float | None,
    limit: int | None,
    protocol: str,
    out: Path | None,
    folder: Path,
) -> None:
    """Write one of the paper's tables from the stored results: 1 robust, 2 clean, 3 AutoAttack.

    Without NUMBER it is read off the name of --out; without --suite it is the only one that the results hold.
    """
    from zsrobust import protocols, suites, tables
    from zsrobust.registry import format_eps
    from zsrobust.results import load_results, write_atomically

    if number is None:
        named = re.search(r"table[-_ ]?(\w)", out.stem) if out else None
        if not named:
            raise ZSRobustError("Which table? Try: zsrobust table 1, or --out results/table1.md")
        number = named[1]
    results = load_results(folder)
    held = sorted(set(results["suite"]))
    known = [name for name in held if name in suites.names()]
    loaded = suites.load(suite or (known[0] if len(known) == 1 else suites.DEFAULT))
    if loaded.name not in held:
        raise ZSRobustError(f"No results of the suite {loaded.name!r} in {folder}. Next: zsrobust run --suite {loaded.name}")
    shown_eps = format_eps(eps if eps is not None else loaded.attack["eps"])
    page = tables.build(number, results, loaded, eps=shown_eps, limit=limit, protocol=protocols.load(protocol).name)
    text = tables.render(page, out.suffix if out else ".md")
    if out is None:
        click.echo(text, nl=False)
    else:
        write_atomically(out, text.encode())
        click.echo(f"{out} written")


@main.command()
@click.argument("defense")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write.")
@click.option("--push", "repo", metavar="OWNER/NAME", help="Upload it to this repository of the hub, too.")
@suite_option
@data_option
@folder_option
@checkpoints_option
@device_option
def export(
    defense: str, out: Path, repo: str | None, suite: str | None, folder: Path, checkpoints: Path, device: str | None
) -> None:
    """Write DEFENSE as a folder that plain open_clip loads: weights, configuration, a card with its results so far.

    It is trained first if its checkpoint is missing.
    """
    from zsrobust import display
    from zsrobust.defenses import Workshop
    from zsrobust.export import export as write
    from zsrobust.export import push

    workshop = Workshop(_suite(suite), checkpoints, _device(device))
    with display.live() as shown:
        workshop.progress, workshop.preparing = shown.training, shown.preparing
        click.echo(f"{write(defense, workshop, out, folder)} written")
    if repo:
        click.echo(f"{push(out, repo)} uploaded")


def _suite(name: str | None) -> "Suite":
    from zsrobust.entries import load_suite

    return load_suite(name)


def _check_data(names: Sequence[str]) -> None:
    """Fail at once, before torch is imported, where datasets must be downloaded and the network does not answer."""
    from zsrobust.datasets.catalogue import check_available

    check_available(names)


def _agreed(bench: "Bench", cells: "list[Cell]", folder: Path, force: bool, dry_run: bool, yes: bool) -> bool:
    """Return whether to go on: after a look at the bill, where it is large."""
    from zsrobust import bill

    made = bill.make(bench, cells, folder, force)
    if dry_run or made.downloads or made.forward + made.backward > 2_000_000:
        made.speed = bill.measure(bench)
    if dry_run or made.large or made.downloads:
        for line in made.lines(bench.workshop.device):
            click.echo(line, err=not dry_run)
    if dry_run or yes or not made.large:
        return not dry_run
    if not sys.stdin.isatty():
        raise ZSRobustError("This takes gigabytes or hours, and nobody is there to ask. Add --yes, or a --limit.")
    return click.confirm("Go on?", err=True)


def _device(device: str | None) -> str:
    import torch

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ZSRobustError(f"No device {chosen!r}: {str(error).splitlines()[0]}") from None
    return chosen

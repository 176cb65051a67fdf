"""The command line: parse, call, print. Whatever is heavy is imported inside the commands."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import load_plugin_file
from zsrobust.core.specs import parse_eps

KINDS = [
    "suites",
    "protocols",
    "defenses",
    "attacks",
    "datasets",
    "reported",
]  # what zsrobust.listing knows

if TYPE_CHECKING:
    import pandas as pd

    from zsrobust.reporting.rows import Need
    from zsrobust.results.selection import Selection
    from zsrobust.running.bench import Bench
    from zsrobust.running.plan import Cell
    from zsrobust.settings.suites import Suite


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
            click.echo(
                "Interrupted. What is stored stays; the same command goes on from there.", err=True
            )
            code = 130
        sys.exit(code if isinstance(code, int) else 0)


def _eps(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    return None if value is None else parse_eps(value)


def _number(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
    if value != value:
        raise click.BadParameter("nan is no number.")
    return value


def _data_root(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    if value is not None:
        os.environ["ZSROBUST_DATA"] = str(
            value
        )  # where datasets, and processes that we start, look for it


suite_option = click.option(
    "--suite", help="What is measured: a name or a TOML file; the paper's suite if not given."
)
protocol_option = click.option(
    "--protocol",
    default="sound",
    show_default=True,
    help="How it is measured: a name, or a TOML file.",
)
data_option = click.option(
    "--data-root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    expose_value=False,
    callback=_data_root,
    help="Folder of the datasets you have, as torchvision lays them out; or set ZSROBUST_DATA.",
)
eps_option = click.option(
    "--eps", callback=_eps, help="Bound of the perturbation, 8/255 say; the suite's if not given."
)
folder_option = click.option(
    "--results",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default="results",
    show_default=True,
    envvar="ZSROBUST_RESULTS",
    help="Folder of the results.",
)
checkpoints_option = click.option(
    "--checkpoints",
    type=click.Path(path_type=Path, file_okay=False),
    default="checkpoints",
    show_default=True,
    envvar="ZSROBUST_CHECKPOINTS",
    help="Folder of the checkpoints.",
)
device_option = click.option(
    "--device", default=None, help="Torch device; cuda if there is one, else cpu."
)
limit_option = click.option(
    "--limit", type=click.IntRange(min=1), help="A fixed class-balanced subset of so many images."
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the attacks' randomness.",
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="zsrobust")
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A Python file that registers things, or a TOML file of datasets and weights.",
)
def main(plugins: Sequence[Path]) -> None:
    """Measure the zero-shot adversarial robustness of CLIP: defenses x attacks x datasets.

    Start with: zsrobust run --suite mini --defense pmg_aft --attack pgd10
    """
    for path in plugins:
        if path.suffix == ".toml":
            from zsrobust.running.entries import load_entries

            load_entries(path)
        else:
            load_plugin_file(path)


@main.command("list")
@click.argument("kind", required=False, type=click.Choice(KINDS))
@click.option("--suite", help="Show what is present of this suite; mini if not given.")
@checkpoints_option
def list_(kind: str | None, suite: str | None, checkpoints: Path) -> None:
    """Show suites, protocols, defenses, attacks and datasets: names, papers, what is present.

    `zsrobust list reported` shows what later papers printed of the same methods.
    """
    from zsrobust.cli import listing

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
        from zsrobust.cli import stock

        click.echo(stock.describe())
        return
    from zsrobust.cli import display
    from zsrobust.defenses.workshop import Workshop
    from zsrobust.running.bench import Bench
    from zsrobust.settings import protocols

    loaded = _suite(suite)
    bench = Bench(loaded, protocols.load(protocol), Workshop(loaded, Path("checkpoints")))
    with display.live() as shown:
        for line in bench.prepare_named(
            names or [*loaded.datasets, f"{loaded.train_on}:train"], shown
        ):
            click.echo(line)


@main.command()
@click.argument("defense")
@suite_option
@data_option
@checkpoints_option
@device_option
def train(defense: str, suite: str | None, checkpoints: Path, device: str | None) -> None:
    """Train the checkpoint of DEFENSE, if it is missing."""
    with _waiting("loading torch"):
        from zsrobust.cli import display
        from zsrobust.defenses import defenses
        from zsrobust.defenses.workshop import Workshop

    workshop = Workshop(_suite(suite), checkpoints, _device(device))
    recipe = defenses.create(defense).recipe_for(workshop.suite)
    if recipe is None:
        of = getattr(defenses.create(defense), "of", None)
        remedy = f"Next: zsrobust train {of}" if of else "See: zsrobust list defenses"
        raise ZSRobustError(f"{defense} has no training of its own. {remedy}")
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
@click.option(
    "--defense",
    "defenses",
    multiple=True,
    help="Name or spec, tecoa:lr=1e-4 say; repeat for several.",
)
@click.option(
    "--attack", "attacks", multiple=True, help="Name or spec, pgd:steps=20 say; repeat for several."
)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    help="Repeat for several; all of the suite's if not given.",
)
@click.option(
    "--table",
    "numbers",
    multiple=True,
    metavar="N",
    help="What this table needs: 1 to 5, s1, s2, t1.",
)
@click.option(
    "--figure",
    "figures",
    multiple=True,
    metavar="N",
    help="What this figure of the paper needs: 1, 2, 4, 5.",
)
@eps_option
@limit_option
@seed_option
@click.option("--force", is_flag=True, help="Compute again what is stored.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only tell what it would download, train and compute, and how long.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask before what takes gigabytes or hours.")
@click.option(
    "--precision",
    "search",
    type=click.Choice(["float32", "tf32", "bf16"]),
    default="float32",
    show_default=True,
    help="In which attacks search; every verdict is made in float32.",
)
@click.option(
    "--executor",
    type=click.Choice(["slurm", "local"]),
    help="Compute in jobs, one a defense, and wait for them.",
)
@click.option(
    "--slurm",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Of the jobs: partition, time (minutes), gpus.",
)
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
    numbers: Sequence[str],
    figures: Sequence[str],
    eps: float | None,
    limit: int | None,
    seed: int,
    force: bool,
    dry_run: bool,
    yes: bool,
    search: Any,
    executor: str | None,
    settings: Sequence[str],
    folder: Path,
    checkpoints: Path,
    device: str | None,
) -> None:
    """Compute the cells that are missing: train, attack, store, and print a table.

    Without --defense, --attack, --table and --figure: every cell that Tables 1, 2 and 3 need. Several runs may share the
    folders, and torchrun --nproc-per-node 8 -m zsrobust run shares every cell among 8 GPUs.
    """
    loaded = _suite(suite)
    needs: list[Need] = []
    if numbers or figures:
        if defenses or attacks or eps is not None:
            raise ZSRobustError(
                "A table or a figure says its defenses, attacks and eps itself: leave those options out."
            )
        loaded, needs = _needs(numbers, figures, loaded)
    _check_data(datasets or loaded.datasets)
    with _waiting("loading torch"):
        from zsrobust.cli import display
        from zsrobust.core import claims
        from zsrobust.core.files import check_writable
        from zsrobust.defenses.workshop import Workshop
        from zsrobust.running.bench import Bench
        from zsrobust.running.plan import plan
        from zsrobust.running.run import run as run_cells
        from zsrobust.settings import protocols
        from zsrobust.training import ranks

    with claims.terminable(), ranks.together(device) as own:
        cells = plan(
            loaded, defenses, attacks, datasets, needs=needs, eps=eps, limit=limit, seed=seed
        )
        bench = Bench(
            loaded, protocols.load(protocol), Workshop(loaded, checkpoints, _device(own)), search
        )
        if not ranks.decided(lambda: _agreed(bench, cells, folder, force, dry_run, yes)):
            return
        ranks.decided(lambda: check_writable(folder))
        with display.live() as shown:
            if executor:
                from zsrobust.running import slurm

                plugins = click.get_current_context().find_root().params["plugins"]
                task = slurm.Task(
                    plugins,
                    loaded.asked,
                    protocol,
                    search,
                    folder,
                    checkpoints,
                    device,
                    force,
                    display.live,
                )
                found, errors = slurm.run(executor, settings, task, bench, cells, shown)
            else:
                found, errors = run_cells(bench, cells, folder, shown, force)
        if found and ranks.leads():
            display.print_results(found, shown, folder)
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
@seed_option
@click.option(
    "--defense", "defenses", multiple=True, help="A row more, by its spec; repeat for several."
)
@click.option("--intervals", is_flag=True, help="Add 95% intervals.")
@click.option(
    "--compare",
    type=click.Choice(["paper"]),
    help="Add what the paper printed, and the difference.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write: .md, .tex, .csv or .html.",
)
@folder_option
def table(
    number: str | None,
    suite: str | None,
    eps: float | None,
    limit: int | None,
    protocol: str,
    seed: int,
    defenses: Sequence[str],
    intervals: bool,
    compare: str | None,
    out: Path | None,
    folder: Path,
) -> None:
    """Write one of the paper's tables from the stored results.

    1 robust, 2 clean, 3 AutoAttack, 4 the terms of the loss, 5 layer and distance, s1 and s2 the second target dataset;
    t1, which the paper has not, test-time defenses. Without NUMBER it is read off the name of --out; without --suite it is
    the only one that the results hold.
    """
    from zsrobust.core.specs import normalize
    from zsrobust.reporting import formats, tables

    number = number or _number_in(out, "table")
    tables.find(number)
    results, loaded = _held(folder, suite, number)
    page = tables.build(
        number,
        results,
        _selection(loaded, eps=eps, protocol=protocol, limit=limit, seed=seed),
        intervals=intervals,
        compare=compare == "paper",
        more=[normalize(spec) for spec in defenses],
    )
    _print(formats.render(page, out.suffix if out else ".md"), out)


@main.command()
@click.argument("number", required=False)
@suite_option
@eps_option
@limit_option
@protocol_option
@seed_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write: .svg, .pdf or .png.",
)
@folder_option
def figure(
    number: str | None,
    suite: str | None,
    eps: float | None,
    limit: int | None,
    protocol: str,
    seed: int,
    out: Path | None,
    folder: Path,
) -> None:
    """Draw one of the paper's figures from the stored results.

    1 accuracy by dataset, 2 distance along training, 4 other bounds, 5 robust against clean. Without --out: figureN.svg.
    """
    from zsrobust.core.files import write_atomically
    from zsrobust.reporting import figures

    number = number or _number_in(out, "figure")
    results, loaded = _held(folder, suite)
    selection = _selection(loaded, eps=eps, protocol=protocol, limit=limit, seed=seed)
    drawn = figures.draw(number, results, selection)
    out = out or Path(f"figure{number}.svg")
    write_atomically(out, figures.render(drawn, out.suffix))
    click.echo(f"{out} written")


@main.command()
@click.argument("first")
@click.argument("second")
@suite_option
@click.option("--attack", default="pgd10", show_default=True, help="Name or spec.")
@click.option(
    "--metric", type=click.Choice(["robust", "clean"]), default="robust", show_default=True
)
@eps_option
@limit_option
@protocol_option
@seed_option
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write: .md or .csv."
)
@folder_option
def compare(
    first: str,
    second: str,
    suite: str | None,
    attack: str,
    metric: Any,
    eps: float | None,
    limit: int | None,
    protocol: str,
    seed: int,
    out: Path | None,
    folder: Path,
) -> None:
    """Compare two defenses, image by image: the difference on each dataset, and where it is significant."""
    from zsrobust.core.specs import normalize
    from zsrobust.reporting import comparison

    results, loaded = _held(folder, suite)
    one, other = normalize(first), normalize(second)
    selection = _selection(
        loaded, attack=attack, eps=eps, protocol=protocol, limit=limit, seed=seed
    )
    compared = comparison.compare(results, one, other, selection, metric=metric)
    _print(comparison.render(compared, out.suffix if out else ".md"), out)


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="report.html",
    show_default=True,
)
@click.option(
    "--suite",
    "files",
    multiple=True,
    help="The TOML file of a suite of your own that the results are of.",
)
@folder_option
def report(out: Path, files: Sequence[str], folder: Path) -> None:
    """Write one page of HTML with everything in the results: leaderboard, figures, datasets, images, provenance."""
    from zsrobust.core.files import write_atomically
    from zsrobust.reporting.report import build
    from zsrobust.settings import suites

    content = build(folder, [suites.load(file) for file in files]).encode()
    write_atomically(out, content)
    click.echo(f"{out} written, {len(content) / 1e6:.1f} MB")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--against", required=True, metavar="BASELINE", help="A folder of results, or: paper."
)
@click.option("--suite", help="Only cells of this suite.")
@click.option(
    "--table",
    "numbers",
    multiple=True,
    metavar="N",
    help="Only what this table of the paper needs.",
)
@click.option(
    "--defense", "defenses", multiple=True, help="Only cells of this defense; repeat for several."
)
@click.option(
    "--attack", "attacks", multiple=True, help="Only cells under this attack; repeat for several."
)
@limit_option
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 100),
    default=1.0,
    show_default=True,
    callback=_number,
    help="In percentage points.",
)
@click.option(
    "--strict", is_flag=True, help="Against the paper, too, exit with 1 where numbers differ."
)
def check(
    folder: Path,
    against: str,
    suite: str | None,
    numbers: Sequence[str],
    defenses: Sequence[str],
    attacks: Sequence[str],
    limit: int | None,
    tolerance: float,
    strict: bool,
) -> None:
    """Hold the results in FOLDER against a baseline, cell by cell; nothing is computed.

    Exit code 0: all agree. 1: some do not, or are missing. 2: there is nothing to compare with.
    """
    from zsrobust.core.specs import format_eps, normalize
    from zsrobust.reporting import baseline
    from zsrobust.results.store import load_results
    from zsrobust.settings import suites

    if not folder.is_dir():
        raise ZSRobustError(f"No folder of results {folder}. Next: zsrobust run --results {folder}")
    wanted: dict[str, Sequence[Any]] = {
        "defense": [normalize(spec) for spec in defenses],
        "attack": [normalize(spec) for spec in attacks],
    }
    needed: list[tuple[str, str, str]] = []
    if suite or numbers or against == "paper":
        there = (
            suites.DEFAULT
            if against == "paper"
            else _only(sorted(set(load_results(against)["suite"])), Path(against))
        )
        loaded, needs = _needs(numbers, (), suites.load(suite or there))
        wanted["suite"] = [loaded.name]
        needed = [
            (need.defense, need.attack, format_eps(need.eps or loaded.attack["eps"]))
            for need in needs
        ]

    def keep(about: Mapping[str, Any]) -> bool:
        asked = all(about[key] in values for key, values in wanted.items() if values)
        return asked and (not needed or (about["defense"], about["attack"], about["eps"]) in needed)

    if against == "paper":
        found = baseline.check_paper(
            load_results(folder), loaded, keep=keep, limit=limit, tolerance=tolerance
        )
    else:
        found = baseline.check(folder, Path(against), keep=keep, limit=limit, tolerance=tolerance)
    for line in [*found.lines, *found.notes, found.summary]:
        click.echo(line)
    if not found.ok and (strict or against != "paper"):
        raise click.exceptions.Exit(1)


@main.command()
@click.argument(
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default="results",
    envvar="ZSROBUST_RESULTS",
)
@checkpoints_option
@click.option("--data", is_flag=True, help="Read the prepared datasets of the cache, too.")
def verify(folder: Path, checkpoints: Path, data: bool) -> None:
    """Hold the results in FOLDER, and the checkpoints they were made from, against the digests that they carry.

    A line a finding: the file, what is wrong, the command that computes it again. Exit code 1 if there is one.
    """
    from zsrobust.results import verification

    found = verification.verify(folder, checkpoints)
    if data:
        from zsrobust.datasets.cache import verify_prepared

        verify_prepared(found)
    for line in found.lines:
        click.echo(line)
    if found.findings:
        raise click.exceptions.Exit(1)


def _needs(
    numbers: Sequence[str], drawn: Sequence[str], suite: "Suite"
) -> "tuple[Suite, list[Need]]":
    """Return what tables and figures are made of, and the suite that they are made from."""
    from zsrobust.reporting import figures, tables

    names = {tables.suite_name(number, suite) for number in numbers} | (
        {suite.name} if drawn or not numbers else set()
    )
    if len(names) > 1:
        raise ZSRobustError(
            f"These are of several suites, {' and '.join(sorted(names))}: one run each, please."
        )
    (name,) = names
    found = [need for number in numbers for need in tables.needs(number)]
    found += [need for number in drawn for need in figures.needs(number, suite)]
    return (suite if name == suite.name else _suite(name)), found


def _number_in(out: Path | None, kind: str) -> str:
    """Return the number of a table or figure that a file is named after."""
    named = re.search(rf"{kind}[-_ ]?(s?\d)", out.stem) if out else None
    if not named:
        raise ZSRobustError(
            f"Which {kind}? Try: zsrobust {kind} 1, or --out results/{kind}1{'.md' if kind == 'table' else '.svg'}"
        )
    return named[1]


def _held(folder: Path, name: str | None, table: str | None = None) -> "tuple[pd.DataFrame, Suite]":
    """Return the results in a folder, and the suite that is shown of them: the only one there, if none is named."""
    from zsrobust.reporting import tables
    from zsrobust.results.store import load_results
    from zsrobust.settings import suites

    results = load_results(folder)
    held = sorted(set(results["suite"]))
    asked = suites.load(name or _only(held, folder))
    shown = tables.suite_name(table, asked) if table else asked.name
    if shown not in held:
        option = f" --table {table}" if shown != asked.name else ""
        raise ZSRobustError(
            f"No results of the suite {shown!r} in {folder}. Next: zsrobust run --suite {asked.asked}{option}"
        )
    return results, asked if shown == asked.name else suites.load(shown)


def _only(held: Sequence[str], folder: Path) -> str:
    """Return the only suite that a folder holds, second series apart; the paper's if it holds none."""
    from zsrobust.settings import suites

    firsts = suites.firsts()
    known = [name for name in held if firsts.get(name) not in held]
    if len(known) > 1 or not set(known) <= set(suites.names()):
        raise ZSRobustError(
            f"{folder} holds results of {', '.join(known)}: name a suite, or its file, with --suite."
        )
    return known[0] if known else suites.DEFAULT


def _selection(suite: "Suite", *, protocol: str, **chosen: Any) -> "Selection":
    from zsrobust.results.selection import Selection
    from zsrobust.settings import protocols

    name = protocols.load(protocol).name
    return Selection.of(suite, protocol=name, protocol_asked=protocol, **chosen)


def _print(text: str, out: Path | None) -> None:
    from zsrobust.core.files import write_atomically

    if out is None:
        click.echo(text, nl=False)
    else:
        write_atomically(out, text.encode())
        click.echo(f"{out} written")


@main.command()
@click.argument("defense")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write.",
)
@click.option(
    "--push", "repo", metavar="OWNER/NAME", help="Upload it to this repository of the hub, too."
)
@suite_option
@data_option
@folder_option
@checkpoints_option
@device_option
def export(
    defense: str,
    out: Path,
    repo: str | None,
    suite: str | None,
    folder: Path,
    checkpoints: Path,
    device: str | None,
) -> None:
    """Write DEFENSE as a folder that plain open_clip loads: weights, configuration, a card with its results so far.

    It is trained first if its checkpoint is missing.
    """
    from zsrobust.cli import display
    from zsrobust.defenses.export import export as write
    from zsrobust.defenses.export import push
    from zsrobust.defenses.workshop import Workshop

    workshop = Workshop(_suite(suite), checkpoints, _device(device))
    with display.live() as shown:
        workshop.progress, workshop.preparing = shown.training, shown.preparing
        click.echo(f"{write(defense, workshop, out, folder)} written")
    if repo:
        click.echo(f"{push(out, repo)} uploaded")


@main.command()
@suite_option
@protocol_option
@click.option("--defense", "defenses", multiple=True, help="Name or spec; repeat for several.")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    help="Repeat for several; what the suite trains on if not given.",
)
@eps_option
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Images of each dataset.",
)
@seed_option
@data_option
@checkpoints_option
@device_option
def doctor(
    suite: str | None,
    protocol: str,
    defenses: Sequence[str],
    datasets: Sequence[str],
    eps: float | None,
    limit: int,
    seed: int,
    checkpoints: Path,
    device: str | None,
) -> None:
    """Tell whether the numbers of a defense can be trusted, why not, and what to do; nothing is stored.

    A sample is attacked with PGD-10 and with a much stronger ensemble, and examined for red flags; so is the undefended
    model, which must fall. Exit code 0: all pass. 1: some do not.
    """
    loaded = _suite(suite)
    names = datasets or [loaded.train_on]
    _check_data(names)
    from rich.console import Console

    with _waiting("loading torch"):
        from zsrobust.cli import display
        from zsrobust.defenses.workshop import Workshop
        from zsrobust.running.bench import Bench
        from zsrobust.running.plan import plan
        from zsrobust.running.single import CANARY, examine_cells
        from zsrobust.settings import protocols

    specs = dict.fromkeys([CANARY, *defenses])
    cells = plan(loaded, list(specs), ["pgd10"], names, eps=eps, limit=limit, seed=seed)
    bench = Bench(loaded, protocols.load(protocol), Workshop(loaded, checkpoints, _device(device)))
    with display.live() as shown:
        found = list(examine_cells(bench, cells, shown))
    display.print_diagnoses(found, Console())
    if not all(each.passes for each in found):
        raise click.exceptions.Exit(1)


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Show what is under way for seconds, to whoever looks at a terminal; of several processes, the first one's alone."""
    if not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def _suite(name: str | None) -> "Suite":
    from zsrobust.running.entries import load_suite

    return load_suite(name)


def _check_data(names: Sequence[str]) -> None:
    """Fail at once, before torch is imported, where datasets must be downloaded and the network does not answer."""
    from zsrobust.cli.stock import check_available

    check_available(names)


def _agreed(
    bench: "Bench", cells: "list[Cell]", folder: Path, force: bool, dry_run: bool, yes: bool
) -> bool:
    """Return whether to go on: after a look at the bill, where it is large."""
    from zsrobust.running import bill

    with _waiting("loading open_clip, and measuring this device"):
        made = bill.make(bench, cells, folder, force)
        if dry_run or made.downloads or made.cells:
            made.speed = bench.speed
    if dry_run or made.large or made.downloads:
        for line in made.lines(bench.workshop.device):
            click.echo(line, err=not dry_run)
    if dry_run or yes or not made.large:
        return not dry_run
    if not sys.stdin.isatty():
        raise ZSRobustError(
            "This takes gigabytes or hours, and nobody is there to ask. Add --yes, or a --limit."
        )
    return click.confirm("Go on?", err=True)


def _device(device: str | None) -> str:
    import torch

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ZSRobustError(f"No device {chosen!r}: {str(error).splitlines()[0]}") from None
    return chosen

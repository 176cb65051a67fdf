"""`zsrobust report` and `zsrobust check`: all results of a folder at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from zsrobust.cli.command import Command
from zsrobust.cli.folders import Results
from zsrobust.cli.options import Points, limit_option, out_option, several, store_options
from zsrobust.cli.request import Places, passes


@click.command(
    cls=Command, examples=["zsrobust report", "zsrobust report --suite mine.toml --out mine.html"]
)
@out_option("one page of HTML", default="report.html")
@several("--suite", "files", "TOML file of your own suite, if the results contain it. Repeatable.")
@store_options
def report(out: Path, files: Sequence[str], places: Places) -> None:
    """Write all results as one HTML page: leaderboard, figures, datasets, images, provenance."""
    from zsrobust.core.files import write_atomically
    from zsrobust.reporting.report import build
    from zsrobust.settings import suites

    content = build(places.store, [suites.load(file) for file in files]).encode()
    write_atomically(out, content)
    click.echo(f"{out} written, {len(content) / 1e6:.1f} MB")


@click.command(cls=Command, examples=["zsrobust site --out site", "zsrobust site --docs html"])
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="site",
    show_default=True,
    help="Folder to write.",
)
@click.option(
    "--docs",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the built docs, which become a part of the site.",
)
@several("--suite", "files", "TOML file of your own suite, if the results contain it. Repeatable.")
@store_options
def site(out: Path, docs: Path | None, files: Sequence[str], places: Places) -> None:
    """Write all results as a static site: leaderboard, a page per defense and per dataset."""
    from zsrobust.reporting.report.site import write
    from zsrobust.settings import suites

    pages = write(places.store, out, [suites.load(file) for file in files], docs)
    click.echo(f"{out / 'index.html'} written, and {pages - 1} more pages")


#: Baselines that are printed numbers, and no folders: compared with, never a gate.
PRINTED = ("paper", "anchors")


@dataclass(frozen=True, kw_only=True)
class Filter:
    """The cells to check."""

    suite: str | None
    numbers: Sequence[str]  #: of tables
    defenses: Sequence[str]
    attacks: Sequence[str]

    def keeps(self, against: str) -> "tuple[Any, Callable[[Mapping[str, Any]], bool]]":
        """Return the suite, None for any, and the predicate of the cells to check."""
        from zsrobust.core.specs import format_eps, normalize
        from zsrobust.settings import suites

        wanted: dict[str, Sequence[str]] = {
            "defense": [normalize(spec) for spec in self.defenses],
            "attack": [normalize(spec) for spec in self.attacks],
        }
        suite = None
        needed: list[tuple[str, str, str]] = []
        if self.suite or self.numbers or against in PRINTED:
            from zsrobust.cli.cells import needs

            suite = suites.load(self.suite or _only_suite(against))
            if self.numbers or against != "anchors":  # clean accuracy is the same in every table
                suite, rows = needs(self.numbers, (), suite, suites.load)
                usual = suite.attack["eps"]
                needed = [(row.defense, row.attack, format_eps(row.eps or usual)) for row in rows]
            wanted["suite"] = [suite.name]

        def keep(about: Mapping[str, Any]) -> bool:
            asked = all(about[key] in values for key, values in wanted.items() if values)
            row = (about["defense"], about["attack"], about["eps"])
            return asked and (not needed or row in needed)

        return suite, keep


def _only_suite(against: str) -> str:
    """Return the only suite of a baseline; raises ZSRobustError for several."""
    from zsrobust.cli.cells import only
    from zsrobust.results.store import load_results
    from zsrobust.settings import suites

    if against in PRINTED:
        return suites.DEFAULT
    return only(sorted(set(load_results(against)["suite"])), against)


_filter = passes(
    Filter,
    "chosen",
    click.option("--suite", help="Only cells of this suite."),
    several("--table", "numbers", "Only rows of this table. Repeatable.", metavar="N"),
    several("--defense", "defenses", "Only cells of this defense. Repeatable."),
    several("--attack", "attacks", "Only cells under this attack. Repeatable."),
)


@click.command(
    cls=Command,
    examples=[
        "zsrobust check fresh --against results --suite mini --table 1",
        "zsrobust check results --against paper --defense tecoa --strict",
    ],
)
@click.argument("folder", type=Results())
@click.option(
    "--against",
    required=True,
    metavar="BASELINE",
    help="Folder of results, hf://OWNER/NAME, paper, or anchors: clean accuracies of others.",
)
@_filter
@limit_option
@click.option(
    "--tolerance",
    type=Points(0, 100),
    help="Largest accepted difference, in percentage points. Default: 1, and 5 for anchors.",
)
@click.option(
    "--strict", is_flag=True, help="Exit with code 1 on differences from printed numbers, too."
)
def check(
    folder: Path,
    against: str,
    chosen: Filter,
    limit: int | None,
    tolerance: float | None,
    strict: bool,
) -> None:
    """Compare the results in FOLDER with a baseline, cell by cell. Nothing is computed.

    Exit code 0: all cells agree. 1: cells differ or are missing. 2: nothing to compare.
    """
    from zsrobust.core.hub import local
    from zsrobust.reporting import anchors, baseline, paper
    from zsrobust.results.store import check_folder, load_results

    check_folder(folder)
    against = str(local(against))
    suite, keep = chosen.keeps(against)
    asked: dict[str, Any] = {"keep": keep, "limit": limit}
    if tolerance is not None:
        asked["tolerance"] = tolerance
    if against == "anchors":
        found = anchors.check(load_results(folder), suite, **asked)
    elif against == "paper":
        found = paper.check(load_results(folder), suite, **asked)
    else:
        found = baseline.check(folder, Path(against), **asked)
    for line in [*found.lines, *found.notes, found.summary]:
        click.echo(line)
    if not found.ok and (strict or against not in PRINTED):
        raise click.exceptions.Exit(1)

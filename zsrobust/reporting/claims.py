"""Claims: what papers print of the defenses of a table, beside our results. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from zsrobust.core.errors import ZSRobustError, counted, suggest
from zsrobust.core.specs import parse_eps
from zsrobust.core.values import check, read_toml
from zsrobust.reporting.columns import DASH, MIXED, Entry, percent, points
from zsrobust.reporting.contents import Table, find
from zsrobust.reporting.formats import Page
from zsrobust.reporting.rows import Finder, Metric, Need, Row
from zsrobust.results.printed import Printed
from zsrobust.results.registered import registered
from zsrobust.results.selection import Selection
from zsrobust.settings.suites import Suite

BOTH: tuple[Metric, ...] = ("clean", "robust")
THEIRS = ["Method", "Attack", "Eps", "Datasets", "Theirs, clean", "Theirs, robust"]
OURS = ["Ours, clean", "Ours, robust", "Difference, clean", "Difference, robust"]


@dataclass(frozen=True)
class Claim:
    """One claim at one eps, of one defense."""

    defense: str  #: spec
    printed: Printed
    eps: str

    def theirs(self, metric: Metric) -> str | None:
        """Return the average in percent, as printed; None if the source does not print it."""
        return self.printed.clean if metric == "clean" else self.printed.robust[self.eps]


def known(suite: Suite) -> dict[str, tuple[Printed, ...]]:
    """Return all claims by the defense's spec; those of the weights in a user's suite file, too.

    Raises ZSRobustError for a claim that is not valid.
    """
    claims = dict(_ours())
    if suite.asked.endswith(".toml"):
        tables = read_toml(Path(suite.asked).read_bytes(), dict[str, Any], suite.asked)
        claims |= _of_weights(tables.get("weights", {}), suite.asked)
    return claims


@cache
def _ours() -> Mapping[str, tuple[Printed, ...]]:
    own = resources.files("zsrobust").joinpath("reporting", "reported", "claims.toml")
    return {
        **read_toml(own.read_bytes(), dict[str, tuple[Printed, ...]], own.name),
        **_of_weights(published(), "published.toml"),
    }


@cache
def published() -> Mapping[str, Mapping[str, Any]]:
    """Return the entries of published weights by name, as their file has them."""
    # Found from the package, because importing zsrobust.defenses imports torch.
    file = resources.files("zsrobust").joinpath("defenses", "published.toml")
    return read_toml(file.read_bytes(), dict[str, dict[str, Any]], file.name)


def _of_weights(entries: Any, where: str) -> dict[str, tuple[Printed, ...]]:
    """Return the claims of entries of published weights, by their names."""
    checked = check(entries, dict[str, dict[str, Any]], where)
    return {
        name: check(fields["claims"], tuple[Printed, ...], f"{where}: {name}", path="claims")
        for name, fields in checked.items()
        if fields.get("claims")
    }


def build(
    number: str,
    results: pd.DataFrame,
    selection: Selection,
    *,
    intervals: bool = False,
    more: Sequence[str] = (),
) -> Page:
    """Return the claims for the rows of a table, with our results for those that are comparable.

    A claim is comparable if it is over the datasets of the selection's suite, after training on the
    suite's target dataset. Ours is then the mean under the claim's own attack and eps, whatever
    those of the table. Without a comparable claim, the page has only what others print. An eps that
    is not the suite's own selects the claims at this eps. `more` adds rows by their specs, and
    `intervals` adds 95% intervals to our means. Raises ZSRobustError for an unknown table, a row of
    `more` without claims, and a table none of whose rows has claims.
    """
    table, suite = find(number), selection.suite
    stated = known(suite)
    titles = _titles(number, table, stated, results, more)
    claims = [
        Claim(spec, printed, eps)
        for spec in titles
        for printed in stated[spec]
        for eps in printed.robust
        if selection.usual or eps == selection.bound
    ]
    if not claims:
        raise ZSRobustError(
            f"No row of Table {number} has claims at eps {selection.bound}. For claims at every "
            "eps, leave out --eps."
        )
    compared = any(claim.printed.suite == suite.name for claim in claims)
    finder = Finder(results, replace(selection, attack=table.attack))
    lines = []
    for claim in claims:
        ours = _beside(claim, table, finder) if compared else []
        source = Entry(f"{claim.printed.source} ({claim.printed.origin}; {claim.printed.grade})")
        lines.append((titles[claim.defense], [*_theirs(claim), *ours, source]))
    return Page(
        f"Table {number}, claims. Averages (%) that others print"
        + (f", beside ours: {suite.name} suite." if compared else "."),
        [*THEIRS, *(OURS if compared else []), "Source"],
        lines,
        _underneath(number, selection, compared),
        intervals,
    )


def _titles(
    number: str,
    table: Table,
    claims: Mapping[str, Sequence[Printed]],
    results: pd.DataFrame,
    more: Sequence[str],
) -> dict[str, str]:
    """Return the titles of the rows that have claims, by their specs."""
    stored = dict(zip(results["defense"], results["defense_title"], strict=True))
    for spec in more:
        if spec not in claims:
            raise suggest(
                "defense with claims:", spec, sorted(claims), f"With claims: {_listed(claims)}."
            )
    titles = {spec: title for spec, title in table.rows.items() if spec in claims}
    for spec in more:
        titles.setdefault(spec, stored.get(spec) or registered()["defenses"].get(spec, spec))
    if not titles:
        raise ZSRobustError(
            f"No row of Table {number} has claims. Defenses with claims: {_listed(claims)}. "
            f"Add one: zsrobust table {number} --compare claims --defense {next(iter(claims))}"
        )
    return titles


def _listed(claims: Mapping[str, Sequence[Printed]]) -> str:
    return ", ".join(claims)


def _theirs(claim: Claim) -> list[Entry]:
    printed = claim.printed
    return [
        Entry(printed.attack, notes=(printed.note,) if printed.note else ()),
        Entry(claim.eps),
        Entry(str(printed.datasets)),
        *(Entry(claim.theirs(metric) or DASH) for metric in BOTH),
    ]


def _beside(claim: Claim, table: Table, finder: Finder) -> list[Entry]:
    """Return our clean and robust mean and their differences; a dash has the reason as a note."""
    ours = [_ours_of(claim, metric, table, finder) for metric in BOTH]
    differences = []
    for metric, entry in zip(BOTH, ours, strict=True):
        theirs, difference = claim.theirs(metric), Entry()
        if theirs is not None and entry.share is not None:
            difference = Entry(points(entry.share - Fraction(theirs) / 100))
        differences.append(difference)
    return [*ours, *differences]


def _ours_of(claim: Claim, metric: Metric, table: Table, finder: Finder) -> Entry:
    """Return our mean for a claim; clean accuracy may come from the table's own attack."""
    printed, selection = claim.printed, finder.selection
    if printed.suite is None:
        return _dash("Not comparable: no suite has its datasets and its training set.")
    if printed.suite != selection.suite.name:
        return _dash(f"Not comparable: it is about the suite {printed.suite}.")
    needs = []
    if printed.spec is not None:
        needs.append(Need(claim.defense, printed.spec, parse_eps(claim.eps)))
    if metric == "clean":
        needs.append(Need(claim.defense, table.attack))
    if not needs:
        return _dash("Not comparable: its attack is not one of ours.")
    found = [finder.row(need) for need in needs]
    for row in found:
        mean = row.mean(metric)
        if mean is not None:
            return Entry(percent(mean), mean, row.interval(metric))
    return _dash(_missing(found[0], needs[0], selection))


def _dash(reason: str) -> Entry:
    return Entry(notes=(reason,))


def _missing(row: Row, need: Need, selection: Selection) -> str:
    """Return why a row has no mean, and the command that computes it."""
    if row.mixed:
        return MIXED
    asked = replace(selection, attack=need.attack, eps=need.eps or selection.eps)
    what = "Not all datasets are measured" if row.cells else "Not measured"
    return f"{what}. Next: {asked.command([need.defense])}"


def _underneath(number: str, selection: Selection, compared: bool) -> list[str]:
    suite = selection.suite
    lines = [
        "Theirs: as the source prints it. In brackets: self-reported by the authors of the method "
        "or measured by others, and how the source was read."
    ]
    if not compared:
        again = f"zsrobust table {number} --suite {suite.asked or suite.name}"
        alone = (
            f"None of these claims is comparable with results of the suite {suite.name}: they are "
            f"averages over other datasets, of another backbone or after another training. Ours "
            f"are not printed here. Next: {again}"
        )
        return [alone, *lines]
    subset = f", subsets of {selection.limit} images" if selection.limit else ""
    lines.append(
        f"Ours: the mean over {counted(len(suite.datasets), 'dataset')} of the suite {suite.name}, "
        f"protocol {selection.protocol}, seed {selection.seed}{subset}, under the claim's attack "
        "at its eps. Difference: ours minus theirs, in points. Training and images may differ "
        f"from the source's. {DASH}: not printed, not comparable, or not measured."
    )
    return lines

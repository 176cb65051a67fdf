"""Which suite and which rows a command needs. Neither torch nor pandas is imported at the top."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zsrobust.cli.request import Request
from zsrobust.core.errors import ZSRobustError

if TYPE_CHECKING:
    import pandas as pd

    from zsrobust.reporting.rows import Need
    from zsrobust.results.selection import Selection
    from zsrobust.results.store import Store
    from zsrobust.settings.suites import Suite


def needs(
    numbers: Sequence[str],
    figures: Sequence[str],
    suite: "Suite",
    load: "Callable[[str], Suite]",
) -> "tuple[Suite, list[Need]]":
    """Return the rows that tables and figures are made of, and their suite, which `load` loads."""
    from zsrobust.reporting import figures as drawn
    from zsrobust.reporting import tables

    names = {tables.suite_name(number, suite) for number in numbers}
    if figures or not numbers:
        names.add(suite.name)
    if len(names) > 1:
        raise ZSRobustError(
            f"These tables and figures are of several suites, {' and '.join(sorted(names))}. "
            "Run each suite by itself."
        )
    (name,) = names
    found = [need for number in numbers for need in tables.needs(number)]
    found += [need for number in figures for need in drawn.needs(number, suite)]
    return (suite if name == suite.name else load(name)), found


def number_in(out: Path | None, kind: str) -> str:
    """Return the number of the table or figure that a file is named after."""
    named = re.search(rf"{kind}[-_ ]?([st]?\d)", out.stem) if out else None
    if not named:
        suffix = ".md" if kind == "table" else ".svg"
        raise ZSRobustError(
            f"The number of the {kind} is missing. "
            f"Next: zsrobust {kind} 1, or --out results/{kind}1{suffix}"
        )
    return named[1]


def stored(
    store: "Store", request: Request, table: str | None = None
) -> "tuple[pd.DataFrame, Selection]":
    """Return the stored results, and which of them the options select.

    The suite is the named one, or the only one there; for some tables, its second.
    """
    from zsrobust.reporting import tables
    from zsrobust.settings import suites

    results = store.load()
    name = request.suite or only(sorted(set(results["suite"])), str(store))
    suite = suites.load(name)
    shown = tables.suite_name(table, suite) if table else suite.name
    if shown != suite.name:
        suite = suites.load(shown)
    return results, request.selection(suite)


def only(there: Sequence[str], folder: str) -> str:
    """Return the only suite that a folder has results of; the default one if it has none.

    A suite's second series is not counted. Raises ZSRobustError where there are several.
    """
    from zsrobust.settings import suites

    firsts = suites.firsts()
    known = [name for name in there if firsts.get(name) not in there]
    if len(known) > 1 or not set(known) <= set(suites.names()):
        raise ZSRobustError(
            f"{folder} has results of {', '.join(known)}. Name a suite, or its file, with --suite."
        )
    return known[0] if known else suites.DEFAULT

"""The suite and the rows of a command. Torch and pandas are not imported at the top."""

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
    numbers: Sequence[str], figures: Sequence[str], suite: "Suite", load: "Callable[[str], Suite]"
) -> "tuple[Suite, list[Need]]":
    """Return the suite of tables and figures, which `load` loads, and the rows they need.

    Raises ZSRobustError if they belong to several suites.
    """
    from zsrobust.reporting import figures as drawn
    from zsrobust.reporting import tables

    names = {tables.suite_name(number, suite) for number in numbers}
    if figures or not numbers:
        names.add(suite.name)
    if len(names) > 1:
        raise ZSRobustError(
            f"These tables and figures belong to several suites: {' and '.join(sorted(names))}. "
            "Run each suite by itself."
        )
    (name,) = names
    if name != suite.name:
        suite = load(name)
    found = [need for number in numbers for need in tables.needs(number, suite)]
    found += [need for number in figures for need in drawn.needs(number, suite)]
    return suite, found


def number_in(out: Path | None, kind: str) -> str:
    """Return the number in the name of the file `out`; raises ZSRobustError without one."""
    named = re.search(rf"{kind}[-_ ]?([stz]?\d)", out.stem) if out else None
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
    """Return the stored results, and the selection of the options.

    The suite is the named one, or the only one in the results. Some tables use its second series.
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
    """Return the only suite with results in a folder; the default suite if the folder is empty.

    The second series of a suite is not counted. Raises ZSRobustError for several suites.
    """
    from zsrobust.settings import suites

    firsts = suites.firsts()
    known = [name for name in there if firsts.get(name) not in there]
    if len(known) > 1 or not set(known) <= set(suites.names()):
        raise ZSRobustError(
            f"{folder} has results of {', '.join(known)}. Name a suite, or its file, with --suite."
        )
    return known[0] if known else suites.DEFAULT

"""Recomputation: a random slice of stored cells, computed from nothing and compared.

It is what `zsrobust run` and `zsrobust check` do, on cells that are drawn by a seed. A result with
invented outcomes and right digests passes `zsrobust verify`, and is found here.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zsrobust.core.specs import split_spec
from zsrobust.defenses.workshop import Workshop
from zsrobust.reporting import baseline
from zsrobust.reporting.verdicts import Report
from zsrobust.results import Result
from zsrobust.results.registered import registered
from zsrobust.results.store import Store
from zsrobust.running.bench import Bench
from zsrobust.running.plan import Cell, Key
from zsrobust.running.reporter import Reporter
from zsrobust.running.run import run
from zsrobust.settings import protocols, suites

EMBEDDED = "package:"  #: the beginning of a backbone that needs no download


def draw(results: Iterable[Result], number: int, seed: int) -> list[Result]:
    """Return `number` of the results that can be recomputed, or all of them, drawn by a seed."""
    able = sorted(filter(recomputable, results), key=lambda result: result.path)
    return random.Random(seed).sample(able, min(number, len(able)))  # noqa: S311  # no secret


def recomputable(result: Result) -> bool:
    """Return whether any machine can recompute a result: an embedded suite, and built-in names."""
    identity = result.identity
    known = registered()
    return (
        result.status == "ok"
        and identity.suite in suites.names()
        and suites.load(identity.suite).backbone.startswith(EMBEDDED)
        and split_spec(identity.protocol)[0] in protocols.names()
        and split_spec(identity.attack.spec)[0] in known["attacks"]
        and split_spec(identity.defense.spec)[0] in known["defenses"]
        and "weights" not in identity.defense.spec  # a file of somebody's, or a download
    )


def recompute(
    chosen: Sequence[Result], folder: Path, scratch: Path, device: str, reporter: Reporter
) -> tuple[Report, list[str]]:
    """Return the verdicts on chosen results of a folder, and why cells could not be computed.

    The cells are computed from nothing in the empty folder `scratch`, trainings included. The
    rules of agreement are those of `zsrobust check`. Raises ZSRobustError for unknown names.
    """
    fresh, errors = scratch / "results", []
    fresh.mkdir()
    groups: dict[tuple[str, str, Any, bool], list[Key]] = {}
    for result in chosen:
        identity = result.identity
        about = identity.about
        key = Key(
            about["defense"],
            about["attack"],
            identity.attack.eps,
            about["dataset"],
            about["limit"],
            about["seed"],
        )
        way = (identity.suite, identity.protocol, identity.search, identity.compiled)
        groups.setdefault(way, []).append(key)
    for (name, switches, search, compiled), keys in groups.items():
        suite, protocol = suites.load(name), protocols.load(switches)
        workshop = Workshop(suite, scratch / "checkpoints", device)
        bench = Bench(suite, protocol, workshop, search, compiled)
        cells = [Cell.of(key, suite, protocol) for key in keys]
        errors += run(bench, cells, Store(fresh), reporter)[1]
    return baseline.check(fresh, folder, keep=_keeps(chosen)), list(map(str, errors))


def _keeps(chosen: Sequence[Result]) -> Callable[[Mapping[str, Any]], bool]:
    abouts = [result.identity.about for result in chosen]
    return lambda about: dict(about) in abouts

"""The tables that `zsrobust list` prints: names, papers, files present."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tabulate import tabulate

from zsrobust.core import index
from zsrobust.core.specs import format_eps
from zsrobust.running.entries import load_suite
from zsrobust.settings import protocols, suites
from zsrobust.settings.suites import Suite


@dataclass(frozen=True)
class Place:
    """Where checkpoints are looked for: those of a suite, in a folder."""

    suite: Suite
    folder: Path

    @cached_property
    def entries(self) -> index.Index:
        """The entries by kind and name: from the index, or from the registries with plugins."""
        found = index.read()
        if found is None or self.suite.name not in suites.names():
            from zsrobust.running import indexing

            found = indexing.make([self.suite])
        return found


def describe(kinds: Sequence[str], suite: str, checkpoints: Path) -> str:
    """Return a table for each kind; checkpoints are those of one suite."""
    place = Place(load_suite(suite), checkpoints)
    return "\n\n".join(_table(kind, place) for kind in kinds)


def _table(kind: str, place: Place) -> str:
    header, rows = _ROWS[kind]
    text = tabulate(
        rows(place), header, tablefmt="plain", maxcolwidths=[None, 60, 60], disable_numparse=True
    )
    return f"{kind.upper()}\n{text}"


def _suites(place: Place) -> Iterator[list[Any]]:
    for name in suites.names():
        suite = suites.load(name)
        size = f"{len(suite.datasets)} datasets, eps {format_eps(suite.attack['eps'])}"
        yield [name, suite.title, size]


def _protocols(place: Place) -> Iterator[list[Any]]:
    for name in protocols.names():
        protocol = protocols.load(name)
        switches = ", ".join(f"{key}={value}" for key, value in protocol.switches.items())
        yield [name, protocol.title, switches or "all defaults"]


def _defenses(place: Place) -> Iterator[list[Any]]:
    for name, entry in place.entries["defense"].items():
        yield [name, entry["about"], _present(entry, place)]


def _present(entry: Mapping[str, Any], place: Place) -> str:
    if "published" in entry:
        return f"published: {entry['published']}"
    paths = [place.folder / each for each in entry["checkpoints"][place.suite.name]]
    if not paths:
        return "needs no training"
    if all(path.exists() for path in paths):
        return f"trained: {', '.join(map(str, paths))}"
    return f"not trained on {place.suite.name} yet"


def _attacks(place: Place) -> Iterator[list[Any]]:
    for name, entry in place.entries["attack"].items():
        yield [name, entry["about"], entry["values"]]


def _datasets(place: Place) -> Iterator[list[Any]]:
    for name, entry in place.entries["dataset"].items():
        target = ", target of fine-tuning" if name == place.suite.train_on else ""
        yield [name, entry["about"], entry["size"] + target]


def _reported(place: Place) -> Iterator[list[Any]]:
    from zsrobust.reporting import reported  # pandas

    others = reported.others()
    for row in others[others["dataset"] == "average"].to_dict("records"):
        pair = (row["clean"], row["robust"])
        numbers = ["" if math.isnan(number) else f"{number:.2f}" for number in pair]
        attack = " ".join(filter(None, (row["attack"], row["eps"])))
        origin = f"{row['origin']}; {row['grade']}"
        yield [row["paper"], row["method"], row["eval_sets"], attack, *numbers, origin]


_ROWS: dict[str, tuple[list[str], Callable[[Place], Iterator[list[Any]]]]] = {
    "suites": (["name", "what", "size"], _suites),
    "protocols": (["name", "what", "switches"], _protocols),
    "defenses": (["name", "title and paper", "present"], _defenses),
    "attacks": (["name", "what", "fields"], _attacks),
    "datasets": (["name", "what", "size"], _datasets),
}
KINDS = tuple(_ROWS)
#: The numbers of later papers are many lines, so only `zsrobust list reported` prints them.
_ROWS["reported"] = (
    ["paper", "method", "on", "attack", "clean", "robust", "who measured; how it was read"],
    _reported,
)

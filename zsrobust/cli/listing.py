"""The tables that `zsrobust list` prints: names, papers, files present."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from zsrobust.attacks import attacks
from zsrobust.core.specs import format_eps
from zsrobust.datasets import datasets
from zsrobust.defenses import Defense, defenses
from zsrobust.defenses.weights import Weights
from zsrobust.defenses.workshop import Workshop
from zsrobust.reporting import reported
from zsrobust.running.entries import load_suite
from zsrobust.settings import protocols, suites


def describe(kinds: Sequence[str], suite: str, checkpoints: Path) -> str:
    """Return a table for each kind; checkpoints are those of one suite."""
    workshop = Workshop(load_suite(suite), checkpoints)
    return "\n\n".join(_table(kind, workshop) for kind in kinds)


def _table(kind: str, workshop: Workshop) -> str:
    header, rows = _ROWS[kind]
    text = tabulate(
        rows(workshop), header, tablefmt="plain", maxcolwidths=[None, 60, 60], disable_numparse=True
    )
    return f"{kind.upper()}\n{text}"


def _suites(workshop: Workshop) -> Iterator[list[Any]]:
    for name in suites.names():
        suite = suites.load(name)
        size = f"{len(suite.datasets)} datasets, eps {format_eps(suite.attack['eps'])}"
        yield [name, suite.title, size]


def _protocols(workshop: Workshop) -> Iterator[list[Any]]:
    for name in protocols.names():
        protocol = protocols.load(name)
        switches = ", ".join(f"{key}={value}" for key, value in protocol.switches.items())
        yield [name, protocol.title, switches or "all defaults"]


def _defenses(workshop: Workshop) -> Iterator[list[Any]]:
    for name in defenses:
        defense = defenses[name]
        yield [name, f"{defense.title}; {defense.paper}", _present(defense, workshop)]


def _present(defense: Defense, workshop: Workshop) -> str:
    if isinstance(defense, Weights) and defense.where:
        backbone = f"; for {defense.backbone}" if defense.backbone else ""
        file = f", {defense.file}" if defense.file else ""
        return f"published: {defense.where}{file}{backbone}"
    paths = [workshop.checkpoint_path(recipe) for recipe in defense.recipes(workshop.suite)]
    if not paths:
        return "needs no training"
    if all(path.exists() for path in paths):
        return f"trained: {', '.join(map(str, paths))}"
    return f"not trained on {workshop.suite.name} yet"


def _attacks(workshop: Workshop) -> Iterator[list[Any]]:
    for name in attacks:
        attack: Any = attacks[name]
        about = (type(attack).__doc__ or "").strip().splitlines()[0]
        fields = {
            key: each for key, each in vars(attack).items() if key not in ("eps", "step_size")
        }
        yield [name, about, ", ".join(f"{key}={each}" for key, each in fields.items())]


def _datasets(workshop: Workshop) -> Iterator[list[Any]]:
    for name in datasets:
        dataset = datasets[name]
        size = f"{dataset.size} images, {len(dataset.classes)} classes, {dataset.group}"
        target = ", target of fine-tuning" if name == workshop.suite.train_on else ""
        yield [name, dataset.about, size + target]


def _reported(workshop: Workshop) -> Iterator[list[Any]]:
    others = reported.others()
    for row in others[others["dataset"] == "average"].to_dict("records"):
        pair = (row["clean"], row["robust"])
        numbers = ["" if math.isnan(number) else f"{number:.2f}" for number in pair]
        attack = " ".join(filter(None, (row["attack"], row["eps"])))
        origin = f"{row['origin']}; {row['grade']}"
        yield [row["paper"], row["method"], row["eval_sets"], attack, *numbers, origin]


_ROWS: dict[str, tuple[list[str], Callable[[Workshop], Iterator[list[Any]]]]] = {
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

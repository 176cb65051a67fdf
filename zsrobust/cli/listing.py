"""What `zsrobust list` prints: names, papers, what is present."""

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
    """Return a table for each kind; what is present is told for one suite."""
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
        yield [
            name,
            suite.title,
            f"{len(suite.datasets)} datasets, eps {format_eps(suite.attack['eps'])}",
        ]


def _protocols(workshop: Workshop) -> Iterator[list[Any]]:
    for name in protocols.names():
        protocol = protocols.load(name)
        yield [
            name,
            protocol.title,
            ", ".join(f"{key}={value}" for key, value in protocol.switches.items())
            or "all defaults",
        ]


def _defenses(workshop: Workshop) -> Iterator[list[Any]]:
    for name in defenses:
        defense = defenses[name]
        yield [name, f"{defense.title}; {defense.paper}", _present(defense, workshop)]


def _present(defense: Defense, workshop: Workshop) -> str:
    paths = [workshop.checkpoint_path(recipe) for recipe in defense.recipes(workshop.suite)]
    if isinstance(defense, Weights) and defense.where:
        return f"published: {defense.where}" + (
            f"; for {defense.backbone}" if defense.backbone else ""
        )
    if not paths:
        return "needs no training"
    missing = [path for path in paths if not path.exists()]
    return (
        f"not trained on {workshop.suite.name} yet"
        if missing
        else f"trained: {', '.join(map(str, paths))}"
    )


def _attacks(workshop: Workshop) -> Iterator[list[Any]]:
    for name in attacks:
        attack: Any = attacks[name]
        about = (type(attack).__doc__ or "").strip().splitlines()[0]
        fields = ", ".join(
            f"{key}={value}"
            for key, value in vars(attack).items()
            if key not in ("eps", "step_size")
        )
        yield [name, about, fields]


def _datasets(workshop: Workshop) -> Iterator[list[Any]]:
    for name in datasets:
        dataset = datasets[name]
        size = f"{dataset.size} images, {len(dataset.classes)} classes, {dataset.group}"
        yield [
            name,
            dataset.about,
            f"{size}{', target of fine-tuning' if name == workshop.suite.train_on else ''}",
        ]


def _reported(workshop: Workshop) -> Iterator[list[Any]]:
    others = reported.others()
    for row in others[others["dataset"] == "average"].to_dict("records"):
        numbers = [
            "" if math.isnan(row[metric]) else f"{row[metric]:.2f}"
            for metric in ("clean", "robust")
        ]
        attack = " ".join(filter(None, (row["attack"], row["eps"])))
        yield [
            row["paper"],
            row["method"],
            row["eval_sets"],
            attack,
            *numbers,
            f"{row['origin']}; {row['grade']}",
        ]


_ROWS: dict[str, tuple[list[str], Callable[[Workshop], Iterator[list[Any]]]]] = {
    "suites": (["name", "what", "size"], _suites),
    "protocols": (["name", "what", "switches"], _protocols),
    "defenses": (["name", "title and paper", "present"], _defenses),
    "attacks": (["name", "what", "fields"], _attacks),
    "datasets": (["name", "what", "size"], _datasets),
}
KINDS = tuple(_ROWS)
#: What later papers printed is long, and shown only when asked for.
_ROWS["reported"] = (
    ["paper", "method", "on", "attack", "clean", "robust", "who measured; how it was read"],
    _reported,
)

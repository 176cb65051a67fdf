"""The runner: which cells there are, which are missing, and in which order they are computed."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zsrobust import results
from zsrobust.attacks import Attack, attacks, frozen
from zsrobust.datasets import Images, datasets
from zsrobust.defenses import Tower, Workshop, defenses
from zsrobust.evaluation import describe_attack, describe_dataset, device_of, run_cell
from zsrobust.registry import Registry, ZSRobustError, join_spec, split_spec
from zsrobust.results import Result
from zsrobust.suites import PROTOCOL, Suite, load
from zsrobust.tables import TABLES

BATCH_SIZE = 256


@dataclass(frozen=True)
class Cell:
    """One defense, attack and dataset of a suite."""

    defense: str  #: spec
    attack: str  #: spec without eps
    eps: float
    dataset: str
    limit: int | None
    seed: int


class Reporter:
    """What a run tells while it works; this one keeps silent."""

    def training(self, title: str, done: int, total: int, note: str) -> None:
        """Hear of a training's steps."""

    def cells(self, images: int) -> None:
        """Hear, before the first cell, how many images there are in all cells to compute."""

    def judged(self, cell: Cell, images: int) -> None:
        """Hear that so many more images of a cell are done."""

    def note(self, line: str) -> None:
        """Hear a line that a person should see."""


def plan(
    suite: Suite,
    defense_specs: Sequence[str] = (),
    attack_specs: Sequence[str] = (),
    dataset_names: Sequence[str] = (),
    *,
    eps: float | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Cell]:
    """Return the cells asked for, by defense, attack, dataset; what is left open is what Tables 1 to 3 need.

    A dataset may be any that is registered, a plugin's say. Raises ZSRobustError for unknown names.
    """
    needed = [(row, table.attack) for table in TABLES.values() for row in table.rows]
    chosen_defenses = [normalize(spec, defenses) for spec in defense_specs]
    chosen_attacks = [normalize(spec, attacks) for spec in attack_specs]
    if chosen_defenses or chosen_attacks:
        some_defenses = chosen_defenses or [row for row, _ in needed]
        some_attacks = chosen_attacks or [attack for _, attack in needed]
        needed = [(defense, attack) for defense in some_defenses for attack in some_attacks]
    cells = []
    for defense, spec in dict.fromkeys(needed):
        attack, bare = resolve_attack(spec, suite, eps)
        for name in dataset_names or suite.datasets:
            size = limit if limit is not None else suite.limits.get(split_spec(spec)[0])
            cells.append(Cell(defense, bare, attack.eps, name, _whole(size, name), seed))
    order = list(dict.fromkeys(cell.defense for cell in cells))
    return sorted(cells, key=lambda cell: order.index(cell.defense))


def _whole(limit: int | None, dataset: str) -> int | None:
    """Return the limit, or None where it leaves the dataset whole; raises ZSRobustError below 1."""
    if limit is not None and limit < 1:
        raise ZSRobustError(f"A limit of {limit} images leaves none. Choose 1 or more.")
    return None if limit is None or limit >= datasets[dataset].size else limit


def normalize(spec: str, registry: Registry[Any]) -> str:
    """Return a spec with its fields in order; raises ZSRobustError for what the registry does not know."""
    registry.create(spec)
    return join_spec(*split_spec(spec))


def resolve_attack(spec: str, suite: Suite, eps: float | None = None) -> tuple[Attack, str]:
    """Return the attack with the suite's values where the spec leaves them open, and the spec without its eps."""
    name, fields = split_spec(spec)
    attack = attacks.create(spec, suite.attack)
    if eps is not None:
        attack = dataclasses.replace(attack, eps=eps)  # type: ignore[type-var]  # as in evaluation.describe_attack
    fields.pop("eps", None)
    return attack, join_spec(name, fields)


@cache
def open_images(dataset: str) -> Images:
    """Return a dataset's test images, opened once."""
    return datasets[dataset].load("test")


def identify(cell: Cell, suite: Suite, defense: dict[str, Any]) -> dict[str, Any]:
    """Return everything that a cell's numbers depend on; `defense` is what the defense's part holds beside the spec."""
    dataset = datasets[cell.dataset]
    images = open_images(cell.dataset).subset(cell.limit)
    identity = {
        "suite": suite.name,
        "protocol": PROTOCOL,
        "defense": {"spec": cell.defense, **defense},
        "attack": describe_attack(cell.attack, _attack(cell, suite), len(dataset.classes)),
        "dataset": describe_dataset(cell.dataset, dataset, images, cell.limit),
        "seed": cell.seed,
    }
    return dict(json.loads(json.dumps(identity)))  # as it will be read again: lists for tuples


def about(cell: Cell, tower: Tower) -> dict[str, Any]:
    """Return what identifies a registered defense beside its spec."""
    return {"title": defenses.create(cell.defense).title, **tower.identity}


def run(
    suite: Suite,
    cells: Sequence[Cell],
    folder: Path,
    workshop: Workshop,
    reporter: Reporter,
    force: bool = False,
) -> tuple[list[Result], list[ZSRobustError]]:
    """Return the results of the cells, in order: stored ones where the identity is the same, else computed and stored.

    A failed cell does not stop the others, nor does a defense that cannot be made: its error is in the second list.
    """
    workshop.progress = reporter.training
    towers: dict[str, Tower] = {}
    errors: list[ZSRobustError] = []
    for spec in dict.fromkeys(cell.defense for cell in cells):  # first, so that the bar knows how many images there are
        try:
            towers[spec] = workshop.tower(spec)
        except ZSRobustError as error:
            errors.append(error)
        except Exception as error:  # a plugin's objective may raise anything
            errors.append(ZSRobustError(f"{spec} could not be made: {type(error).__name__}: {error}"))
    cells = [cell for cell in cells if cell.defense in towers]
    work = [_look_up(cell, suite, folder, towers[cell.defense], reporter, force) for cell in cells]
    reporter.cells(sum(len(open_images(cell.dataset).subset(cell.limit)) for cell, _, stored in work if stored is None))
    found = []
    for cell, identity, stored in work:
        if stored is None:
            stored = _compute(cell, identity, suite, folder, towers[cell.defense], workshop, reporter)
        found.append(stored)
    return found, errors


def _look_up(
    cell: Cell, suite: Suite, folder: Path, tower: Tower, reporter: Reporter, force: bool
) -> tuple[Cell, dict[str, Any], Result | None]:
    """Return the cell, its identity, and its stored result if that may be used again."""
    identity = identify(cell, suite, about(cell, tower))
    place = Result(identity).path
    path = folder / place.with_name(place.name + ".json")
    if force or not path.exists():
        return cell, identity, None
    stored = results.read(path)
    differing = list(results.differences(stored.identity, identity))
    if differing:
        reporter.note(f"{cell.defense} on {cell.dataset} is computed again: another {', '.join(differing)}")
    elif stored.status == "failed":
        reporter.note(f"{cell.defense} on {cell.dataset} is computed again: it failed before")
    elif not results.outcomes_match(stored, path):
        reporter.note(f"{cell.defense} on {cell.dataset} is computed again: its outcomes are gone, or another run's")
    else:
        return cell, identity, stored
    return cell, identity, None


def _attack(cell: Cell, suite: Suite) -> Attack:
    return resolve_attack(cell.attack, suite, cell.eps)[0]


def _compute(
    cell: Cell,
    identity: dict[str, Any],
    suite: Suite,
    folder: Path,
    tower: Tower,
    workshop: Workshop,
    reporter: Reporter,
) -> Result:
    last = 0

    def progress(done: int, total: int) -> None:
        nonlocal last
        reporter.judged(cell, done - last)
        last = done

    classifier = _classifier(cell, tower, workshop)
    images = open_images(cell.dataset).subset(cell.limit)
    result, outcomes = run_cell(
        identity, classifier, _attack(cell, suite), cell.attack, images,
        seed=cell.seed, batch_size=BATCH_SIZE, progress=progress,
    )  # fmt: skip
    result.training = {key: value for key, value in tower.training.items() if key != "history"}
    progress(len(images), len(images))
    results.write(result, outcomes, folder)
    if result.status == "failed":
        reporter.note(f"failed: {cell.defense} under {cell.attack} on {cell.dataset}: {_last_line(result.error)}")
    return result


def _classifier(cell: Cell, tower: Tower, workshop: Workshop) -> nn.Module:
    return workshop.clip.classifier(datasets[cell.dataset].prompts, tower.encoder).eval().requires_grad_(False)


def _checked(module: nn.Module, dataset: str) -> nn.Module:
    """Return the module; raises ZSRobustError unless it has one logit for each class of the dataset."""
    pixels = torch.from_numpy(open_images(dataset).pixels[:1]).to(device_of(module)).float() / 255
    with torch.no_grad(), frozen(module):
        shape = tuple(module(pixels).shape)
    classes = len(datasets[dataset].classes)
    if shape != (1, classes):
        raise ZSRobustError(f"The module returns logits {shape} for one image; {dataset} needs (1, {classes}).")
    return module


def _last_line(error: str | None) -> str:
    return (error or "").strip().splitlines()[-1]


def evaluate(
    defense: nn.Module | str,
    *,
    attack: str = "pgd10",
    dataset: str,
    suite: str = "mini",
    eps: float | None = None,
    limit: int | None = None,
    seed: int = 0,
    checkpoints: str | Path = "checkpoints",
    device: str | None = None,
) -> Result:
    """Evaluate a module or a defense on one dataset and return the result, which is not stored.

    `defense` is any `nn.Module` from pixels (N, 3, S, S) float32 in [0, 1] to logits (N, K) over the dataset's classes,
    or the spec of a defense, trained if its checkpoint is missing from the folder `checkpoints`. A module stays where it
    is unless `device` says otherwise; a defense is on the CPU then.
    Raises ZSRobustError for unknown names, and for a module or an attack that breaks the rules.
    """
    loaded = load(suite)
    resolved, bare = resolve_attack(attack, loaded, eps)
    name = normalize(defense, defenses) if isinstance(defense, str) else "module"
    cell = Cell(name, bare, resolved.eps, dataset, _whole(limit, dataset), seed)
    if isinstance(defense, str):
        workshop = Workshop(loaded, Path(checkpoints), device or "cpu")
        tower = workshop.tower(defense)
        classifier = _classifier(cell, tower, workshop)
        identity = identify(cell, loaded, about(cell, tower))
    else:
        classifier = _checked(defense.to(device) if device else defense, dataset)
        identity = identify(cell, loaded, {"title": type(defense).__name__})
    images = open_images(dataset).subset(cell.limit)
    result, _ = run_cell(identity, classifier, resolved, bare, images, seed=seed)
    if result.status == "failed":
        raise ZSRobustError(_last_line(result.error))
    return result

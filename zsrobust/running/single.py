"""One defense or module on one dataset, from Python; nothing is stored."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from zsrobust.attacks.draws import Draws
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets.pixels import tensor
from zsrobust.defenses import defenses
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.meter import device_of
from zsrobust.evaluation.redflags.doctor import Diagnosis, Progress, _silent, measure
from zsrobust.evaluation.referee import run_cell
from zsrobust.models.wrappers import ADAPTIVE
from zsrobust.results.cell import Result
from zsrobust.running.bench import Bench, about, checked
from zsrobust.running.entries import load_suite
from zsrobust.running.plan import MODULE, Cell, _whole, normalize, plan, resolve_attack
from zsrobust.running.reporter import Reporter
from zsrobust.running.run import _last_line, _look_for_flags, prepare
from zsrobust.settings import protocols


def evaluate(
    defense: nn.Module | str,
    *,
    attack: str = "pgd10",
    dataset: str,
    suite: str = "mini",
    protocol: str = "sound",
    eps: float | None = None,
    limit: int | None = None,
    seed: int = 0,
    checkpoints: str | Path = "checkpoints",
    device: str | None = None,
) -> Result:
    """Evaluate a module or a defense on one dataset and return the result, which is not stored.

    `defense` is any `nn.Module` from pixels (N, 3, S, S) float32 in [0, 1] to logits (N, K) over the dataset's classes,
    S the input size of the suite's backbone (the dataset's own where the protocol says so); or the spec of a defense,
    trained if its checkpoint is missing from the folder `checkpoints`. A module stays where it is unless `device` says
    otherwise; a defense is on the CPU then. Of the protocol, a module decides prompts, scale, normalization and precision.
    Raises ZSRobustError for unknown names, for data that cannot be had, and for a module or an attack that breaks the
    rules.
    """
    loaded = load_suite(suite)
    bench = Bench(
        loaded, protocols.load(protocol), Workshop(loaded, Path(checkpoints), device or "cpu")
    )
    resolved, bare = resolve_attack(attack, loaded, eps)
    name = normalize(defense, defenses) if isinstance(defense, str) else MODULE
    cell = Cell(name, bare, resolved.eps, dataset, _whole(limit, dataset), seed)
    cut, target, knowledge = bench.cut_of(dataset), None, ADAPTIVE
    if isinstance(defense, str):
        tower = bench.workshop.tower(defense)
        classifier, target, knowledge = (
            bench.classifier(cell, tower),
            bench.target(cell, tower),
            tower.knowledge,
        )
        identity = bench.identify(cell, about(cell, tower))
    else:
        classifier = checked(
            defense.to(device) if device else defense, bench.images(cell), cut, dataset
        )
        identity = bench.identify(cell, {"title": type(defense).__name__})
    result, _ = run_cell(
        identity,
        classifier,
        bench.attack(cell),
        bare,
        bench.images(cell),
        seed=seed,
        batch_size=bench.batch_size,
        cut=cut,
        attacked=bench.protocol.attacked,
        target=target,
    )
    if result.status == "failed":
        raise ZSRobustError(_last_line(result.error))
    _look_for_flags(bench, cell, classifier, target, knowledge, result)
    return result


CANARY = "clip"  # the undefended model
LIMIT = 32  # images of the sample


def examine_cells(bench: Bench, cells: Sequence[Cell], reporter: Reporter) -> Iterator[Diagnosis]:
    """Yield what is found about cells, one after the other; those of the canary are told by their name.

    Raises ZSRobustError for a dataset or a defense that cannot be had, or whose classifier raises.
    """
    bench.workshop.progress, bench.workshop.preparing = reporter.training, reporter.preparing
    prepare(bench, cells, reporter)
    for cell in cells:
        tower = bench.workshop.tower(cell.defense)
        if tower.knowledge == "oblivious":
            raise ZSRobustError(
                f"{cell.defense}: the doctor attacks what is deployed. Leave out knowledge=oblivious."
            )
        classifier, target = bench.classifier(cell, tower), bench.target(cell, tower)
        told = partial(reporter.preparing, f"examining {cell.defense} on {cell.dataset}")
        yield _diagnose(bench, cell, cell.defense, classifier, target, told)


def diagnose(
    defense: nn.Module | str,
    *,
    dataset: str,
    suite: str = "mini",
    protocol: str = "sound",
    eps: float | None = None,
    limit: int = LIMIT,
    seed: int = 0,
    checkpoints: str | Path = "checkpoints",
    device: str | None = None,
) -> Diagnosis:
    """Return what the doctor finds out about a module or a defense on one dataset; see `zsrobust.evaluate`.

    `defense` is any `nn.Module` from pixels (N, 3, S, S) float32 in [0, 1] to logits (N, K), or the spec of a defense.
    Raises ZSRobustError for unknown names, data that cannot be had, and for a classifier that raises.
    """
    loaded = load_suite(suite)
    bench = Bench(
        loaded, protocols.load(protocol), Workshop(loaded, Path(checkpoints), device or "cpu")
    )
    spec = defense if isinstance(defense, str) else CANARY
    (cell,) = plan(loaded, [spec], ["pgd10"], [dataset], eps=eps, limit=limit, seed=seed)
    if isinstance(defense, str):
        (found,) = examine_cells(bench, [cell], Reporter())
        return found
    prepare(bench, [cell], Reporter())
    module = defense.to(device) if device else defense
    return _diagnose(bench, cell, type(defense).__name__, module, None)


def _diagnose(
    bench: Bench,
    cell: Cell,
    title: str,
    classifier: nn.Module,
    target: nn.Module | None,
    progress: Progress = _silent,
) -> Diagnosis:
    images, device = bench.images(cell), device_of(classifier)
    pixels = tensor(images, np.arange(len(images)), bench.cut_of(cell.dataset), device)
    labels, draws = (
        torch.from_numpy(images.labels).to(device),
        Draws.of(cell.seed, cell.dataset, images.positions, device),
    )
    try:
        checked(classifier, images, bench.cut_of(cell.dataset), cell.dataset)
        checks = measure(
            classifier,
            bench.attack(cell),
            pixels,
            labels,
            draws,
            target=target,
            batch_size=bench.batch_size,
            progress=progress,
        )
    except ZSRobustError:
        raise
    except Exception as error:  # a module of a user's may raise anything
        raise ZSRobustError(
            f"{title} could not be examined: {type(error).__name__}: {error}"
        ) from error
    if title == CANARY:
        checks["canary"] = checks["strongest"] / max(checks["clean"], 1e-12)
    return Diagnosis(title, cell.dataset, checks)

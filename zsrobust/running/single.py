"""Evaluate or diagnose one defense or module on one dataset; nothing is stored."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from torch import nn

from zsrobust.core.errors import ZSRobustError, last_line
from zsrobust.datasets import datasets
from zsrobust.defenses import defenses
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.meter import device_of
from zsrobust.evaluation.redflags.doctor import Diagnosis, Progress, _silent, measure
from zsrobust.evaluation.referee import run_case
from zsrobust.results import Result
from zsrobust.results.identity import DefenseIdentity
from zsrobust.running.bench import Bench, Deployed, checked, identify_defense
from zsrobust.running.compute import build_result, examine_cell
from zsrobust.running.entries import load_suite
from zsrobust.running.plan import MODULE, Cell, Key, normalize, plan, resolve_attack, whole
from zsrobust.running.reporter import Reporter
from zsrobust.running.run import prepare
from zsrobust.settings import protocols

CANARY = "clip"  #: the undefended model
LIMIT = 32  #: images of the doctor's sample


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

    `defense` is a spec, or an `nn.Module` from pixels (N, 3, S, S) float32 in [0, 1] to logits
    (N, K) over the dataset's classes. S is the input size of the suite's backbone, or the dataset's
    own size if the protocol is native. A defense is trained if `checkpoints` lacks its checkpoint.
    Without `device`, a module stays on its device, and a defense runs on the CPU. A module sets
    prompts, scale, normalization and precision itself; the protocol does not change them.

    Raises ZSRobustError for unknown names, for data that cannot be prepared, and for a module or
    an attack that breaks the rules.
    """
    bench = _bench(suite, protocol, checkpoints, device)
    resolved, bare = resolve_attack(attack, bench.suite, eps)
    name = normalize(defense, defenses) if isinstance(defense, str) else MODULE
    key = Key(name, bare, resolved.eps, dataset, whole(limit, dataset), seed)
    cell = Cell.of(key, bench.suite, bench.protocol)
    tower = None
    if isinstance(defense, str):
        tower = bench.workshop.tower(defense)
        deployed, about = bench.deploy(cell, tower), identify_defense(cell, tower)
    else:
        module = defense.to(device) if device else defense
        deployed = Deployed(checked(module, bench.images(cell), bench.cut_of(cell), cell))
        about = DefenseIdentity(MODULE, type(defense).__name__)
    identity = bench.identify(cell, about, tower)
    judged = run_case(bench.case(cell, deployed, bench.images(cell)))
    if judged.failed:
        raise ZSRobustError(last_line(judged.error))
    return build_result(identity, judged, examine_cell(bench, cell, deployed, judged))


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
    """Return the diagnosis of a module or a defense on one dataset; see `evaluate`.

    `defense` is an `nn.Module` from pixels (N, 3, S, S) float32 in [0, 1] to logits (N, K), or a
    spec. Raises ZSRobustError for unknown names, for data that cannot be prepared, and for a
    classifier that raises.
    """
    bench = _bench(suite, protocol, checkpoints, device)
    spec = defense if isinstance(defense, str) else CANARY
    (cell,) = plan(
        bench.suite, bench.protocol, [spec], ["pgd10"], [dataset], eps=eps, limit=limit, seed=seed
    )
    if isinstance(defense, str):
        (found,) = examine_cells(bench, [cell], Reporter())
        return found
    prepare(bench, [cell], Reporter())
    module = defense.to(device) if device else defense
    return _diagnose(bench, cell, type(defense).__name__, Deployed(module))


def examine_cells(bench: Bench, cells: Sequence[Cell], reporter: Reporter) -> Iterator[Diagnosis]:
    """Yield the diagnosis of each cell, in order.

    Raises ZSRobustError for a dataset that cannot be prepared, for a defense that cannot be made,
    and for a classifier that raises.
    """
    bench.workshop.progress, bench.workshop.preparing = reporter.training, reporter.preparing
    prepare(bench, cells, reporter)
    for cell in cells:
        name, dataset = cell.key.defense, cell.key.dataset
        tower = bench.workshop.tower(name)
        if tower.knowledge == "oblivious":
            raise ZSRobustError(
                f"{name}: the doctor attacks the deployed defense. Leave out what its attack does "
                "not know: knowledge=oblivious, or attack_prompt."
            )
        progress = partial(reporter.preparing, f"examining {name} on {dataset}")
        yield _diagnose(bench, cell, name, bench.deploy(cell, tower), progress)


def _bench(suite: str, protocol: str, checkpoints: str | Path, device: str | None) -> Bench:
    loaded = load_suite(suite)
    workshop = Workshop(loaded, Path(checkpoints), device or "cpu")
    return Bench(loaded, protocols.load(protocol), workshop)


def _diagnose(
    bench: Bench, cell: Cell, title: str, deployed: Deployed, progress: Progress = _silent
) -> Diagnosis:
    images, size = bench.images(cell), datasets[cell.key.dataset].size
    try:
        checked(deployed.classifier, images, bench.cut_of(cell), cell)
        checks = measure(
            deployed.classifier,
            cell.attack,
            *bench.sample(cell, size, device_of(deployed.classifier)),
            target=deployed.target,
            batch_size=bench.batch_size,
            progress=progress,
            undefended=bench.undefended(cell),
        )
    except ZSRobustError:
        raise
    except Exception as error:  # a user's module may raise any exception
        line = f"{title} could not be examined: {type(error).__name__}: {error}"
        raise ZSRobustError(line) from error
    if title == CANARY:
        checks["canary"] = checks["strongest"] / max(checks["clean"], 1e-12)
    return Diagnosis(title, cell.key.dataset, checks)

"""Evaluate or diagnose one defense or module from Python."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from numbers import Real
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

from torch import nn

from zsrobust.core.errors import ZSRobustError, last_line
from zsrobust.core.files import check_writable
from zsrobust.datasets import datasets
from zsrobust.defenses import defenses
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.meter import device_of
from zsrobust.evaluation.redflags.doctor import Diagnosis, Progress, _silent, measure
from zsrobust.evaluation.referee import Search as Precision
from zsrobust.models.compiled import compiler
from zsrobust.results import Result, Results
from zsrobust.results.identity import DefenseIdentity
from zsrobust.results.store import Store
from zsrobust.running.bars import bars
from zsrobust.running.bench import Bench, Deployed, checked, identify_defense
from zsrobust.running.compute import build_result, examine_cell, judge
from zsrobust.running.entries import load_suite
from zsrobust.running.plan import MODULE, Cell, Key, normalize, plan, resolve_attack, whole
from zsrobust.running.reporter import Reporter
from zsrobust.running.run import prepare, run
from zsrobust.settings import protocols

CANARY = "clip"  #: the undefended model
LIMIT = 32  #: images of the doctor's sample


class Settings(TypedDict, total=False):
    """The settings that all cells of `evaluate` share."""

    suite: str
    protocol: str
    limit: int | None
    checkpoints: str | Path
    results: str | Path | None
    device: str | None
    precision: Precision
    compiled: bool
    progress: bool | None


@overload
def evaluate(  # type: ignore[overload-overlap]  # a str is a sequence, but one name to us
    defense: nn.Module | str,
    *,
    attack: str = "pgd10",
    dataset: str,
    eps: float | None = None,
    seed: int = 0,
    **settings: Unpack[Settings],
) -> Result: ...


@overload
def evaluate(
    defense: nn.Module | str,
    *,
    attack: str | Sequence[str] = "pgd10",
    dataset: str | Sequence[str],
    eps: float | Sequence[float] | None = None,
    seed: int | Sequence[int] = 0,
    **settings: Unpack[Settings],
) -> Results: ...


def evaluate(
    defense: nn.Module | str,
    *,
    attack: str | Sequence[str] = "pgd10",
    dataset: str | Sequence[str],
    eps: float | Sequence[float] | None = None,
    seed: int | Sequence[int] = 0,
    suite: str = "mini",
    protocol: str = "sound",
    limit: int | None = None,
    checkpoints: str | Path = "checkpoints",
    results: str | Path | None = None,
    device: str | None = None,
    precision: Precision = "float32",
    compiled: bool = False,
    progress: bool | None = None,
) -> Result | Results:
    """Return the result of a module or a defense, or `Results` if a value is a sequence.

    `defense` is a spec, or an `nn.Module` from pixels (N, 3, S, S) float32 in [0, 1] to logits
    (N, K) over the dataset's classes. S is the input size of the suite's backbone, or the dataset's
    own size if the protocol is native. A defense is trained if `checkpoints` lacks its checkpoint.
    Without `device`, a module stays on its device, and a defense runs on the CPU. A module sets
    prompts, scale, normalization and precision itself; the protocol does not change them.

    `attack`, `eps`, `dataset` and `seed` are one value or a sequence each. Every combination is a
    cell, computed once, in this order of loops. `eps` is in pixels of [0, 1]; None is that of the
    attack's spec or of the suite.

    With `results`, cells are stored in this folder as `zsrobust run` stores them. A stored cell
    with the same identity is loaded, so that an interrupted call resumes. Modules cannot be stored:
    their code has no identity.

    Attacks search in `precision`, and with `compiled` in a classifier compiled by torch. Verdicts
    are plain and in float32; `zsrobust run` has the same as --precision and --compile.

    `progress` shows a bar on standard error; None shows it in a terminal and in a notebook.

    Raises ZSRobustError for unknown names, for data that cannot be prepared, for a module with
    `results`, and for a module or an attack that breaks the rules. With `results`, the other cells
    are computed and stored before.
    """
    if results is not None and not isinstance(defense, str):
        raise ZSRobustError(
            f"results={str(results)!r} cannot store a module: the code of {type(defense).__name__} "
            "has no identity. Expected the spec of a defense. Next: register the module as a "
            "defense (docs/extending.md), or keep the DataFrame `frame`."
        )
    bench = replace(
        _bench(suite, protocol, checkpoints, device), search=precision, compiled=compiled
    )
    name = normalize(defense, defenses) if isinstance(defense, str) else MODULE
    cells = []
    for spec, bound in product(_listed("attack", attack), _listed("eps", eps)):
        resolved, bare = resolve_attack(spec, bench.suite, bound)
        for place, number in product(_listed("dataset", dataset), _listed("seed", seed)):
            key = Key(name, bare, resolved.eps, place, whole(limit, place), number)
            cells.append(Cell.of(key, bench.suite, bench.protocol))
    cells = list(dict.fromkeys(cells))
    with bars(progress) as reporter:
        if results is not None:
            found = _stored(bench, cells, Path(results), reporter)
        else:
            module = defense if isinstance(defense, str) or not device else defense.to(device)
            found = list(_measured(bench, cells, module, reporter))
    one = all(each is None or isinstance(each, str | Real) for each in (attack, eps, dataset, seed))
    return found[0] if one else Results(found)


def _listed(name: str, values: Any) -> list[Any]:
    """Return one value, or those of a sequence, as a list; raises ZSRobustError if it is empty."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        return [values]
    if not (found := list(values)):
        raise ZSRobustError(f"{name} is an empty sequence. Expected one value or more.")
    return found


def _stored(
    bench: Bench, cells: Sequence[Cell], folder: Path, reporter: Reporter
) -> Sequence[Result]:
    """Return the results of a defense's cells, read from a folder or computed and stored there."""
    check_writable(folder)
    found, errors = run(bench, cells, Store(folder), reporter)
    for error in errors:
        raise error
    for cell, result in zip(cells, found, strict=True):
        if result.status == "failed":
            raise ZSRobustError(f"{cell.key}: {last_line(result.error)}")
    return found


def _measured(
    bench: Bench, cells: Sequence[Cell], defense: nn.Module | str, reporter: Reporter
) -> Iterator[Result]:
    """Yield the results of cells; the tower, texts and images are made once."""
    bench.workshop.progress, bench.workshop.preparing = reporter.training, reporter.preparing
    prepare(bench, cells, reporter)
    tower = bench.workshop.tower(defense) if isinstance(defense, str) else None
    reporter.cells(sum(len(bench.images(cell)) for cell in cells))
    for cell in cells:
        if isinstance(defense, nn.Module):
            module = checked(defense, bench.images(cell), bench.cut_of(cell), cell)
            chosen = compiler(device_of(module)) if bench.compiled else None
            deployed = Deployed(module, compiler=chosen)
            about = DefenseIdentity(MODULE, type(defense).__name__)
        else:
            assert tower is not None
            deployed, about = bench.deploy(cell, tower), identify_defense(cell, tower)
        identity = bench.identify(cell, about, tower)
        judged = judge(bench, cell, deployed, reporter)
        if judged.failed:
            raise ZSRobustError(f"{cell.key}: {last_line(judged.error)}")
        examined = examine_cell(bench, cell, deployed, judged, reporter)
        yield build_result(identity, judged, examined)


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

"""Slurm: compute the missing cells in an array job, one task for each defense.

Each task is an ordinary run on the shared folders. submitit queues a job again if it runs out of
time or is preempted. The job then continues from the stored cells.
"""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zsrobust import results
from zsrobust.core.errors import ZSRobustError, counted, last_line
from zsrobust.core.files import exists
from zsrobust.results import Result
from zsrobust.running import run as runs
from zsrobust.running.bench import Bench
from zsrobust.running.plan import Cell
from zsrobust.running.reporter import Reporter
from zsrobust.running.task import Task

#: Settings that submitit names alike on any cluster. All others are options of sbatch.
SHARED = (
    "name",
    "timeout_min",
    "mem_gb",
    "nodes",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "stderr_to_stdout",
)
SHORT = {"time": "timeout_min", "gpus": "gpus_per_node", "mem": "mem_gb"}
PAUSE = {"slurm": 10.0, "local": 0.5}  # seconds between two polls of the jobs


def run(
    executor: str,
    settings: Sequence[str],
    task: Task,
    bench: Bench,
    cells: Sequence[Cell],
    reporter: Reporter,
) -> tuple[list[Result], list[ZSRobustError]]:
    """Return the results of the cells, in order, and the errors; jobs compute the missing cells.

    `executor` is slurm, or local for this machine. `settings` are options of sbatch, for example
    "partition=gpu". Raises ZSRobustError for a setting that is not valid.
    """
    folder = task.store.folder
    submit = _executor(executor, settings, folder)
    runs.prepare(bench, cells, reporter)
    groups, errors = _missing(bench, cells, task, reporter)
    waiting = {
        cell: runs.stamp_of(folder / bench.path(cell))
        for group in groups.values()
        for cell in group
    }
    reporter.cells(sum(len(bench.images(cell)) for cell in waiting))
    with _out_of_reach():
        tasks = [replace(task, keys=[cell.key for cell in group]) for group in groups.values()]
        jobs = submit.submit_array(tasks) if tasks else []
    for job, (spec, group) in zip(jobs, groups.items(), strict=True):
        reporter.note(
            f"job {job.job_id}: {spec}, {counted(len(group), 'cell')}; log {job.paths.stderr}"
        )
    try:
        _follow(bench, folder, jobs, waiting, reporter, PAUSE[executor])
    except KeyboardInterrupt:
        ids = " ".join(dict.fromkeys(str(job.job_id).partition("_")[0] for job in jobs))
        end = "scancel" if executor == "slurm" else "kill"
        reporter.note(
            f"The jobs continue. The same command collects their results. To end them: {end} {ids}"
        )
        raise
    errors += [
        error for job, spec in zip(jobs, groups, strict=True) for error in _errors(job, spec)
    ]
    paths = [task.store.find(bench.path(cell)) for cell in cells if cell not in waiting]
    return [results.read(path) for path in paths if path is not None], errors


def _executor(executor: str, settings: Sequence[str], folder: Path) -> Any:
    """Return submitit's executor.

    Raises ZSRobustError if submitit or Slurm is missing, or if a setting is unknown.
    """
    try:
        import submitit
    except ImportError:
        raise ZSRobustError(
            f"--executor {executor} needs submitit. Next: pip install 'zsrobust[slurm]'"
        ) from None
    gpus = 1 if executor == "slurm" or torch.cuda.is_available() else 0
    values: dict[str, Any] = {"name": "zsrobust", "timeout_min": 24 * 60, "gpus_per_node": gpus}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ZSRobustError(
                f"--slurm {setting!r} has no value. Write KEY=VALUE, for example partition=gpu "
                "or time=120 (minutes)."
            )
        key = SHORT.get(key, key)
        values[key if key in SHARED else f"slurm_{key}"] = int(value) if value.isdigit() else value
    try:
        made = submitit.AutoExecutor(folder / ".jobs", cluster=executor, slurm_max_num_timeout=1000)
        made.update_parameters(**values)
    except (RuntimeError, NameError, ValueError, AssertionError) as error:
        raise ZSRobustError(f"--executor {executor}: {str(error).splitlines()[0]}") from None
    return made


def _missing(
    bench: Bench, cells: Sequence[Cell], task: Task, reporter: Reporter
) -> tuple[dict[str, list[Cell]], list[ZSRobustError]]:
    """Return the cells to compute, by defense, and the errors of defenses; trains nothing."""
    groups: dict[str, list[Cell]] = {}
    errors: list[ZSRobustError] = []
    for spec, defense in {cell.key.defense: cell.defense for cell in cells}.items():
        group = list(dict.fromkeys(cell for cell in cells if cell.key.defense == spec))
        recipes = defense.recipes(bench.suite) if defense else []
        if all(exists(bench.workshop.checkpoint_path(recipe)) for recipe in recipes):
            towers = runs.make_towers(bench, group)
            errors += towers.errors.values()
            some = group if towers.made else []
            work = runs.look_up(bench, some, task.store, towers.made, reporter, task.force)
            group = [cell for cell, each in work.items() if each.stored is None]
        if group:
            groups[spec] = group
    return groups, errors


@contextmanager
def _out_of_reach() -> Iterator[None]:
    """Start processes that ignore Ctrl-C: submitit's local jobs are children of this process."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _follow(
    bench: Bench,
    folder: Path,
    jobs: Sequence[Any],
    waiting: dict[Cell, Any],
    reporter: Reporter,
    pause: float,
) -> None:
    """Wait until the jobs end; report each cell they store, and remove it from `waiting`."""
    ended = False
    while not ended:
        ended = all(job.done() for job in jobs)
        for cell, stamp in list(waiting.items()):
            if runs.stamp_of(folder / bench.path(cell)) not in (None, stamp):
                reporter.judged(cell, len(bench.images(cell)))
                del waiting[cell]
        if not ended:
            time.sleep(pause)


def _errors(job: Any, spec: str) -> Iterator[ZSRobustError]:
    """Yield the errors of a job that has ended."""
    error = job.exception()
    if error is not None:
        line = last_line(str(error))
        yield ZSRobustError(f"{spec}: job {job.job_id} failed: {line} (log {job.paths.stderr})")
    else:
        lines = dict.fromkeys(line for lines in job.results() for line in lines)
        yield from map(ZSRobustError, lines)

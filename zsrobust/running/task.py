"""A task: some cells of a run, described so that another process can compute them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zsrobust.core.registry import load_plugin_file
from zsrobust.defenses.workshop import Log, Workshop
from zsrobust.evaluation.referee import Search
from zsrobust.results.store import Store
from zsrobust.running import run as runs
from zsrobust.running.bench import Bench
from zsrobust.running.entries import load_entries, load_suite
from zsrobust.running.plan import Cell, Key
from zsrobust.running.reporter import Reporter
from zsrobust.settings import protocols


@dataclass(frozen=True)
class Task:
    """What another process needs to run cells: the options of the command line, and the keys."""

    plugins: Sequence[Path]
    suite: str
    protocol: str
    search: Search
    compiled: bool
    store: Store
    checkpoints: Path
    device: str | None
    force: bool
    live: Callable[[], AbstractContextManager[Reporter]]  #: shows the progress there
    log: Log | None = None  #: receives the numbers of trainings
    keys: Sequence[Key] = ()  #: of the cells; their objects are created again there

    def __call__(self) -> list[str]:
        """Run, and return the errors of defenses; results are stored in the results folder."""
        for path in self.plugins:
            if path.suffix == ".toml":
                load_entries(path)
            else:
                load_plugin_file(path)
        suite = load_suite(self.suite)
        workshop = Workshop(suite, self.checkpoints, self.device or _own_device())
        workshop.log = self.log
        bench = Bench(suite, protocols.load(self.protocol), workshop, self.search, self.compiled)
        cells = [Cell.of(key, suite, bench.protocol) for key in self.keys]
        with self.live() as shown:
            _, errors = runs.run(bench, cells, self.store, shown, self.force)
        return [str(error) for error in errors]

    def checkpoint(self) -> Any:
        """Return the job that submitit queues when this one is stopped."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _own_device() -> str:
    """Return the device of this process; each process of a task has its own GPU."""
    from submitit import JobEnvironment

    count = torch.cuda.device_count()
    return f"cuda:{JobEnvironment().local_rank % count}" if count else "cpu"

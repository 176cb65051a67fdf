"""Shared by the tests: one folder of checkpoints a session, and the command line as a user runs it."""

import os

# Before torch is imported: with more threads, a run starts helpers, which know no patch of a test.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["ZSROBUST_RESULTS"] = "results"  # in the folder of each test; there is no baseline

from collections.abc import Callable, Iterator
from pathlib import Path

import fresh
import pytest
import torch
from click.testing import CliRunner
from fresh import Done
from hypothesis import settings

from zsrobust.cli import main
from zsrobust.core.registry import load_plugins
from zsrobust.datasets import datasets
from zsrobust.running.bench import _select
from zsrobust.running.entries import _loaded

Zsrobust = Callable[..., Done]

# The same examples every time, and no clock: a change is not refused for what it did not touch.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture
def zsrobust(
    tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Zsrobust]:
    """Run the real command line in an empty folder: in this process, which has torch loaded, or in a fresh one.

    A plugin registers things for good, so that it always gets a fresh process. In neither are there red flags, nor is the
    speed of this machine measured, unless the call is for the `whole`.
    """
    load_plugins()
    registered = dict(datasets._entries)
    monkeypatch.chdir(tmp_path)

    def forget() -> None:
        """Forget what a user's file registered, as the end of a process does."""
        datasets._entries.clear()
        datasets._entries.update(registered)
        _loaded.clear()
        _select.cache_clear()

    def call(
        *arguments: str, ok: int = 0, forked: bool = False, whole: bool = False, **more: str
    ) -> Done:
        environment = {"ZSROBUST_CHECKPOINTS": str(checkpoints), "COLUMNS": "200", **more}
        if forked or "--plugin" in arguments:
            inherited = {**os.environ, **environment}
            found = fresh.Process(
                fresh.command, arguments, whole, folder=tmp_path, environment=inherited
            ).end()
        else:
            forget()
            with monkeypatch.context() as patch:
                for (module, name), value in ({} if whole else fresh.HURRIED).items():
                    patch.setattr(module, name, value)
                result = CliRunner().invoke(main, arguments, env=environment)
            found = Done(result.exit_code, result.stdout, result.stderr)
        assert found.returncode == ok, found.stdout + found.stderr
        return found

    yield call
    forget()


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)

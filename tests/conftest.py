"""Shared by the tests: one folder of checkpoints a session, and the command line as a user runs it."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: workers beside each other have one thread each
    os.environ["OMP_NUM_THREADS"] = "1"

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from click.testing import CliRunner

from zsrobust.cli import main
from zsrobust.datasets import datasets
from zsrobust.datasets.catalogue import entries
from zsrobust.entries import _loaded
from zsrobust.registry import load_plugins
from zsrobust.runner import _select


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Zsrobust = Callable[..., Done]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture
def zsrobust(tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Zsrobust]:
    """Run the real command line in an empty folder: in this process, which has torch loaded, or in a fresh one.

    A plugin registers things for good, so that it always gets a fresh process.
    """
    load_plugins()
    known, registered = dict(entries), dict(datasets._entries)
    monkeypatch.chdir(tmp_path)

    def forget() -> None:
        """Forget what a user's file registered, as the end of a process does."""
        for registry, before in ((entries, known), (datasets._entries, registered)):
            registry.clear()
            registry.update(before)
        _loaded.clear()
        _select.cache_clear()

    def call(*arguments: str, ok: int = 0, fresh: bool = False, **more: str) -> Done:
        environment = {"ZSROBUST_CHECKPOINTS": str(checkpoints), "COLUMNS": "200", **more}
        if fresh or "--plugin" in arguments:
            done = subprocess.run(
                [sys.executable, "-W", "error", "-m", "zsrobust", *arguments],
                cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            found = Done(done.returncode, done.stdout, done.stderr)
        else:
            forget()
            result = CliRunner().invoke(main, arguments, env=environment)
            found = Done(result.exit_code, result.stdout, result.stderr)
        assert found.returncode == ok, found.stdout + found.stderr
        return found

    yield call
    forget()


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))

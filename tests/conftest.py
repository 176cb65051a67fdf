"""Shared by the tests: one folder of checkpoints a session, and the command line as a user runs it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Zsrobust = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture
def zsrobust(tmp_path: Path, checkpoints: Path) -> Zsrobust:
    """Run the real command line in an empty folder."""

    def call(*arguments: str, ok: int = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "zsrobust", *arguments],
            cwd=tmp_path,
            env={**os.environ, "ZSROBUST_CHECKPOINTS": str(checkpoints), "COLUMNS": "200", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == ok, done.stdout + done.stderr
        return done

    return call


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)

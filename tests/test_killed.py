"""The first rounds of killing.py, each with another disturbance; `tox -e nightly` plays a hundred."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLING = Path(__file__).with_name("killing.py")


@pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform == "darwin",
    reason="killing.py forks, which macOS's libraries do not survive",
)
def test_runs_that_are_disturbed_end_as_if_nothing_had_been():
    done = subprocess.run(
        [sys.executable, KILLING, "--rounds", "3"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 rounds, 0 failed" in done.stdout

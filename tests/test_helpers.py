"""Helpers: a run on small images uses every core, one thread each, and its helpers end when it does."""

import os
import signal
import time
from pathlib import Path

import fresh
import pytest
import torch

from zsrobust import results
from zsrobust.models.threads import SMALL, one_thread
from zsrobust.running.helpers import worthwhile

SLOW = """
import os, time
from dataclasses import dataclass
from zsrobust.attacks import Attack, attacks

@dataclass(frozen=True)
class Slow(Attack):
    def passes(self, classes):
        return 10**7, 10**7  # so much that helpers are worthwhile

    def __call__(self, classifier, images, labels, draws, start=None):
        with open("log", "a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(float(os.environ["SECONDS"]))
        return (images + self.eps).clamp(0, 1)

attacks.register("slow")(Slow())
"""
NAMES = ("mini_cells", "mini_train", "mini_shapes", "mini_flags", "mini_faces", "mini_scenes")
RUN = (
    *("--plugin", "slow.py", "run", "--yes", "--suite", "mini", "--defense", "clip"),
    *("--attack", "slow", "--limit", "8", *(f"--dataset={name}" for name in NAMES)),
)


def test_threads_are_one_for_small_images_on_a_cpu_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for device, side, inside, room in [
            ("cpu", SMALL, 1, 2),
            ("cpu", SMALL + 1, 2, 1),
            ("meta", SMALL, 2, 1),
        ]:
            with one_thread(device, side) as found:
                assert (torch.get_num_threads(), found) == (inside, room)
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("room", "cells", "minutes", "processes"),
    [
        (2, 48, 30, 2),
        (2, 48, 0.9, 1),
        (8, 48, 2.5, 3),
        (8, 3, 30, 3),
        (64, 48, 600, 4),
        (1, 48, 30, 1),
        (2, 0, 0, 1),
    ],
)
def test_a_helper_needs_a_core_a_cell_and_a_minute_of_work(room, cells, minutes, processes):
    assert worthwhile(room, cells, minutes / 60) == processes


def two_threads(arguments: tuple[str, ...]) -> None:
    torch.set_num_threads(2)  # as torch does where there are two cores
    fresh.command(arguments, False)


def started(folder: Path, seconds: float) -> tuple[fresh.Process, int]:
    """Return a run that has reached its first two attacks, and the process id of its helper."""
    (folder / "slow.py").write_text(SLOW)
    environment = {**os.environ, "SECONDS": str(seconds)}
    run = fresh.Process(two_threads, RUN, folder=folder, environment=environment)
    until(lambda: len(at_work(folder)) == 2 or not run.process.is_alive())
    helpers = at_work(folder) - {run.pid}
    assert len(helpers) == 1, run.end()
    return run, *helpers


def at_work(folder: Path) -> set[int]:
    log = folder / "log"
    return set(map(int, log.read_text().split())) if log.exists() else set()


def until(condition, seconds: float = 60) -> None:
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("not in time")


def ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_cells_of_a_killed_helper_are_computed(tmp_path):
    run, helper = started(tmp_path, 1.5)
    os.kill(helper, signal.SIGKILL)
    done = run.end()
    assert done.returncode == 0, done
    assert "6 cells in results; 48 images attacked" in done.stdout
    assert len(results.paths(tmp_path / "results")) == 6
    assert ended(helper)
    assert not list(tmp_path.rglob("*.claim"))


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_or_killed_leaves_no_helper_at_work(tmp_path, signal_):
    run, helper = started(tmp_path, 60)
    os.kill(run.pid, signal_)
    done = run.end(60)
    codes = {signal.SIGINT: 130, signal.SIGTERM: 0, signal.SIGKILL: -signal.SIGKILL}
    assert done.returncode == codes[signal_], done
    until(lambda: ended(helper))
    assert "Traceback" not in done.stderr
    claims = list(tmp_path.rglob("*.claim"))
    own = 1 if signal_ == signal.SIGKILL else 0  # the killed process's; the next run clears it
    assert len(claims) == own

"""Helpers: more processes of one run, where a second thread would only wait.

Each has one thread. They share the cells as several runs do that share a folder.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import connection

import torch

from zsrobust.core.claims import Preempted, terminable
from zsrobust.core.errors import ZSRobustError
from zsrobust.running.reporter import Reporter
from zsrobust.running.task import Task

MOST = 4  #: processes of a run; each takes about a gigabyte
MINUTES = 1.0  #: of estimated work for each process; a shorter run ends before a helper begins
PATIENCE = 30.0  #: seconds for a helper to save its training, before it is killed


def worthwhile(room: int, cells: int, hours: float) -> int:
    """Return how many processes to use for so many cells and hours of one process, at least 1."""
    return max(1, min(room, MOST, cells, 1 + int(60 * hours / MINUTES)))


@contextmanager
def helped(task: Task, number: int) -> Iterator[None]:
    """Within it, so many other processes compute cells of the task, and report nothing.

    They end with the block, and if this process is killed.
    """
    context = multiprocessing.get_context("spawn")
    quiet = replace(task, live=_unseen)
    helpers = [context.Process(target=_help, args=(quiet,), daemon=True) for _ in range(number)]
    try:
        for each in helpers:
            each.start()
        yield
    finally:
        started = [each for each in helpers if each.pid is not None]
        for each in started:
            each.terminate()
        for each in started:
            each.join(PATIENCE)
            each.kill()


@contextmanager
def _unseen() -> Iterator[Reporter]:
    yield Reporter()


def _help(task: Task) -> None:
    """Run a task until it is done, or until the process that started this one ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends this
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    with suppress(Preempted, ZSRobustError), terminable():  # the first process meets the same error
        task()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

"""A simulated cluster: many workers share a results folder, some are killed, the file system may fail.

Each worker is a real `running.run.run` with real claims and stored results. Only the judging is
replaced: a cell takes some milliseconds. Nothing may be lost, and nothing is done twice.

    python tests/cluster.py --workers 32 --cells 200 --killed 8 --seed 0
    python tests/cluster.py --workers 8 --cells 40 --flaky 0.05
    python tests/cluster.py --workers 8 --cells 40 --killed 0 --flaky 0.03 --tries 1
"""

import argparse
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from flaky import flaky

from zsrobust import results
from zsrobust.core import claims, files
from zsrobust.core.errors import ZSRobustError
from zsrobust.results import Outcomes, Result
from zsrobust.results.identity import AttackIdentity, DatasetIdentity, DefenseIdentity, Identity
from zsrobust.results.store import Store
from zsrobust.running import run
from zsrobust.running.compute import Computed
from zsrobust.running.plan import Key
from zsrobust.running.reporter import Reporter

IMAGES = 8


@dataclass(frozen=True)
class Cell:
    """The part of a cell that deciding who computes it reads."""

    key: Key
    defense = SimpleNamespace(tower=lambda _: SimpleNamespace(encoder=None))


def cell(number: int) -> Cell:
    return Cell(Key("clip", f"pgd{number + 1}", 6 / 255, "mini_shapes", IMAGES, 0))


def identity(of: Cell) -> Identity:
    return Identity(
        "mini",
        "sound",
        DefenseIdentity("clip", "CLIP"),
        AttackIdentity(of.key.attack, of.key.eps),
        DatasetIdentity("mini_shapes", "Shapes", IMAGES),
    )


def bench() -> SimpleNamespace:
    return SimpleNamespace(
        workshop=SimpleNamespace(),
        images=lambda _: range(IMAGES),
        path=lambda of: identity(of).path.with_name(identity(of).path.name + ".json"),
        identify=lambda of, *_: identity(of),
    )


def outcomes(of: Cell) -> Outcomes:
    """Return what a worker measures of a cell: the images that survive depend on its number."""
    labels = np.zeros(IMAGES, np.int64)
    survive = int(of.key.attack[3:]) % (IMAGES + 1)
    broken = (np.arange(IMAGES) >= survive).astype(np.int64)
    return Outcomes(labels, labels, broken, np.zeros(IMAGES, np.float32))


def work(
    place: Path, cells: list[Cell], seed: int, rate: float, tries: int, pace: float, number: int
) -> None:
    """Be a worker: compute what is missing, and write a line when a cell begins and when it ends."""
    draws = random.Random(f"{seed} {number}")  # noqa: S311  # no secrets
    log = os.open(place / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def compute(_: object, of: Cell, about: Identity, __: object, folder: Path, *___: object):
        os.write(log, f"begin {of.key.attack} {os.getpid()}\n".encode())
        time.sleep(draws.uniform(0.25, 1.0) * pace)
        found = outcomes(of)
        correct = {"clean_correct": IMAGES, "robust_correct": found.robust_correct}
        result = Result(identity=about, images=IMAGES, **correct, versions={"zsrobust": "0"})
        results.write(result, found, folder)
        os.write(log, f"end {of.key.attack} {os.getpid()}\n".encode())
        return Computed(result, False)

    run.compute, run.prepare, run.identify_defense = compute, lambda *_: None, lambda *_: None
    claims.PAUSE, files.PAUSE, files.TRIES = 0.05, 0.002, tries
    while not (place / "begin").exists():  # all at once
        time.sleep(0.005)
    mine = [*cells]
    draws.shuffle(mine)
    try:
        with ExitStack() as stack:
            if rate:
                seen = stack.enter_context(flaky(draws, rate, place / "results"))
                stack.callback(lambda: os.write(log, told(seen)))
            found, errors = run.run(bench(), mine, Store(place / "results"), Reporter())
        assert not errors, errors
        assert len(found) == len(cells)
    except ZSRobustError as error:
        (line,) = str(error).splitlines()
        os.write(log, f"failed {line}\n".encode())
        os._exit(2)


def told(seen: Counter[str]) -> bytes:
    """Return lines of the log with what a worker's file system did."""
    return "".join(f"seen {count} {what}\n" for what, count in seen.items()).encode()


def busy(place: Path, crew: list[multiprocessing.Process]) -> list[int]:
    """Return the processes that are within a cell, once there are some or all have ended."""
    while any(each.is_alive() for each in crew):
        lines = [line.split() for line in (place / "log").read_text().splitlines()]
        last = {int(line[2]): line[0] for line in lines if line[0] in ("begin", "end")}
        if found := [
            each.pid for each in crew if each.is_alive() and last.get(each.pid) == "begin"
        ]:
            return found
        time.sleep(0.005)
    return []


def play(
    workers: int,
    size: int,
    killed: int,
    seed: int,
    rate: float = 0.0,
    tries: int = files.TRIES,
    pace: float = 0.2,
) -> Counter[str]:
    """Play one cluster; raises AssertionError for what is lost or done twice. Return what to count.

    `rate` is the share of calls on the file system that fail, `tries` how often a worker makes
    them, and `pace` the most seconds of a cell.
    """
    draws = random.Random(seed)  # noqa: S311  # no secrets
    cells = [cell(number) for number in range(size)]
    with tempfile.TemporaryDirectory(prefix="cluster") as folder:
        place = Path(folder)
        (place / "results").mkdir()
        (place / "log").touch()
        context = multiprocessing.get_context("fork")
        crew = [
            context.Process(target=work, args=(place, cells, seed, rate, tries, pace, number))
            for number in range(workers)
        ]
        for each in crew:
            each.start()
        (place / "begin").touch()
        for _ in range(killed):
            time.sleep(draws.uniform(0.0, 0.05))
            if at_work := busy(place, crew):
                os.kill(draws.choice(at_work), signal.SIGKILL)
        for each in crew:
            each.join(120)
        codes = Counter(each.exitcode for each in crew)
        lines = (place / "log").read_text().splitlines()
        refused = [line for line in lines if line.startswith("failed")]
        assert codes[0] + codes[-signal.SIGKILL] + codes[2] == workers, (codes, refused)
        assert codes[-signal.SIGKILL] <= killed, codes
        assert codes[2] == len(refused), (codes, refused)
        if codes[2]:  # whoever failed said so in one line, and the same command goes on
            last = context.Process(
                target=work, args=(place, cells, seed, 0.0, files.TRIES, pace, workers)
            )
            last.start()
            last.join(120)
            assert last.exitcode == 0
        dead = {str(each.pid) for each in crew if each.exitcode}
        lines = [line.split() for line in (place / "log").read_text().splitlines()]
        begun = Counter(
            what for kind, what, *who in lines if kind == "begin" and who[0] not in dead
        )
        ended = Counter(what for kind, what, *_ in lines if kind == "end")
        assert all(count == 1 for count in begun.values()), begun.most_common(3)
        assert all(count == 1 for count in ended.values()), ended.most_common(3)
        stored = {path: results.read(path) for path in results.paths(place / "results")}
        assert len(stored) == size, (len(stored), size)
        expected = {of.key.attack: outcomes(of).robust_correct for of in cells}
        for path, result in stored.items():
            assert results.outcomes_match(result, path)
            assert result.robust_correct == expected[result.identity.attack.spec]
        left = [path for path in (place / "results").rglob(".*.claim") if path.is_dir()]
        assert all(map(claims.abandoned, left)), left
        again = sum(kind == "begin" for kind, *_ in lines) - size
        counts = {
            "cells": size,
            "killed": codes[-signal.SIGKILL],
            "ended in one line": codes[2],
            "cells begun again": again,
        }
        for kind, number, *what in lines:
            if kind == "seen":
                counts[" ".join(what)] = counts.get(" ".join(what), 0) + int(number)
        return Counter(counts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Simulate a cluster on one machine.")
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--killed", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flaky", type=float, default=0.0, help="share of calls that fail")
    parser.add_argument("--tries", type=int, default=files.TRIES, help="of a call that fails")
    given = parser.parse_args()
    found = play(given.workers, given.cells, given.killed, given.seed, given.flaky, given.tries)
    print("\n".join(f"{name}: {count}" for name, count in found.items()))

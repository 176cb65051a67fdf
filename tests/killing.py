"""Runs that are killed, stopped, starved and doubled at random moments: started again, they end as if nothing had been.

By hand: python tests/killing.py --rounds 100. A round is told again by its number: --only 17. What runs is the real command
line, in processes forked from this one, which has torch loaded, the backbone, and the pictures drawn: a run takes a second
then, and what is left of it is training, attacks and writing. One thread, or forks would lose the others.
"""

import argparse
import ctypes
import errno
import functools
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from zsrobust import results
from zsrobust.cli import main
from zsrobust.core import claims
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import TEMPORARY
from zsrobust.core.registry import load_plugins
from zsrobust.datasets import Images, datasets
from zsrobust.defenses import workshop
from zsrobust.mini.datasets import Drawn
from zsrobust.results import verification
from zsrobust.results.cell import Outcomes, Samples
from zsrobust.running import bench, compute
from zsrobust.running.costs.model import Speed
from zsrobust.training import Checkpoint, loop

for _part in (
    "cli.display",
    "settings.protocols",
    "training.ranks",
    "running.costs.bill",
):  # what a run imports when it needs it
    __import__(f"zsrobust.{_part}")

os.environ["ZSROBUST_RESULTS"] = "results"

SUITE = """
like = "mini"
title = "small"
datasets = ["mini_cells", "mini_train", "mini_shapes"]

[recipe]
epochs = 2
batch_size = 16
limit = 64
warmup = 2
"""
LIMIT = 8
RUN = [
    "run",
    "--suite",
    "small.toml",
    "--defense",
    "clip",
    "--defense",
    "tecoa",
    "--attack",
    "pgd2",
    "--limit",
    str(LIMIT),
]
CELLS = 6
STEPS = 8
PATIENCE = 120.0  # seconds that a run may take


class Ticks:
    """Counts the moments at which a run touches its folders, and acts at one of them.

    The moments are before a file is opened, renamed or removed, before and after it is written or synced, and before
    a folder is made or removed.
    """

    AUDITED = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")

    def __init__(
        self, at: int | None = None, act: Callable[[], None] = lambda: None, full: bool = False
    ) -> None:
        self.count, self.at, self.act, self.full, self.busy = 0, at, act, full, False

    def install(self) -> None:
        sys.addaudithook(self.hear)
        os.write, os.fsync = self._around(os.write), self._around(os.fsync)

    def hear(self, event: str, given: tuple) -> None:
        if event not in self.AUDITED or not given or self.busy:
            return
        path = given[0]
        if not isinstance(path, str | os.PathLike) or not re.search(
            r"(^|/)(results|checkpoints)(/|$)", os.fspath(path)
        ):
            return
        writes = event != "open" or bool((given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        self.tick(writes and event not in ("os.remove", "os.rmdir"))

    def tick(self, writes: bool = True) -> None:
        self.count += 1
        if self.count == self.at:
            self.busy = True
            self.act()
            self.busy = False
        if self.full and writes and self.at is not None and self.count >= self.at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _around(self, call: Callable) -> Callable:
        def counted(file: int, *more: object) -> object:
            if file <= 2:
                return call(file, *more)
            self.tick()
            done = call(file, *more)
            self.tick(writes=False)
            return done

        return counted


class Run:
    """A run in a process of its own, in the folder `place`; `prepare` is called there before it starts."""

    def __init__(
        self, place: Path, ticks: Ticks | None = None, prepare: Callable[[], None] = lambda: None
    ) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.said, self.began, self.code = "", time.monotonic(), None
        self._pipe, write = os.pipe()
        self.process = os.fork()
        if not self.process:
            self._be(place, ticks or Ticks(), prepare, write)
        os.close(write)

    def _be(self, place: Path, ticks: Ticks, prepare: Callable[[], None], write: int) -> None:
        code, steps = 130, []
        try:
            code = self._run(place, ticks, prepare, write, steps)
            ticks.at = None
            print(f"\nticks={ticks.count} steps={len(steps)}", flush=True)
        finally:
            os._exit(code)

    def _run(
        self, place: Path, ticks: Ticks, prepare: Callable[[], None], write: int, steps: list[int]
    ) -> int:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.dup2(write, 1)
            os.dup2(write, 2)
            os.chdir(place)
            claims.STALE, claims.PAUSE = 1.0, 0.05
            step = loop.Training.step
            loop.Training.step = lambda *given: (step(*given), steps.append(1))[0]
            prepare()
            ticks.install()
            main(RUN)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 71
        except KeyboardInterrupt:
            return 130
        except BaseException:
            traceback.print_exc()
        return 70

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.code is None:
            os.kill(self.process, number)

    def wait(
        self, until: float | None = None, look: Callable[[], None] = lambda: None
    ) -> int | None:
        """Return the exit code, minus the signal; None if the run is still at it `until` seconds after its start."""
        while self.code is None:
            left = PATIENCE if until is None else until
            left -= time.monotonic() - self.began
            if left <= 0:
                if until is None:
                    self.kill()
                    raise AssertionError(f"a run did not end: {self.said}")
                return None
            ready, _, _ = select.select([self._pipe], [], [], min(left, 0.02))
            if ready and (told := os.read(self._pipe, 65536)):
                self.said += told.decode(errors="replace")
            elif ready:
                self.code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
                os.close(self._pipe)
            look()
        return self.code

    @property
    def attacked(self) -> int:
        """The number of images that it says that it attacked."""
        found = re.search(r"(\d+) images attacked", self.said)
        assert found, self.said
        return int(found[1])

    def told(self, what: str) -> int:
        return int(re.findall(rf"{what}=(\d+)", self.said)[-1])


class Reader:
    """Reads all that a run has stored, while it runs: what is there is whole."""

    def __init__(self, place: Path) -> None:
        self.place, self.reads, self.seen = place, 0, set()

    def __call__(self) -> None:
        for path in results.paths(self.place / "results"):
            result = results.read(path)
            assert result.status == "ok", result.error
            assert results.outcomes_match(result, path)
            self.reads += 1
        for path in (self.place / "checkpoints").glob("*/*.safetensors"):
            if path not in self.seen:
                Checkpoint.read(path)
                self.seen.add(path)


def stamps(place: Path) -> dict[Path, tuple]:
    """Return what changes when a stored cell or a checkpoint is written anew."""
    found = {}
    for path in results.paths(place / "results"):
        result = results.read(path)
        if results.outcomes_match(result, path):
            files = [
                each
                for each in (path, path.with_suffix(".npz"), path.with_suffix(".samples.npz"))
                if each.exists()
            ]
            found[path] = tuple(
                (each.stat().st_ino, each.stat().st_mtime_ns, each.stat().st_size) for each in files
            )
    for path in (place / "checkpoints").glob("*/*.safetensors"):
        found[path] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def all_of(place: Path) -> dict[str, object]:
    """Return everything that a run left: the names of all files, and what is in them but for times."""
    found: dict[str, object] = {
        str(path.relative_to(place)): path.is_dir()
        for part in ("results", "checkpoints")
        for path in (place / part).rglob("*")
    }
    for path in results.paths(place / "results"):
        result, outcomes, samples = results.read(path), Outcomes.read(path), Samples.read(path)
        counts = [
            getattr(result, name)
            for name in (
                "status",
                "images",
                "clean_correct",
                "robust_correct",
                "flags",
                "forward",
                "backward",
            )
        ]
        arrays = [array for each in (outcomes, samples) for array in vars(each).values()]
        found[str(path.relative_to(place))] = (
            result.identity,
            counts,
            [(np.asarray(array).dtype.str, np.asarray(array).tobytes()) for array in arrays],
        )
    for path in (place / "checkpoints").glob("*/*.safetensors"):
        read = Checkpoint.read(path)
        history = [
            {name: value for name, value in epoch.items() if name != "seconds"}
            for epoch in read.history
        ]
        found[str(path.relative_to(place))] = (
            read.digest,
            read.recipe,
            read.sources,
            read.prompts,
            history,
        )
    return found


def fresh(root: Path, name: str) -> Path:
    place = root / name
    place.mkdir()
    (place / "small.toml").write_text(SUITE)
    return place


def obey() -> str:
    """Give up root's right to ignore the modes of files; return why that cannot be done, "" if it was."""
    if os.geteuid():
        return ""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        header, data = (
            (ctypes.c_uint32 * 2)(0x20080522, 0),
            (ctypes.c_uint32 * 6)(),
        )  # capabilities(7), version 3
        if libc.capget(header, data):
            return os.strerror(ctypes.get_errno())
        data[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        return os.strerror(ctypes.get_errno()) if libc.capset(header, data) else ""
    except (OSError, AttributeError) as error:
        return str(error)


def modes(folders: list[Path], folder_mode: int) -> None:
    for folder in folders:
        folder.mkdir(exist_ok=True)
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir():
                path.chmod(folder_mode)


def often() -> None:
    """Save a training after every step."""
    loop.train.__wrapped__.__kwdefaults__["save_every"] = 0.0


def another_time(by: float) -> Callable[[], None]:
    """Return what sets the clock of a run by so many seconds, and back and forth while it runs."""

    def set_it() -> None:
        true, steps = time.time, np.random.default_rng(int(abs(by)))
        time.time = lambda: true() + by * steps.random()

    return set_it


class Round:
    """One disturbance at a random moment, and what came of it."""

    def __init__(self, root: Path, seed: int, number: int, seconds: float, ticks: int) -> None:
        self.random = np.random.default_rng([seed, number])
        self.place, self.seconds, self.ticks = fresh(root, f"round{number}"), seconds, ticks
        self.look = Reader(self.place)
        self.saves = self.random.random() < 0.7
        self.skipped = ""
        self.again: Callable[[], None] = lambda: None  # how the next run is prepared

    def prepare(self) -> None:
        if self.saves:
            often()

    def moment(self) -> float:
        return float(self.random.uniform(0.02, self.seconds))

    def tick(self) -> int:
        return int(self.random.integers(1, self.ticks, endpoint=True))

    def start(self, ticks: Ticks | None = None, prepare: Callable[[], None] | None = None) -> Run:
        return Run(self.place, ticks, prepare or self.prepare)

    # Disturbances: each returns when no run is at work any more.

    def killed(self) -> None:
        self._signaled(signal.SIGKILL)

    def interrupted(self) -> None:
        self._signaled(signal.SIGINT)

    def terminated(self) -> None:
        self._signaled(signal.SIGTERM)

    def _signaled(self, number: int) -> None:
        """Half of them by the clock, half at a moment at which a file is touched."""
        if self.random.random() < 0.5:
            run = self.start()
            if run.wait(self.moment(), self.look) is None:
                run.kill(number)
        else:
            run = self.start(Ticks(self.tick(), lambda: os.kill(os.getpid(), number)))
        code = run.wait(look=self.look)
        assert code in (0, 130, -number), (code, run.said)

    def full(self) -> None:
        """No file may grow beyond some size, from some moment on: what is larger is cut short there (EFBIG)."""
        size = int(2 ** self.random.uniform(0, 24))
        run = self.start(
            Ticks(self.tick(), lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
        )
        self._fails(run.wait(look=self.look), run)

    def no_space(self) -> None:
        """From some moment on, every writing call says that no space is left (ENOSPC)."""
        run = self.start(Ticks(self.tick(), full=True))
        self._fails(run.wait(look=self.look), run)

    def _fails(self, code: int | None, run: Run) -> None:
        """A run that cannot write says so in a line, or did not need to."""
        assert code in (0, 2), (code, run.said)
        assert "Traceback" not in run.said, run.said
        assert code == 0 or "Error: " in run.said, run.said

    def read_only(self) -> None:
        chosen = ("results",), ("checkpoints",), ("results", "checkpoints")
        folders = [self.place / name for name in chosen[self.random.integers(3)]]
        reason, pipe = "", os.pipe()

        def prepare() -> None:
            self.prepare()
            os.write(pipe[1], obey().encode() or b".")

        run = self.start(Ticks(self.tick(), lambda: modes(folders, 0o555)), prepare)
        code = run.wait(look=self.look)
        reason = os.read(pipe[0], 1000).decode()
        for end in pipe:
            os.close(end)
        modes(folders, 0o755)
        self.skipped = "" if reason == "." else reason
        self._fails(code, run)

    def two(self) -> None:
        """Two at once: nothing is done twice."""
        self._pair(dies=0)

    def one_of_two(self) -> None:
        """Two at once, of which one is killed: the other does it all."""
        self._pair(dies=1)

    def both_of_two(self) -> None:
        self._pair(dies=2)

    def _pair(self, dies: int) -> None:
        runs = []
        delay = self.random.uniform(0, self.seconds / 4)
        for number in range(2):
            at = (
                Ticks(self.tick(), lambda: os.kill(os.getpid(), signal.SIGKILL))
                if number < dies
                else None
            )
            runs.append(self.start(at))
            if number == 0:
                runs[0].wait(delay, self.look)
        codes = [None, None]
        while None in codes:
            codes = [run.wait(time.monotonic() - run.began + 0.05, self.look) for run in runs]
            if time.monotonic() - runs[1].began > PATIENCE:
                for run in runs:
                    run.kill()
                raise AssertionError(f"two runs did not end: {[run.said for run in runs]}")
        for number, code in enumerate(codes):
            assert code in ((0, -signal.SIGKILL) if number < dies else (0,)), (
                codes,
                [run.said for run in runs],
            )
        if not any(codes):
            assert sum(run.attacked for run in runs) == CELLS * LIMIT, [run.said for run in runs]
            assert sum(run.told("steps") for run in runs) == STEPS, [run.said for run in runs]

    def clock(self) -> None:
        """A run under another clock is killed; then all files are of other days, and the clock of the next run goes wild."""
        by = self.random.uniform(-1, 1) * 10**8

        def prepare() -> None:
            self.prepare()
            another_time(by)()

        self.start(Ticks(self.tick(), lambda: os.kill(os.getpid(), signal.SIGKILL)), prepare).wait(
            look=self.look
        )
        for folder in (self.place / "results", self.place / "checkpoints"):
            for path in sorted(folder.rglob("*")):
                moment = time.time() + float(self.random.uniform(-1, 1)) * 10**8
                os.utime(path, (moment, moment))
        self.again = another_time(-by)


KINDS: dict[str, Callable[[Round], None]] = {
    "killed": Round.killed,
    "disk full": Round.no_space,
    "two killed": Round.both_of_two,
    "Ctrl-C": Round.interrupted,
    "read-only": Round.read_only,
    "clock set": Round.clock,
    "SIGTERM": Round.terminated,
    "file too large": Round.full,
    "one of two killed": Round.one_of_two,
    "two at once": Round.two,
}


def phase(place: Path) -> str:
    """Return how far a run had come."""
    hidden = any(TEMPORARY.fullmatch(path.name) for path in place.rglob(".*"))
    alone = any(
        not path.with_name(path.name.split(".npz")[0].removesuffix(".samples") + ".json").exists()
        for path in place.rglob("*.npz")
    )
    if hidden or alone:
        return "writing"
    if not list(place.glob("checkpoints/*/*.safetensors")):
        return "training"
    return "attacks" if len(results.paths(place / "results")) < CELLS else "done"


def disturb(
    kind: str, root: Path, seed: int, number: int, reference: dict, seconds: float, ticks: int
) -> Counter:
    """Play a round; raises AssertionError for what is lost, done twice, damaged, or left behind. Return what to count."""
    one = Round(root, seed, number, seconds, ticks)
    KINDS[kind](one)
    counts = Counter({"rounds": 1, phase(one.place): 1})
    counts["not tried"] += bool(one.skipped)
    before = stamps(one.place)
    (one.place / "results").mkdir(exist_ok=True)
    left = verification.verify(one.place / "results", one.place / "checkpoints").findings
    assert all(re.search(HARMLESS, finding.wrong) for finding in left), left
    counts["files left behind, and cleared"] += len(left)
    kept = sum(path.suffix == ".json" for path in before)
    partial = next(one.place.glob("checkpoints/*/*.partial"), None)
    began = time.monotonic()
    last = one.start(prepare=one.again)
    assert last.wait(look=one.look) == 0, last.said
    assert last.attacked == (CELLS - kept) * LIMIT, (kept, last.said)
    after = stamps(one.place)
    assert all(after[path] == stamp for path, stamp in before.items()), (
        "what was stored was written again"
    )
    whole = any(path.suffix == ".safetensors" for path in before)
    steps = last.told("steps")
    assert steps == 0 if whole else steps < STEPS if partial else steps == STEPS, (
        whole,
        partial,
        last.said,
    )
    counts["trainings resumed"] += partial is not None
    found = all_of(one.place)
    differing = [
        name for name in found.keys() | reference.keys() if found.get(name) != reference.get(name)
    ]
    assert not differing, differing
    verified = verification.verify(one.place / "results", one.place / "checkpoints")
    assert not verified.findings, verified.lines
    counts += Counter(
        {
            "cells kept": kept,
            "cells computed after": CELLS - kept,
            "reads meanwhile": one.look.reads,
        }
    )
    counts["restarts over 1 s of waiting"] += time.monotonic() - began > seconds + 1.0
    shutil.rmtree(one.place)
    return counts


#: What a killed run may leave: nothing of it is read.
HARMLESS = "a run was killed|a run that was killed"


def load() -> None:
    """Do once, here, what every run would do, and leave out what would be most of its time.

    The pictures are drawn, the backbone is read; nobody measures its speed, or looks for red flags, which are no part of
    what is stored and read again.
    """
    torch.set_num_threads(1)
    load_plugins()
    draw, drawn = Drawn.__call__, {}

    def once(kind: Drawn, split: str) -> Images:
        if (kind.seed, split) not in drawn:
            drawn[kind.seed, split] = draw(kind, split)
        return drawn[kind.seed, split]

    Drawn.__call__ = once
    for name in ("mini_cells", "mini_train", "mini_shapes"):
        datasets[name].load("test")
    datasets["mini_train"].load("train")
    bench.measure = lambda *_: Speed(1000.0, 400.0)
    compute.examine_cell = lambda *_: compute.Examined()
    workshop.load_clip = functools.cache(workshop.load_clip)
    workshop.load_clip("package:zsrobust.mini/clip", "cpu")


def play(rounds: list[int], seed: int) -> int:
    """Play the rounds, print what came of them, and return the number of those that failed."""
    load()
    failed, totals, root = (
        0,
        {kind: Counter() for kind in KINDS},
        Path(tempfile.mkdtemp(prefix="killing")),
    )
    run = Run(fresh(root, "undisturbed"))
    assert run.wait() == 0, run.said
    seconds, ticks, reference = (
        time.monotonic() - run.began,
        run.told("ticks"),
        all_of(root / "undisturbed"),
    )
    assert run.attacked == CELLS * LIMIT, run.said
    assert run.told("steps") == STEPS, run.said
    print(
        f"undisturbed: {seconds:.1f} s, {CELLS} cells, {STEPS} steps, files touched {ticks} times",
        flush=True,
    )
    for number in rounds:
        kind = list(KINDS)[number % len(KINDS)]
        try:
            totals[kind] += disturb(kind, root, seed, number, reference, seconds, ticks)
        except (AssertionError, ZSRobustError):
            failed += 1
            print(
                f"round {number} ({kind}, seed {seed}) failed; its folder: {root}/round{number}",
                flush=True,
            )
            traceback.print_exc()
    if not failed:
        shutil.rmtree(root)
    for kind, counts in totals.items():
        print(f"{kind}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    whole = sum(totals.values(), Counter())
    print(
        f"{whole['rounds']} rounds, {failed} failed; {whole['reads meanwhile']} cells read while runs wrote",
        flush=True,
    )
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Kill, stop, starve and double runs; see that nothing comes of it."
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="play this round alone")
    given = parser.parse_args()
    numbers = (
        list(range(given.first, given.first + given.rounds)) if given.only is None else [given.only]
    )
    sys.exit(bool(play(numbers, given.seed)))

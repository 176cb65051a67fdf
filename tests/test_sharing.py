"""Runs that share a folder: claims, whoever dies; two runs at once; jobs of submitit."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import fresh
import pytest

from zsrobust import ZSRobustError
from zsrobust.attacks import Attack, attacks
from zsrobust.core import claims
from zsrobust.core.claims import BusyError, claimed, sole

MINI = ("run", "--suite", "mini", "--defense", "clip", "--dataset", "mini_cells", "--limit", "8")
DIES = """
import os, pathlib, sys
from zsrobust.core import claims
held = claims.claimed(pathlib.Path(sys.argv[1]))
held.__enter__()
os.kill(os.getpid(), 9)
"""
SLOW = """
import os, time
from dataclasses import dataclass
import torch.nn.functional as F
from zsrobust.attacks import Attack, attacks
from zsrobust.defenses import Defense, defenses
from zsrobust.training import Recipe, objectives

def log(line):
    with open("log", "a") as file:
        file.write(f"{line} {os.getpid()}\\n")
    time.sleep(0.4)

@dataclass(frozen=True)
class Slow(Attack):
    def __call__(self, classifier, images, labels, draws, start=None):
        log(f"attack {classifier(images).shape[1]}")
        return (images + self.eps).clamp(0, 1)

@objectives.register("slow")
def objective(step):
    log("train")
    return F.cross_entropy(step.student(step.images), step.labels)

attacks.register("slow")(Slow())
defenses.register("slow")(Defense(title="Slow", paper="none", recipe=Recipe(objective="slow")))
"""


def claims_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".claim" in str(path.relative_to(folder))]


def die_holding(path: Path) -> None:
    """Leave the claim of a process that was killed."""
    assert (
        subprocess.run([sys.executable, "-c", DIES, path], check=False).returncode
        == -signal.SIGKILL
    )
    assert claims_in(path.parent)


def test_a_claim_is_one_process_s_and_is_given_back_however_it_ends(tmp_path):
    path = tmp_path / "new" / "cell.json"
    with claimed(path):
        with (
            pytest.raises(BusyError, match=f"cell.json is made by process {os.getpid()} on "),
            claimed(path),
        ):
            pass
        assert claims.claim_of(path).name == ".cell.json.claim"
        assert len(os.listdir(claims.claim_of(path))) == 1
    assert not claims_in(tmp_path)
    with pytest.raises(KeyboardInterrupt), claimed(path):
        raise KeyboardInterrupt
    assert not claims_in(tmp_path)
    with (
        pytest.raises(ZSRobustError, match="Cannot write /dev/null/.x.claim"),
        claimed(Path("/dev/null/x")),
    ):
        pass


def test_of_many_that_find_a_dead_process_s_claim_one_takes_it_over(tmp_path):
    path = tmp_path / "cell.json"
    die_holding(path)
    start, end = threading.Barrier(12), threading.Barrier(12)
    taken = []

    def take() -> None:
        start.wait()
        try:
            with claimed(path):
                taken.append(True)
                end.wait()
        except BusyError:
            end.wait()

    threads = [threading.Thread(target=take) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == [True]
    assert not claims_in(tmp_path)


FAR = "1.1.0123456789abcdef.0123456789abcdef@far"  # the name of an owner on another machine


def leave_claim(path: Path, owner: str) -> Path:
    """Leave the claim of an owner by name, and return the owner's file."""
    claim = claims.claim_of(path)
    claim.mkdir()
    (claim / owner).touch()
    return claim / owner


@pytest.mark.parametrize("named", [True, False])
def test_a_claim_from_elsewhere_lasts_as_long_as_it_is_touched_whatever_the_clocks_say(
    tmp_path, monkeypatch, named
):
    monkeypatch.setattr(claims, "STALE", 0.3)
    path = tmp_path / "cell.json"
    owner = leave_claim(path, FAR if named else "unknown")
    os.utime(owner, (1, 1))  # a clock far behind
    for second in (5, 3, 9**9):  # one that is set back, one far ahead
        time.sleep(0.2)
        with (
            pytest.raises(BusyError, match="process 1 on far" if named else "another process"),
            claimed(path),
        ):
            pass
        os.utime(owner, (second, second))
    with pytest.raises(BusyError), claimed(path):
        pass
    time.sleep(0.4)
    with claimed(path):
        assert not owner.exists()


def test_the_claim_of_an_older_version_is_a_file_and_is_respected(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "STALE", 0.2)
    path = tmp_path / "cell.json"
    claims.claim_of(path).write_text('{"host": "far", "process": 1}')
    with pytest.raises(BusyError, match="another process"), claimed(path):
        pass
    time.sleep(0.3)
    with claimed(path):
        assert claims.claim_of(path).is_dir()


def test_a_process_id_that_was_given_again_is_another_process(tmp_path):
    """The process with this id lives, but was not started when the owner was."""
    path = tmp_path / "cell.json"
    with claimed(path):
        (name,) = os.listdir(claims.claim_of(path))
    process, _, rest = name.split(".", 2)
    owner = leave_claim(path, f"{process}.1.{rest}")
    with claimed(path):
        assert not owner.exists()


@pytest.mark.parametrize("left", ["a claim", "an empty claim", "a draft", "an empty draft"])
def test_what_a_process_leaves_that_is_killed_at_any_moment_is_cleared(tmp_path, left):
    path, claim = tmp_path / "cell.json", tmp_path / ".cell.json.claim"
    die_holding(path)
    if "draft" in left:
        claim = claim.rename(f"{claim}.0123456789abcdef")
    if "empty" in left:
        next(claim.iterdir()).unlink()
    assert claims.abandoned(claim)
    claims.clear(path)
    assert not claims_in(tmp_path)
    with claimed(path):
        (claim, owner) = sorted(claims_in(tmp_path))
        assert not claims.abandoned(claim)
        claims.clear(path)
        assert owner.exists()


def test_a_claim_appears_with_its_owner_in_it(tmp_path, monkeypatch):
    path, rename = tmp_path / "cell.json", Path.rename

    def look(draft: Path, claim: Path) -> Path:
        assert not claims.claim_of(path).exists()
        assert len(list(draft.iterdir())) == 1
        return rename(draft, claim)

    monkeypatch.setattr(Path, "rename", look)
    with claimed(path):
        assert len(list(claims.claim_of(path).iterdir())) == 1
    assert not claims_in(tmp_path)


def test_who_finds_a_dead_owner_too_late_removes_nothing_of_the_next(tmp_path, monkeypatch):
    """Between the look at a dead owner and its removal, another takes the claim."""
    path = tmp_path / "cell.json"
    die_holding(path)
    is_dead, next_owner = claims._is_dead, claimed(path)

    def late(owner: Path) -> bool:
        monkeypatch.setattr(claims, "_is_dead", is_dead)
        next_owner.__enter__()
        return True

    monkeypatch.setattr(claims, "_is_dead", late)
    with pytest.raises(BusyError, match=f"process {os.getpid()}"), claimed(path):
        pass
    assert not claims.abandoned(claims.claim_of(path))
    next_owner.__exit__(None, None, None)
    assert not claims_in(tmp_path)


def test_a_rename_whose_answer_was_lost_is_a_claim(tmp_path, monkeypatch):
    rename = Path.rename

    def lose(draft: Path, claim: Path) -> None:
        rename(draft, claim)
        raise FileNotFoundError(errno.ENOENT, "asked again: no draft")

    monkeypatch.setattr(Path, "rename", lose)
    with claimed(tmp_path / "cell.json"):
        assert len(claims_in(tmp_path)) == 2
    assert not claims_in(tmp_path)


def test_a_claim_that_nobody_is_seen_to_own_is_busy(tmp_path):
    """NFS keeps the removed file of an owner under another name while somebody reads it."""
    leave_claim(tmp_path / "cell.json", ".nfs0001")
    with pytest.raises(BusyError, match="another process"), claimed(tmp_path / "cell.json"):
        pass


@pytest.mark.parametrize("call", ["mkdir", "touch", "rename"])
def test_a_disk_that_is_full_leaves_no_claim(tmp_path, monkeypatch, call):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, call, full)
    with (
        pytest.raises(ZSRobustError, match="No space left on device"),
        claimed(tmp_path / "cell.json"),
    ):
        pass
    assert not claims_in(tmp_path)


def test_whoever_may_write_beside_a_claim_may_take_it_over(tmp_path):
    tmp_path.chmod(0o775)
    with claimed(tmp_path / "cell.json"):
        assert claims.claim_of(tmp_path / "cell.json").stat().st_mode & 0o777 == 0o775


def test_a_claim_that_was_lost_is_not_taken_back(tmp_path):
    path = tmp_path / "cell.json"
    with claimed(path):
        next(claims.claim_of(path).iterdir()).unlink()
        (claims.claim_of(path) / FAR).touch()
    assert os.listdir(claims.claim_of(path)) == [FAR]


def test_claims_are_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.05)
    path = tmp_path / "cell.json"
    with claimed(path):
        owner = next(claims.claim_of(path).iterdir())
        os.utime(owner, (1, 1))
        time.sleep(0.3)
        assert owner.stat().st_mtime > 1


def test_who_wants_what_another_makes_waits_for_it_or_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "PAUSE", 0.02)
    path, told, made = tmp_path / "weights", [], threading.Event()
    with claimed(path):
        with pytest.raises(BusyError), sole(path):
            pass

        def other() -> None:
            with sole(path, told.append):
                assert path.read_text() == "made"
                made.set()

        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.1)
        path.write_text("made")
    thread.join()
    assert made.is_set()
    assert len(told) == 1
    assert "waiting: weights is made by process" in told[0]


@pytest.mark.parametrize(
    ("signal_", "code", "said"),
    [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 0, "Preempted")],
)
def test_a_run_that_is_stopped_leaves_no_claim(
    zsrobust, tmp_path, monkeypatch, signal_, code, said
):
    @dataclass(frozen=True)
    class Stop(Attack):
        def __call__(self, classifier, images, labels, draws, start=None):
            assert claims_in(tmp_path)
            signal.raise_signal(signal_)

    monkeypatch.setitem(attacks._entries, "stop", Stop())
    before = signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background jobs ignore it
    stopped = zsrobust(*MINI, "--attack", "stop", ok=code).stderr
    assert said in stopped
    assert "Computed cells are stored" in stopped
    signal.signal(signal.SIGINT, ignored)
    assert not claims_in(tmp_path)
    assert not list(tmp_path.rglob("*.json"))
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_cell_of_a_killed_process_is_computed(zsrobust, tmp_path):
    place = tmp_path / "results/mini/sound/pgd2-eps=6-255/clip/mini_cells.limit=8.json"
    place.parent.mkdir(parents=True)
    die_holding(place)
    assert "8 images attacked" in zsrobust(*MINI, "--attack", "pgd2").stdout
    assert not claims_in(tmp_path)


def test_what_another_run_does_meanwhile_is_waited_for_and_not_done_again(
    zsrobust, tmp_path, monkeypatch
):
    monkeypatch.setattr(claims, "PAUSE", 0.1)
    zsrobust(*MINI, "--attack", "pgd2")
    (place,) = tmp_path.rglob("*.json")
    content = place.read_bytes()
    claim = claimed(place)
    claim.__enter__()

    def finish() -> None:
        while not list(place.parent.glob("mini_train*.json")):
            time.sleep(0.05)
        time.sleep(0.5)
        place.unlink()
        place.write_bytes(content)
        claim.__exit__(None, None, None)

    thread = threading.Thread(target=finish)
    thread.start()
    done = zsrobust(*MINI, "--attack", "pgd2", "--dataset", "mini_train", "--force")
    thread.join()
    assert f"waiting: {place.name} is made by process {os.getpid()}" in done.stderr
    assert "2 cells in results; 8 images attacked" in done.stdout
    assert place.read_bytes() == content


def test_two_runs_at_once_train_once_and_attack_every_cell_once(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    names = ("mini_cells", "mini_train", "mini_shapes")
    command = (
        "--plugin",
        "slow.py",
        "run",
        "--suite",
        "mini",
        "--attack",
        "slow",
        "--defense",
        "clip",
        "--defense",
        "slow:epochs=1,limit=64",
        "--limit",
        "8",
        *(f"--dataset={name}" for name in names),
    )
    runs = [
        fresh.Process(fresh.command, command, False, folder=tmp_path, environment=os.environ)
        for _ in range(2)
    ]
    said = [run.end() for run in runs]
    assert [done.returncode for done in said] == [0, 0], said
    lines = [line.rsplit(" ", 1) for line in (tmp_path / "log").read_text().splitlines()]
    assert sum(what == "train" for what, _ in lines) == 1
    assert sum(what.startswith("attack") for what, _ in lines) == 6
    attacked = [
        sum(int(run.pid) == int(process) and what != "train" for what, process in lines)
        for run in runs
    ]
    for done, count in zip(said, attacked, strict=True):
        assert "6 cells in results" in done.stdout
        assert f"{8 * count} images attacked" in done.stdout
    assert not claims_in(tmp_path)


def test_jobs_compute_what_is_missing_and_say_what_fails(zsrobust, tmp_path, checkpoints):
    pytest.importorskip("submitit")
    zsrobust(*MINI, "--attack", "pgd2")
    command = (
        *MINI,
        "--attack",
        "pgd2",
        "--dataset",
        "mini_train",
        "--executor",
        "local",
        "--slurm",
        "time=5",
    )
    done = zsrobust(*command)
    assert "clip, 1 cell; log" in done.stderr
    assert "2 cells in results; 8 images attacked" in done.stdout
    again = zsrobust(*command)
    assert "in results; 0 images attacked" in again.stdout
    assert "job" not in again.stderr
    (log,) = (tmp_path / "results").rglob("*_log.out")
    assert "Job completed successfully" in log.read_text()
    assert len(list((tmp_path / "results").rglob("mini_*.json"))) == 2
    assert (
        json.loads(next((tmp_path / "results").rglob("mini_train*.json")).read_text())["images"]
        == 8
    )


def test_what_jobs_cannot_do_is_one_line(zsrobust, monkeypatch):
    slurm = (*MINI, "--attack", "pgd2", "--executor", "slurm")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "submitit", None)
        (line,) = zsrobust(*slurm, ok=2).stderr.splitlines()
    assert "needs submitit. Next: pip install 'zsrobust[slurm]'" in line
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    for settings, message in (
        ((), "Could not detect"),
        (("--slurm", "partition"), "has no value. Write KEY=VALUE"),
    ):
        (line,) = zsrobust(*slurm, *settings, ok=2).stderr.splitlines()
        assert message in line
    local = (*MINI, "--attack", "pgd2", "--executor", "local")
    for setting, message in (
        ("colour=red", "Unknown argument 'colour'"),
        ("time=soon", "expected type"),
    ):
        (line,) = zsrobust(*local, "--slurm", setting, ok=2).stderr.splitlines()
        assert message in line

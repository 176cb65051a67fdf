"""SIGTERM, the notice of a scheduler: exit code 0, nothing lost, and the same bits afterwards."""

import os
import signal
import time
from pathlib import Path

import fresh
import pytest
from safetensors.numpy import load_file

from zsrobust.core import claims

HELD = """
import os, pathlib, time
from dataclasses import dataclass
import torch.nn.functional as F
from zsrobust.attacks import Attack, attacks
from zsrobust.defenses import Defense, defenses
from zsrobust.training import Recipe, objectives

calls = []

def arrive(kind, call):
    calls.append(kind)
    if os.environ.get("HOLD") == kind and calls.count(kind) == call:
        pathlib.Path("held").touch()
        time.sleep(60)

@dataclass(frozen=True)
class Held(Attack):
    def __call__(self, classifier, images, labels, draws, start=None):
        arrive("attack", 2)
        return (images + self.eps).clamp(0, 1)

@objectives.register("held")
def objective(step):
    arrive("training", 3)
    return F.cross_entropy(step.student(step.images), step.labels)

attacks.register("held")(Held())
defenses.register("held")(Defense(title="Held", paper="none", recipe=Recipe(objective="held")))
"""
RUN = (
    *("--plugin", "held.py", "run", "--suite", "mini", "--attack", "held", "--limit", "8"),
    *("--defense", "held:batch_size=16,epochs=1,limit=64"),
    *("--dataset", "mini_cells", "--dataset", "mini_shapes"),
)
TRAIN = ("--plugin", "held.py", "train", "held:batch_size=16,epochs=1,limit=64", "--suite", "mini")


def begin(folder: Path, arguments: tuple[str, ...], hold: str = "") -> fresh.Process:
    folder.mkdir(exist_ok=True)
    (folder / "held.py").write_text(HELD)
    environment = {**os.environ, "ZSROBUST_CHECKPOINTS": "checkpoints", "HOLD": hold}
    return fresh.Process(fresh.command, arguments, False, folder=folder, environment=environment)


def preempt(folder: Path, arguments: tuple[str, ...], hold: str) -> None:
    """Send SIGTERM to a command in its training or in its second attack, and look how it ends."""
    run, patience = begin(folder, arguments, hold), time.monotonic() + 60
    while not (folder / "held").exists() and time.monotonic() < patience:
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGTERM)
    done = run.end()
    assert done.returncode == 0, done.stderr
    assert "Preempted: the process received SIGTERM." in done.stderr
    assert "Run the same command to continue." in done.stderr
    assert not list(folder.rglob("*.claim"))
    (folder / "held").unlink()


def found(folder: Path) -> dict[str, bytes]:
    """Return the outcomes and the weights by name, without what tells of time."""
    weights = [
        (f"{path.name} {name}", tensor.tobytes())
        for path in folder.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    ]
    return dict(weights) | {path.name: path.read_bytes() for path in folder.rglob("mini_*.npz")}


def test_preempted_commands_exit_with_0_and_the_next_one_ends_with_the_same_bits(tmp_path):
    whole = begin(tmp_path / "undisturbed", RUN).end()
    assert whole.returncode == 0, whole.stderr
    place = tmp_path / "preempted"
    preempt(place, TRAIN, "training")
    assert list(place.rglob("*.partial"))
    assert not list(place.rglob("*.safetensors"))
    preempt(place, RUN, "attack")
    assert list(place.rglob("*.safetensors"))
    (stored,) = place.rglob("mini_*.json")
    before = stored.stat()
    last = begin(place, RUN).end()
    assert last.returncode == 0, last.stderr
    assert "8 images attacked" in last.stdout
    assert (stored.stat().st_ino, stored.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert found(place) == found(tmp_path / "undisturbed")
    assert len(found(place)) > 2


def test_a_second_notice_does_not_interrupt_what_saves_the_state():
    saved = False
    before = signal.getsignal(signal.SIGTERM)

    def stopped() -> None:
        nonlocal saved
        with claims.terminable():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)
                saved = True

    with pytest.raises(claims.Preempted):
        stopped()
    assert saved
    assert signal.getsignal(signal.SIGTERM) == before

"""SIGTERM, the notice of a scheduler: exit code 0, nothing lost, and the same bits afterwards."""

import os
import signal
import time
from pathlib import Path

import fresh
import pytest
from safetensors.numpy import load_file

from zsrobust.attacks import attacks
from zsrobust.core import claims
from zsrobust.datasets import Images
from zsrobust.defenses import defenses
from zsrobust.mini.datasets import Drawn
from zsrobust.running import entries
from zsrobust.training import objectives

HELD = """
import os, pathlib, time
from dataclasses import dataclass
import torch
import torch.nn.functional as F
from zsrobust.attacks import Attack, attacks
from zsrobust.defenses import Defense, defenses
from zsrobust.training import Recipe, objectives

torch.set_num_threads(1)  # the same in a process of its own
calls = []

def hold():
    pathlib.Path("held").touch()
    time.sleep(60)

def arrive(kind, call):
    calls.append(kind)
    if os.environ.get("HOLD") == kind and calls.count(kind) == call:
        hold()

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
DEFENSE = "held:batch_size=16,epochs=1,limit=64"
TRAIN = ("train", DEFENSE, "--suite", "mini", "--checkpoints", "checkpoints")
RUN = (
    *("run", "--suite", "mini", "--attack", "held", "--limit", "8", "--defense", DEFENSE),
    *("--dataset", "mini_cells", "--dataset", "mini_shapes", "--checkpoints", "checkpoints"),
)


@pytest.fixture
def held(monkeypatch):
    """The plugin in this process, where its hold is a SIGTERM."""
    for registry in (attacks, defenses, objectives):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    names = {"__name__": "held"}
    exec(HELD, names)  # noqa: S102  # a test's own
    names["hold"] = lambda: signal.raise_signal(signal.SIGTERM)

    drawn, draw = {}, Drawn.__call__

    def draw_once(kind: Drawn, split: str) -> Images:  # half of what these runs take
        if (kind.seed, split) not in drawn:
            drawn[kind.seed, split] = draw(kind, split)
        return drawn[kind.seed, split]

    monkeypatch.setattr(Drawn, "__call__", draw_once)
    return names


def check_preempted(stderr: str, folder: Path) -> None:
    assert "Preempted: the process received SIGTERM." in stderr
    assert "Run the same command to continue." in stderr
    assert not list(folder.rglob("*.claim"))


def found(folder: Path) -> dict[str, bytes]:
    """Return the outcomes and the weights by name, without what tells of time."""
    weights = [
        (f"{path.name} {name}", tensor.tobytes())
        for path in folder.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    ]
    return dict(weights) | {path.name: path.read_bytes() for path in folder.rglob("mini_*.npz")}


def test_preempted_commands_exit_with_0_and_the_next_one_ends_with_the_same_bits(
    zsrobust, held, tmp_path, monkeypatch
):
    place, undisturbed = tmp_path / "preempted", tmp_path / "undisturbed"
    place.mkdir()
    undisturbed.mkdir()
    monkeypatch.chdir(undisturbed)
    zsrobust(*RUN)

    monkeypatch.chdir(place)
    (place / "held.py").write_text(HELD)
    training = fresh.Process(
        fresh.command,
        ("--plugin", "held.py", *TRAIN),
        False,
        folder=place,
        environment={**os.environ, "HOLD": "training"},
    )
    patience = time.monotonic() + 60
    while not (place / "held").exists() and time.monotonic() < patience:
        time.sleep(0.02)
    os.kill(training.pid, signal.SIGTERM)
    done = training.end()
    assert done.returncode == 0, done.stderr
    check_preempted(done.stderr, place)
    assert list(place.rglob("*.partial"))
    assert not list(place.rglob("*.safetensors"))

    held["calls"].clear()
    check_preempted(zsrobust(*RUN, HOLD="attack").stderr, place)
    assert held["calls"] == ["training", "training", "attack", "attack"]  # two of four steps left
    assert list(place.rglob("*.safetensors"))
    (stored,) = place.rglob("mini_*.json")
    before = stored.stat()

    assert "8 images attacked" in zsrobust(*RUN).stdout
    assert (stored.stat().st_ino, stored.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert found(place) == found(undisturbed)
    assert len(found(place)) > 2


@pytest.mark.parametrize("command", [TRAIN, RUN])
def test_a_notice_before_torch_is_loaded_ends_the_same_way(
    zsrobust, tmp_path, monkeypatch, command
):
    monkeypatch.setattr(entries, "load_suite", lambda _: signal.raise_signal(signal.SIGTERM))
    check_preempted(zsrobust(*command).stderr, tmp_path)
    assert not list(tmp_path.iterdir())


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

"""A simulated cluster, see cluster.py; errors of a file system that pass, and answers that are lost."""

import builtins
import errno
import io
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cluster
import numpy as np
import pytest
import safetensors.torch
import torch

from zsrobust import results
from zsrobust.core import claims, files
from zsrobust.core.claims import BusyError, claimed
from zsrobust.core.errors import NoAnswerError, ZSRobustError
from zsrobust.datasets import cache
from zsrobust.defenses.weight_files import read_state_dict
from zsrobust.models.clip import weights_digest
from zsrobust.models.tensors import load_tensors, read_metadata, read_tensors
from zsrobust.results.digests import read_weights
from zsrobust.results.store import Store
from zsrobust.running.run import stamp_of
from zsrobust.training.checkpoints import Checkpoint
from zsrobust.training.partial import Partial

forks = pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform == "darwin", reason="cluster.py forks"
)
WRITES = ("open", "mkdir", "rmdir", "rename", "replace", "unlink", "fsync", "chmod")
READS = ("stat", "listdir")


@forks
def test_workers_of_which_some_are_killed_lose_no_cell_and_do_none_twice():
    counts = cluster.play(workers=8, size=24, killed=3, seed=0, pace=0.1)
    assert counts["killed"] >= 1
    assert counts["cells begun again"] >= 1


@forks
def test_on_a_flaky_file_system_the_counts_are_the_same_and_no_cell_is_done_twice():
    counts = cluster.play(workers=6, size=18, killed=0, seed=0, rate=0.03, pace=0.1)
    assert counts["ended in one line"] == counts["cells begun again"] == 0
    assert sum(n for what, n in counts.items() if what.endswith("lost its answer")) > 10
    assert sum(n for what, n in counts.items() if what.endswith(" failed")) > 10
    assert counts["old state"] > 10


@forks
def test_workers_whose_calls_fail_too_often_end_in_one_line_and_the_next_run_completes():
    counts = cluster.play(workers=3, size=6, killed=0, seed=0, rate=0.03, tries=1, pace=0.1)
    assert counts["ended in one line"] >= 1


def fail(
    monkeypatch: pytest.MonkeyPatch, name: str, code: int, lost: bool, fails: Callable[[int], bool]
) -> list[int]:
    """Let the calls of a function of os fail whose number `fails`; `lost`: after their work."""
    numbers = []

    def failing(call: Callable[..., object]) -> Callable[..., object]:
        def called(*given: object, **more: object) -> object:
            numbers.append(len(numbers))
            if not fails(numbers[-1]):
                return call(*given, **more)
            answer = call(*given, **more) if lost else None
            if name == "open" and lost:
                os.close(answer)
            raise OSError(code, os.strerror(code))

        return called

    for each in ("stat", "lstat") if name == "stat" else (name,):  # lstat may call stat
        monkeypatch.setattr(os, each, failing(getattr(os, each)))
    return numbers


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(files, "PAUSE", 0.0)


@pytest.mark.parametrize("lost", [False, True], ids=["failed", "lost"])
@pytest.mark.parametrize("code", files.PASSING, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", [*WRITES, *READS])
def test_of_four_calls_three_fail_and_all_is_as_if_none_did(
    tmp_path, monkeypatch, name, code, lost
):
    path = tmp_path / "new" / "cell.json"
    with monkeypatch.context() as failing:
        made = fail(failing, name, code, lost, lambda number: number % 4 < 3)
        with claimed(path):
            with pytest.raises(BusyError, match=f"process {os.getpid()}"), claimed(path):
                pass
            assert stamp_of(path) is None
            assert Store(tmp_path).find(Path("new/cell.json")) is None
            files.write_atomically(path, b"whole")
            assert files.read_regular(path) == b"whole"
            assert results.store.sha256_of(path)
            assert Store(tmp_path).find(Path("new/cell.json")) == path
            assert (path, "") in files.walk(path.parent)
            for left in files.leftovers(path):
                files.remove(left)
        assert files.exists(path)
        assert stamp_of(path)
        claims.clear(path)
    assert len(made) > 1
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("names", "lost"),
    [
        (["mkdir"], False),
        (["mkdir"], True),
        (["open"], False),
        (["open"], True),
        (["rename"], False),
        (["listdir"], False),
        (["rename", "stat"], True),  # the claim appears, and nobody can look whose it is
    ],
)
def test_a_claim_that_cannot_be_taken_is_one_line_and_is_free_afterwards(
    tmp_path, monkeypatch, names, lost
):
    path = tmp_path / "cell.json"
    with monkeypatch.context() as failing:
        made = [fail(failing, name, errno.EIO, lost, lambda _: True) for name in names]
        with pytest.raises(NoAnswerError, match="cannot be reached: Input/output error, 4"):
            claims._take(path)
        claims.clear(path)
    assert sum(map(len, made)) >= files.TRIES
    with claimed(path):
        assert [each.name for each in tmp_path.iterdir()] == [claims.claim_of(path).name]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("stat", stamp_of),
        ("stat", lambda path: Store(path.parent).find(Path(path.name))),
        ("stat", results.read),
        ("open", results.read),
        ("open", lambda path: results.outcomes_match(None, path)),
        ("stat", lambda path: results.Samples.read(path)),
        ("open", lambda path: results.Outcomes.read(path)),
        ("stat", files.exists),
        ("listdir", lambda path: results.paths(path.parent)),
        ("listdir", files.leftovers),
        ("unlink", files.remove),
        ("replace", lambda path: files.write_atomically(path, b"new")),
    ],
)
def test_what_cannot_be_reached_is_neither_missing_nor_damaged(tmp_path, monkeypatch, name, look):
    for suffix in (".json", ".npz", ".samples.npz"):
        (tmp_path / f"cell{suffix}").write_bytes(b"old")
    for code in files.PASSING:
        with monkeypatch.context() as failing:
            made = fail(failing, name, code, False, lambda _: True)
            with pytest.raises(NoAnswerError) as error:
                look(tmp_path / "cell.json")
            assert len(made) >= files.TRIES
        (line,) = str(error.value).splitlines()
        assert str(tmp_path) in line
        assert line.endswith("Next: run the same command again")
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"old"}
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_an_error_that_does_not_pass_is_reported_at_once(tmp_path, monkeypatch, code):
    made = fail(monkeypatch, "replace", code, False, lambda _: True)
    with pytest.raises(ZSRobustError, match="Cannot write") as error:
        files.write_atomically(tmp_path / "cell.json", b"lost")
    assert not isinstance(error.value, NoAnswerError)
    assert len(made) == 1
    assert not list(tmp_path.iterdir())


def test_who_is_not_seen_as_the_owner_at_first_does_not_wait_for_itself(tmp_path, monkeypatch):
    path, exists, looks = tmp_path / "cell.json", Path.exists, itertools.count()
    fail(monkeypatch, "rename", errno.ENOENT, True, lambda number: number == 0)
    monkeypatch.setattr(Path, "exists", lambda each: next(looks) > 0 and exists(each))
    with claimed(path):
        assert len(os.listdir(claims.claim_of(path))) == 1
    assert next(looks) == 1
    assert not list(tmp_path.iterdir())


def test_weights_and_pictures_are_read_again_and_what_is_not_reached_is_not_damaged(
    tmp_path, monkeypatch
):
    path, tensors = tmp_path / "a.safetensors", {"x": torch.arange(3.0)}
    safetensors.torch.save_file(tensors, path, {"some": "é"})
    pickled = tmp_path / "a.pt"
    torch.save(tensors, pickled)
    folder = tmp_path / "prepared"
    folder.mkdir()
    np.save(folder / "pixels.npy", np.zeros((2, 3, 4, 4), np.uint8))
    np.save(folder / "labels.npy", np.arange(2))
    about = {"format": cache.FORMAT, "images": 2, "cut": None, "digest": "0" * 64}
    (folder / "about.json").write_text(json.dumps(about))
    plain, calls, fails = io.open, Counter[str](), 3

    def opened(file, *given, **more):
        calls[str(file)] += str(file).startswith(str(tmp_path))
        if 0 < calls[str(file)] <= fails:
            raise OSError(errno.ESTALE, "stale", str(file))
        return plain(file, *given, **more)

    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr(builtins, "open", opened)
    metadata, read = read_tensors(path)
    assert metadata == {"some": "é"}
    assert read_weights(path) == (metadata, weights_digest(read))
    assert weights_digest(read) == weights_digest(tensors)
    assert cache.read(folder).labels.tolist() == [0, 1]
    for file in (path, pickled):
        for reader in (load_tensors, read_state_dict):
            calls.clear()
            found = reader(file)
            weights = found if reader is load_tensors else found.weights
            assert torch.equal(weights["x"], tensors["x"])
            assert calls[str(file)] > fails
    calls.clear()
    assert read_metadata(path) == metadata
    fails = sys.maxsize
    readers = [Checkpoint.read, lambda path: Partial.read(path, {}), read_weights]
    readers += [load_tensors, read_state_dict, read_metadata]
    for reader in readers:
        with pytest.raises(NoAnswerError, match="cannot be reached"):
            reader(path)
    for reader in (load_tensors, read_state_dict):
        with pytest.raises(NoAnswerError, match="cannot be reached"):
            reader(pickled)
    with pytest.raises(NoAnswerError, match="cannot be reached"):
        cache.read(folder)

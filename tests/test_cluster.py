"""A simulated cluster of 32 workers, see cluster.py; errors of a file system that pass."""

import errno
import os
import sys

import cluster
import pytest

from zsrobust.core import files
from zsrobust.core.errors import ZSRobustError

forks = pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform == "darwin", reason="cluster.py forks"
)


@forks
def test_32_workers_of_which_some_are_killed_lose_no_cell_and_do_none_twice():
    counts = cluster.play(workers=32, size=64, killed=6, seed=0)
    assert counts["killed"] >= 1
    assert counts["cells begun again"] >= 1


def test_a_call_that_fails_in_passing_is_made_again_and_others_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PAUSE", 0.0)
    replace, calls = os.replace, []

    def fails(code: int, times: int) -> None:
        def called(*given: object) -> None:
            calls.append(code)
            if len(calls) <= times:
                raise OSError(code, os.strerror(code))
            replace(*given)

        calls.clear()
        monkeypatch.setattr(files.os, "replace", called)

    path = tmp_path / "cell.json"
    for code in files.PASSING:
        fails(code, files.TRIES - 1)
        files.write_atomically(path, code.to_bytes())
        assert path.read_bytes() == code.to_bytes()
        assert len(calls) == files.TRIES
    for code, tries in ((errno.ESTALE, files.TRIES), (errno.ENOSPC, 1)):
        fails(code, files.TRIES)
        with pytest.raises(ZSRobustError, match="Cannot write"):
            files.write_atomically(path, b"lost")
        assert len(calls) == tries
    assert path.read_bytes() == files.PASSING[-1].to_bytes()
    assert list(tmp_path.iterdir()) == [path]

"""The time of the mini suite's Tables 1, 2 and 3 from nothing, training included.

The command chooses its own number of processes.

Run: `python benchmarks/speed/suite.py`
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import options, store

from zsrobust import results
from zsrobust.results import Result
from zsrobust.training import Checkpoint

PARTS = {"PGD-10": "pgd10", "AutoAttack": "autoattack"}


def spent(part: str, cells: Sequence[Result]) -> dict[str, Any]:
    """Return the numbers of cells, images and passes of a part, and the seconds of its cells."""
    seconds: Counter[str] = Counter()
    for each in cells:
        seconds[each.identity.defense.spec] += each.seconds
    return {
        "part": part,
        "cells": len(cells),
        "images": sum(each.images for each in cells),
        "passes": {
            "forward": sum(each.forward for each in cells),
            "backward": sum(each.backward for each in cells),
        },
        "process minutes": sum(seconds.values()) / 60,
        "seconds by defense": {name: round(each) for name, each in seconds.items()},
    }


def trained(folder: str) -> dict[str, Any]:
    """Return the seconds of the trainings' steps."""
    paths = Path(folder).rglob("*.safetensors")
    histories = [Checkpoint.read(path).training["history"] for path in paths]
    seconds = sum(epoch["seconds"] for history in histories for epoch in history)
    return {"part": f"{len(histories)} trainings", "process minutes": seconds / 60}


def main() -> None:
    """Measure, print the rows and store them."""
    options(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "zsrobust", "run", "--yes", "--suite", "mini"]
        command += ["--results", "results", "--checkpoints", "checkpoints"]
        environment = {key: each for key, each in os.environ.items() if key != "OMP_NUM_THREADS"}
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True)  # noqa: S603  # zsrobust of this environment
        minutes = (time.perf_counter() - started) / 60
        cells = [results.read(path) for path in results.paths(f"{folder}/results")]
        parts = {
            title: [each for each in cells if each.identity.attack.spec == spec]
            for title, spec in PARTS.items()
        }
        rows = [spent(title, part) for title, part in parts.items()]
        rows.append(trained(f"{folder}/checkpoints"))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # kilobytes, on Linux
    rows.append({"part": "all", "cells": len(cells), "minutes": minutes, "GB": peak})
    every = dict.fromkeys(key for row in rows for key in row)
    store(
        "suite",
        "The mini suite's Tables 1, 2 and 3 from nothing",
        [{key: row.get(key, "") for key in every} for row in rows],
    )


if __name__ == "__main__":
    main()

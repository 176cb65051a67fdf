"""The time of the mini suite's Tables 1, 2 and 3 from nothing, training included.

Runs share the cells and the cores. Small batches gain little from a second thread.

Run: `python benchmarks/speed/suite.py [--runs 2] [--autoattack 32]`
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from typing import Any

from measure import options, store

from zsrobust import results

PARTS = {"PGD-10": ("--table", "1"), "AutoAttack": ("--table", "3")}


def spent(part: str, folder: str, seconds: float) -> dict[str, Any]:
    """Return the numbers of cells, images and passes of a part, and its time."""
    found = [results.read(path) for path in results.paths(f"{folder}/results")]
    slow = part == "AutoAttack"
    cells = [each for each in found if each.identity.attack.spec.startswith("auto") == slow]
    times: Counter[str] = Counter()
    for each in cells:
        times[each.identity.defense.spec] += round(each.seconds)
    return {
        "cells": len(cells),
        "images": sum(each.images for each in cells),
        "minutes": seconds / 60,
        "passes": {
            "forward": sum(each.forward for each in cells),
            "backward": sum(each.backward for each in cells),
        },
        "seconds of the cells": dict(times),
    }


def main() -> None:
    """Measure, print the rows and store them."""
    parser = options(__doc__)
    parser.add_argument("--runs", type=int, default=2)
    help_text = "Number of images of each dataset under AutoAttack."
    parser.add_argument("--autoattack", type=int, default=32, help=help_text)
    chosen = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        places = ["--results", f"{folder}/results", "--checkpoints", f"{folder}/checkpoints"]
        for part, which in PARTS.items():
            limit = ["--limit", str(chosen.autoattack)] if part == "AutoAttack" else []
            command = [sys.executable, "-m", "zsrobust", "run", "--yes", "--suite", "mini"]
            command += [*which, *limit, *places]
            threads = str(max(1, (os.cpu_count() or 1) // chosen.runs))
            environment = {**os.environ, "OMP_NUM_THREADS": threads}
            started = time.perf_counter()
            runs = [
                subprocess.Popen(  # noqa: S603  # the command above
                    command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                for _ in range(chosen.runs)
            ]
            codes = [each.wait() for each in runs]
            assert not any(codes), codes
            taken = time.perf_counter() - started
            rows.append({"part": part, "runs": chosen.runs, **spent(part, folder, taken)})
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # kilobytes, on Linux
    both = {"part": "both", "minutes": sum(row["minutes"] for row in rows), "GB": peak}
    rows.append({**dict.fromkeys(rows[0], ""), **both})
    store("suite", "The mini suite's Tables 1, 2 and 3 from nothing", rows)


if __name__ == "__main__":
    main()

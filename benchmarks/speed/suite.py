"""The mini suite's Tables 1, 2 and 3 from nothing, training included: where the time goes.

Runs share the cells, each with one thread: small batches gain little from a second one.

Run: `python benchmarks/speed/suite.py [--runs 2] [--autoattack 32]`
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter

from measure import store

from zsrobust import results

PARTS = {"PGD-10": ("--table", "1"), "AutoAttack": ("--table", "3")}


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument(
        "--autoattack", type=int, default=32, help="Images a dataset under AutoAttack."
    )
    chosen = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        places = ["--results", f"{folder}/results", "--checkpoints", f"{folder}/checkpoints"]
        for part, which in PARTS.items():
            limit = ["--limit", str(chosen.autoattack)] if part == "AutoAttack" else []
            command = [
                sys.executable,
                "-m",
                "zsrobust",
                "run",
                "--yes",
                "--suite",
                "mini",
                *which,
                *limit,
                *places,
            ]
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // chosen.runs)),
            }
            started = time.perf_counter()
            runs = [
                subprocess.Popen(  # noqa: S603  # as above
                    command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                for _ in range(chosen.runs)
            ]
            codes = [each.wait() for each in runs]
            assert not any(codes), codes
            taken = time.perf_counter() - started
            found = [results.read(path) for path in results.paths(f"{folder}/results")]
            cells = [
                each
                for each in found
                if each.identity.attack.spec.startswith("auto") == (part == "AutoAttack")
            ]
            spent: Counter[str] = Counter()
            for each in cells:
                spent[each.identity.defense.spec] += round(each.seconds)
            passes = {
                "forward": sum(each.forward for each in cells),
                "backward": sum(each.backward for each in cells),
            }
            rows.append(
                {
                    "part": part,
                    "runs": chosen.runs,
                    "cells": len(cells),
                    "images": sum(each.images for each in cells),
                    "minutes": taken / 60,
                    "passes": passes,
                    "seconds of the cells": dict(spent),
                }
            )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # kilobytes, on Linux
    rows.append(
        {
            **dict.fromkeys(rows[0], ""),
            "part": "both",
            "minutes": sum(row["minutes"] for row in rows),
            "GB": peak,
        }
    )
    store("suite", "The mini suite's Tables 1, 2 and 3 from nothing", rows)


if __name__ == "__main__":
    main()

"""Measure a researcher's errands on a checkout: commands, CPU seconds and wall seconds.

Run: `python benchmarks/errands/errands.py before --checkout FOLDER`, then `... now`. Commands run
in a temporary folder, with a cache of their own, on the results of this checkout. The numbers are
stored in results/before.json or results/now.json. `python benchmarks/errands/page.py` writes
README.md from both.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: A launcher, so that any checkout is run without being installed.
LAUNCHER = """#!/bin/sh
exec "{python}" -c 'import sys; sys.path.pop(0); sys.argv[0] = "zsrobust"
from zsrobust.cli import main; main()' "$@"
"""


def errands() -> list[dict[str, Any]]:
    """Return the errands: a title, and the commands of each side; [] if it was not possible."""
    return tomllib.loads((HERE / "errands.toml").read_text(encoding="utf-8"))["errand"]


def measured(command: str, folder: Path, environment: dict[str, str]) -> dict[str, float | int]:
    """Return the exit code, CPU seconds with those of child processes, and wall seconds."""
    earlier, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(  # noqa: S603  # the commands of errands.toml
        ["/bin/sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    wall, later = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = later.ru_utime + later.ru_stime - earlier.ru_utime - earlier.ru_stime
    if done.returncode not in (0, 1, 2) or "Traceback" in done.stderr:
        raise SystemExit(f"{command}\nfailed: {done.stderr}")
    return {"exit": done.returncode, "cpu": round(cpu, 2), "wall": round(wall, 2)}


def median(repeat: int, run: Callable[[], dict[str, float | int]]) -> dict[str, float | int]:
    """Return the medians of several runs."""
    found = [run() for _ in range(repeat)]
    return {key: statistics.median(each[key] for each in found) for key in found[0]}


def measure(
    checkout: Path, python: str, side: str, repeat: int, only: Sequence[str]
) -> list[dict[str, Any]]:
    """Return a row for each errand that the side can do, and one for `import torch`.

    Unless `only` is empty, it has the titles of the errands to measure.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        launcher = folder / "bin" / "zsrobust"
        launcher.parent.mkdir()
        launcher.write_text(LAUNCHER.format(python=python))
        launcher.chmod(0o755)
        (folder / "results").symlink_to(ROOT / "results")
        paths = os.pathsep.join([str(launcher.parent), str(Path(python).parent)])
        environment = {
            **os.environ,
            "PYTHONPATH": str(checkout.resolve()),
            "PATH": os.pathsep.join([paths, os.environ["PATH"]]),
            "ZSROBUST_CACHE": str(folder / "cache"),
            "COLUMNS": "80",
            "OMP_NUM_THREADS": "1",
        }
        for errand in [{"title": "import torch", side: ['python -c "import torch"']}, *errands()]:
            commands = errand.get(side, []) if not only or errand["title"] in only else []
            for each in errand.get("first", []) if commands else []:
                measured(each, folder, environment)
            times = 1 if errand.get("once") else repeat
            if commands:
                line = "\n".join(commands)
                found = median(times, lambda line=line: measured(line, folder, environment))
                if found["exit"] != errand.get("exit", 0):
                    raise SystemExit(f"{errand['title']}: exit code {found['exit']}")
                rows.append({"errand": errand["title"], "repeat": times, **found})
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure a side and store its rows."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("side", choices=["before", "now"])
    parser.add_argument("--checkout", type=Path, default=ROOT, help="a checkout of zsrobust")
    parser.add_argument("--python", default=sys.executable, help="an environment's python")
    parser.add_argument("--repeat", type=int, default=3, help="runs whose median is stored")
    parser.add_argument("--only", action="append", default=[], help="title of an errand to measure")
    asked = parser.parse_args()
    rows = measure(asked.checkout, asked.python, asked.side, asked.repeat, asked.only)
    commit = subprocess.run(  # noqa: S603  # the checkout that is measured
        ["git", "-C", asked.checkout, "rev-parse", "--short", "HEAD"],  # noqa: S607  # any git
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    about = {"commit": commit, "cores": os.cpu_count(), "python": platform.python_version()}
    path = HERE / "results" / f"{asked.side}.json"
    path.parent.mkdir(exist_ok=True)
    if asked.only:
        about = json.loads(path.read_bytes())
        titles = {row["errand"] for row in rows}
        rows = [row for row in about.pop("rows") if row["errand"] not in titles] + [
            {**row, "commit": commit} for row in rows
        ]
    path.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

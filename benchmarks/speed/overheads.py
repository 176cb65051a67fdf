"""(f) Overheads outside the attack: `--help`, a finished suite, a table over 5,000 cells.

Run: python benchmarks/speed/overheads.py
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from measure import options, ratio, store

from zsrobust import results

ZSROBUST = [sys.executable, "-m", "zsrobust"]
ROOT = Path(__file__).parents[2]


def run(*command: str) -> None:
    """Run a command and hide its output."""
    subprocess.run(  # noqa: S603  # only commands of this file
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def many(folder: Path, number: int) -> None:
    """Write `number` cells: the stored ones, copied under the names of other defenses."""
    paths = results.paths(ROOT / "results")
    for copy in range(number // len(paths) + 1):
        for path in paths[: number - copy * len(paths)]:
            result, outcomes = results.read(path), results.Outcomes.read(path)
            if copy:
                spec = f"{result.identity.defense.spec}:seed={copy}"
                defense = replace(result.identity.defense, spec=spec)
                result = replace(result, identity=replace(result.identity, defense=defense))
            results.write(result, outcomes, folder)


def main() -> None:
    """Measure, print the rows and store them."""
    parser = options(__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cells", type=int, default=5000)
    chosen = parser.parse_args()
    rows = []

    def add(what: str, command: list[str], peer: str, other: Callable[[], object]) -> None:
        found = ratio(lambda: run(*command), other, chosen.repeat)
        rows.append({"what": what, "peer": peer, **found})

    def python(code: str) -> Callable[[], object]:
        return lambda: run(sys.executable, "-c", code)

    click = "import click"
    add("zsrobust --help", [*ZSROBUST, "--help"], f"python -c '{click}'", python(click))
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "results"
        shutil.copytree(ROOT / "results", stored)
        words = ["run", "--suite", "mini", "--defense", "clip", "--attack", "pgd10", "--results"]
        again = [*ZSROBUST, *words, str(stored)]
        libraries = "import torch, open_clip"
        add("a run of 16 cells, all stored", again, f"python -c '{libraries}'", python(libraries))
        copies = Path(folder) / "many"
        many(copies, chosen.cells)
        paths = results.paths(copies)
        table = [*ZSROBUST, "table", "1", "--suite", "mini", "--results", str(copies)]

        def parse() -> None:
            for path in paths:
                json.loads(path.read_bytes())

        add(f"a table over {len(paths)} cells", table, "json.loads of their files", parse)
    store("overheads", "Overheads outside the attack", rows)


if __name__ == "__main__":
    main()

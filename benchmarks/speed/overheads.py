"""(f) Overheads outside the attack: `--help`, a finished suite, a table over 5,000 cells.

python benchmarks/speed/overheads.py
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from measure import ratio, store

from zsrobust import results

ZSROBUST = [sys.executable, "-m", "zsrobust"]
ROOT = Path(__file__).parents[2]


def run(*command: str) -> None:
    """Run a command and hide what it says."""
    subprocess.run(  # noqa: S603  # the commands of this file, nobody else's
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def many(folder: Path, number: int) -> None:
    """Copy the stored cells under other defenses' names until there are so many."""
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
    """Measure, print and store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cells", type=int, default=5000)
    chosen = parser.parse_args()
    rows = []

    def add(what: str, command: list[str], peer: str, other: Callable[[], object]) -> None:
        rows.append(
            {"what": what, "peer": peer, **ratio(lambda: run(*command), other, chosen.repeat)}
        )

    def python(code: str) -> Callable[[], object]:
        return lambda: run(sys.executable, "-c", code)

    add(
        "zsrobust --help", [*ZSROBUST, "--help"], "python -c 'import click'", python("import click")
    )
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "results"
        shutil.copytree(ROOT / "results", stored)
        again = [
            *ZSROBUST,
            "run",
            "--suite",
            "mini",
            "--defense",
            "clip",
            "--attack",
            "pgd10",
            "--results",
            str(stored),
        ]
        libraries = "import torch, open_clip"
        add("a run of 16 cells, all stored", again, f"python -c '{libraries}'", python(libraries))
        many(Path(folder) / "many", chosen.cells)
        paths = results.paths(Path(folder) / "many")
        table = [
            *ZSROBUST,
            "table",
            "1",
            "--suite",
            "mini",
            "--results",
            str(Path(folder) / "many"),
        ]
        plain = "json.loads of their files"
        add(
            f"a table over {len(paths)} cells",
            table,
            plain,
            lambda: [json.loads(path.read_bytes()) for path in paths],
        )
    store("overheads", "Overheads outside the attack", rows)


if __name__ == "__main__":
    main()

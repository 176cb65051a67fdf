"""Recompute a part of a suite from nothing, and compare it with stored results.

Run: `tox -e regression -- --tolerance 0`, or `python benchmarks/regression.py --results FOLDER`
"""

import argparse
import subprocess
import sys
from pathlib import Path

PART = ["--suite", "mini", "--table", "1"]


def main() -> int:
    """Return the exit code of the first command that fails, else 0."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description="Recompute a part of a suite, and compare it with stored results.",
        epilog=f"Other options choose the part, for `run` and `check`. Default: {' '.join(PART)}",
    )
    parser.add_argument("--results", required=True, help="Folder of the recomputed results.")
    parser.add_argument("--against", default="results", help="Folder of the stored results.")
    parser.add_argument("--tolerance", help="Accepted difference in points; see `zsrobust check`.")
    given, chosen = parser.parse_known_args()
    part = chosen or PART
    ours = Path(sys.executable).with_name("zsrobust")
    tolerance = [] if given.tolerance is None else ["--tolerance", given.tolerance]
    for command in (
        ["run", "--yes", "--baseline", "none", "--results", given.results, *part],
        ["check", given.results, "--against", given.against, *tolerance, *part],
    ):
        code = subprocess.run([ours, *command], check=False).returncode  # noqa: S603  # zsrobust of this environment
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Adds the counts that chance needs to stored results, from their stored outcomes.

Results written before these counts existed lack them. Nothing is measured again: the outcomes, the
number of correct images and the other flags stay as they are.
"""

import argparse
from pathlib import Path

from zsrobust import results
from zsrobust.results.chance import completed
from zsrobust.results.store import paths


def main(folder: Path) -> None:
    """Complete the results under a folder, and print how many changed."""
    changed = 0
    for path in paths(folder):
        result = results.read(path)
        if result.status == "failed":
            continue
        outcomes = results.Outcomes.read(path)
        whole = completed(result, outcomes)
        if whole != result:
            root = Path(*path.parts[: len(path.parts) - len(result.path.parts)])
            results.write(whole, outcomes, root, results.Samples.read(path))
            changed += 1
    print(f"{folder}: {changed} results completed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder of results, for example results")
    main(parser.parse_args().folder)

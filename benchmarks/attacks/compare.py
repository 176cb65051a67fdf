"""How good are our attacks, next to everybody's: in the manner of AttackBench (arXiv 2404.19460).

Run: python benchmarks/attacks/compare.py --checkpoints FOLDER [--only PGD-10 FAB-T] [--page]

It attacks the same images with every library that is installed, and stores one file for each
attack in `results/`. What is stored for these settings and versions is not measured again. Then it
writes the tables of README.md, and prints where ours is weaker.
"""

import argparse
import json
import platform
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import adapters
import page
import torch
from cases import FAMILIES, MINI, VIT, VIT_IMAGES, VIT_STEPS, Family, Target, mini, vit
from judge import run

from zsrobust.attacks.notes import Note

RESULTS = Path(__file__).parent / "results"

KEY = ("library", "classifier", "dataset", "seed")  # of a row; a new one replaces the old

Row = dict[str, Any]


def main() -> None:
    """Measure what is missing, write the page, print the verdicts."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--classifiers", nargs="+", choices=(*MINI, VIT), default=[*MINI, VIT])
    parser.add_argument("--page", action="store_true", help="write the page, measure nothing")
    chosen = parser.parse_args()
    if not chosen.page:
        targets = {name: list(_targets(name, chosen.checkpoints)) for name in chosen.classifiers}
        for name in chosen.only:
            measure(name, FAMILIES[name], targets)
    for line in page.write(RESULTS):
        print(line)


def _targets(name: str, checkpoints: Path) -> Iterator[Target]:
    return vit() if name == VIT else mini(name, checkpoints)


def measure(name: str, family: Family, targets: dict[str, list[Target]]) -> None:
    """Run an attack of every library on every target; store each row as soon as it is there."""
    path = RESULTS / f"{name.lower()}.json"
    stored = json.loads(path.read_bytes()) if path.exists() else {"rows": []}
    rows: list[Row] = stored["rows"]
    for library in adapters.LIBRARIES:
        number = adapters.installed(library)
        attack = adapters.adapter(library).ATTACKS.get(family.kind) if number else None
        for setting, target in _settings(family, targets) if attack else ():
            row = {"library": library, "version": number, **setting}
            if any(row.items() <= old.items() and "error" not in old for old in rows):
                continue
            key = {field: row[field] for field in KEY}
            rows[:] = [old for old in rows if not key.items() <= old.items()]
            row |= one(attack, target, setting)
            rows.append(row)
            path.parent.mkdir(exist_ok=True)
            content = {"attack": name, "machine": machine(), "rows": rows}
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            found = row.get("broken", row.get("error"))
            print(name, *key.values(), found, f"{row['seconds']} s", flush=True)


def _settings(
    family: Family, targets: dict[str, list[Target]]
) -> Iterator[tuple[dict[str, Any], Target]]:
    """Yield the settings of each run and its target, with as many images as the attack gets."""
    for classifier, datasets in targets.items():
        large = classifier == VIT
        if large and not family.vit:
            continue
        for full in datasets:
            target = full.first(VIT_IMAGES if large else family.images)
            for seed in range(1 if large else family.seeds):
                yield (
                    {
                        "classifier": classifier,
                        "dataset": target.task.dataset,
                        "seed": seed,
                        "weights": full.weights,
                        "images": len(target.labels),
                        "eps": target.task.eps,
                        "step_size": target.task.step_size,
                        "steps": min(family.steps, VIT_STEPS) if large else family.steps,
                        "queries": family.queries,
                        "targets": family.targets,
                    },
                    target,
                )


def one(attack: adapters.Run, target: Target, setting: dict[str, Any]) -> Row:
    """Return the measured fields of a row, or the error of a library that raised one."""
    task = replace(
        target.task, **{field: setting[field] for field in ("steps", "seed", "queries", "targets")}
    )
    try:
        verdict = run(attack, target, task)
    except Exception as error:  # a failure of a library is stored as one, not as robustness
        return {"error": f"{type(error).__name__}: {error}"[:200], "seconds": 0.0}
    return {
        "broken": "".join(str(int(each)) for each in verdict.broken),
        "refused": verdict.refused,
        "forward": verdict.forward,
        "backward": verdict.backward,
        "seconds": verdict.seconds,
    }


def machine() -> dict[str, Any]:
    """Return the device, the threads, the versions and the date of a measurement."""
    about = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", about.read_text()) if about.exists() else []
    processor = names[0] if names else platform.machine()
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "date": date.today().isoformat(),
    }


if __name__ == "__main__":
    import logging
    import warnings

    warnings.simplefilter("ignore", Note)
    logging.disable(logging.WARNING)  # of the libraries
    main()

"""(c) AutoAttack on the mini model: our engine against pyautoattack, verdicts image by image.

python benchmarks/speed/autoattack.py [--images 64] [--defenses clip tecoa]
"""

import argparse
from pathlib import Path
from typing import Any

from measure import device, ratio, store

from zsrobust.attacks import attacks
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Case, judge
from zsrobust.running.bench import Bench
from zsrobust.running.entries import load_suite
from zsrobust.running.plan import Cell, Key
from zsrobust.settings import protocols


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--dataset", default="mini_shapes")
    parser.add_argument("--defenses", nargs="+", default=["clip", "tecoa"])
    parser.add_argument("--repeat", type=int, default=1)
    chosen = parser.parse_args()
    suite = load_suite("mini")
    bench = Bench(suite, protocols.load(), Workshop(suite, Path("checkpoints"), device()))
    rows = []
    for defense in chosen.defenses:
        eps = suite.attack["eps"]
        key = Key(defense, "autoattack", eps, chosen.dataset, chosen.images, 0)
        cell = Cell.of(key, suite, bench.protocol)
        classifier = bench.deploy(cell, bench.workshop.tower(defense)).classifier
        images = bench.images(cell)
        outcomes: dict[str, Any] = {}

        def run(
            engine: str,
            classifier: Any = classifier,
            images: Any = images,
            outcomes: Any = outcomes,
        ) -> None:
            attack = attacks.create(f"autoattack:engine={engine}", suite.attack)
            outcomes[engine] = judge(
                Case(
                    Meter(classifier), attack, "autoattack", images, seed=0, batch_size=len(images)
                )
            )

        found = ratio(lambda run=run: run("ours"), lambda run=run: run("library"), chosen.repeat)
        right = {
            name: (each.clean == each.labels) & (each.adversarial == each.labels)
            for name, each in outcomes.items()
        }
        verdicts = {
            "robust ours": int(right["ours"].sum()),
            "robust library": int(right["library"].sum()),
            "broken by ours alone": int((right["library"] & ~right["ours"]).sum()),
            "broken by the library alone": int((right["ours"] & ~right["library"]).sum()),
        }
        rows.append(
            {
                "defense": defense,
                "dataset": chosen.dataset,
                "images": len(images),
                **verdicts,
                **found,
            }
        )
    store("autoattack", "Standard AutoAttack, mini model, against pyautoattack", rows)


if __name__ == "__main__":
    main()

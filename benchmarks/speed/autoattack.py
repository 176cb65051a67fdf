"""(c) AutoAttack on the mini model: our engine against pyautoattack, verdicts image by image.

Run: python benchmarks/speed/autoattack.py [--images 64] [--defenses clip tecoa]
"""

from functools import partial
from pathlib import Path
from typing import Any

from measure import device, options, ratio, store

from zsrobust.attacks import attacks
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Case, judge
from zsrobust.running.bench import Bench
from zsrobust.running.entries import load_suite
from zsrobust.running.plan import Cell, Key
from zsrobust.settings import protocols


def main() -> None:
    """Measure, print the rows and store them."""
    parser = options(__doc__)
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
            engine: str, classifier: Any = classifier, images: Any = images, found: Any = outcomes
        ) -> None:
            attack = attacks.create(f"autoattack:engine={engine}", suite.attack)
            meter, size = Meter(classifier), len(images)
            found[engine] = judge(Case(meter, attack, "autoattack", images, batch_size=size))

        found = ratio(partial(run, "ours"), partial(run, "library"), chosen.repeat)
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
        about = {"defense": defense, "dataset": chosen.dataset, "images": len(images)}
        rows.append({**about, **verdicts, **found})
    store("autoattack", "Standard AutoAttack, mini model, against pyautoattack", rows)


if __name__ == "__main__":
    main()

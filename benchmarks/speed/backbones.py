"""Seconds and peak memory of families of backbones: random weights, PGD-2 on 4 images.

Each backbone has its own process. CPU seconds do not depend on what else the machine does.

Run: `python benchmarks/speed/backbones.py [ARCHITECTURE ...]`
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
from measure import device, options, pictures, store

from zsrobust.attacks import attacks
from zsrobust.datasets import Images
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Case, judge
from zsrobust.models.clip import load_clip

FAMILIES = (
    "ViT-B-32", "ViT-B-16", "ViT-L-14", "RN50", "convnext_base", "EVA02-B-16", "MobileCLIP-S1",
    "MobileCLIP2-S0", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP2", "coca_ViT-B-32",
)  # fmt: skip
IMAGES, CLASSES = 4, 10


def measured(name: str) -> dict[str, float]:
    """Return seconds of loading, and of texts and attack, and GB of memory at the peak."""
    started, used = time.perf_counter(), time.process_time()
    clip = load_clip(f"{name}/random:0", device())
    loaded, loaded_cpu = time.perf_counter(), time.process_time()
    classifier = clip.classifier([[f"a photo of thing {number}"] for number in range(CLASSES)])
    pixels = (pictures(IMAGES, clip.side).cpu().numpy() * 255).astype(np.uint8)
    images = Images(pixels=pixels, labels=np.arange(IMAGES), known_digest="none")
    attack = attacks.create("pgd2")
    judge(Case(Meter(classifier), attack, "pgd2", images, batch_size=IMAGES, attacked="all"))
    return {
        "seconds to load": loaded - started,
        "seconds of PGD-2": time.perf_counter() - loaded,
        "CPU seconds to load": loaded_cpu - used,
        "CPU seconds of PGD-2": time.process_time() - loaded_cpu,
        "GB at the peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def main() -> None:
    """Measure each backbone in its own process, print the rows and store them."""
    parser = options(__doc__)
    parser.add_argument("backbones", nargs="*", default=list(FAMILIES))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measured(chosen.one)))  # the parent process reads it
        return
    for name in chosen.backbones:
        command = [sys.executable, __file__, "--one", name]
        done = subprocess.run(  # noqa: S603  # this script
            command, check=True, capture_output=True, text=True
        )
        row = {"backbone": name, **json.loads(done.stdout.splitlines()[-1])}
        store("backbones", "PGD-2 on 4 images, random weights", [row])


if __name__ == "__main__":
    main()

"""Peak memory of an evaluation, by the size of the dataset: PGD-2 on a linear classifier.

It counts the process's own memory (RssAnon of Linux). The system may drop pages of the mapped file,
so they do not count.

Run: `python benchmarks/speed/memory.py [--images 1000 10000 40000]`
"""

import argparse
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch
from measure import options, store

from zsrobust.attacks import attacks
from zsrobust.datasets import Images
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Case, judge
from zsrobust.testing import LinearClassifier

SIDE = 64


def own_memory() -> int:
    """Return the bytes of memory that only this process uses."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def grown(number: int, folder: str) -> int:
    """Return the bytes by which the process grows at its peak while it judges `number` images."""
    rng = np.random.RandomState(0)
    pixels = np.lib.format.open_memmap(
        Path(folder) / "pixels.npy", mode="w+", dtype=np.uint8, shape=(number, 3, SIDE, SIDE)
    )
    for start in range(0, number, 1000):
        part = pixels[start : start + 1000]
        part[:] = rng.randint(0, 256, part.shape)
    pixels.flush()
    images = Images(
        pixels=np.load(Path(folder) / "pixels.npy", mmap_mode="r"),
        labels=np.arange(number) % 10,
        known_digest="none",
    )
    torch.manual_seed(0)
    classifier = LinearClassifier(torch.randn(10, 3 * SIDE * SIDE))
    before, peak, ended = own_memory(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.005):
            peak = max(peak, own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    meter, attack = Meter(classifier), attacks.create("pgd2")
    judge(Case(meter, attack, "pgd2", images, batch_size=128, attacked="all"))
    ended.set()
    watcher.join()
    return peak - before


def main() -> None:
    """Measure each size in its own process, print the rows and store them."""
    parser = options(__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10000, 40000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if chosen.one:
            print(grown(chosen.one, folder))  # the parent process reads it
            return
    rows = []
    for number in chosen.images:
        command = [sys.executable, __file__, "--one", str(number)]
        done = subprocess.run(  # noqa: S603  # this script
            command, check=True, capture_output=True, text=True
        )
        size = number * 3 * SIDE**2 / 1e6
        memory = int(done.stdout) / 1e6
        rows.append({"images": number, "MB of pixels": size, "MB of memory": memory})
    store("memory", "Peak memory of an evaluation, by the size of the dataset", rows)


if __name__ == "__main__":
    main()

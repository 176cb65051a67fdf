"""(g) PGD on ViT-B/32 on a GPU, as a fraction of the rate of matrix products in the same run.

An image-step is one forward pass and the gradient with respect to the image: 17.6 GFLOP. The search
runs in bf16, and float32 verifies.

Run: `python benchmarks/speed/device.py [--images 4096]`
"""

import time

import torch
from measure import device, half_right, options, pictures, seconds_of, store, vit

from zsrobust.attacks import attacks
from zsrobust.datasets import Images
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Case, judge

FLOP = 17.6e9


def product_rate(kind: torch.dtype, size: int, seconds: float = 2.0) -> float:
    """Return the floating-point operations per second of square matrix products."""
    one, two = (torch.randn(size, size, device=device(), dtype=kind) for _ in range(2))
    seconds_of(lambda: one @ two)
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        seconds_of(lambda: one @ two)
        rounds += 1
    return rounds * 2 * size**3 / (time.perf_counter() - started)


def main() -> None:
    """Measure, print the rows and store them."""
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=4096 if device() == "cuda" else 16)
    parser.add_argument("--batch", type=int, default=1024 if device() == "cuda" else 16)
    chosen = parser.parse_args()
    _, classifier, _ = vit(100)
    images = pictures(chosen.images)
    labels = half_right(classifier, images)
    data = Images(pixels=(images * 255).round().byte().cpu().numpy(), labels=labels.cpu().numpy())
    pgd = attacks.create("pgd:steps=10,early_stop=false")
    rows = []
    for search, kind in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        rate = product_rate(kind, 8192 if device() == "cuda" else 1024)

        def run(search: str = search) -> int:
            meter = Meter(classifier)
            judge(Case(meter, pgd, "pgd", data, seed=0, batch_size=chosen.batch, search=search))
            return meter.backward_passes

        steps = run()
        taken = seconds_of(run)
        row = {"search": search, "images": chosen.images, "image-steps a second": steps / taken}
        rows.append(
            {**row, "TFLOP/s of products": rate / 1e12, "fraction": FLOP * steps / taken / rate}
        )
    store("device", "PGD-10 on ViT-B/32, against the rate of matrix products", rows)


if __name__ == "__main__":
    main()

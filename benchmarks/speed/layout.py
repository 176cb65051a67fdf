"""Forward passes and gradients of a convolutional backbone in channels-last, against contiguous.

Random weights, one thread. The gradient is with respect to the images.

Run: `OMP_NUM_THREADS=1 python benchmarks/speed/layout.py [--backbone RN50]`
"""

import copy

import torch
from measure import options, pictures, ratio, store

from zsrobust.models.clip import load_clip

IMAGES = 4


def main() -> None:
    """Measure, print the row and store it."""
    parser = options(__doc__)
    parser.add_argument("--backbone", default="RN50")
    name = parser.parse_args().backbone
    clip = load_clip(f"{name}/random:0")
    plain = clip.encoder.eval().requires_grad_(False)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    images = pictures(IMAGES, clip.side).cpu()

    def gradient(tower: torch.nn.Module, points: torch.Tensor) -> torch.Tensor:
        points = points.clone().requires_grad_()
        return torch.autograd.grad(tower(points).sum(), points)[0]

    moved = images.to(memory_format=torch.channels_last)
    row = {"backbone": name, "images": IMAGES, "ours": "channels-last", "peer": "contiguous"}
    measured = ratio(lambda: gradient(last, moved), lambda: gradient(plain, images), repeat=5)
    store("layout", "Forward pass and gradient in channels-last", [{**row, **measured}])


if __name__ == "__main__":
    main()

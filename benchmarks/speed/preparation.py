"""(e) Preparing a folder of JPEGs: images per second on one core, against torchvision.

Run: python benchmarks/speed/preparation.py [--images 400]
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from measure import options, ratio, store
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

from zsrobust.datasets import Cut, datasets
from zsrobust.datasets.catalogue import register_dataset


def main() -> None:
    """Measure, print the rows and store them."""
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--repeat", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.RandomState(0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "photos"
        for number in range(chosen.images):
            coarse = Image.fromarray(rng.randint(0, 256, (24, 32, 3)).astype(np.uint8))
            photo = coarse.resize((500, 375), Image.Resampling.BICUBIC)
            (place / f"class{number % 4}").mkdir(parents=True, exist_ok=True)
            photo.save(place / f"class{number % 4}" / f"{number:05}.jpg")
        register_dataset("speed_photos", {"folder": "photos"}, Path(folder))
        dataset = datasets["speed_photos"]
        turn = 0

        def ours() -> None:
            nonlocal turn
            turn += 1
            os.environ["ZSROBUST_CACHE"] = str(Path(folder) / f"cache{turn}")
            dataset.prepare("test", Cut(224))

        steps = [Resize(224, InterpolationMode.BICUBIC), CenterCrop(224), PILToTensor()]
        photos = ImageFolder(str(place), Compose(steps))

        def peer() -> None:
            for number in range(len(photos)):
                photos[number]

        found = ratio(ours, peer, chosen.repeat)
    rate = chosen.images / found["seconds"]["ours"]
    row = {"peer": "torchvision.ImageFolder, nothing stored", "images": chosen.images}
    row = {**row, "images a second": rate, **found}
    store("preparation", "Preparing JPEGs of 500 by 375 pixels for 224, one core", [row])


if __name__ == "__main__":
    main()

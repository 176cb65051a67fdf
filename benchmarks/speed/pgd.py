"""(a, b) PGD-10 on ViT-B/32 with random weights, half the images misclassified clean.

One peer is the loop of the paper's released code, written anew. It encodes all prompts at every
step, takes gradients of all weights, and attacks every image for all steps. The other peer is
torchattacks.PGD on our classifier. With random weights, the first step breaks the images. So each
comparison runs again with all steps for every image, as if all images were robust.

Run: `python benchmarks/speed/pgd.py [--batch 256] [--classes 10 100] [--peers loop torchattacks]`
"""

import argparse
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from measure import half_right, options, pictures, ratios, store, vit

from zsrobust.attacks import attacks
from zsrobust.datasets import Images
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Case, judge

EPS = 1 / 255
Runs = dict[str, Callable[[], object]]


def reference(
    model: Any, tokens: torch.Tensor, mean: torch.Tensor, std: torch.Tensor
) -> Callable[..., torch.Tensor]:
    """Return the released evaluation loop: raw cosines, and all prompts encoded at every step."""

    def logits(images: torch.Tensor) -> torch.Tensor:
        features = F.normalize(model.encode_image((images - mean) / std), dim=1)
        return features @ F.normalize(model.encode_text(tokens), dim=1).T

    def run(images: torch.Tensor, labels: torch.Tensor, steps: int) -> torch.Tensor:
        delta = torch.zeros_like(images).uniform_(-EPS, EPS).requires_grad_()
        for _ in range(steps):
            F.cross_entropy(logits(images + delta), labels).backward()
            assert delta.grad is not None
            moved = (delta + EPS * delta.grad.sign()).clamp(-EPS, EPS)
            delta.data = (images + moved).clamp(0, 1) - images
            delta.grad.zero_()
        with torch.no_grad():
            return logits(images + delta).argmax(1)

    return run


def compared(
    peer: str, classes: int, chosen: argparse.Namespace, runs: Runs, loop: Callable[[], object]
) -> list[Any]:
    """Return a row for each of our runs beside the peer, measured in turn."""
    about = {"peer": peer, "classes": classes, "batch": chosen.batch}
    found = ratios(runs, loop, chosen.repeat)
    return [{**about, "ours": name, **each} for name, each in found.items()]


def main() -> None:
    """Measure, print the rows and store them."""
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    peers = ["loop", "torchattacks"]
    parser.add_argument("--peers", nargs="+", choices=peers, default=peers)
    parser.add_argument("--repeat", type=int, default=3)
    chosen = parser.parse_args()
    rows = []
    for classes in chosen.classes:
        clip, classifier, prompts = vit(classes)
        images = pictures(chosen.batch)
        labels = half_right(classifier, images)
        pixels = (images * 255).round().byte().cpu().numpy()
        data = Images(pixels=pixels, labels=labels.cpu().numpy())
        specs = {"broken images leave": "pgd10", "none leaves": "pgd10:early_stop=false"}
        runs: Runs = {}
        for name, spec in specs.items():
            meter, attack = Meter(classifier), attacks.create(spec)
            runs[name] = partial(judge, Case(meter, attack, "pgd", data, batch_size=chosen.batch))
        if "loop" in chosen.peers:
            tokens = open_clip.get_tokenizer("ViT-B-32")(prompts).to(images.device)
            model = clip.model.train(False).requires_grad_(True)
            released = reference(model, tokens, classifier.mean, classifier.std)
            loop = partial(released, images, labels, 10)
            rows += compared("the released loop", classes, chosen, runs, loop)
            model.requires_grad_(False)
        if "torchattacks" in chosen.peers and find_spec("torchattacks"):
            import torchattacks

            attack = torchattacks.PGD(classifier, eps=EPS, alpha=EPS, steps=10)
            peer = partial(attack, images, labels)
            rows += compared("torchattacks.PGD", classes, chosen, runs, peer)
    store("pgd", "PGD-10, ViT-B/32 with random weights, half the images misclassified clean", rows)


if __name__ == "__main__":
    np.random.seed(0)
    main()

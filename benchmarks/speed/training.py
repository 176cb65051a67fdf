"""(d) A training step of PMG-AFT, ViT-B/32, 200 classes, against the step of the released code.

The reference step is written anew. Its attack back-propagates into all weights and encodes all
prompts at every step. Its losses take three more passes of each model, prompts included.

Run: `python benchmarks/speed/training.py [--batch 64]`
"""

from collections.abc import Callable
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from measure import options, pictures, ratio, store, vit

from zsrobust.attacks import attacks, frozen
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.notes import dropped
from zsrobust.defenses.pmg_aft import OPTIONS
from zsrobust.models.clip import Clip
from zsrobust.training import Step, objectives
from zsrobust.training.learner import BFloat16

EPS = 1 / 255


def our_step(
    clip: Clip,
    prompts: list[str],
    images: torch.Tensor,
    labels: torch.Tensor,
    precision: str = "float32",
) -> Callable[[], None]:
    """Return a training step of PMG-AFT, in float32 or with towers in bf16."""
    encoder = clip.copy()
    student, teacher = (
        clip.classifier([[each] for each in prompts], BFloat16(of) if precision == "bf16" else of)
        for of in (encoder, clip.encoder)
    )
    optimizer = torch.optim.SGD(encoder.parameters(), 1e-5, momentum=0.9)
    attack = attacks.create("pgd:steps=2,early_stop=false")
    draws = Draws.of(0, "speed", torch.arange(len(images)).numpy(), images.device)

    def craft(clean: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        with frozen(student), dropped():
            return attack(student, clean, wanted, draws)

    def step() -> None:
        loss = objectives["pmg_aft"](Step(images, labels, student, teacher, craft, OPTIONS))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure, print the rows and store them."""
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    chosen = parser.parse_args()
    clip, teacher, prompts = vit(chosen.classes)
    images = pictures(chosen.batch)
    labels = torch.arange(chosen.batch, device=images.device) % chosen.classes
    ours = our_step(clip, prompts, images, labels)
    tokens = open_clip.get_tokenizer("ViT-B-32")(prompts).to(images.device)
    original = clip.model.requires_grad_(False)
    model: Any = open_clip.create_model("ViT-B-32-quickgelu").to(images.device)
    reference_optimizer = torch.optim.SGD(model.visual.parameters(), 1e-5, momentum=0.9)

    def logits(of: Any, pictures: torch.Tensor) -> torch.Tensor:
        features = F.normalize(of.encode_image((pictures - teacher.mean) / teacher.std), dim=1)
        return features @ F.normalize(of.encode_text(tokens), dim=1).T

    def peer() -> None:
        reference_optimizer.zero_grad()
        delta = torch.zeros_like(images).uniform_(-EPS, EPS).requires_grad_()
        for _ in range(2):
            F.cross_entropy(logits(model, images + delta), labels).backward()
            assert delta.grad is not None
            delta.data = (delta + EPS * delta.grad.sign()).clamp(-EPS, EPS)
            delta.grad.zero_()
        adversarial = (images + delta.detach()).clamp(0, 1)
        found, clean = logits(model, adversarial), logits(model, images)
        theirs = logits(original, adversarial)
        loss = F.cross_entropy(found, labels)
        for target in (theirs, clean):
            loss = loss + F.kl_div(found.log_softmax(1), target.softmax(1), reduction="sum")
        loss.backward()
        reference_optimizer.step()

    about = {"peer": "the released step", "batch": chosen.batch, "classes": chosen.classes}
    row = {**about, **ratio(ours, peer, chosen.repeat)}
    store("training", "One step of PMG-AFT, ViT-B/32 with random weights", [row])


if __name__ == "__main__":
    main()

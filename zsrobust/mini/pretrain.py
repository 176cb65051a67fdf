"""Make the weights of the mini suite's CLIP: `python -m zsrobust.mini.pretrain OUT`.

This is contrastive pre-training on captioned pictures of the embedded world (Radford et al., 2021,
arXiv 2103.00020, figure 3). It takes half an hour on two cores. The README beside this file reports
the measurements.
"""

import json
import math
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import save_file

from zsrobust.mini import world

CONFIG = Path(__file__).parent / "clip" / "open_clip_config.json"
BATCH, WARMUP, LR, WEIGHT_DECAY = 256, 300, 1e-3, 0.1


def draw(seed: int, number: int = 1000) -> tuple[NDArray[np.uint8], list[list[str]]]:
    """Return random pictures of the world, (number, 3, 32, 32) uint8, and their captions."""
    rng = RandomState(seed)
    kinds, shares = list(world.KINDS), np.array(list(world.KINDS.values()))
    drawn = [kinds[rng.choice(len(kinds), p=shares)](rng) for _ in range(number)]
    pictures = np.stack([world.to_uint8(picture) for picture, _ in drawn])
    return pictures, [captions for _, captions in drawn]


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--steps", default=4000, show_default=True)
@click.option("--pictures", default=150_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(out: Path, steps: int, pictures: int, seed: int) -> None:
    """Pre-train the small CLIP and write its configuration and weights to the folder OUT."""
    torch.manual_seed(seed)
    config = json.loads(CONFIG.read_text())
    model = open_clip.CLIP(**config["model_cfg"])
    tokenize = open_clip.SimpleTokenizer(context_length=model.context_length)
    mean, std = (
        torch.tensor(config["preprocess_cfg"][key])[:, None, None] for key in ("mean", "std")
    )

    seeds = range(1_000_000 * (seed + 1), 1_000_000 * (seed + 1) + pictures // 1000)
    with ProcessPoolExecutor() as pool:
        parts = list(track(pool.map(draw, seeds), "drawing", len(seeds)))
    images = torch.from_numpy(np.concatenate([part for part, _ in parts]))
    captions = [each for _, part in parts for each in part]
    texts = sorted({text for each in captions for text in each})
    tokens = tokenize(texts)
    index = {text: position for position, text in enumerate(texts)}
    caption_ids = [[index[text] for text in each] for each in captions]

    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=LR,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
    )
    rng = RandomState(seed)
    for step in track(range(steps), "pre-training"):
        chosen = rng.randint(len(images), size=BATCH)
        text = tokens[[caption_ids[i][rng.randint(len(caption_ids[i]))] for i in chosen]]
        pixels = (images[chosen].float() / 255 - mean) / std
        image_features, text_features, scale = model(pixels, text)
        logits = scale * image_features @ text_features.T
        same = torch.arange(BATCH)
        loss = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if step % 100 == 0:
            click.echo(f"step {step} loss {loss.item():.3f} scale {scale.item():.1f}")

    used = torch.zeros(len(model.token_embedding.weight), dtype=torch.bool)
    used[tokens.unique()] = True
    weights = {
        name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()
    }
    weights["token_embedding.weight"][~used] = 0  # zeros of unused words compress well
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "open_clip_model.safetensors", metadata={"format": "pt"})
    if CONFIG.resolve() != (out / CONFIG.name).resolve():
        shutil.copy(CONFIG, out)


if __name__ == "__main__":
    main()

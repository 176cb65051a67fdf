"""Small random CLIPs in open_clip's folders, suites on them, and a dataset of two classes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import safetensors.torch
import torch

from zsrobust.datasets import Dataset, Images
from zsrobust.settings import suites
from zsrobust.settings.suites import Suite

VISIONS: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
}


def make_clip(folder: Path, kind: str = "vit", quick_gelu: bool = True, seed: int = 0) -> Suite:
    """Write a CLIP of random weights, running statistics included, and return a suite on it."""
    model_cfg = {
        "embed_dim": 16,
        "quick_gelu": quick_gelu,
        "vision_cfg": VISIONS[kind],
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    preprocess_cfg = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.25, 0.2]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg})
    )
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    safetensors.torch.save_file(
        moved(model.state_dict(), seed), folder / "open_clip_model.safetensors"
    )
    return dataclasses.replace(suites.load("mini"), name="tiny", backbone=f"local-dir:{folder}")


def moved(state: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Return weights a random step away, as half precision can hold them; variances stay positive."""
    generator = torch.Generator().manual_seed(seed)
    step = {
        name: torch.randn(each.shape, generator=generator) * 0.02 for name, each in state.items()
    }
    return {
        name: (each + step[name].abs()).half().float() if each.is_floating_point() else each + 1
        for name, each in state.items()
    }


def two_classes(pixels: "np.ndarray[Any, np.dtype[np.uint8]]") -> tuple[Dataset, Images]:
    """Return a dataset of these images (N, 3, S, S), of cats and dogs in turn, and the images."""
    images = Images(pixels=pixels, labels=np.arange(len(pixels)) % 2)
    dataset = Dataset(
        title="tiny",
        group="general",
        about="",
        classes=("cat", "dog"),
        templates=("a {}",),
        size=len(pixels),
        side=pixels.shape[-1],
        load=lambda split: images,
    )
    return dataset, images

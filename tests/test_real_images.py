"""Real images, where a folder of them lies beside the checkout: parts of TinyImageNet, CIFAR10 and ImageNet.

None of them is part of the project; without them these tests are skipped.
"""

import json
from pathlib import Path

import open_clip
import pytest
import torch

DATA = Path(__file__).parents[2] / "shared" / "data"
PARTS = {
    "tiny_part": "tiny-imagenet-200",
    "cifar_part": "cifar10/test",
    "imagenet_part": "imagenet-sample/val",
}

pytestmark = pytest.mark.skipif(
    not all((DATA / folder).is_dir() for folder in PARTS.values()),
    reason=f"no real images in {DATA.name} beside the checkout",
)

SUITE = f"""
like = "paper"
title = "parts of three datasets, ViT-B/32 with random weights"
backbone = "ViT-B-32-quickgelu/random.pt"
train_on = "cifar_part"
datasets = ["tiny_part", "cifar_part", "imagenet_part"]
[recipe]
train_on = "cifar_part"
[dataset.tiny_part]
like = "tiny_imagenet"
folder = "{DATA / PARTS["tiny_part"]}"
layout = "tiny_imagenet"
[dataset.cifar_part]
like = "cifar10"
folder = "{DATA / PARTS["cifar_part"]}"
train_folder = "{DATA / PARTS["cifar_part"]}"
[dataset.imagenet_part]
like = "imagenet"
folder = "{DATA / PARTS["imagenet_part"]}"
"""


def test_real_images_are_prepared_attacked_and_trained_on_by_the_same_commands(zsrobust, tmp_path):
    torch.manual_seed(0)
    torch.save(
        open_clip.create_model("ViT-B-32-quickgelu", load_weights=False).state_dict(),
        tmp_path / "random.pt",
    )
    (tmp_path / "real.toml").write_text(SUITE)
    cache = {"ZSROBUST_CACHE": str(tmp_path / "cache")}
    prepared = zsrobust("data", "--suite", "real.toml", **cache).stdout.splitlines()
    assert [line.split()[0] for line in prepared] == [*PARTS, "cifar_part:train"]
    about = [
        json.loads(path.read_text()) for path in (tmp_path / "cache/prepared").glob("*/about.json")
    ]
    sizes = {(each["dataset"], each["split"]): each["images"] for each in about}
    assert sizes == {
        ("tiny_part", "test"): 4000,
        ("cifar_part", "train"): 2000,
        ("cifar_part", "test"): 2000,
        ("imagenet_part", "test"): 1000,
    }
    zsrobust(
        "run",
        "--suite",
        "real.toml",
        "--defense",
        "clip",
        "--attack",
        "pgd2",
        "--limit",
        "4",
        "--dataset",
        "cifar_part",
        "--defense",
        "pmg_aft:limit=4,epochs=1,batch_size=4",
        **cache,
    )
    cells = [json.loads(path.read_text()) for path in (tmp_path / "results").rglob("*.json")]
    assert len(cells) == 2
    assert {cell["status"] for cell in cells} == {"ok"}

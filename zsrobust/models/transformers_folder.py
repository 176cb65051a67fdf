"""Folders in transformers' layout, of CLIP and SigLIP, as models of open_clip."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.hub import hub_error
from zsrobust.models.tensors import load_tensors
from zsrobust.models.tokenizers import FILES, FolderTokenizer, check_transformers
from zsrobust.models.transformers_layout import as_open_clip

#: Fields that config.json leaves out where they are transformers' defaults.
CLIP_VISION = {
    "image_size": 224, "num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12,
    "intermediate_size": 3072, "patch_size": 32, "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}  # fmt: skip
CLIP_TEXT = {
    "max_position_embeddings": 77, "vocab_size": 49408, "hidden_size": 512,
    "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048,
    "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407,
}  # fmt: skip
SIGLIP_VISION = {
    **CLIP_VISION, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}  # fmt: skip
SIGLIP_TEXT = {
    "max_position_embeddings": 64, "vocab_size": 32000, "hidden_size": 768,
    "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}  # fmt: skip
FILTERS = {2: "bilinear", 3: "bicubic"}  #: Pillow's numbers in preprocessor_config.json
OWN_FILE = "open_clip_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  #: the first that is there is read
#: How pictures are resized and normalized: in a file, or in a part of one (transformers 5).
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
#: What is downloaded of a repository; the second kind of weights only without the first.
HUB_FILES = ("config.json", WEIGHTS[0], *PROCESSORS, *FILES, "merges.txt", "*_tokens*.json")


def is_one(folder: Path) -> bool:
    """Return whether a folder has transformers' files, and not those of open_clip."""
    return (folder / "config.json").is_file() and not (folder / OWN_FILE).is_file()


def known_on_hub(repo: str) -> bool:
    """Return whether an earlier look at a repository of the hub found no file of open_clip."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, OWN_FILE)
    return found is not None and not isinstance(found, str)


def of_hub(repo: str) -> Path | None:
    """Return the folder of a repository of the hub, downloaded once; None if it is open_clip's.

    Raises ZSRobustError for a repository that does not exist or may not be read.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        if not known_on_hub(repo):
            try:
                hf_hub_download(repo, OWN_FILE)
                return None
            except LocalEntryNotFoundError:  # no answer, so it may be there
                raise
            except EntryNotFoundError:
                pass
        folder = Path(snapshot_download(repo, allow_patterns=list(HUB_FILES)))
        if not (folder / WEIGHTS[0]).is_file():
            snapshot_download(repo, allow_patterns=[WEIGHTS[1]])
        return folder
    except Exception as error:
        raise hub_error(f"Cannot download hf-hub:{repo}", error) from error


def load(folder: Path, backbone: str) -> tuple[Any, Any, dict[str, Any]]:
    """Return open_clip's model of a folder, its tokenizer, and the configuration of its towers.

    Raises ZSRobustError for a kind of model that is neither CLIP nor SigLIP, for missing files,
    and if a tokenizer needs transformers, which is not installed.
    """
    from open_clip.model import set_model_preprocess_cfg

    given = json.loads((folder / "config.json").read_bytes())
    kind = given.get("model_type")
    if kind not in ("clip", "siglip"):
        raise ZSRobustError(
            f"The backbone {backbone} has the model_type {kind!r} in config.json. Expected clip or "
            f"siglip. Convert it to open_clip's layout, with {OWN_FILE}."
        )
    weights = as_open_clip(load_tensors(_first(folder, WEIGHTS, backbone)))
    preprocess = json.loads(_first(folder, PROCESSORS, backbone).read_bytes())
    preprocess = preprocess.get("image_processor", preprocess)
    config = _clip(given) if kind == "clip" else _siglip(given)
    tokenize = _tokenizer(folder, backbone, kind, config["text_cfg"])
    model = _model(config, given)
    scalars = ("logit_scale", "logit_bias")
    weights.update({name: weights[name].reshape(()) for name in scalars if name in weights})
    model.load_state_dict(weights, strict=True, assign=True)
    side = config["vision_cfg"]["image_size"]
    set_model_preprocess_cfg(model, _preprocessing(preprocess, side, backbone))
    return model, tokenize, config


def _first(folder: Path, names: Sequence[str], backbone: str) -> Path:
    """Return the first of these files of a folder; raises ZSRobustError if there is none."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ZSRobustError(
        f"The backbone {backbone} has no {' and no '.join(names)} beside config.json. Expected "
        "transformers' files. Save the model and its processor there with save_pretrained."
    )


def _clip(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return open_clip's `model_cfg` of transformers' CLIP."""
    vision = {**CLIP_VISION, **given.get("vision_config", {})}
    text = {**CLIP_TEXT, **given.get("text_config", {})}
    activations = {vision["hidden_act"], text["hidden_act"]}
    if activations not in ({"quick_gelu"}, {"gelu"}):
        raise ZSRobustError(
            f"config.json has the activations {sorted(activations)}. Expected quick_gelu or gelu, "
            "the same in both towers."
        )
    made: dict[str, Any] = {
        "embed_dim": given.get("projection_dim", 512),
        "quick_gelu": activations == {"quick_gelu"},
        "vision_cfg": {
            **_tower(vision),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
        },
        "text_cfg": {
            **_tower(text),
            "heads": text["num_attention_heads"],
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
        },
    }
    if text["eos_token_id"] != 2:  # 2 is transformers' word for the largest id
        made["text_cfg"].update(pool_type="eos", eos_id=text["eos_token_id"])
    return made


def _siglip(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return open_clip's `model_cfg` of transformers' SigLIP; its image tower is timm's."""
    vision = {**SIGLIP_VISION, **given.get("vision_config", {})}
    text = {**SIGLIP_TEXT, **given.get("text_config", {})}
    tanh = text["hidden_act"] == "gelu_pytorch_tanh"
    return {
        "embed_dim": vision["hidden_size"],
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": {
            "image_size": vision["image_size"],
            "timm_model_name": "vit_base_patch16_siglip_224",
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            **_tower(text),
            "heads": text["num_attention_heads"],
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "act_kwargs": {"approximate": "tanh" if tanh else "none"},
        },
    }


def _tower(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what open_clip's towers have in common."""
    return {
        "layers": given["num_hidden_layers"],
        "width": given["hidden_size"],
        "mlp_ratio": given["intermediate_size"] / given["hidden_size"],
        "norm_kwargs": {"eps": given["layer_norm_eps"]},
    }


def _model(config: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """Return open_clip's model with weights that are to be replaced."""
    from open_clip.model import CLIP, CustomTextCLIP

    fields = {key: value for key, value in config.items() if key != "custom_text"}
    if "custom_text" not in config:
        return CLIP(**fields)
    with torch.device("meta"):
        model: Any = CustomTextCLIP(**fields)
        model.visual.trunk = _trunk({**SIGLIP_VISION, **given.get("vision_config", {})})
    return model


def _trunk(vision: Mapping[str, Any]) -> Any:
    """Return timm's image tower of SigLIP."""
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

    tanh = vision["hidden_act"] == "gelu_pytorch_tanh"
    return VisionTransformer(
        img_size=vision["image_size"],
        patch_size=vision["patch_size"],
        embed_dim=vision["hidden_size"],
        depth=vision["num_hidden_layers"],
        num_heads=vision["num_attention_heads"],
        mlp_ratio=vision["intermediate_size"] / vision["hidden_size"],
        class_token=False,
        global_pool="map",
        num_classes=0,
        act_layer=partial(nn.GELU, approximate="tanh" if tanh else "none"),
        norm_layer=partial(nn.LayerNorm, eps=vision["layer_norm_eps"]),
    )


def _tokenizer(folder: Path, backbone: str, kind: str, text: Mapping[str, Any]) -> Any:
    """Return open_clip's tokenizer if the folder's vocabulary is CLIP's; else the folder's own."""
    from open_clip.tokenizer import SimpleTokenizer

    if kind == "clip":
        simple = SimpleTokenizer(context_length=text["context_length"])
        if _vocabulary(folder) == simple.encoder:
            return simple
    check_transformers(backbone)
    return FolderTokenizer(folder, text["context_length"])


def _vocabulary(folder: Path) -> Any:
    """Return the ids of a folder's tokens by their names, None if no file has them.

    Transformers 5 writes them into tokenizer.json, and earlier versions into vocab.json, too.
    """
    for name in ("vocab.json", "tokenizer.json"):
        if (folder / name).is_file():
            found = json.loads((folder / name).read_bytes())
            return found if name == "vocab.json" else found.get("model", {}).get("vocab")
    return None


def _preprocessing(given: Mapping[str, Any], side: int, backbone: str) -> dict[str, Any]:
    """Return open_clip's `preprocess_cfg` of preprocessor_config.json."""
    size = given.get("size", side)
    squash = isinstance(size, Mapping) and "height" in size
    wanted = {"height": side, "width": side} if squash else {"shortest_edge": side}
    if size not in (side, wanted):
        raise ZSRobustError(
            f"The backbone {backbone} resizes to {size}. Expected {side}, its towers' input size. "
            "Correct preprocessor_config.json."
        )
    return {
        "size": side,
        "mode": "RGB",
        "mean": tuple(given["image_mean"]),
        "std": tuple(given["image_std"]),
        "interpolation": FILTERS[given.get("resample", 3)],
        "resize_mode": "squash" if squash else "shortest",
        "fill_color": 0,
    }

"""Fitting: a file of weights becomes an image tower on a backbone.

The weights fit the backbone's tower whole, or not at all.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.core.errors import NoAnswerError, ZSRobustError
from zsrobust.core.specs import parse_eps
from zsrobust.core.values import check
from zsrobust.defenses.weight_files import StateDict, read_state_dict
from zsrobust.models.clip import Clip, weights_digest
from zsrobust.models.tensors import read_metadata
from zsrobust.models.transformers_layout import as_open_clip
from zsrobust.training import Checkpoint, Recipe, trained_encoder

#: What whole models hold beside their weights: OpenAI's three numbers, and the mask of the text
#: tower.
BESIDE = ("input_resolution", "context_length", "vocab_size", "attn_mask")
#: Position embedding of tokens. Without tokens, the authors' code loads the tower and ignores it.
OF_TOKENS = "prompt_pos_embedding"
#: What an architecture is always told by; and what of its configuration leaves an evaluation as it
#: is.
TOLD = ("layers", "width", "head_width", "patch_size", "image_size")
MOOT = ("timm_model_pretrained", "timm_drop", "timm_drop_path", "patch_dropout", "output_tokens")


def read_tower(
    path: Path, config: Mapping[str, Any] | None, clip: Clip
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the image tower of a file, frozen, on the backbone's device, and what identifies it.

    `config` is the one of its open_clip folder, if it is in one. Raises ZSRobustError for what does
    not belong to the backbone: another architecture, activation, normalization or text tower, or
    keys that do not fit.

    A partial file has the parameters that a training changed. It may lack the names that do not
    begin with `visual.`: the text tower is then the backbone's, as in the authors' own loader. The
    image tower must be whole.
    """
    about: dict[str, Any] = {}
    told = "the backbone; the file does not say"
    if config is not None:
        _check_config(config, clip, path.parent)
        told = "its config"
    if path.suffix == ".safetensors" and {"recipe", "sources"} <= _metadata(path).keys():
        encoder, about["recipe"] = _trained(path, clip)
        told = "its backbone"
    else:
        encoder = _fitted(_image_tower(read_state_dict(path), clip, path), clip, path)
    model = clip.config["model_cfg"]
    identity = {
        "backbone": clip.digest,
        "weights": weights_digest(encoder.state_dict()),
        "architecture": _architecture(model),
        "activation": _activation(model),
        "activation_from": told,
    }
    return encoder, {**identity, **about}


def read_clip(
    path: Path, config: Mapping[str, Any] | None, clip: Clip
) -> tuple[Clip, dict[str, Any]]:
    """Return the whole CLIP of a file, with both of its towers and its own logit scale, frozen.

    Its architecture, tokenizer and preprocessing are the backbone's. The names may be those of
    open_clip or transformers. Raises ZSRobustError as `read_tower` does, and for a file without a
    text tower.
    """
    if config is not None:
        _check_config(config, clip, path.parent)
    weights = as_open_clip(read_state_dict(path).weights)
    weights = {name: each for name, each in weights.items() if not name.startswith(BESIDE)}
    model = copy.deepcopy(clip.model)
    _fill(model, weights, clip, path)
    whole = replace(clip, name=str(path), model=model.eval().requires_grad_(False), _heads={})
    about = clip.config["model_cfg"]
    told = "the backbone; the file does not say" if config is None else "its config"
    text = {name: each for name, each in model.state_dict().items() if "visual." not in name}
    return whole, {
        "backbone": clip.digest,
        "weights": weights_digest(whole.encoder.state_dict()),
        "text": weights_digest(text),
        "architecture": _architecture(about),
        "activation": _activation(about),
        "activation_from": told,
    }


def _check_config(config: Mapping[str, Any], clip: Clip, where: Path) -> None:
    """Raise ZSRobustError if a configuration differs from the backbone's beyond weights."""
    try:
        model, preprocess = config["model_cfg"], config.get("preprocess_cfg", {})
        pairs = {"architecture": (_architecture(model), _architecture(clip.config["model_cfg"]))}
        pairs["activation"] = (_activation(model), _activation(clip.config["model_cfg"]))
        for name in ("mean", "std"):
            pairs[name] = (
                str([*preprocess.get(name, getattr(clip, name))]),
                str([*getattr(clip, name)]),
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise ZSRobustError(
            f"The configuration in {where} is not open_clip's: {type(error).__name__}: {error}."
        ) from None
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ZSRobustError(
                f"{where} is of another {what} than the backbone {clip.name}: {theirs}, not {ours}."
            )


def _architecture(model: Mapping[str, Any]) -> str:
    """Return what identifies a tower in open_clip's configuration: "embed_dim=512, …"."""
    from open_clip.model import CLIPVisionCfg

    default = asdict(CLIPVisionCfg())
    vision = asdict(CLIPVisionCfg(**model["vision_cfg"]))
    parts = {name: vision[name] for name in TOLD}
    parts |= {
        name: value for name, value in vision.items() if value != default[name] and name not in MOOT
    }
    return ", ".join(
        f"{name}={value}" for name, value in {"embed_dim": model["embed_dim"], **parts}.items()
    )


def _activation(model: Mapping[str, Any]) -> str:
    return "QuickGELU" if model.get("quick_gelu") else "GELU"


def _metadata(path: Path) -> dict[str, str]:
    try:
        return read_metadata(path)
    except NoAnswerError:
        raise
    except (OSError, ValueError) as error:
        raise ZSRobustError(f"{path} is damaged, or no safetensors file: {error}.") from None


def _trained(path: Path, clip: Clip) -> tuple[nn.Module, dict[str, Any]]:
    """Return the tower of one of our own checkpoints, and its recipe."""
    checkpoint = Checkpoint.read(path)
    if checkpoint.sources.get("backbone") != clip.digest:
        raise ZSRobustError(
            f"{path} was trained from another backbone than {clip.name}. Use its own suite."
        )
    fields: dict[str, Any] = dict(checkpoint.recipe)
    try:
        fields |= {key: parse_eps(fields[key]) for key in ("eps", "step_size") if key in fields}
        recipe = check(fields, Recipe, "its recipe")
    except (TypeError, AttributeError, ZSRobustError) as error:
        raise ZSRobustError(
            f"{path} cannot be used: {error} Another version of zsrobust may have written it."
        ) from None
    return trained_encoder(clip, recipe, checkpoint), checkpoint.recipe


def _image_tower(found: StateDict, clip: Clip, path: Path) -> Mapping[str, Tensor]:
    """Return the image tower of a state dict; raises ZSRobustError if the rest differs."""
    prefix, (weights, partial) = "visual.", found
    if not any(name.startswith(prefix) for name in weights):
        if partial:  # without the prefix, names of the two towers are the same
            raise ZSRobustError(
                f"{path} has a part of a model, {_listed(sorted(weights))}, without the image "
                f"tower. Expected names that begin with {prefix}"
            )
        return weights

    def rest(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name.removeprefix("text."): state[name]
            for name in state
            if not name.startswith((prefix, *BESIDE))
        }

    theirs, ours = rest(weights), rest(clip.model.state_dict())
    other = [
        name
        for name in sorted(theirs.keys() if partial else theirs.keys() | ours.keys())
        if name not in theirs or name not in ours or not _same(theirs[name], ours[name])
    ]
    if theirs and other:
        raise ZSRobustError(
            f"The text tower in {path} is not that of {clip.name}: {_listed(other)}. Make its "
            'folder a suite\'s backbone, or an entry of weights with text = "own".'
        )
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }


def _same(theirs: Tensor, ours: Tensor) -> bool:
    """Return whether two tensors agree, in the precision of the first."""
    return (
        theirs.shape == ours.shape
        and _plain(theirs)
        and torch.equal(theirs, ours.cpu().to(theirs.dtype))
    )


def _plain(tensor: Tensor) -> bool:
    """Return whether a tensor holds real numbers, one after the other."""
    return tensor.layout is torch.strided and not (
        tensor.is_meta or tensor.is_quantized or tensor.is_complex()
    )


def _fitted(weights: Mapping[str, Tensor], clip: Clip, path: Path) -> nn.Module:
    """Return the backbone's image tower with these weights in it, in float32."""
    weights = {name: tensor for name, tensor in weights.items() if name != OF_TOKENS}
    encoder = clip.copy()
    _fill(encoder, weights, clip, path)
    return encoder.eval().requires_grad_(False)


def _fill(module: nn.Module, weights: Mapping[str, Tensor], clip: Clip, path: Path) -> None:
    """Load the weights into a module of the backbone's; raises ZSRobustError if they do not fit."""
    expected = module.state_dict()
    wrong = [f"{name} is unexpected" for name in weights if name not in expected]
    for name, tensor in expected.items():
        counts = name.endswith("num_batches_tracked")  # no evaluation reads this count
        if name not in weights and not counts:
            wrong.append(f"{name} is missing")
        elif name in weights and weights[name].shape != tensor.shape:
            wrong.append(f"{name} is {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}")
        elif name in weights and not _plain(weights[name]):
            wrong.append(f"{name} is {weights[name].dtype}, {weights[name].layout}")
    if wrong:
        raise ZSRobustError(f"{path} does not fit {clip.name}: {_listed(wrong)}.")
    module.load_state_dict({**expected, **weights})


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", and {len(names) - 5} more" if len(names) > 5 else "")

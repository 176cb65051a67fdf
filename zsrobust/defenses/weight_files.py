"""Files of weights: an image tower on a backbone, from the formats that papers publish.

Tensors are all that is read of a file: none gets to run code. They fit the backbone's tower whole,
or not at all.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import parse_eps
from zsrobust.core.values import check
from zsrobust.models.clip import Clip, weights_digest
from zsrobust.training import Checkpoint, Recipe, trained_encoder

#: Names under which files keep a state dict, the tower's own first.
WRAPPERS = ("vision_encoder_state_dict", "state_dict", "model_state_dict")
#: What whole models hold beside their weights: OpenAI's three numbers, and the mask of the text
#: tower.
BESIDE = ("input_resolution", "context_length", "vocab_size", "attn_mask")
#: Position embedding of tokens. Without tokens, the authors' code loads the tower and ignores it.
OF_TOKENS = "prompt_pos_embedding"
#: What an architecture is always told by; and what of its configuration leaves an evaluation as it
#: is.
TOLD = ("layers", "width", "head_width", "patch_size", "image_size")
MOOT = ("timm_model_pretrained", "timm_drop", "timm_drop_path", "patch_dropout", "output_tokens")


class _Skipped:
    """Replaces numpy's numbers beside the weights, such as an accuracy; it calls no numpy."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


SKIPPED = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


def read_tower(
    path: Path, config: Mapping[str, Any] | None, clip: Clip
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the image tower of a file, frozen, on the backbone's device, and what identifies it.

    `config` is the one of its open_clip folder, if it is in one. Raises ZSRobustError for what does
    not belong to the backbone: another architecture, activation, normalization or text tower, or
    keys that do not fit.
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
        encoder = _fitted(_image_tower(_read(path), clip, path), clip, path)
    model = clip.config["model_cfg"]
    identity = {
        "backbone": clip.digest,
        "weights": weights_digest(encoder.state_dict()),
        "architecture": _architecture(model),
        "activation": _activation(model),
        "activation_from": told,
    }
    return encoder, {**identity, **about}


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
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
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


def _read(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file, without the prefix `module.`; raises ZSRobustError."""
    content: Any = _tensors(path) if path.suffix == ".safetensors" else _unpickle(path)
    prompts = content.get("add_prompter") if isinstance(content, dict) else None
    if isinstance(prompts, dict) and any(
        isinstance(each, Tensor) and each.numel() for each in prompts.values()
    ):
        raise ZSRobustError(
            f"{path} holds visual prompts, without which its tower is another. Only towers can be "
            "read."
        )
    for _ in WRAPPERS:  # one within the other at most; a pickle may hold itself
        inside = [
            name
            for name in WRAPPERS
            if isinstance(content, dict) and isinstance(content.get(name), dict)
        ]
        content = content[inside[0]] if inside else content
    named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    if not named or not content or not all(isinstance(each, Tensor) for each in content.values()):
        raise ZSRobustError(
            f"{path} holds no state dict: neither tensors by name, nor {', '.join(WRAPPERS)}."
        )
    if all(name.startswith("module.") for name in content):
        return {name.removeprefix("module."): tensor for name, tensor in content.items()}
    return dict(content)


def _tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
        return tensors
    except Exception as error:  # of a dtype that torch lacks, say
        raise ZSRobustError(f"{path} is damaged, or no safetensors file: {error}.") from None


def _check_archive(path: Path) -> None:
    """Raise ZSRobustError for a TorchScript archive, and for a compressed one."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return  # torch says what is wrong with it
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise ZSRobustError(
            f"{path} is a TorchScript archive, which is code (as OpenAI's are). Save its tensors: "
            "torch.save(torch.jit.load(FILE, 'cpu').state_dict(), 'weights.pt')"
        )
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ZSRobustError(
            f"{path} is refused: it would unpack to more than it holds. Save it with torch.save."
        )


def _unpickle(path: Path) -> Any:
    """Return what torch reads of a file without running any code that it names."""
    _check_archive(path)
    safe: Any = getattr(torch.serialization, "safe_globals", None)  # since torch 2.5
    try:
        with (
            warnings.catch_warnings(),
            safe([(_Skipped, name) for name in SKIPPED]) if safe else nullcontext(),
        ):
            warnings.simplefilter("ignore")  # of old storages and the like
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and (
            named := re.search(r"GLOBAL ([\w.]+)", str(error))
        ):
            raise ZSRobustError(
                f"{path} is refused: to read it is to call {named[1]}. Nothing was called."
            ) from None
        reason = (
            f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            if str(error)
            else type(error).__name__
        )
        raise ZSRobustError(f"{path} is damaged, or no file of weights: {reason}") from None


def _image_tower(weights: Mapping[str, Tensor], clip: Clip, path: Path) -> Mapping[str, Tensor]:
    """Return the image tower of a state dict; raises ZSRobustError if the rest differs."""
    prefix = "visual."
    if not any(name.startswith(prefix) for name in weights):
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
        for name in sorted(theirs.keys() | ours.keys())
        if name not in theirs or name not in ours or not _same(theirs[name], ours[name])
    ]
    if theirs and other:
        raise ZSRobustError(
            f"The text tower in {path} is not that of {clip.name}: {_listed(other)}. Make its "
            "folder a suite's backbone."
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
    expected = encoder.state_dict()
    wrong = [f"{name} is unexpected" for name in weights if name not in expected]
    for name, tensor in expected.items():
        if name not in weights and not name.endswith(
            "num_batches_tracked"
        ):  # a count that no evaluation reads
            wrong.append(f"{name} is missing")
        elif name in weights and weights[name].shape != tensor.shape:
            wrong.append(f"{name} is {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}")
        elif name in weights and not _plain(weights[name]):
            wrong.append(f"{name} is {weights[name].dtype}, {weights[name].layout}")
    if wrong:
        raise ZSRobustError(f"{path} does not fit {clip.name}: {_listed(wrong)}.")
    encoder.load_state_dict({**expected, **weights})
    return encoder.eval().requires_grad_(False)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", and {len(names) - 5} more" if len(names) > 5 else "")

"""CLIP: towers through open_clip, tokenizer, preprocessing, and the text head."""

import copy
import hashlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsrobust.core.errors import ZSRobustError, suggest
from zsrobust.core.hub import check_network
from zsrobust.core.registry import load_plugins
from zsrobust.datasets import Cut, Interpolation
from zsrobust.models.zeroshot import NORMALIZATIONS, ZeroShotClassifier


@dataclass
class Clip:
    """A pre-trained CLIP: open_clip's model, its tokenizer, and its preprocessing."""

    name: str
    model: Any
    tokenize: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int
    interpolation: str = "bicubic"  #: of its own preprocessing
    squash: bool = False  #: whether that resizes both sides, and crops nothing
    _heads: dict[tuple[tuple[str, ...], ...], Tensor] = field(default_factory=dict)
    config: dict[str, Any] = field(
        default_factory=dict
    )  #: open_clip's `model_cfg` and `preprocess_cfg`

    @property
    def encoder(self) -> nn.Module:
        """The image tower: normalized images (N, 3, S, S) to embeddings (N, D)."""
        visual: nn.Module = self.model.visual
        return visual

    @cached_property
    def digest(self) -> str:
        """The sha256 of everything its logits depend on: weights, activation, preprocessing."""
        activation = (
            "QuickGELU"
            if any(type(part).__name__ == "QuickGELU" for part in self.model.modules())
            else "GELU"
        )
        parts: tuple[object, ...] = (
            weights_digest(self.model.state_dict()),
            activation,
            self.mean,
            self.std,
            self.side,
        )
        if (self.interpolation, self.squash) != ("bicubic", False):
            parts = (*parts, self.interpolation, self.squash)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def copy(self) -> nn.Module:
        """Return a copy of the image tower whose weights take gradients."""
        return copy.deepcopy(self.encoder).requires_grad_(True)

    @torch.no_grad()
    def head(self, prompts: Sequence[Sequence[str]], scale: float | None = None) -> Tensor:
        """Return the text head, (K, D) float32: mean unit embedding of prompts, times the scale.

        `scale` replaces the model's own exp(logit_scale). Texts are encoded once.
        """
        key = tuple(map(tuple, prompts))
        if key not in self._heads:
            device = next(self.model.parameters()).device
            flat = [prompt for each in key for prompt in each]
            parts = [
                self.model.encode_text(
                    self.tokenize(flat[start : start + 256]).to(device), normalize=True
                )
                for start in range(0, len(flat), 256)
            ]
            groups = torch.cat(parts).split([len(each) for each in key])
            self._heads[key] = F.normalize(torch.stack([group.mean(0) for group in groups]), dim=-1)
        return self._heads[key] * (self.model.logit_scale.exp() if scale is None else scale)

    def classifier(
        self,
        prompts: Sequence[Sequence[str]],
        encoder: nn.Module | None = None,
        scale: float | None = None,
        normalization: str | None = None,
    ) -> ZeroShotClassifier:
        """Return the classifier of classes with these prompts, with this or another image tower.

        `scale` replaces the model's logit scale, and `normalization` (a key of NORMALIZATIONS) its
        own.
        """
        tower = self.encoder if encoder is None else encoder
        mean, std = NORMALIZATIONS.get(normalization or "", (self.mean, self.std))
        return ZeroShotClassifier(tower, self.head(prompts, scale), mean, std, self.side)


def cut_for(clip: Clip, zoom: float = 1.0, interpolation: Interpolation | None = None) -> Cut:
    """Return how pictures become squares of the input size; the backbone's way by default."""
    own: Interpolation = "bilinear" if clip.interpolation == "bilinear" else "bicubic"
    return Cut(clip.side, zoom, interpolation or own, clip.squash and zoom == 1)


def load_clip(backbone: str, device: torch.device | str = "cpu", weights: bool = True) -> Clip:
    """Load a CLIP through open_clip, in float32, eval mode, frozen.

    `backbone` is `ARCHITECTURE/TAG` with a name and a pretrained tag of open_clip,
    `ARCHITECTURE/FILE` with a state dict in open_clip's or OpenAI's layout, `hf-hub:…`,
    `local-dir:FOLDER`, or `package:MODULE/FOLDER` for a folder inside a Python package. With
    `weights=False` they are random, and nothing of `ARCHITECTURE/…` is downloaded or read. Raises
    ZSRobustError when open_clip cannot load it, and for an activation other than the weights were
    trained with.
    """
    import open_clip

    name, tag = backbone, None
    if backbone.startswith("package:"):
        module, _, folder = backbone.removeprefix("package:").partition("/")
        load_plugins()
        if not hasattr(
            sys.modules.get(module), "__path__"
        ):  # not to import whatever a suite's file names
            raise ZSRobustError(
                f"The backbone {backbone} is in no package of zsrobust or of a plugin."
            )
        name = f"local-dir:{resources.files(module).joinpath(folder)}"
    elif not backbone.startswith(("hf-hub:", "local-dir:")):
        name, _, tag = backbone.partition("/")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # open_clip logs its progress to the root logger
    try:
        trained = _look_up(name, tag, weights) if tag is not None else {}
        if name.startswith("hf-hub:") and not weights_are_here(backbone):
            check_network(f"The backbone {backbone} is not here")
        if tag is None:
            _check_tokenizer(_model_config(name), backbone)
        if tag and (not weights or Path(tag).is_file()):
            preprocessing = {
                key: trained[key]
                for key in ("mean", "std", "interpolation", "resize_mode")
                if key in trained
            }
            model: Any = open_clip.create_model(
                name, load_weights=False, force_preprocess_cfg=preprocessing
            )
            if weights:
                model.load_state_dict(
                    _read_weights(
                        Path(tag), bool((open_clip.get_model_config(name) or {}).get("quick_gelu"))
                    )
                )
        else:
            model = open_clip.create_model(
                name, pretrained=tag, require_pretrained=weights, load_weights=weights
            )
        tokenize: Any = open_clip.get_tokenizer(name)
        config = {
            "model_cfg": _model_config(name),
            "preprocess_cfg": dict(model.visual.preprocess_cfg),
        }
    except ZSRobustError:
        raise
    except Exception as error:
        raise ZSRobustError(
            f"Cannot load the backbone {backbone!r}: {type(error).__name__}: {str(error)[:300]}"
        ) from error
    finally:
        root.setLevel(level)
    model.to(device).float().eval().requires_grad_(False)
    preprocess = model.visual.preprocess_cfg
    side = preprocess["size"] if isinstance(preprocess["size"], int) else preprocess["size"][0]
    return Clip(
        backbone,
        model,
        tokenize,
        tuple(preprocess["mean"]),
        tuple(preprocess["std"]),
        side,
        preprocess["interpolation"],
        preprocess["resize_mode"] == "squash",
        config=config,
    )


def _check_tokenizer(config: Mapping[str, Any], backbone: str) -> None:
    """Raise ZSRobustError if a backbone's own configuration asks for a tokenizer that is code."""
    if (config.get("text_cfg", {}).get("tokenizer_kwargs") or {}).get("trust_remote_code"):
        raise ZSRobustError(
            f"The backbone {backbone} is refused: its tokenizer is code of a repository. Nothing "
            "was run."
        )


def _model_config(name: str) -> dict[str, Any]:
    """Return open_clip's configuration of an architecture, or the one beside the weights."""
    import open_clip
    from open_clip.pretrained import download_pretrained_from_hf

    if not name.startswith(("local-dir:", "hf-hub:")):
        return dict(open_clip.get_model_config(name))
    if name.startswith("local-dir:"):
        path = Path(name.removeprefix("local-dir:"), "open_clip_config.json")
    else:
        path = Path(
            download_pretrained_from_hf(
                name.removeprefix("hf-hub:"), filename="open_clip_config.json"
            )
        )
    return dict(json.loads(path.read_bytes())["model_cfg"])


def _look_up(name: str, tag: str, weights: bool) -> dict[str, Any]:
    """Return what open_clip knows of an architecture's weights; {} for a file of weights.

    Raises ZSRobustError for an architecture or a tag that it does not have, for an activation other
    than the weights were trained with (it would be silently wrong), and for weights that are
    neither here nor on a network that answers.
    """
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        raise suggest(
            "architecture",
            name,
            open_clip.list_models(),
            "A backbone is ARCHITECTURE/TAG of open_clip.",
        )
    if Path(tag).is_file():
        return {}
    trained = open_clip.get_pretrained_cfg(name, tag)
    if not trained:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name))
        named = f"no weights {tag!r}, nor is that a file" if tag else "no default weights"
        raise ZSRobustError(
            f"The backbone {name} has {named}: write {name}/TAG. Tags of open_clip: "
            f"{tags or 'none'}."
        )
    theirs, ours = bool(trained.get("quick_gelu")), bool(config.get("quick_gelu"))
    if theirs != ours:
        other = f"{name}-quickgelu" if theirs else name.removesuffix("-quickgelu")
        raise ZSRobustError(
            f"The backbone {name} has {'QuickGELU' if ours else 'GELU'}; its weights {tag!r} were "
            "trained with "
            f"{'QuickGELU' if theirs else 'GELU'}. Use {other}/{tag}."
        )
    if weights and not weights_are_here(f"{name}/{tag}"):
        check_network(f"The weights {name}/{tag} are not here")
    return dict(trained)


def weights_are_here(backbone: str) -> bool:
    """Return whether the weights of a backbone are on this machine."""
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    if backbone.startswith(("package:", "local-dir:")):
        return True
    if backbone.startswith("hf-hub:"):
        repo, name = backbone.removeprefix("hf-hub:"), ""
    else:
        arch, _, tag = backbone.partition("/")
        trained = open_clip.get_pretrained_cfg(arch, tag) or {}
        repo, name = str(trained.get("hf_hub", "")).rpartition("/")[::2]
        if (
            Path(tag).is_file()
            or Path("~/.cache/clip", trained.get("url", "").rpartition("/")[2])
            .expanduser()
            .is_file()
        ):
            return True
    files = [name] if name else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    return bool(repo) and any(isinstance(try_to_load_from_cache(repo, file), str) for file in files)


def _read_weights(path: Path, quick_gelu: bool) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or PyTorch file, without OpenAI's three numbers."""
    import safetensors.torch

    pickled = partial(torch.load, weights_only=True, map_location="cpu")
    read = safetensors.torch.load_file if path.suffix == ".safetensors" else pickled
    weights: dict[str, Tensor] = read(path)
    numbers = ("input_resolution", "context_length", "vocab_size")
    if not quick_gelu and weights.keys() & set(numbers):
        raise ZSRobustError(
            f"{path} is in OpenAI's layout, whose weights have QuickGELU. Use a -quickgelu "
            "architecture."
        )
    return {name: tensor for name, tensor in weights.items() if name not in numbers}


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the sha256 of weights by name: names, shapes and bytes, whatever the file."""
    content = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        content.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        content.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()

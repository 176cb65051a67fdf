"""CLIP as a zero-shot classifier: towers through open_clip, the text head, pixels in [0, 1] to logits."""

import copy
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsrobust.registry import ZSRobustError


class ZeroShotClassifier(nn.Module):
    """Images (N, 3, S, S) float32 in [0, 1] to logits (N, K): the scaled cosine to each class's text embedding.

    Resize and normalize happen inside, so that attacks live in pixel space. The text head is a buffer.
    """

    head: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, head: Tensor, mean: Sequence[float], std: Sequence[float], side: int) -> None:
        """Take the image tower, the head (K, D), the normalization, and the tower's input side in pixels."""
        super().__init__()
        self.encoder, self.side = encoder, side
        self.register_buffer("head", head)
        self.register_buffer("mean", torch.tensor(mean, dtype=head.dtype)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=head.dtype)[:, None, None])

    def features(self, images: Tensor) -> Tensor:
        """Return the unit-norm image embeddings, (N, D), of images (N, 3, S, S) in [0, 1]."""
        if images.shape[-1] != self.side:
            images = F.interpolate(images, size=self.side, mode="bicubic", align_corners=False)
        return F.normalize(self.encoder((images - self.mean) / self.std), dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (N, K), of images (N, 3, S, S) in [0, 1]."""
        return self.features(images) @ self.head.T


@dataclass
class Clip:
    """A pre-trained CLIP: the model as open_clip built it, its tokenizer, and the preprocessing that belongs to it."""

    name: str
    model: Any
    tokenize: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int
    _heads: dict[tuple[tuple[str, ...], ...], Tensor] = field(default_factory=dict)

    @property
    def encoder(self) -> nn.Module:
        """The image tower: normalized images (N, 3, S, S) to embeddings (N, D)."""
        visual: nn.Module = self.model.visual
        return visual

    @cached_property
    def digest(self) -> str:
        """The sha256 of everything that its logits depend on: both towers' weights, activation, preprocessing."""
        activation = "QuickGELU" if any(type(part).__name__ == "QuickGELU" for part in self.model.modules()) else "GELU"
        parts = (weights_digest(self.model.state_dict()), activation, self.mean, self.std, self.side)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def copy(self) -> nn.Module:
        """Return a copy of the image tower whose weights take gradients."""
        return copy.deepcopy(self.encoder).requires_grad_(True)

    @torch.no_grad()
    def head(self, prompts: Sequence[Sequence[str]], scale: float | None = None) -> Tensor:
        """Return the text head, (K, D) float32: unit-norm mean over a class's prompts, times the logit scale.

        `scale` replaces the model's own exp(logit_scale). Texts are encoded once.
        """
        key = tuple(map(tuple, prompts))
        if key not in self._heads:
            device = next(self.model.parameters()).device
            flat = [prompt for each in key for prompt in each]
            parts = [
                self.model.encode_text(self.tokenize(flat[start : start + 256]).to(device), normalize=True)
                for start in range(0, len(flat), 256)
            ]
            groups = torch.cat(parts).split([len(each) for each in key])
            self._heads[key] = F.normalize(torch.stack([group.mean(0) for group in groups]), dim=-1)
        return self._heads[key] * (self.model.logit_scale.exp() if scale is None else scale)

    def classifier(
        self, prompts: Sequence[Sequence[str]], encoder: nn.Module | None = None, scale: float | None = None
    ) -> ZeroShotClassifier:
        """Return the classifier of the classes with these prompts, with this CLIP's image tower or another."""
        tower = self.encoder if encoder is None else encoder
        return ZeroShotClassifier(tower, self.head(prompts, scale), self.mean, self.std, self.side)


def load_clip(backbone: str, device: torch.device | str = "cpu") -> Clip:
    """Load a CLIP through open_clip, in float32, eval mode, frozen.

    `backbone` is `ARCHITECTURE/TAG` with a name and a pretrained tag of open_clip, `ARCHITECTURE/FILE` with a state dict
    in open_clip's or OpenAI's layout, `hf-hub:…`, `local-dir:FOLDER`, or `package:MODULE/FOLDER` for a folder inside a
    Python package.
    Raises ZSRobustError when open_clip cannot load it.
    """
    import open_clip

    name, tag = backbone, None
    if backbone.startswith("package:"):
        module, _, folder = backbone.removeprefix("package:").partition("/")
        name = f"local-dir:{resources.files(module).joinpath(folder)}"
    elif not backbone.startswith(("hf-hub:", "local-dir:")):
        name, _, tag = backbone.partition("/")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # open_clip logs its progress to the root logger
    try:
        if tag and Path(tag).is_file():
            model: Any = open_clip.create_model(name, load_weights=False)
            model.load_state_dict(_read_weights(Path(tag)))
        else:
            model = open_clip.create_model(name, pretrained=tag, require_pretrained=True)
        tokenize: Any = open_clip.get_tokenizer(name)
    except Exception as error:
        raise ZSRobustError(f"Cannot load the backbone {backbone!r}: {type(error).__name__}: {error}") from error
    finally:
        root.setLevel(level)
    model.to(device).float().eval().requires_grad_(False)
    preprocess = model.visual.preprocess_cfg
    side = preprocess["size"] if isinstance(preprocess["size"], int) else preprocess["size"][0]
    return Clip(backbone, model, tokenize, tuple(preprocess["mean"]), tuple(preprocess["std"]), side)


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or PyTorch file; OpenAI's layout has three numbers beside the weights."""
    import safetensors.torch

    read = safetensors.torch.load_file if path.suffix == ".safetensors" else partial(torch.load, weights_only=True)
    weights: dict[str, Tensor] = read(path)
    numbers = ("input_resolution", "context_length", "vocab_size")
    return {name: tensor for name, tensor in weights.items() if name not in numbers}


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the sha256 of weights by name: names, shapes and bytes, whatever file they came from."""
    content = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        content.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        content.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()

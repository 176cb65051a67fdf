"""CLIP: open_clip's towers, tokenizer and preprocessing, and the text head."""

import copy
import hashlib
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsrobust.core.errors import ZSRobustError, suggest
from zsrobust.core.files import is_file, is_folder
from zsrobust.core.hub import check_network
from zsrobust.core.registry import load_plugins
from zsrobust.core.values import Count, Sha256
from zsrobust.datasets import Cut, Interpolation
from zsrobust.models import transformers_folder
from zsrobust.models.remembered import recall, remember, stamps
from zsrobust.models.tensors import load_tensors
from zsrobust.models.tokenizers import ByteTokenizer, check_hub_tokenizer, check_transformers
from zsrobust.models.zeroshot import NORMALIZATIONS, ZeroShotClassifier


@dataclass
class Clip:
    """A pre-trained CLIP: open_clip's model, with its tokenizer and its preprocessing."""

    name: str
    model: Any
    tokenize: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int
    interpolation: str = "bicubic"  #: of the model's own preprocessing
    squash: bool = False  #: whether preprocessing resizes both sides and does not crop
    pad: int | None = None  #: the gray level of preprocessing that pads and does not crop
    _heads: dict[tuple[tuple[str, ...], ...], Tensor] = field(default_factory=dict)
    #: open_clip's `model_cfg` and `preprocess_cfg`
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def remembered(cls, about: "About", name: str, device: torch.device | str) -> "Clip":
        """Return a CLIP of which `about` is known; open_clip loads the rest at its first use."""
        clip = cls.__new__(cls)
        vars(clip).update(asdict(about), name=name, _heads={}, _device=device)
        return clip

    def __getattr__(self, name: str) -> Any:
        """Return a part of a remembered CLIP that is not loaded yet."""
        if name not in ("model", "tokenize", "config") or "_device" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        loaded = load_clip(self.name, vars(self)["_device"])
        vars(self).update(model=loaded.model, tokenize=loaded.tokenize, config=loaded.config)
        return vars(self)[name]

    @property
    def about(self) -> "About":
        """What is remembered of it."""
        names = [each.name for each in fields(About)]
        return About(**{name: getattr(self, name) for name in names})

    @property
    def encoder(self) -> nn.Module:
        """The image tower: normalized images (N, 3, S, S) to embeddings (N, D)."""
        visual: nn.Module = self.model.visual
        return visual

    @cached_property
    def digest(self) -> str:
        """The sha256 of all that the logits depend on: weights, activation, preprocessing."""
        weights = self.model.state_dict()
        parts: tuple[object, ...]
        parts = (weights_digest(weights), _activation(self.model), self.mean, self.std, self.side)
        if (self.interpolation, self.squash) != ("bicubic", False):
            parts = (*parts, self.interpolation, self.squash)
        if self.pad is not None:
            parts = (*parts, f"pad {self.pad}")
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def copy(self) -> nn.Module:
        """Return a copy of the image tower whose weights take gradients."""
        return copy.deepcopy(self.encoder).requires_grad_(True)

    @torch.no_grad()
    def head(self, prompts: Sequence[Sequence[str]], scale: float | None = None) -> Tensor:
        """Return the text head, (K, D) float32.

        A row is the unit-norm mean over a class's prompts, times the logit scale. `scale` replaces
        the model's own exp(logit_scale). Texts are encoded once.

        The bias of SigLIP's logits is left out. It is the same for every class, so it changes no
        softmax, no margin and no verdict.
        """
        key = tuple(map(tuple, prompts))
        if key not in self._heads:
            device = next(self.model.parameters()).device
            flat = [prompt for each in key for prompt in each]
            chunks = [flat[start : start + 256] for start in range(0, len(flat), 256)]
            tokens = (self.tokenize(chunk).to(device) for chunk in chunks)
            parts = [self.model.encode_text(each, normalize=True) for each in tokens]
            groups = torch.cat(parts).split([len(each) for each in key])
            self._heads[key] = F.normalize(torch.stack([group.mean(0) for group in groups]), dim=-1)
        return self._heads[key] * (self.model.logit_scale.exp() if scale is None else scale)

    def classifier(
        self,
        prompts: Sequence[Sequence[str]],
        encoder: nn.Module | None = None,
        scale: float | None = None,
        normalization: str | None = None,
        head: Tensor | None = None,
    ) -> ZeroShotClassifier:
        """Return the classifier of the classes with these prompts.

        `encoder` replaces this CLIP's image tower, `scale` its logit scale, and `normalization`, a
        key of NORMALIZATIONS, its means and standard deviations. `head`, (K, D), replaces the head
        of the prompts.
        """
        tower = self.encoder if encoder is None else encoder
        mean, std = NORMALIZATIONS.get(normalization or "", (self.mean, self.std))
        rows = self.head(prompts, scale) if head is None else head
        return ZeroShotClassifier(tower, rows, mean, std, self.side)


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a CLIP without loading it."""

    digest: Sha256
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: Count
    interpolation: str
    squash: bool
    pad: int | None


def find_clip(backbone: str, device: torch.device | str = "cpu") -> Clip:
    """Return the CLIP of `load_clip`. If its files are those of an earlier call, it is loaded late.

    Then its digest and its preprocessing are known from that call, without importing open_clip.
    """
    key = _key(backbone)
    if (known := _recall(backbone)) is not None:
        return Clip.remembered(known, backbone, device)
    taken = stamps(_local_files(backbone))
    clip = load_clip(backbone, device)
    taken = taken or stamps(_hub_files(backbone))
    remember(key, taken, asdict(clip.about))
    return clip


def _recall(backbone: str) -> About | None:
    return recall(_key(backbone), About)


def _key(backbone: str) -> str:
    """Return the key of a backbone in memory: its name, and what gives the name its meaning."""
    from huggingface_hub.constants import HF_HUB_CACHE

    places = [str(path.absolute()) for path in _local_files(backbone)[:1]]
    return "\n".join(["backbone", backbone, version("open_clip_torch"), HF_HUB_CACHE, *places])


def _local_files(backbone: str) -> list[Path]:
    """Return the folder and the files of a backbone outside the hub; [] for one of the hub."""
    if backbone.startswith("package:"):
        module, _, folder = backbone.removeprefix("package:").partition("/")
        load_plugins()
        if not hasattr(sys.modules.get(module), "__path__"):  # only loaded packages count
            return []
        place = Path(str(resources.files(module).joinpath(folder)))
    elif backbone.startswith("local-dir:"):
        place = Path(backbone.removeprefix("local-dir:"))
    else:
        place = Path(backbone.partition("/")[2])
        return [place] if not backbone.startswith("hf-hub:") and is_file(place) else []
    return [place, *sorted(place.iterdir())] if is_folder(place) else []


def _hub_files(backbone: str) -> list[Path]:
    """Return the files of a backbone in the cache of the hub, and what names their revision."""
    found = [Path(each) for each in _cached(backbone)]
    revisions = (path.parents[2] / "refs" / "main" for path in found)
    return [*found, *(path for path in revisions if path.is_file())]


def cut_for(clip: Clip, zoom: float = 1.0, interpolation: Interpolation | None = None) -> Cut:
    """Return how pictures become squares of the backbone's input size; its own way by default."""
    own: Interpolation = "bilinear" if clip.interpolation == "bilinear" else "bicubic"
    whole = zoom == 1
    return Cut(
        clip.side, zoom, interpolation or own, clip.squash and whole, clip.pad if whole else None
    )


def load_clip(backbone: str, device: torch.device | str = "cpu", weights: bool = True) -> Clip:
    """Return a CLIP from open_clip, in float32 and eval mode, frozen.

    `backbone` has one of these forms:
    - `ARCHITECTURE/TAG`, a name and a pretrained tag of open_clip;
    - `ARCHITECTURE/FILE`, a state dict in open_clip's or OpenAI's layout;
    - `ARCHITECTURE/random:SEED`, random weights, for tests without the network;
    - `hf-hub:OWNER/NAME` or `local-dir:FOLDER`, in open_clip's layout, or a CLIP or a SigLIP in
      transformers' layout;
    - `package:MODULE/FOLDER`, a folder inside a Python package.

    With `weights=False`, weights are random; those of `ARCHITECTURE/…` are not downloaded or read.
    Random weights need no tokenizer of the hub: they read a text's bytes.
    Raises ZSRobustError if open_clip cannot load the backbone, or if the architecture's activation
    is not the one that the weights were trained with.
    """
    import open_clip

    name, tag = backbone, None
    if backbone.startswith("package:"):
        module, _, folder = backbone.removeprefix("package:").partition("/")
        load_plugins()
        # Only loaded packages count: a suite's file must not import arbitrary modules.
        if not hasattr(sys.modules.get(module), "__path__"):
            raise ZSRobustError(
                f"The backbone {backbone} is not in a package of zsrobust or of a plugin. "
                "Expected package:MODULE/FOLDER. Install the plugin, or use ARCHITECTURE/TAG."
            )
        name = f"local-dir:{resources.files(module).joinpath(folder)}"
    elif not backbone.startswith(("hf-hub:", "local-dir:")):
        name, _, tag = backbone.partition("/")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # open_clip logs its progress to the root logger
    try:
        local = Path(name.removeprefix("local-dir:"))
        if name.startswith("local-dir:") and transformers_folder.is_one(local):
            return _finished(backbone, *transformers_folder.load(local, backbone), device)
        trained = _look_up(name, tag, weights) if tag is not None else {}
        if name.startswith("hf-hub:") and not weights_are_here(backbone):
            check_network(f"The backbone {backbone} is not on this machine")
        if name.startswith("hf-hub:"):
            snapshot = transformers_folder.of_hub(name.removeprefix("hf-hub:"))
            if snapshot is not None:
                return _finished(backbone, *transformers_folder.load(snapshot, backbone), device)
        if tag is None:
            _check_tokenizer(_model_config(name), backbone)
        seed = _seed(tag or "")
        text = _model_config(name)["text_cfg"]
        random = tag is not None and (not weights or seed is not None)
        own_tokens = random and text.get("hf_tokenizer_name") and not text.get("hf_model_name")
        if name.startswith("local-dir:") and text.get("hf_tokenizer_name"):
            check_transformers(backbone)
        elif not own_tokens:
            check_hub_tokenizer(backbone, text)
        if tag and (not weights or seed is not None or Path(tag).is_file()):
            keys = ("mean", "std", "interpolation", "resize_mode")
            own = {key: trained[key] for key in keys if key in trained}
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed or 0)
                model: Any = open_clip.create_model(
                    name, load_weights=False, force_preprocess_cfg=own
                )
            if weights and seed is None:
                quick_gelu = bool((open_clip.get_model_config(name) or {}).get("quick_gelu"))
                model.load_state_dict(_read_weights(Path(tag), quick_gelu))
        else:
            model = open_clip.create_model(
                name, pretrained=tag, require_pretrained=weights, load_weights=weights
            )
        tokenize: Any = (
            ByteTokenizer(text.get("context_length", 77))
            if own_tokens
            else open_clip.get_tokenizer(name)
        )
        return _finished(backbone, model, tokenize, _model_config(name), device)
    except ZSRobustError:
        raise
    except Exception as error:
        raise ZSRobustError(
            f"Cannot load the backbone {backbone!r}: {type(error).__name__}: {str(error)[:300]}"
        ) from error
    finally:
        root.setLevel(level)


def _finished(
    backbone: str, model: Any, tokenize: Any, config: dict[str, Any], device: torch.device | str
) -> Clip:
    """Return the CLIP of a loaded model, in float32 and eval mode, frozen."""
    model.to(device).float().eval().requires_grad_(False)
    if getattr(model.visual, "output_tokens", False):  # of CoCa: for captions only
        model.visual.output_tokens = False
    preprocess = dict(model.visual.preprocess_cfg)
    mode = preprocess["resize_mode"]
    side = preprocess["size"] if isinstance(preprocess["size"], int) else preprocess["size"][0]
    return Clip(
        backbone,
        model,
        tokenize,
        tuple(preprocess["mean"]),
        tuple(preprocess["std"]),
        side,
        preprocess["interpolation"],
        mode == "squash",
        preprocess.get("fill_color", 0) if mode == "longest" else None,
        config={"model_cfg": config, "preprocess_cfg": preprocess},
    )


def _check_tokenizer(config: Mapping[str, Any], backbone: str) -> None:
    """Raise ZSRobustError if a backbone's configuration runs remote code as its tokenizer."""
    if (config.get("text_cfg", {}).get("tokenizer_kwargs") or {}).get("trust_remote_code"):
        raise ZSRobustError(
            f"The backbone {backbone} is not safe: its tokenizer is remote code, not run. "
            "Expected a tokenizer of open_clip. Choose another backbone."
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
        repo = name.removeprefix("hf-hub:")
        path = Path(download_pretrained_from_hf(repo, filename="open_clip_config.json"))
    return dict(json.loads(path.read_bytes())["model_cfg"])


def _look_up(name: str, tag: str, weights: bool) -> dict[str, Any]:
    """Return open_clip's configuration of pretrained weights; {} for a file of weights.

    Raises ZSRobustError for an unknown architecture or tag, and for weights that are not on this
    machine without a network. Raises it also if the architecture's activation is not the one that
    the weights were trained with: the logits would be silently wrong.
    """
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        expected = "A backbone is ARCHITECTURE/TAG of open_clip."
        raise suggest("architecture", name, open_clip.list_models(), expected)
    if Path(tag).is_file() or _seed(tag) is not None:
        return {}
    trained = open_clip.get_pretrained_cfg(name, tag)
    if not trained:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name))
        named = f"{tag!r} is not a tag or a file" if tag else "the tag is missing"
        raise ZSRobustError(
            f"The backbone {name} has no weights: {named}. Expected a file, random:SEED or a tag "
            f"of open_clip ({tags or 'none'}). Write {name}/TAG."
        )
    theirs, ours = bool(trained.get("quick_gelu")), bool(config.get("quick_gelu"))
    if theirs != ours:
        other = f"{name}-quickgelu" if theirs else name.removesuffix("-quickgelu")
        raise ZSRobustError(
            f"The backbone {name} has {'QuickGELU' if ours else 'GELU'}; its weights {tag!r} were "
            f"trained with {'QuickGELU' if theirs else 'GELU'}. Use {other}/{tag}."
        )
    if weights and not weights_are_here(f"{name}/{tag}"):
        check_network(f"The weights {name}/{tag} are not on this machine")
    return dict(trained)


def _seed(tag: str) -> int | None:
    """Return the seed of the tag `random:SEED`; None for other tags."""
    found = re.fullmatch(r"random:([0-9]{1,18})", tag, re.ASCII)
    return int(found[1]) if found else None


def weights_are_here(backbone: str) -> bool:
    """Return whether the weights of a backbone are on this machine."""
    if backbone.startswith(("package:", "local-dir:")) or _recall(backbone) is not None:
        return True
    tag = backbone.partition("/")[2]
    made = Path(tag).is_file() or _seed(tag) is not None
    if made and not backbone.startswith("hf-hub:"):
        return True
    return bool(_cached(backbone))


def _cached(backbone: str) -> list[str]:
    """Return the files of weights of a backbone of the hub that are on this machine."""
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    if backbone.startswith("hf-hub:"):
        repo, name = backbone.removeprefix("hf-hub:"), ""
    else:
        arch, _, tag = backbone.partition("/")
        trained = open_clip.get_pretrained_cfg(arch, tag) or {}
        repo, name = str(trained.get("hf_hub", "")).rpartition("/")[::2]
        cached = Path("~/.cache/clip", trained.get("url", "").rpartition("/")[2]).expanduser()
        if cached.is_file():
            return [str(cached)]
    files = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    if name:
        files = [name]
    elif repo and transformers_folder.known_on_hub(repo):
        files = list(transformers_folder.WEIGHTS)
    found = [try_to_load_from_cache(repo, file) for file in files if repo]
    return [path for path in found if isinstance(path, str)]


def _activation(model: nn.Module) -> str:
    """Return which approximation of GELU a model computes: its weights do not show it."""
    kinds = {type(part).__name__ for part in model.modules()}
    if "QuickGELU" in kinds:
        return "QuickGELU"
    tanh = any(getattr(part, "approximate", "none") == "tanh" for part in model.modules())
    return "tanh GELU" if tanh or "GELUTanh" in kinds else "GELU"  # the second is timm's


def _read_weights(path: Path, quick_gelu: bool) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or PyTorch file, without OpenAI's three numbers."""
    weights = load_tensors(path)
    numbers = ("input_resolution", "context_length", "vocab_size")
    if not quick_gelu and weights.keys() & set(numbers):
        raise ZSRobustError(
            f"{path} is in OpenAI's layout, so its weights were trained with QuickGELU. "
            "Use a -quickgelu architecture."
        )
    return {name: tensor for name, tensor in weights.items() if name not in numbers}


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the sha256 of the names, shapes and bytes of weights; the file does not matter."""
    content = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        content.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        content.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()

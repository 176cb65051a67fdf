"""Checkpoints: what a training wrote, what it was made from, and the tower that it gives back."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.values import read_json
from zsrobust.datasets import Dataset, Images
from zsrobust.models.clip import Clip, weights_digest
from zsrobust.models.visual_prompts import prompted
from zsrobust.results.digests import seal
from zsrobust.training.recipes import Recipe


@dataclass(frozen=True)
class Checkpoint:
    """A trained image tower on disk: changed weights, recipe and history."""

    path: Path
    recipe: dict[str, Any]
    #: digests of what the recipe names: the backbone, and the images trained on
    sources: dict[str, str]
    #: Per epoch: loss, accuracy (where the objective classifies), distance (relative L2), seconds.
    history: list[dict[str, float]]
    prompts: str | None  #: digest of the class texts; older checkpoints do not have it
    weights: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint; raises ZSRobustError for a file that is damaged or not ours."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            if "digest" in metadata and metadata["digest"] != seal(
                metadata, weights_digest(weights)
            ):
                raise ValueError("its digest does not fit")
            recipe = read_json(metadata["recipe"], dict[str, Any], "its recipe")
            sources = read_json(metadata["sources"], dict[str, str], "its sources")
            history = read_json(metadata["history"], list[dict[str, float]], "its history")
            if any("seconds" not in epoch for epoch in history):
                raise ValueError("an epoch of its history has no seconds")
            return cls(path, recipe, sources, history, metadata.get("prompts"), weights)
        except Exception as error:  # a damaged header raises all kinds
            raise ZSRobustError(
                f"The checkpoint {path} is damaged ({error}). Delete it, and it is trained again."
            ) from None

    @property
    def digest(self) -> str:
        """The sha256 of the weights; the history, which has times in it, stays out."""
        return weights_digest(self.weights)

    @property
    def epoch_seconds(self) -> float:
        """Return the mean seconds of an epoch."""
        return sum(epoch["seconds"] for epoch in self.history) / max(1, len(self.history))


def sources(clip: Clip, images: Images) -> dict[str, str]:
    """Return the digests of what a recipe names and a checkpoint is made from."""
    return {"backbone": clip.digest, "images": images.digest}


def texts(recipe: Recipe, dataset: Dataset) -> str:
    """Return the digest of the class texts that a recipe trains against."""
    return hashlib.sha256(
        json.dumps(dataset.prompts(recipe.prompts or "plain")).encode()
    ).hexdigest()


def made_from(recipe: Recipe, clip: Clip, dataset: Dataset, images: Images) -> dict[str, str]:
    """Return what says, in the metadata of a file, what its weights were made from."""
    return {
        "recipe": json.dumps(recipe.to_dict(), sort_keys=True),
        "sources": json.dumps(sources(clip, images)),
        "prompts": texts(recipe, dataset),
    }


def learning(encoder: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that take gradients, by name."""
    return {
        name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad
    }


def student_encoder(clip: Clip, recipe: Recipe) -> nn.Module:
    """Return a copy of the image tower in which just what the recipe trains takes gradients."""
    return (
        prompted(clip, recipe.options.get("tokens", 0), recipe.seed)
        if recipe.trainable == "prompts"
        else clip.copy()
    )


def trained_encoder(clip: Clip, recipe: Recipe, checkpoint: Checkpoint) -> nn.Module:
    """Return a checkpoint's image tower, frozen; raises ZSRobustError if it does not fit."""
    encoder = student_encoder(clip, recipe)
    expected = learning(encoder)
    given = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}
    wrong = sorted(
        name
        for name in expected.keys() | given.keys()
        if name not in expected or given.get(name) != tuple(expected[name].shape)
    )
    if wrong:
        raise ZSRobustError(
            f"The checkpoint {checkpoint.path} does not fit {clip.name}: {', '.join(wrong[:5])}. "
            "Delete it."
        )
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(checkpoint.weights[name])
    return encoder.eval().requires_grad_(False)

"""Checkpoints: trained weights with their recipe, sources and history."""

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from zsrobust.core.errors import NoAnswerError, ZSRobustError
from zsrobust.core.values import read_json
from zsrobust.datasets import Dataset, Facts, Images
from zsrobust.datasets.pixels import resizing
from zsrobust.models.clip import Clip, weights_digest
from zsrobust.models.heads import Context
from zsrobust.models.tensors import read_tensors
from zsrobust.models.visual_prompts import prompted
from zsrobust.results.digests import seal
from zsrobust.training import steps
from zsrobust.training.recipes import Recipe
from zsrobust.training.steps import MinMax, Objective, Texts

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Checkpoint:
    """A trained image tower or context on disk: its weights, recipe and history."""

    path: Path
    recipe: dict[str, Any]
    #: digests of the backbone and of the training images; how these were resized, if they were
    sources: dict[str, str]
    #: Per epoch: loss, accuracy (if the objective classifies), distance (relative L2), memory (peak
    #: bytes of the tensors of a step; missing in older checkpoints), seconds.
    history: list[dict[str, float]]
    prompts: str | None  #: digest of the class texts; None in older checkpoints
    weights: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Return the checkpoint in a file; raises ZSRobustError if it is damaged or foreign.

        Raises NoAnswerError for a file that was not reached.
        """
        try:
            metadata, weights = read_tensors(path)
            digest = metadata.get("digest")  # missing in older checkpoints
            if digest is not None and digest != seal(metadata, weights_digest(weights)):
                raise ValueError("its digest does not fit")
            recipe = read_json(metadata["recipe"], dict[str, Any], "its recipe")
            sources = read_json(metadata["sources"], dict[str, str], "its sources")
            history = read_json(metadata["history"], list[dict[str, float]], "its history")
            if any("seconds" not in epoch for epoch in history):
                raise ValueError("an epoch of its history lacks the seconds")
            return cls(path, recipe, sources, history, metadata.get("prompts"), weights)
        except NoAnswerError:
            raise
        except Exception as error:  # a damaged header raises all kinds
            raise ZSRobustError(
                f"The checkpoint {path} is damaged ({error}). Delete it, and it is trained again."
            ) from None

    @property
    def digest(self) -> str:
        """The sha256 of the weights. The history contains times and stays out."""
        return weights_digest(self.weights)

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the checkpoint in a result: its sources, its digest, its recipe."""
        return {**self.sources, "checkpoint": self.digest, "recipe": self.recipe}

    @property
    def training(self) -> dict[str, Any]:
        """How long the training took, and its history."""
        return {"epoch_seconds": self.epoch_seconds, "history": self.history}

    @property
    def epoch_seconds(self) -> float:
        """The mean seconds of an epoch."""
        return sum(epoch["seconds"] for epoch in self.history) / max(1, len(self.history))


def sources(
    recipe: Recipe, clip: Clip, images: Images | Facts, tower: nn.Module | None = None
) -> dict[str, str]:
    """Return the digests of the backbone and the images of a checkpoint, and their resizing.

    `tower` is the image tower that a context is learned for; its digest is a source, too.
    """
    pictures = {"images": images.digest, **resizing(images, recipe.cut(clip))}
    return {"backbone": clip.digest, **source_of(tower), **pictures}


def source_of(tower: nn.Module | None) -> dict[str, str]:
    """Return the digest of the image tower that a context is learned for, if there is one."""
    return {} if tower is None else {"tower": weights_digest(tower.state_dict())}


def texts(recipe: Recipe, dataset: Dataset) -> str:
    """Return the digest of the class texts that a recipe trains against."""
    prompts: Any = dataset.prompts(recipe.prompts or "plain")
    if further := further_texts(steps.objectives[recipe.objective], dataset):
        prompts = [prompts, further]
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()


def further_texts(objective: Objective, dataset: Dataset) -> Texts:
    """Return the objective's own texts of the dataset's classes; [] for most objectives."""
    if isinstance(objective, MinMax) and objective.texts is not None:
        return objective.texts(dataset)
    return []


def made_from(
    recipe: Recipe,
    clip: Clip,
    dataset: Dataset,
    images: Images,
    tower: nn.Module | None = None,
) -> dict[str, str]:
    """Return the metadata of a file that identifies what its weights were made from."""
    return {
        "recipe": json.dumps(recipe.to_dict(), sort_keys=True),
        "sources": json.dumps(sources(recipe, clip, images, tower)),
        "prompts": texts(recipe, dataset),
    }


def learning(encoder: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that take gradients, by name."""
    return {name: weight for name, weight in encoder.named_parameters() if weight.requires_grad}


def student_encoder(clip: Clip, recipe: Recipe, tower: nn.Module | None = None) -> nn.Module:
    """Return a copy of the image tower; only what the recipe trains takes gradients.

    For a context, this is a frozen copy of `tower`; None is the backbone's.
    """
    if recipe.trainable == "context":
        kept = copy.deepcopy(clip.encoder if tower is None else tower)
        return kept.eval().requires_grad_(False)
    if recipe.trainable == "prompts":
        start = {name: recipe.options[name] for name in ("border", "std") if name in recipe.options}
        return prompted(clip, recipe.options.get("tokens", 0), recipe.seed, **start)
    return clip.copy()


def student_context(clip: Clip, recipe: Recipe) -> Context:
    """Return the context that a recipe learns, as it starts."""
    return Context.start(clip, recipe.options.get("tokens", 0), recipe.seed)


def trained_encoder(clip: Clip, recipe: Recipe, checkpoint: Checkpoint) -> nn.Module:
    """Return a checkpoint's image tower, frozen; raises ZSRobustError if a weight is wrong."""
    if recipe.trainable == "context":
        raise ZSRobustError(
            f"The checkpoint {checkpoint.path} is a context of text prompts, not an image tower. "
            "Evaluate it with its tower: --defense apt:of=tecoa"
        )
    return _filled(student_encoder(clip, recipe), clip, checkpoint)


def trained_context(clip: Clip, recipe: Recipe, checkpoint: Checkpoint) -> Context:
    """Return a checkpoint's context, frozen; raises ZSRobustError if its shape is wrong."""
    return _filled(student_context(clip, recipe), clip, checkpoint)


def _filled(module: M, clip: Clip, checkpoint: Checkpoint) -> M:
    """Return the module with a checkpoint's weights, frozen; raises ZSRobustError for others."""
    expected = learning(module)
    given = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}
    wrong = sorted(
        name
        for name in expected.keys() | given.keys()
        if name not in expected or given.get(name) != tuple(expected[name].shape)
    )
    if wrong:
        raise ZSRobustError(
            f"The checkpoint {checkpoint.path} does not fit {clip.name}: {', '.join(wrong[:5])}. "
            "Delete it and train again."
        )
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(checkpoint.weights[name])
    return module.eval().requires_grad_(False)

"""Training: recipes, the one loop, and checkpoints named by their recipe's digest."""

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from zsrobust.attacks import attacks, exact, frozen
from zsrobust.attacks.draws import Draws
from zsrobust.classifier import Clip, ZeroShotClassifier, weights_digest
from zsrobust.datasets import Cut, Dataset, Images
from zsrobust.pixels import cut_for, tensor
from zsrobust.prompts import prompted
from zsrobust.registry import Registry, ZSRobustError, format_eps, parse_eps
from zsrobust.results import write_atomically

Precision = Literal["float32"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a checkpoint depends on. Its digest names the checkpoint.

    The defaults are the paper's (section 4.1) and, where it is silent, those of the code released beside it: SGD with
    momentum 0.9, no weight decay, batch 256, cosine schedule with 1000 steps of linear warm-up. No default ever changes.
    New fields default to None, and None stays out of the digest.
    """

    objective: str  #: the loss, by its registered name
    backbone: str = "ViT-B-32-quickgelu/openai"
    train_on: str = "tiny_imagenet"
    attack: str | None = None  #: spec of the attack that makes the adversarial images, where the objective wants them
    eps: float | None = None  #: of that attack, if not its own
    step_size: float | None = None
    epochs: int = 10
    batch_size: int = 256
    lr: float = 5e-5
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup: int = 1000  #: steps of linear warm-up, at most half of all steps
    trainable: Literal["encoder", "prompts"] = "encoder"
    precision: Precision = "float32"
    seed: int = 0
    logit_scale: float | None = None  #: in the loss and the attack; None is the model's own
    normalization: Literal["imagenet"] | None = None  #: of the images, for the student and the teacher; None: the backbone's
    zoom: float | None = None  #: training images are resized to this times the tower's side, then cropped; None is 1
    interpolation: Literal["bicubic", "bilinear"] | None = None  #: of that; None is the backbone's
    prompts: Literal["released", "openai"] | None = None  #: the wording of the class texts; None is the plain one
    limit: int | None = None  #: train on a class-balanced subset of so many images; to try things out
    options: Mapping[str, Any] = field(default_factory=dict)  #: what the objective and the prompts read

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr", "zoom", "limit"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ZSRobustError(f"A recipe's {name} must be positive, not {getattr(self, name)}.")
        for name in ("momentum", "weight_decay", "warmup", "seed"):
            if getattr(self, name) < 0:
                raise ZSRobustError(f"A recipe's {name} must not be negative, not {getattr(self, name)}.")
        if self.options.get("tokens", 0) < 0:
            raise ZSRobustError(f"The number of tokens must not be negative, not {self.options['tokens']}.")
        for bound in filter(None, (self.eps, self.step_size)):
            parse_eps(str(bound))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set, as JSON can hold them; bounds as "8/255"."""
        return {
            key: format_eps(value) if key in ("eps", "step_size") else value
            for key, value in asdict(self).items()
            if value is not None
        }

    @property
    def digest(self) -> str:
        """Return the first 16 hexadecimal digits of the sha256 of the fields that are set."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def cut(self, clip: Clip) -> Cut:
        """Return how training images become squares of the tower's input size."""
        return cut_for(clip, self.zoom or 1.0, self.interpolation)

    def crafting(self) -> Any:
        """Return the attack that makes the training images; every image takes all its steps."""
        values = {"eps": self.eps, "step_size": self.step_size}
        attack = attacks.create(str(self.attack), {key: value for key, value in values.items() if value is not None})
        if not hasattr(attack, "early_stop"):
            return attack
        return replace(attack, early_stop=False)  # type: ignore[type-var]  # a protocol cannot say that it is a dataclass


@dataclass
class Step:
    """What an objective gets: a batch, the student, the teacher. What it does not ask for is not computed."""

    images: Tensor  #: (N, 3, S, S) float32 in [0, 1]
    labels: Tensor  #: (N,) int64
    student: ZeroShotClassifier  #: being trained
    teacher: ZeroShotClassifier  #: the original CLIP, frozen
    craft: Callable[[Tensor, Tensor], Tensor]  #: images and labels to adversarial images against the student
    options: Mapping[str, Any]

    @cached_property
    def adversarial(self) -> Tensor:
        """The batch's adversarial images, (N, 3, S, S), crafted when first asked for."""
        return self.craft(self.images, self.labels)

    @cached_property
    def clean_features(self) -> Tensor:
        """The student's unit-norm embeddings of the clean images, (N, D)."""
        return self.student.features(self.images)

    @cached_property
    def adversarial_features(self) -> Tensor:
        """The student's unit-norm embeddings of the adversarial images, (N, D)."""
        return self.student.features(self.adversarial)

    @cached_property
    def teacher_features(self) -> Tensor:
        """The teacher's unit-norm embeddings of the same adversarial images, (N, D), without gradient."""
        with torch.no_grad():
            return self.teacher.features(self.adversarial)

    @cached_property
    def clean_logits(self) -> Tensor:
        """The student's logits of the clean images, (N, K)."""
        return self.clean_features @ self.student.head.T

    @cached_property
    def adversarial_logits(self) -> Tensor:
        """The student's logits of the adversarial images, (N, K)."""
        return self.adversarial_features @ self.student.head.T

    @cached_property
    def teacher_logits(self) -> Tensor:
        """The teacher's logits of the adversarial images, (N, K), without gradient."""
        return self.teacher_features @ self.teacher.head.T

    def correct(self) -> int:
        """Return the number of images that the student classified correctly, under attack if it was attacked."""
        logits = self.adversarial_logits if "adversarial_logits" in self.__dict__ else self.clean_logits
        return int((logits.argmax(1) == self.labels).sum())


Objective = Callable[[Step], Tensor]
objectives: Registry[Objective] = Registry("objective", "defenses")


@dataclass(frozen=True)
class Checkpoint:
    """A trained image tower on disk: what differs from the backbone, with its recipe and history in the metadata."""

    path: Path
    recipe: dict[str, Any]
    sources: dict[str, str]  #: digests of what the recipe names: the backbone, and the images trained on
    history: list[dict[str, float]]  #: per epoch: loss, accuracy, distance (relative L2), seconds
    prompts: str | None  #: digest of the class texts trained against; None in checkpoints that do not say
    weights: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint; raises ZSRobustError for a file that is damaged or not ours."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            recipe, sources, history = (json.loads(metadata[name]) for name in ("recipe", "sources", "history"))
            return cls(path, recipe, sources, history, metadata.get("prompts"), weights)
        except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
            raise ZSRobustError(f"The checkpoint {path} is damaged ({error}). Delete it, and it is trained again.") from None

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
    return hashlib.sha256(json.dumps(dataset.prompts(recipe.prompts or "plain")).encode()).hexdigest()


def student_encoder(clip: Clip, recipe: Recipe) -> nn.Module:
    """Return a copy of the image tower in which just what the recipe trains takes gradients."""
    return prompted(clip, recipe.options.get("tokens", 0), recipe.seed) if recipe.trainable == "prompts" else clip.copy()


def trained_encoder(clip: Clip, recipe: Recipe, checkpoint: Checkpoint) -> nn.Module:
    """Return the image tower of a checkpoint, frozen; raises ZSRobustError if its weights do not fit, all of them."""
    encoder = student_encoder(clip, recipe)
    expected = _learning(encoder)
    given = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}
    wrong = sorted(
        name
        for name in expected.keys() | given.keys()
        if name not in expected or given.get(name) != tuple(expected[name].shape)
    )
    if wrong:
        raise ZSRobustError(f"The checkpoint {checkpoint.path} does not fit {clip.name}: {', '.join(wrong[:5])}. Delete it.")
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(checkpoint.weights[name])
    return encoder.eval().requires_grad_(False)


@exact()
def train(
    recipe: Recipe,
    clip: Clip,
    dataset: Dataset,
    images: Images,
    path: Path,
    progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Checkpoint:
    """Fine-tune the image tower as the recipe says, write the checkpoint to `path` at the end, and return it.

    `progress` is called after every step with steps done, steps in all, and a note on loss and accuracy.
    Raises ZSRobustError when the loss is not finite.
    """
    objective = objectives[recipe.objective]
    encoder = student_encoder(clip, recipe)
    prompts, cut = dataset.prompts(recipe.prompts or "plain"), recipe.cut(clip)
    student = clip.classifier(prompts, encoder, recipe.logit_scale, recipe.normalization)
    teacher = clip.classifier(prompts, scale=recipe.logit_scale, normalization=recipe.normalization)
    craft = recipe.crafting() if recipe.attack else None
    learning = _learning(encoder)
    start = {name: parameter.detach().clone() for name, parameter in learning.items()}
    optimizer = _optimizer(recipe, list(learning.values()))
    steps = recipe.epochs * math.ceil(len(images) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_cosine(min(recipe.warmup, steps // 2), steps))
    device = student.head.device
    generator = torch.Generator().manual_seed(recipe.seed)

    def adversarial(clean: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        if craft is None:
            raise ZSRobustError(f"The objective {recipe.objective!r} asks for adversarial images; its recipe has no attack.")
        with frozen(student), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what attacks warn of concerns evaluations
            return torch.as_tensor(craft(student, clean, labels, draws)).detach()

    history: list[dict[str, float]] = []
    done = 0
    for epoch in range(recipe.epochs):
        started, total_loss, correct, seen = time.perf_counter(), 0.0, 0, 0
        for positions in torch.randperm(len(images), generator=generator).split(recipe.batch_size):
            batch = tensor(images, positions.numpy(), cut, device)
            labels = torch.from_numpy(images.labels[positions.numpy()]).to(device)
            student.train()
            draws = Draws.of(recipe.seed, f"epoch {epoch}", positions.numpy(), device)
            step = Step(batch, labels, student, teacher, partial(adversarial, draws=draws), recipe.options)
            loss = objective(step)
            if not torch.isfinite(loss):
                raise ZSRobustError(f"Training {recipe.objective}: the loss is {loss.item()} at step {done}. Lower lr.")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total_loss += loss.item() * len(labels)
            correct += step.correct()
            seen += len(labels)
            done += 1
            progress(done, steps, f"loss {total_loss / seen:.2f}, accuracy {correct / seen:.0%}")
        history.append(
            {
                "loss": total_loss / len(images),
                "accuracy": correct / len(images),
                **_distance(start, learning),
                "seconds": round(time.perf_counter() - started, 3),
            }
        )
    metadata = {
        "recipe": json.dumps(recipe.to_dict(), sort_keys=True),
        "sources": json.dumps(sources(clip, images)),
        "history": json.dumps(history),
        "prompts": texts(recipe, dataset),
    }
    weights = {name: parameter.detach().cpu().contiguous() for name, parameter in learning.items()}
    write_atomically(path, safetensors.torch.save(weights, metadata))
    return Checkpoint.read(path)


def _learning(encoder: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}


def _optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay)


def _warmup_cosine(warmup: int, steps: int) -> Callable[[int], float]:
    """Return the learning rate's factor by step: linear from 1/warmup to 1, then a cosine to 0."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def _distance(start: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> dict[str, float]:
    """Return how far the weights moved: ‖θ - θ₀‖ / ‖θ₀‖ over all of them (Figure 2), and the released code's quantity."""
    with torch.no_grad():
        moved = sum(float((now[name] - start[name]).double().square().sum()) for name in start)
        size = sum(float(start[name].double().square().sum()) for name in start)
        norms = sum(float(start[name].double().norm()) for name in start)
        norms_now = sum(float(now[name].double().norm()) for name in start)
    return {
        "distance": math.sqrt(moved / size) if size else math.sqrt(moved),
        "distance_code": abs(norms - norms_now) / norms if norms else norms_now,
    }

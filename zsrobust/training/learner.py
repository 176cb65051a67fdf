"""The learner: the student, its teacher, and the optimizer, one batch at a time."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.attacks.draws import Draws
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Dataset, Images
from zsrobust.datasets.pixels import tensor
from zsrobust.models.clip import Clip
from zsrobust.training import steps
from zsrobust.training.checkpoints import (
    further_texts,
    learning,
    student_context,
    student_encoder,
)
from zsrobust.training.crafting import Crafter
from zsrobust.training.crew import Crew
from zsrobust.training.recipes import Recipe
from zsrobust.training.steps import NO_HEADS, MinMax, Step


class BFloat16(nn.Module):
    """An image tower with passes in bfloat16 autocast; its weights and embeddings are float32."""

    def __init__(self, tower: nn.Module) -> None:
        """Wrap a tower."""
        super().__init__()
        self.tower = tower

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (N, D) float32 of normalized images (N, 3, S, S)."""
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            embeddings: Tensor = self.tower(images)
        return embeddings.float()


class Learner:
    """A student that learns by its recipe.

    The next step depends only on `tensors()` and the numbers of steps and epochs done.
    """

    def __init__(
        self,
        recipe: Recipe,
        clip: Clip,
        dataset: Dataset,
        images: Images,
        micro_batch: int | None,
        checkpoint_activations: bool,
        tower: nn.Module | None = None,
    ) -> None:
        """Take the arguments of `zsrobust.training.train`."""
        if micro_batch is not None and micro_batch < 1:
            raise ZSRobustError(
                f"A micro-batch of {micro_batch} images is not valid. Choose 1 or more."
            )
        self.recipe, self.images = recipe, images
        self.micro_batch, self.crew = micro_batch, Crew.here()
        self.objective, self.cut = steps.objectives[recipe.objective], recipe.cut(clip)
        self.crafter = Crafter(recipe, self.objective)
        self.wording = dataset.worded(recipe.prompts or "plain")
        self.context = student_context(clip, recipe) if recipe.trainable == "context" else None
        encoder = student_encoder(clip, recipe, tower)
        if checkpoint_activations and self.context is None:
            _checkpoint_activations(encoder)
        self.student, self.teacher = (
            clip.classifier(
                self.wording.prompts,
                BFloat16(tower) if recipe.precision == "bfloat16" else tower,
                recipe.logit_scale,
                recipe.normalization,
            )
            for tower in (encoder, clip.encoder)
        )
        further = further_texts(self.objective, dataset)
        heads = [clip.head(texts, recipe.logit_scale) for texts in further]
        self.heads = torch.stack(heads) if heads else NO_HEADS
        self.device = self.student.head.device
        learned = encoder if self.context is None else self.context
        self.weights, self.buffers = learning(learned), dict(learned.named_buffers())
        self.start = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.dual = self._dual()
        self.optimizer = _optimizer(recipe, list(self.weights.values()))
        self.players = [(self.weights, self.optimizer)]  #: what is learned, each by its optimizer
        if self.dual is not None:
            self.players.append(_climber(self.dual, recipe.options["dual_lr"]))
        #: Of the last batch, means over this process's images, (), on the device.
        self.terms: dict[str, Tensor] = {}
        self.steps = recipe.epochs * math.ceil(len(images) / recipe.batch_size)
        whole = recipe.schedule == "code"
        warmup = recipe.warmup if whole else min(recipe.warmup, self.steps // 2)
        self.rate = _warmup_cosine(warmup, self.steps)
        self.whole_only = any(
            isinstance(part, nn.modules.batchnorm._BatchNorm) for part in learned.modules()
        )
        if micro_batch or self.crew.size > 1:
            self._check_parts()
        self._settle()

    def _dual(self) -> nn.Module | None:
        """Return the objective's dual network, whose weights depend on the recipe's seed alone."""
        if not isinstance(self.objective, MinMax) or self.objective.dual is None:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            return self.objective.dual(self.student.head.shape[1]).to(self.device)

    @property
    def learned(self) -> dict[str, nn.Parameter]:
        """All that is learned: the student's weights, and those of the dual network."""
        return {name: one for weights, _ in self.players for name, one in weights.items()}

    def _check_parts(self) -> None:
        """Raise ZSRobustError if parts of a batch do not give the whole batch's gradients."""
        if self.whole_only:
            raise ZSRobustError(
                "The tower normalizes over the batch. It would learn something else from parts of "
                "it. Train in one process, on a device with more memory, or with a smaller "
                "batch_size."
            )

    def gradients(self, epoch: int, positions: Tensor) -> Tensor:
        """Return the summed loss and the correct images of a batch, (2,); keep its gradients.

        The number of correct images is NaN if the objective does not classify. Every process takes
        its part of the batch. Parts that do not fit into a GPU's memory are halved and tried again.
        """
        mine, weight = self.crew.part(positions)
        while True:
            try:
                totals = self._accumulate(epoch, mine, len(positions), weight)
                return self.crew.add_up(self.learned.values(), totals)
            except torch.cuda.OutOfMemoryError:
                tried = min(self.micro_batch or len(mine), len(mine))
                if tried == 1:
                    raise ZSRobustError(
                        f"One image at a time is too much for the memory of {self.device}. "
                        "Use a device with more memory."
                    ) from None
            self._check_parts()
            self.micro_batch = math.ceil(tried / 2)
            torch.cuda.empty_cache()

    def _accumulate(self, epoch: int, positions: Tensor, whole: int, weight: float) -> Tensor:
        """Return the totals, (2,), of parts of a batch of `whole` images; add up gradients."""
        for _, optimizer in self.players:
            optimizer.zero_grad(set_to_none=True)
        totals = torch.zeros(2, device=self.device, dtype=exactly(self.device))
        self.terms = {}
        for part in positions.split(self.micro_batch or len(positions)):
            step = self._step(epoch, part, len(part) / whole)
            loss = self.objective(step)
            (loss * (weight * step.share)).backward()
            for name, value in step.terms.items():
                mean = value * (len(part) / len(positions))
                self.terms[name] = self.terms[name] + mean if name in self.terms else mean
            correct = step.correct()
            right = torch.full((), math.nan) if correct is None else correct
            totals += weight * torch.stack([loss.detach().to(totals) * len(part), right.to(totals)])
        return totals

    def _step(self, epoch: int, positions: Tensor, share: float) -> Step:
        """Return the step that the objective receives for the images at these positions."""
        rows = positions.numpy()
        labels = torch.from_numpy(self.images.labels[rows]).to(self.device, non_blocking=True)
        draws = Draws.of(self.recipe.seed, f"epoch {epoch}", rows, self.device)
        self.student.train()
        if self.context is not None:
            self.student.encoder.eval()  # frozen: running statistics stay, too
            self.student.head = self.context(self.wording, self.recipe.logit_scale)
        step = Step(
            tensor(self.images, rows, self.cut, self.device),
            labels,
            self.student,
            self.teacher,
            partial(self.crafter.against_labels, self.student, draws),
            self.recipe.options,
            share,
            draws,
            self.heads,
            self.dual,
        )
        if isinstance(self.objective, MinMax) and self.objective.maximize is not None:
            step.craft = partial(self.crafter.against_loss, self.objective.maximize, step)
        return step

    def finite(self) -> Tensor:
        """Return whether the gradients are finite, () bool, on the device."""
        gradients = [weight.grad for weight in self.learned.values() if weight.grad is not None]
        return torch.nn.utils.get_total_norm(gradients, math.inf).isfinite().to(self.device)

    def move(self, done: int) -> None:
        """Move the weights along their gradients; `done` steps were taken before."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(done)
        self.optimizer.step()
        for _, climber in self.players[1:]:
            if (done + 1) % self.recipe.options["primal_steps"] == 0:
                climber.step()
        self._settle()

    def lr(self, done: int) -> float:
        """Return the learning rate of the step after `done` steps."""
        return self.recipe.lr * self.rate(done)

    def _settle(self) -> None:
        """Copy the buffers: running statistics change also in unfinished steps."""
        self._settled = {name: buffer.clone() for name, buffer in self.buffers.items()}

    def trained(self) -> dict[str, Tensor]:
        """Return the trained weights, on the CPU."""
        return _stored(self.weights)

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, buffers and optimizer state after the last step, on the CPU."""
        kinds: dict[str, dict[str, Tensor]] = {"weight": {**self.learned}, "buffer": self._settled}
        for weights, optimizer in self.players:
            for name, weight in weights.items():
                for kind, value in optimizer.state[weight].items():
                    if isinstance(value, Tensor):
                        kinds.setdefault(kind, {})[name] = value
        return _stored(
            {f"{kind}/{name}": kinds[kind][name] for kind in kinds for name in kinds[kind]}
        )

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load another learner's tensors; raises ZSRobustError first if one does not fit."""
        own = {f"weight/{name}": weight.detach() for name, weight in self.learned.items()}
        own |= {f"buffer/{name}": buffer for name, buffer in self.buffers.items()}
        state: dict[str, dict[str, Tensor]] = {}
        for kind, name in [full.split("/", 1) for full in tensors.keys() - own.keys()]:
            state.setdefault(name, {})[kind] = tensors[f"{kind}/{name}"]
        fits = all(
            name in tensors and tensors[name].shape == value.shape for name, value in own.items()
        )
        if not fits or state.keys() - self.learned.keys():
            raise ZSRobustError("its weights do not fit")
        for weights, optimizer in self.players:
            theirs = {at: state[name] for at, name in enumerate(weights) if name in state}
            optimizer.load_state_dict({**optimizer.state_dict(), "state": theirs})
        for name, value in own.items():
            value.copy_(tensors[name])
        self._settle()

    def distance(self) -> dict[str, float]:
        """Return the distance ‖θ - θ₀‖ / ‖θ₀‖ (Figure 2), and the released code's."""
        start, now = self.start, self.weights
        with torch.no_grad():
            moved = sum(float((now[name] - start[name]).double().square().sum()) for name in start)
            size = sum(float(start[name].double().square().sum()) for name in start)
            norms = sum(float(start[name].double().norm()) for name in start)
            norms_now = sum(float(now[name].double().norm()) for name in start)
        return {
            "distance": math.sqrt(moved / size) if size else math.sqrt(moved),
            "distance_code": abs(norms - norms_now) / norms if norms else norms_now,
        }


def exactly(device: torch.device) -> torch.dtype:
    """Return the type of sums: float64, or float32 on a device without float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _checkpoint_activations(encoder: nn.Module) -> None:
    """Recompute activations in the backward pass, in the parts of open_clip that support it."""
    for part in encoder.modules():
        enable: Any = getattr(part, "set_grad_checkpointing", None)
        if enable is not None:
            enable(True)


def _optimizer(recipe: Recipe, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    # One kernel for all weights on a GPU. None leaves the choice to torch.
    fused = weights[0].device.type == "cuda" or None
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            weights, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, fused=fused
        )
    return torch.optim.AdamW(weights, recipe.lr, weight_decay=recipe.weight_decay, fused=fused)


def _climber(dual: nn.Module, rate: float) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    """Return the weights of a dual network by name, and the optimizer that ascends the loss."""
    weights = {f"dual.{name}": weight for name, weight in learning(dual).items()}
    return weights, torch.optim.Adam(weights.values(), rate, maximize=True)


def _warmup_cosine(warmup: int, steps: int) -> Callable[[int], float]:
    """Return the learning rate's factor by step: linear from 1/warmup to 1, then a cosine to 0."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor

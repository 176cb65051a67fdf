"""The referee: it runs one cell and decides which images survived. An attack never decides that.

The referee gives clones to the attack. It accepts only finite pixels inside [0, 1] and within eps
of the original. It predicts again itself, in float32 and eval mode. A crash, a NaN or a cheat never
scores as robustness: the cell fails.

Only a few batches of images are in memory, whatever the size of the dataset.
"""

import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zsrobust.attacks import Attack, exact, frozen, perturbation_size
from zsrobust.attacks.draws import Draws
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import format_eps
from zsrobust.datasets import Cut, Images
from zsrobust.datasets.pixels import tensor
from zsrobust.evaluation.memory import BATCHES, by_portions, fitting
from zsrobust.evaluation.meter import Meter, Sampler, device_of
from zsrobust.evaluation.redflags.notes import collected
from zsrobust.results import Outcomes, Samples

TOLERANCE = 1e-6  #: of float32 arithmetic, in pixels of [0, 1]

#: Which images are attacked: those classified correctly, or all, as the released code does.
Attacked = Literal["correct", "all"]

#: The arithmetic of an attack's search. Verdicts are always made in float32.
Search = Literal["float32", "tf32", "bf16"]

#: Called after every batch with the number of images done and the number of all images.
Progress = Callable[[int, int], None]

Positions = NDArray[np.int64]  #: of images in the (sub)set


class CheatError(ZSRobustError):
    """An attack returned images that it must not return."""


@dataclass(frozen=True)
class Case:
    """What the referee judges: an attack on a classifier, and the images."""

    classifier: nn.Module  #: deployed: pixels (N, 3, S, S) in [0, 1] to logits (N, K)
    attack: Attack
    name: str  #: of the attack, for messages
    images: Images
    seed: int = 0  #: of the attack's random numbers, together with `dataset` and the position
    dataset: str = ""
    target: nn.Module | None = None  #: the attack sees it in place of the classifier
    batch_size: int | None = None  #: images per pass; None: as many as fit
    cut: Cut | None = None  #: resizes and crops images of other sizes
    attacked: Attacked = "correct"
    search: Search = "float32"  #: images that a lower precision leaves are attacked in float32


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The referee's result of a case."""

    images: int
    clean_correct: int = 0
    robust_correct: int = 0
    outcomes: Outcomes | None = None  #: None if the case failed
    samples: Samples | None = None
    error: str | None = None  #: the traceback of a failed case
    notes: list[str] = field(default_factory=list)  #: names of the attack's notes
    messages: list[str] | None = None  #: texts of foreign warnings
    seconds: float = 0.0
    forward: int = 0
    backward: int = 0
    disagreements: int | None = None
    batch_size: int | None = None
    device: str = ""

    @property
    def failed(self) -> bool:
        """Whether the attack or the classifier raised, or broke a rule."""
        return self.error is not None


def run_case(
    case: Case, progress: Progress = lambda done, total: None, sampler: Sampler | None = None
) -> Judged:
    """Return the referee's result of a case; any exception makes it a failed result."""
    started, device = time.perf_counter(), device_of(case.classifier)
    referee = Referee(case, progress, sampler)
    outcomes = error = None
    with warnings.catch_warnings(record=True) as caught, seeded(case.seed, device):
        warnings.simplefilter("always")
        try:
            outcomes = referee.judge()
        except Exception:
            error = traceback.format_exc()
    right = outcomes.right(case.attacked == "all") if outcomes else None
    notes, messages = collected(caught)
    return Judged(
        images=len(case.images),
        clean_correct=int(right.clean.sum()) if right else 0,
        robust_correct=int(right.robust.sum()) if right else 0,
        outcomes=outcomes,
        samples=sampler.samples if sampler and outcomes else None,
        error=error,
        notes=notes,
        messages=messages,
        seconds=round(time.perf_counter() - started, 3),
        forward=referee.forward_passes,
        backward=sum(meter.backward_passes for meter in referee.meters),
        disagreements=referee.disagreements,
        batch_size=referee.meter.batch_size,
        device=str(device),
    )


def judge(
    case: Case, progress: Progress = lambda done, total: None, sampler: Sampler | None = None
) -> Outcomes:
    """Return what happened to each image of a case.

    Raises CheatError if the attack breaks a rule, and every exception of attack or classifier.
    """
    return Referee(case, progress, sampler).judge()


class Referee:
    """One case under judgement: look, attack, check, judge."""

    def __init__(self, case: Case, progress: Progress, sampler: Sampler | None = None) -> None:
        """Take the case, the progress callback, and the sampler of images for reports."""
        self.case, self.progress, self.sampler = case, progress, sampler
        self.meter = as_meter(case.classifier)
        self.seen = self.meter if case.target is None else as_meter(case.target)
        self.meters = {self.meter, self.seen}
        self.device = device_of(self.meter)
        self.disagreements: int | None = None

    def judge(self) -> Outcomes:
        """Return what happened to each image."""
        case, count = self.case, len(self.case.images)
        self.clean = np.zeros(count, dtype=np.int64)
        self.adversarial = np.zeros(count, dtype=np.int64)
        self.perturbation = np.zeros(count, dtype=np.float32)
        self.doubted = np.zeros(count, dtype=bool)
        with frozen(self.meter), frozen(self.seen), exact():
            two = tensor(case.images, np.array([0, 0]), case.cut, self.device)
            self.meter.batch_size = case.batch_size or min(
                fitting(each.classifier, two) for each in self.meters
            )
            by_portions(self.meter, np.arange(count), 1, self._look)
            chosen = self._chosen
            self.progress(count - len(chosen), count)
            by_portions(self.meter, chosen, BATCHES if case.attack.packs else 1, self._attack)
        self.disagreements = None if case.search == "float32" else int(self.doubted.sum())
        return Outcomes(case.images.labels, self.clean, self.adversarial, self.perturbation)

    @cached_property
    def _chosen(self) -> Positions:
        """The positions of the images to attack; all clean images must be classified before."""
        if self.case.attacked == "all":
            return np.arange(len(self.clean))
        return np.flatnonzero(self.clean == self.case.images.labels)

    @property
    def forward_passes(self) -> int:
        """The number of images that passed through the classifier and the attack's target."""
        return sum(meter.forward_passes for meter in self.meters)

    def _look(self, positions: Positions) -> None:
        predicted = predict(self.meter, self._load(positions))
        self.clean[positions] = self.adversarial[positions] = predicted

    def _load(self, positions: Positions) -> Tensor:
        """Return images (n, 3, S, S) float32 in [0, 1] on the device, uploaded batch by batch."""
        size = self.meter.batch_size or len(positions)
        parts = [positions[start : start + size] for start in range(0, len(positions), size)]
        images, cut = self.case.images, self.case.cut
        return torch.cat([tensor(images, part, cut, self.device) for part in parts])

    def _attack(self, positions: Positions) -> None:
        case, originals = self.case, self._load(positions)
        labels = case.images.labels[positions]
        passes = self.forward_passes
        found = self._search(positions, originals, labels, case.search)
        sizes = check(case.name, case.attack, originals, found)
        predicted = self._verdicts(found)
        if case.search != "float32":
            found = self._search_again(positions, originals, labels, found, sizes, predicted)
        self._demand_an_attack(originals, labels, sizes, predicted, self.forward_passes - passes)
        self.adversarial[positions], self.perturbation[positions] = predicted, sizes.cpu().numpy()
        if self.sampler:
            right = self.clean[positions] == labels  # the attack did not break the others
            broken = predicted[right] != labels[right]
            self.sampler.look(positions[right], originals[right], found[right], broken)
        done = len(case.images) - int((self._chosen > positions[-1]).sum())
        self.progress(done, len(case.images))

    def _search(
        self,
        positions: Positions,
        originals: Tensor,
        labels: Positions,
        precision: Search,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the attack's images, (n, 3, S, S); an attack that continues begins at `start`."""
        case, device = self.case, self.device
        draws = self._draws[torch.from_numpy(positions).to(device)]
        own_labels = torch.from_numpy(labels).to(device, copy=True)
        self.seen.batch_size = self.meter.batch_size
        more = {"start": start} if case.attack.continues else {}
        with torch.enable_grad(), arithmetic(precision, device):
            return case.attack(self.seen, originals.clone(), own_labels, draws, **more)

    @cached_property
    def _draws(self) -> Draws:
        """The random numbers of all images."""
        case = self.case
        return Draws.of(case.seed, case.dataset, case.images.positions, self.device)

    def _search_again(
        self,
        positions: Positions,
        originals: Tensor,
        labels: Positions,
        found: Tensor,
        sizes: Tensor,
        predicted: Positions,
    ) -> Tensor:
        """Attack the surviving images in float32; `sizes` and `predicted` change in place."""
        case, left = self.case, np.flatnonzero(predicted == labels)
        if not len(left):
            return found
        self.doubted[positions[left]] = self._verdicts(found[left], case.search) != labels[left]
        again = self._search(
            positions[left], originals[left], labels[left], "float32", found[left].detach()
        )
        sizes[left] = check(case.name, case.attack, originals[left], again)
        predicted[left] = self._verdicts(again)
        places = torch.from_numpy(left).to(found.device)
        return found.detach().index_copy(0, places, again.detach())

    def _verdicts(self, found: Tensor, precision: Search = "float32") -> Positions:
        parts = found.detach().split(self.meter.batch_size or len(found))
        return np.concatenate([predict(self.meter, part, precision) for part in parts])

    def _demand_an_attack(
        self, originals: Tensor, labels: Positions, sizes: Tensor, predicted: Positions, passes: int
    ) -> None:
        """Raise CheatError if the attack returned images unchanged without a search."""
        searched = self.case.attack.returns_clean and passes > 2 * len(originals)
        untouched = (sizes == 0).cpu().numpy() & (predicted == labels)
        if searched or not untouched.any():
            return
        if self.seen is not self.meter:  # a target that is wrong already needs no search
            left = np.flatnonzero(untouched)
            untouched[left] = predict(self.seen, originals[left]) == labels[left]
        if untouched.any():
            raise CheatError(
                f"The attack {self.case.name} returned {untouched.sum()} images unchanged. "
                "Expected a search. If it searches and may fail, set returns_clean = True."
            )


def check(name: str, attack: Attack, originals: Tensor, found: Any) -> Tensor:
    """Return the sizes of the perturbations, (N,); raises CheatError for forbidden images."""
    if (
        not isinstance(found, Tensor)
        or found.shape != originals.shape
        or found.dtype != originals.dtype
    ):
        returned = type(found).__name__
        if isinstance(found, Tensor):
            returned = f"{tuple(found.shape)} {found.dtype}"
        asked = f"{tuple(originals.shape)} {originals.dtype}"
        raise CheatError(f"The attack {name} returned {returned}. Expected images {asked}.")
    found = found.detach()
    if not torch.isfinite(found).all():
        raise CheatError(f"The attack {name} returned pixels that are not finite.")
    low, high = found.min().item(), found.max().item()
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise CheatError(f"The attack {name} left [0, 1]: pixels from {low:.6g} to {high:.6g}.")
    sizes = perturbation_size(found - originals, attack.norm)
    every = 1 if attack.norm == "linf" else originals[0].numel() ** 0.5  # every pixel may be off
    if sizes.max() > attack.eps + TOLERANCE * every:
        moved, eps = sizes.max().item(), format_eps(attack.eps)
        raise CheatError(f"The attack {name} moved by {moved:.6g}, beyond eps {eps}.")
    return sizes


@torch.no_grad()
def predict(classifier: nn.Module, images: Tensor, precision: Search = "float32") -> Positions:
    """Return the predicted classes, (N,), in eval mode; raises ZSRobustError for invalid logits."""
    with frozen(classifier), arithmetic(precision, images.device):
        logits = classifier(images)
    if logits.ndim != 2 or not torch.isfinite(logits).all():
        shape = tuple(logits.shape)
        raise ZSRobustError(f"The classifier's logits {shape} are not finite, or not (N, K).")
    return np.asarray(logits.argmax(1).cpu().numpy(), dtype=np.int64)


def as_meter(classifier: nn.Module) -> Meter:
    """Return the meter around a classifier; a meter is returned as it is."""
    return classifier if isinstance(classifier, Meter) else Meter(classifier)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global random numbers, which a randomized defense draws."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def arithmetic(precision: Search, device: torch.device) -> Iterator[None]:
    """Compute in the given precision, whatever the process used before."""
    lower = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
    with exact(), lower:
        allowed = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
        yield

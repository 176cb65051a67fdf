"""The referee: runs one cell and decides who survived. An attack never does.

It hands the attack clones, demands finite pixels inside [0, 1] and inside eps of the original, and predicts again
itself, in float32 and eval mode. A crash, a NaN or a cheat never scores as robustness: the cell fails.

Memory holds a few batches of images, whatever the size of the dataset; where it runs out, batches are halved.
"""

import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from zsrobust.results.cell import Outcomes, Result, versions

TOLERANCE = 1e-6  # of float32 arithmetic, in pixels of [0, 1]

#: Which images are attacked: those classified correctly, which alone can be robust; or all, as the released code does.
Attacked = Literal["correct", "all"]

#: The arithmetic of an attack's search; verdicts are always made in float32.
Search = Literal["float32", "tf32", "bf16"]

#: Called after every batch with the images done, and the images in all.
Progress = Callable[[int, int], None]


class CheatError(ZSRobustError):
    """An attack returned what it must not."""


def run_cell(
    identity: dict[str, Any],
    classifier: nn.Module,
    attack: Attack,
    name: str,
    images: Images,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    cut: Cut | None = None,
    attacked: Attacked = "correct",
    progress: Progress = lambda done, total: None,
    sampler: Sampler | None = None,
    search: Search = "float32",
    target: nn.Module | None = None,
) -> tuple[Result, Outcomes | None]:
    """Evaluate one cell; `name` is the attack's. A failure makes it a failed result with its traceback.

    `target` is what the attack sees, if that is another module than the one that is judged. See `judge` for `batch_size`,
    `cut`, `attacked`, `sampler` and `search`.
    """
    started = time.perf_counter()
    result = Result(
        identity, images=len(images), device=str(device_of(classifier)), versions=versions()
    )
    meter = Meter(classifier)
    seen = meter if target is None else Meter(target)
    meters = {meter, seen}
    outcomes = None
    with warnings.catch_warnings(record=True) as caught, seeded(seed, device_of(classifier)):
        warnings.simplefilter("always")
        try:
            outcomes = judge(
                meter,
                attack,
                name,
                images,
                seed=seed,
                batch_size=batch_size,
                cut=cut,
                attacked=attacked,
                progress=progress,
                sampler=sampler,
                search=search,
                dataset=identity.get("dataset", {}).get("name", ""),
                target=seen,
            )
            result.clean_correct, result.robust_correct = (
                outcomes.clean_correct,
                outcomes.robust_correct,
            )
            if attacked == "all":
                result.robust_correct = outcomes.adversarial_correct
        except Exception:
            result.status, result.error = "failed", traceback.format_exc()
    result.flags, result.messages = collected(caught)
    result.seconds = round(time.perf_counter() - started, 3)
    result.forward = sum(each.forward_passes for each in meters)
    result.backward = sum(each.backward_passes for each in meters)
    result.disagreements, result.batch_size = meter.disagreements, meter.batch_size
    return result, outcomes


def judge(
    meter: Meter,
    attack: Attack,
    name: str,
    images: Images,
    *,
    seed: int,
    batch_size: int | None = None,
    cut: Cut | None = None,
    attacked: Attacked = "correct",
    progress: Progress = lambda done, total: None,
    sampler: Sampler | None = None,
    search: Search = "float32",
    dataset: str = "",
    target: Meter | None = None,
) -> Outcomes:
    """Predict, attack what was classified correctly, check, and predict again; in eval mode, the weights frozen.

    `batch_size` is how many images the classifier gets at once, None for what fits into memory; it is halved where that
    runs out. `cut` says how images of their own size become what is attacked; None leaves them as they are. With
    `attacked="all"` what was misclassified is attacked as well; a `sampler` sees every image. With a `search` in a lower
    precision, what it did not break in float32 is attacked again, in float32. The random numbers of an image depend on
    `seed`, the name of the `dataset` and its position there. `target` is what the attack sees in the classifier's place;
    clean predictions and verdicts are the classifier's. Raises CheatError when the attack breaks a rule, and whatever the
    attack or the classifier raise.
    """
    target = meter if target is None else target
    device, everything = device_of(meter), np.arange(len(images))
    clean, adversarial = np.zeros_like(everything), np.zeros_like(everything)
    perturbation, doubted = (
        np.zeros(len(images), dtype=np.float32),
        np.zeros(len(images), dtype=bool),
    )
    trial = Trial(
        meter, attack, name, Draws.of(seed, dataset, images.positions, device), search, target
    )

    def load(positions: NDArray[np.int64]) -> Tensor:
        batches = _batches(positions, meter.batch_size or len(positions))
        return torch.cat([tensor(images, batch, cut, device) for batch in batches])

    def look(positions: NDArray[np.int64]) -> None:
        clean[positions] = adversarial[positions] = predict(meter, load(positions))

    def attack_some(positions: NDArray[np.int64]) -> None:
        originals, labels = load(positions), images.labels[positions]
        found, sizes, adversarial[positions], doubted[positions] = trial(
            positions, originals, labels
        )
        perturbation[positions] = sizes
        if sampler:
            right = clean[positions] == labels  # what was wrong before is no work of the attack
            sampler.look(
                positions[right],
                originals[right],
                found[right],
                adversarial[positions][right] != labels[right],
            )
        progress(len(images) - int((chosen > positions[-1]).sum()), len(images))

    with frozen(meter), frozen(target), exact():
        two = tensor(images, np.array([0, 0]), cut, device)
        meter.batch_size = batch_size or min(
            fitting(each.classifier, two) for each in {meter, target}
        )
        by_portions(meter, everything, 1, look)
        chosen = np.flatnonzero(clean == images.labels) if attacked == "correct" else everything
        progress(len(images) - len(chosen), len(images))
        by_portions(meter, chosen, BATCHES if attack.packs else 1, attack_some)
    meter.disagreements = None if search == "float32" else int(doubted.sum())
    return Outcomes(images.labels, clean, adversarial, perturbation)


@dataclass(frozen=True)
class Trial:
    """An attack on a classifier, and the verdict on what it found."""

    meter: Meter
    attack: Attack
    name: str
    draws: Draws  #: of all images of the dataset
    search: Search = "float32"
    target: Meter | None = None  #: what the attack sees; None for the classifier itself

    def __call__(
        self, positions: NDArray[np.int64], originals: Tensor, labels: NDArray[np.int64]
    ) -> tuple[Tensor, NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
        """Attack the images (N, 3, S, S) at these positions; raises CheatError where the attack breaks a rule.

        Return adversarial images, the sizes of their perturbations, the classes predicted in float32, and whether they were
        broken in the search's precision and are not in float32, (N,) each.
        """
        asked = self._passes
        found = self._search(positions, originals, labels, self.search)
        sizes = check(self.name, self.attack, originals, found)
        predicted, doubted = self._verdicts(found), np.zeros(len(labels), dtype=bool)
        left = np.flatnonzero(predicted == labels)
        if self.search != "float32" and len(left):
            doubted[left] = self._verdicts(found[left], self.search) != labels[left]
            again = self._search(
                positions[left], originals[left], labels[left], "float32", found[left].detach()
            )
            sizes[left] = check(self.name, self.attack, originals[left], again)
            predicted[left] = self._verdicts(again)
            found = found.detach().index_copy(
                0, torch.from_numpy(left).to(found.device), again.detach()
            )
        proven = self.attack.returns_clean and self._passes - asked > 2 * len(found)
        untouched = (sizes == 0).cpu().numpy() & (predicted == labels) & (not proven)
        if (
            untouched.any() and self._seen is not self.meter
        ):  # which may be wrong from the start: nothing to attack
            left = np.flatnonzero(untouched)
            untouched[left] = predict(self._seen, originals[left]) == labels[left]
        if untouched.any():
            raise CheatError(
                f"{self.name} returned {untouched.sum()} images as they were (no gradient?): that is no attack."
            )
        return found, sizes.cpu().numpy(), predicted, doubted

    @property
    def _seen(self) -> Meter:
        return self.meter if self.target is None else self.target

    @property
    def _passes(self) -> int:
        return sum(each.forward_passes for each in {self.meter, self._seen})

    def _search(
        self,
        positions: NDArray[np.int64],
        originals: Tensor,
        labels: NDArray[np.int64],
        search: Search,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return what the attack makes of the images in this arithmetic; from `start`, if it is one that can go on."""
        device = originals.device
        more = {"start": start} if self.attack.continues else {}
        draws = self.draws[torch.from_numpy(positions).to(device)]
        self._seen.batch_size = self.meter.batch_size
        with torch.enable_grad(), arithmetic(search, device):
            return self.attack(
                self._seen,
                originals.clone(),
                torch.from_numpy(labels).to(device, copy=True),
                draws,
                **more,
            )

    def _verdicts(self, found: Tensor, precision: Search = "float32") -> NDArray[np.int64]:
        parts = found.detach().split(self.meter.batch_size or len(found))
        return np.concatenate([predict(self.meter, part, precision) for part in parts])


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within it, torch's own random numbers, which a randomized defense draws, follow the seed; then they are as before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def arithmetic(precision: Search, device: torch.device) -> Iterator[None]:
    """Within it, the arithmetic is that of the precision, whatever it was before."""
    lower = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
    with exact(), lower:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = (
            precision == "tf32"
        )
        yield


def check(name: str, attack: Attack, originals: Tensor, found: Any) -> Tensor:
    """Return the sizes of the perturbations, (N,); raises CheatError for images that an attack must not return."""
    if (
        not isinstance(found, Tensor)
        or found.shape != originals.shape
        or found.dtype != originals.dtype
    ):
        shape = (
            f"{tuple(found.shape)} {found.dtype}"
            if isinstance(found, Tensor)
            else type(found).__name__
        )
        raise CheatError(
            f"The attack {name} returned {shape} for images {tuple(originals.shape)} {originals.dtype}."
        )
    found = found.detach()
    if not torch.isfinite(found).all():
        raise CheatError(f"The attack {name} returned pixels that are not finite.")
    if found.min() < -TOLERANCE or found.max() > 1 + TOLERANCE:
        raise CheatError(
            f"The attack {name} left [0, 1]: pixels from {found.min().item():.6g} to {found.max().item():.6g}."
        )
    sizes = perturbation_size(found - originals, attack.norm)
    tolerance = TOLERANCE * (
        1 if attack.norm == "linf" else originals[0].numel() ** 0.5
    )  # every pixel may be off
    if sizes.max() > attack.eps + tolerance:
        raise CheatError(
            f"The attack {name} moved by {sizes.max().item():.6g}, beyond eps {format_eps(attack.eps)}."
        )
    return sizes


@torch.no_grad()
def predict(
    classifier: nn.Module, images: Tensor, precision: Search = "float32"
) -> NDArray[np.int64]:
    """Return the predicted classes, (N,), in eval mode and this precision alone; raises ZSRobustError on NaN logits."""
    with frozen(classifier), arithmetic(precision, images.device):
        logits = classifier(images)
    if logits.ndim != 2 or not torch.isfinite(logits).all():
        raise ZSRobustError(
            f"The classifier returned logits {tuple(logits.shape)} that are not (N, K), or not finite."
        )
    return np.asarray(logits.argmax(1).cpu().numpy(), dtype=np.int64)


def _batches(positions: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [positions[start : start + size] for start in range(0, len(positions), size)]
